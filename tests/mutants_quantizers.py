"""Mutants of the quantizers and combinators: (family, file, its tests, [(name, old, new), ...])."""

Q, T = "quantizers/", "tests/quantizers/"
FAMILIES = [
    ("what enters", "conversions.py", "tests/test_integers.py tests/test_switches.py", [
        ("narrow integers stay narrow", "return x.astype(jnp.int32) if isinstance(x, jax.Array) else concrete(x, jnp.int32)", "return concrete(x)"),
        ("traced wide integers wrap", "return jnp.where(fits, x.astype(jnp.int32), -1)", "return x.astype(jnp.int32)"),
        ("wide integers wrap", "if values.size and (values.min() < INT32_MIN or values.max() > INT32_MAX):", "if False:"),
        ("one switch hides the other", 'rank == "allow" and dtype == "standard"', 'rank == "allow" or dtype == "standard"'),
        ("rank left to the caller", 'jax.numpy_rank_promotion("allow")', "jax.numpy_rank_promotion(rank)"),
        ("dtype left to the caller", 'jax.numpy_dtype_promotion("standard")', "jax.numpy_dtype_promotion(dtype)"),
        ("not known under jit", "    with jax.ensure_compile_time_eval():\n        return jnp.asarray(x, dtype)", "    return jnp.asarray(x, dtype)"),
    ]),
    ("labels", "priors/conditioning.py", "tests/test_integers.py", [
        ("labels beyond the classes are NaN", "known = (label >= 0) & (label < self.classes)", "known = label >= 0"),
        ("labels not checked", "if values.min() < -1 or values.max() >= classes:", "if False:"),
    ]),
    ("labels", "priors/losses.py", "tests/test_integers.py", [
        ("wrong labels not counted", 'psum(jnp.sum(wrong, dtype=jnp.float32), axis_name)', "jnp.zeros(())"),
        ("wrong labels count where none is learnt", "weights if unconditional else jnp.where(wrong, 0, weights)", "weights"),
    ]),
    ("scalar quantization", "quantizers/finite_scalar.py", T + "test_finite_scalar.py", [
        ("even offset forgotten", "np.where(levels % 2 == 0, 0.5, 0.0)", "np.where(levels % 2 == 0, 0.0, 0.0)"),
        ("shift forgotten", "jnp.tanh(z + shift) * h", "jnp.tanh(z) * h"),
        ("wrong eps", "tanh_axis(levels, 1 - 1e-3, np.tan)", "tanh_axis(levels, 1 - 1e-2, np.tan)"),
        ("fsq normalised by (L - 1) / 2", "width = (levels // 2).astype(np.float32)", "width = ((levels - 1) / 2).astype(np.float32)"),
        ("floor for rounding", "jnp.floor(place(y) + 0.5)", "jnp.floor(place(y))"),
        ("digits not clipped", "jnp.clip(jnp.floor(place(y) + 0.5), 0, top)", "jnp.floor(place(y) + 0.5)"),
        ("noise of a whole unit", "(jax.random.uniform(key_noise, y.shape, jnp.float32) - 0.5) / axis.width", "jax.random.uniform(key_noise, y.shape, jnp.float32) - 0.5"),
        ("noise leaves the range", "jnp.where(inside, noisy, y)", "noisy"),
        ("share swapped", "jnp.where(keep, z_q, jnp.where(inside, noisy, y))", "jnp.where(keep, jnp.where(inside, noisy, y), z_q)"),
        ("fsp without unit variance", "check_levels(levels), 12**-0.5", "check_levels(levels), 0.5"),
        ("another slope of normal_cdf", "jax.scipy.stats.norm.pdf(z) * dz", "phi(z) * dz"),
        ("decode ignores what was learnt", 'return params["values"][np.arange(len(size)), d]', "return start()['values'][np.arange(len(size)), d]"),
        ("padding is chosen", "real() & jnp.isfinite(v), jnp.abs", "jnp.isfinite(v), jnp.abs"),
        ("latent weights swapped", '"codebook": alpha * codebook_loss', '"codebook": beta * codebook_loss'),
    ]),
    ("digits", Q + "digits.py", T + "test_finite_scalar.py", [
        ("last dimension fastest", "places = np.cumprod([1, *levels[:-1]])", "places = np.cumprod([1, *levels[:0:-1]])[::-1]"),
        ("gradient skips the bound", "exactly(z_q, y)", "exactly(z_q, rows.z)"),
        ("noise in eval mode", "if train and perturb is not None:", "if perturb is not None and (train or key is not None):"),
        ("replicas share noise", "perturb(local_key(key, axis_name)", "perturb(local_key(key, None)"),
        ("too many codes", "if size > 2**31 - 1:", "if size > 2**31:"),
    ]),
    ("binary quantization", "quantizers/lookup_free.py", T + "test_lookup_free.py", [
        ("zero is +1", "return y > 0", "return y >= 0"),
        ("diversity added", "(each - diversity * whole)", "(each + diversity * whole)"),
        ("temperature upside down", "4 * scale / temperature * y", "4 * scale * temperature * y"),
        ("lfq logits in bsq", "4 * scale / temperature * y", "4 / temperature * y"),
        ("entropy of one replica", "row_mean(p, weights, axis_name)", "row_mean(p, weights)"),
        ("entropy ignores the mask", "row_mean(p, weights, axis_name)", "row_mean(p, jnp.ones_like(weights), axis_name)"),
        ("0 ln 0 is NaN", "jnp.log(jnp.where(average > 0, average, 1))", "jnp.log(average)"),
        ("codes off the sphere", "binary(bits, unit, bits**-0.5,", "binary(bits, unit, 1.0,"),
        ("commitment to rows not unit", "beta * commitment_loss(y, z_q", "beta * commitment_loss(rows.z, z_q"),
    ]),
    ("residual stages", "quantizers/combinators/residual_quantization.py", T + "test_residual.py", [
        ("shared sees one stage", "r, seen = jnp.moveaxis(r, 0, -2), jnp.moveaxis(seen, 0, -1)", "r, seen = r[0], seen[0]"),
        ("dropped stages see rows", "\n            seen = jnp.where(i < depths, rows.weights, 0)", "\n            seen = rows.weights"),
    ]),
    ("stages", "quantizers/combinators/stages.py", T + "test_residual.py", [
        ("residual without stop-gradient", "taken = out.quantized if estimator is None else sg(out.quantized)", "taken = out.quantized"),
        ("own gradients stopped", "taken = out.quantized if estimator is None else sg(out.quantized)", "taken = sg(out.quantized)"),
        ("nothing taken away", "return (r - taken, total + out.quantized), out, extra", "return (r, total + out.quantized), out, extra"),
        ("no estimator for the sum", "return total if estimator is None or n == 1 else estimator(z, total)", "return total"),
        ("estimator twice for one stage", "return total if estimator is None or n == 1 else estimator(z, total)", "return total if estimator is None else estimator(z, total)"),
        ("key split for one stage", "return key[None] if n == 1 else jax.random.split(key, n)", "return jax.random.split(key, n)"),
        ("stages share a key", "return key[None] if n == 1 else jax.random.split(key, n)", "return jnp.stack([key] * n)"),
        ("dropped stages of a scan see rows", "\n        seen = jnp.where(i < depths, rows.weights, 0)", "\n        seen = rows.weights"),
        ("repeat is unrolled", "jax.lax.scan(step, start, (jnp.arange(n, dtype=jnp.int32), members))", "jax.lax.scan(step, start, (jnp.arange(n, dtype=jnp.int32), members), unroll=True)"),
    ]),
    ("dropout of stages", "quantizers/combinators/dropout.py", T + "test_residual.py", [
        ("rows have depths of their own", "examples = z.shape[:1] + (1,) * (z.ndim - 2) if z.ndim > 1 else ()", "examples = z.shape[:-1]"),
        ("replicas share depths", "dropout(local_key(noise, axis_name), n, examples)", "dropout(noise, n, examples)"),
        ("dropout in eval mode", "if dropout is None or not train:", "if dropout is None:"),
        ("full depth never drawn", "jax.random.randint(key_depth, shape, at_least, n + 1, ", "jax.random.randint(key_depth, shape, at_least, n, "),
        ("depth rounded down", "drawn = jnp.minimum(-(-drawn // multiple) * multiple, n)", "drawn = jnp.maximum(drawn // multiple * multiple, 1)"),
    ]),
    ("beam search", "quantizers/combinators/beam.py", T + "test_residual.py", [
        ("prefixes by expanded distances", "error = jnp.sum(jnp.square(r[..., None, :] - e[k]), axis=-1)", "error = -jnp.take_along_axis(products - half, k, -1)"),
        ("beam not centred", "centre = jnp.sum(e, axis=0) / jnp.maximum(jnp.sum(usable, dtype=jnp.int32), 1)", "centre = jnp.zeros(e.shape[1])"),
        ("one child each", "min(width, len(e))", "1"),
        ("NaN codes in the beam", "return k, jnp.where(usable[k], error, jnp.inf)", "return k, error"),
    ]),
    ("slices", "quantizers/combinators/product.py", T + "test_combinators.py", [
        ("losses of groups added up", "[q.dim / dim for q in qs]", "None"),
        ("groups see bad rows", 'options = {"train": train, "mask": rows.weights', 'options = {"train": train, "mask": mask'),
        ("heads ignore the mask", "key=key, mask=weights, axis_name", "key=key, mask=None, axis_name"),
        ("heads interleave", "rows.z.reshape(*z.shape[:-1], n, q.dim), rows", "jnp.swapaxes(rows.z.reshape(*z.shape[:-1], q.dim, n), -1, -2), rows"),
        ("groups not stochastic", "any(q.stochastic for q in qs)", "False"),
    ]),
    ("maps", "quantizers/combinators/wrappers.py", T + "test_combinators.py", [
        ("product not rounded", "return jnp.clip(x, -largest, largest)", "return x"),
        ("rotated twice", 'return times(z_q, state["rotation"])', 'return times(z_q, state["rotation"].T)'),
        ("projection fan-out", "w.shape[0], dtype", "w.shape[1], dtype"),
        ("scale not undone", "z_q: z_q * s, undo", "z_q: z_q, undo"),
    ]),
    ("dropped rows", "quantizers/combinators/composition.py", T + "test_combinators.py", [
        ("inner invalid rows lost", 'metrics.get("invalid_rows", 0) + rows.invalid', "rows.invalid"),
        ("outer invalid rows lost", 'metrics.get("invalid_rows", 0) + rows.invalid', 'metrics.get("invalid_rows", 0)'),
    ]),
    ("codes written by hand", "quantizers/from_codebook.py", T + "test_editing.py", [
        ("codes written by hand are undone", "by_hand = by_hand & rows.any_valid", "by_hand = by_hand & False"),
        ("codes never fitted in silence", "and not np.all(np.asarray(flag)):", "and False:"),
    ]),
    ("codes written by hand", "quantizers/codebooks/moving_averages.py", T + "test_editing.py", [
        ("sums written by hand not believed", "return own & ~fits(counts) & ~fits(smoothed)", "return own"),
        ("a first batch replaces them", '"initialized": jnp.array(True),\n    }', '"initialized": state.get("initialized"),\n    }'),
        ("sums of the old codes", "jnp.where(own[:, None], mean * e, sums)", "sums"),
        ("counts of the old codes", "jnp.where(own, mean, counts)", "counts"),
        ("still to be debiased", '"weight": jnp.ones((), jnp.float32)', '"weight": state.get("weight")'),
    ]),
    ("codes put in by hand", "quantizers/codebooks/storage.py", T + "test_editing.py", [
        ("offsets of the old codes", '"offset": jnp.zeros_like(e)', '"offset": state.get("offset")'),
    ]),
    ("codes put in at a stream", "quantizers/combinators/composition.py", T + "test_editing.py", [
        ("stream of the whole", "stream -= len(q.vocab)", "pass"),
    ]),
    ("schedules", "quantizers/combinators/schedules.py", T + "test_schedules.py", [
        ("count advances without rows", 'state["count"] + some', 'state["count"] + 1'),
        ("first call sees 1", "now, values = present(state)", 'now, values = present(state | {"count": state["count"] + train})'),
        ("decode ignores schedule", "return present(state)[0].decode(", "return q.decode("),
        ("integer scheduled", "return number and not integer", "return number"),
    ]),
    ("updates", "quantizers/combinators/freezing.py", T + "test_freezing.py", [
        ("moves without rows", "select_state(valid_rows(z, mask, axis_name).any_valid, new, state)", "select_state(True, new, state)"),
        ("own gradient not averaged", "jax.lax.pmean(grads, axis_name)", "grads"),
        ("own gradient summed", "jax.lax.pmean(grads, axis_name)", "jax.lax.psum(grads, axis_name)"),
        ("optimizer forgets", "return optax.apply_updates(params, updates), by_path(new)", "return optax.apply_updates(params, updates), leaves"),
        ("frozen trains", 'options = {"mask": mask, "axis_name": axis_name}', 'options = {"train": train, "key": key, "mask": mask, "axis_name": axis_name}'),
        ("frozen codes get gradient", 'q.apply(sg(state["params"])', 'q.apply(state["params"]'),
        ("snapshot not used", 'select_state(state["count"] > step, state["params"], params)', "params"),
        ("snapshot renewed", 'select_state(some & stands, params, state["params"])', "params"),
        ("state keeps moving", 'select_state(some & ~stands, inner, state["inner"])', "inner"),
        ("one step late", 'stands = state["count"] >= step', 'stands = state["count"] > step'),
    ]),
    ("pyramid", "models/pyramid.py", "tests/models/test_pyramid.py", [
        ("scales see the whole", "area(z - sg(f_s), size)", "area(z, size)"),
        ("chain without stop-gradient", "area(z - sg(f_s), size)", "area(z - f_s, size)"),
        ("pyramid loss moves the encoder", "jnp.square(sg(z) - f_s)", "jnp.square(z - f_s)"),
        ("phi learns nothing", "f_s + self.layer(s, maps[-1])", "f_s + sg(self.layer(s, maps[-1]))"),
        ("one scale moves the codebook", "flat(residuals), train", "flat(residuals[-1:]), train"),
        ("cells lose their last element", "-(-(i + 1) * m // n)", "(i + 1) * m // n"),
    ]),
    ("convolutions", "models/convolution.py", "tests/models/test_convolution.py", [
        ("patches transposed", "x[(slice(None), *window(t, sides, strides))] for t in taps", "x[(slice(None), *window(t[::-1], sides, strides))] for t in taps"),
        ("products shifted to other taps", "i)] for i, t in enumerate(taps)", "i)] for i, t in enumerate(taps[::-1])"),
        ("products on accelerators", "        products = partial(by_products, precision=precision)\n        return jax.lax.platform_dependent(x, w, cpu=products, default=native)", "        return by_products(x, w, precision)"),
        ("convolutions on CPU", "        products = partial(by_products, precision=precision)\n        return jax.lax.platform_dependent(x, w, cpu=products, default=native)", "        return native(x, w)"),
        ("products in loops on accelerators", "    if IN_LOOP.get():\n        return jax.lax.platform_dependent(x, w, cpu=products, default=native)", "    if IN_LOOP.get():\n        return products(x, w)"),
        ("convolutions in loops", "    if IN_LOOP.get():\n        return", "    if False:\n        return"),
        ("dilation overlooked", "itertools.chain(*dilations)", "()"),
        ("rows overlap by one", "i * strides[0], kernel[0]", "i, kernel[0]"),
        ("gradient of w of large pictures as before", "platform_dependent, x, cpu=products, default=native", "platform_dependent, x, default=native"),
        ("row products on accelerators", "platform_dependent, x, cpu=products, default=native", "platform_dependent, x, default=products"),
    ]),
    *(
        ("products in full precision", f"quantizers/{file}.py", "tests/test_switches.py", [
            (f"default precision: {file}", "precision=jax.lax.Precision.HIGHEST", "precision=None"),
        ])
        for file in ("codebooks/assignments", "codebooks/regularizers", "codebooks/transforms", "combinators/wrappers", "lookup_free", "relaxed")
    ),
    ("zeros around upsample", "models/blocks.py", "tests/models/test_blocks.py", [
        ("folded into the convolution", "cpu=lambda x: x, default=kept_apart", "cpu=lambda x: x, default=lambda x: x"),
        ("kept apart on CPU", "cpu=lambda x: x, default=kept_apart", "default=kept_apart"),
    ]),
    ("parts", "models/microbatches.py", "tests/models/test_microbatches.py", [
        ("loops not told", "IN_LOOP.set(True)", "IN_LOOP.set(False)"),
        ("loops without end", "IN_LOOP.reset(token)", "pass"),
    ]),
    ("random projection", "models/tokenizers.py", "tests/models/test_tokenizers.py", [
        ("bad rows get codes", "return jnp.where((rows.weights > 0)[..., None], k, -1)", "return k"),
        ("codes not of length 1", 'unit(state["codebook"])', 'state["codebook"]'),
        ("rows not centred", "x - jnp.mean(x, axis=-1, keepdims=True)", "x"),
        ("wrong bound", "(6 / (dim", "(3 / (dim"),
    ]),
    ("gradient estimators", "estimators.py", "tests/test_estimators.py", [
        ("rotation without stretch", "return exactly(z_q, stretch * turned)", "return exactly(z_q, turned)"),
        ("rotation the other way", "+ 2 * dot(z_e, u) * v", "+ 2 * dot(z_e, v) * u"),
        ("zero row gets a gradient", "stretch / jnp.where(some, length, 1), 0)", "stretch / jnp.where(some, length, 1), stretch)"),
        ("unit squares the raw rows", "z = z / sg(jnp.where(largest > 0, largest, 1))", "z = z / sg(jnp.where(largest > 0, 1, 1))"),
        ("synchronized: nu to the rows", "exactly(z_q, z_e + nu * z_q)", "exactly(z_q, z_e + nu * (z_q + z_e))"),
    ]),
    ("lookups", "quantizers/from_codebook.py", T + "test_from_codebook.py", [
        ("estimator ignored in training", "        return estimator(z_e, z_q)\n", "        return straight_through(z_e, z_q)\n"),
        ("choice in eval mode too", "if not (train and assign):", "if not assign:"),
        ("codebook loss for averages", "if codebook.learnt else {}", "if True else {}"),
    ]),
    ("inits", "quantizers/codebooks/inits.py", T + "test_from_codebook.py", [
        ("k-means empties unused means", "return jnp.where(n > 0, total / jnp.where(n > 0, n, 1), e), None", "return total / jnp.where(n > 0, n, 1), None"),
    ]),
    ("assignments", "quantizers/codebooks/assignments.py", T + "test_assignments.py", [
        ("sampled: sharper", "-squared_distances(rows.z, e) / temperature\n        if top", "-squared_distances(rows.z, e) / (0.8 * temperature)\n        if top"),
        ("sampled: top ignored", "jnp.where(logits >= least, logits, -jnp.inf)", "logits"),
        ("sampled: replicas share noise", 'local_key(key, axis_name, "codes are sampled")', 'local_key(key, None, "codes are sampled")'),
        ("sinkhorn: rows not centred", "    z = z - row_mean(z, weights, axis_name)\n", ""),
        ("sinkhorn: columns of this replica only", "psum(jnp.sum(jnp.exp(x - top), axis=0), axis_name)", "jnp.sum(jnp.exp(x - top), axis=0)"),
        ("sinkhorn: bad codes in the mean", " * len(e) / n\n", "\n"),
        ("sinkhorn: weights ignored", "log_rows = jnp.log(weights / total)", "log_rows = jnp.log(jnp.where(weights > 0, 1.0, 0.0) / total)"),
    ]),
    ("approximate", "search/bfloat16.py", "tests/search/test_bfloat16.py", [
        ("bfloat16: candidates not compared", "return jnp.where(valid, k_nearest, -1)", "return jnp.where(valid, k[:, -1], -1)"),
        ("bfloat16: all in float32", "low = jnp.bfloat16", "low = jnp.float32"),
        ("bfloat16: NaN code is a candidate", "codes.half[k] < jnp.inf, k)", "codes.half[k] <= jnp.inf, k)"),
        ("bfloat16: the first block alone", "wins = best < found[0]", "wins = (best < found[0]) & (block.first == 0)"),
        ("bfloat16: padding is a candidate", "k = jnp.minimum(k, codes.half.shape[0] - 1)", "pass"),
        ("bfloat16: not centred", "codes.place(z)[0], 0)", "z * codes.scale, 0)"),
    ]),
    ("terms", "quantizers/codebooks/regularizers.py", T + "test_regularizers.py", [
        ("orthogonal: mean over codes", "/ some**2 - 1 / some", "/ some**2 - 1"),
        ("orthogonal_active: all codes", "(hits > 0).astype(jnp.float32)", "(hits >= 0).astype(jnp.float32)"),
        ("diversity of each row", 'return {"diversity": weight * jnp.sum(share * log)}', 'return {"diversity": weight * mean(jnp.sum(p * jnp.log(p), -1), rows.weights, axis)}'),
        ("diversity: this replica only", "share = row_mean(p, rows.weights, axis)", "share = row_mean(p, rows.weights)"),
        ("cross_entropy moves the codes", "squared_distances(found.rows.z, sg(found.codes))", "squared_distances(found.rows.z, found.codes)"),
    ]),
    ("a broken code harms nothing else", "quantizers/codebooks/transforms.py", T + "test_broken_codes.py", [
        ("a broken code in the gradient of a map", "codes(params, state, finite)", "codes(params, state, e)"),
        ("a broken code in the moments", "of = is_valid(e)[:, None]", "of = is_valid(0 * jnp.nan_to_num(e))[:, None]"),
    ]),
    ("a broken code harms nothing else", "reductions.py", T + "test_broken_codes.py", [
        ("a broken code in a mixture", "return usable, jnp.where(usable[:, None], e, 0)", "return usable, e"),
    ]),
    ("a broken code harms nothing else", "quantizers/relaxed.py", T + "test_broken_codes.py", [
        ("a broken code drawn by Gumbel", 'jnp.where(usable, product + params["bias"], -jnp.inf)', 'product + params["bias"]'),
        ("a broken code in the variance", "jnp.where(usable, -precision * squared_distances(rows.z, e), -jnp.inf)", "-precision * squared_distances(rows.z, e)"),
        ("a broken code in the KL", "jnp.maximum(jax.nn.log_softmax(logits), jnp.finfo(jnp.float32).min)", "jax.nn.log_softmax(logits)"),
    ]),
    ("tables", "quantizers/codebooks/transforms.py", T + "test_transforms.py", [
        ("unit_codes: as they are", "of_valid(lambda params, state, e: unit(e))", "of_valid(lambda params, state, e: e)"),
        ("held: values of params", 'jnp.where(chosen[:, None], state["held"], e)', "jnp.where(chosen[:, None], jax.lax.stop_gradient(e), e)"),
        ("affine: no way back", 'return (z - rate * params["shift"]) / jnp.where(scale == 0, 1, scale)', "return z"),
        ("affine: shift without rate", '* e + rate * params["shift"]', '* e + params["shift"]'),
        ("matched: no way back", 'return (z - state["mean"]) / ratio(state, own) + own["mean"]', "return z"),
        ("matched: variance about 0", "average(jnp.square(rows.z - m))", "average(jnp.square(rows.z))"),
    ]),
    ("transformed codebooks", "quantizers/derived_codebooks.py", T + "test_transforms.py", [
        ("simvq: scale 1", "init or normal(dim**-0.5)", "init or normal()"),
    ]),
    ("noise", "quantizers/noise_substitution.py", T + "test_stochastic.py", [
        ("diveq: gradient through the direction", "sg(unit(z_q - z_e + sigma * noise))", "unit(z_q - z_e + sigma * noise)"),
        ("nsvq: no gradient at the origin", "return z_e + length(z_q - z_e) * unit(noise)", "return jnp.where(z_e != 0, z_e, 0) + length(z_q - z_e) * unit(noise)"),
        ("nsvq: length of the noise", "length(z_q - z_e) * unit(noise)", "length(z_q - z_e) * noise"),
    ]),
    ("base", Q + "base.py", T + "test_stochastic.py", [
        ("noise of replicas shared", "return key if axis_name is None else jax.random.fold_in(", "return key if True else jax.random.fold_in("),
    ]),
    ("relaxed", "quantizers/relaxed.py", T + "test_stochastic.py", [
        ("gumbel: temperature of the noise", "noisy = clean + jax.random.gumbel(local_key(key, axis_name), clean.shape, jnp.float32)", "noisy = clean + temperature * jax.random.gumbel(local_key(key, axis_name), clean.shape, jnp.float32)"),
        ("gumbel: relaxed without noise", "jax.nn.softmax(noisy / temperature))\n        quantized", "jax.nn.softmax(clean / temperature))\n        quantized"),
        ("kl without log K", "* log_p, axis=-1) + math.log(logits.shape[-1])", "* log_p, axis=-1)"),
        ("sqvae: variance not halved", "precision = 0.5 * jnp.exp(", "precision = 1.0 * jnp.exp("),
        ("sqvae: sum over channels", "losses = {n: weight / dim *", "losses = {n: weight *"),
    ]),
    ("sharded codebooks", "quantizers/codebooks/sharding.py", T + "test_sharding.py", [
        ("shards share a key", "jax.random.fold_in(key, jax.lax.axis_index(axis_name))", "key"),
        ("a row counts in every shard", "mine = in_shard(k, codebook.size, axis_name)", "mine = k % codebook.size"),
    ]),
    ("sharded codes looked up", "reductions.py", T + "test_sharding.py", [
        ("codes of other shards are 0", "codebook[jnp.where(known, k, 0)], 0), axis_name)", "codebook[jnp.where(known, k, 0)], 0), None)"),
    ]),
    ("search of shards", "search/joined_shards.py", "tests/search/test_sharded.py", [
        ("index within the shard", "return k + jax.lax.axis_index(axis_name) * e.shape[0]", "return k"),
        ("another shard overlooked", "(count == 1) & (doubtful == 0)", "doubtful == 0"),
        ("doubts of a shard overlooked", "(count == 1) & (doubtful == 0)", "count == 1"),
        ("the first shard that has one", "((k < 0) | closer(z, e_j, e_k))", "(k < 0)"),
    ]),
    ("keys", Q + "base.py", T + "test_from_codebook.py", [
        ("init and revival share a key", 'return jax.random.split(needed(key, "its init or reset draws rows of the batch"))', 'return (needed(key, "its init or reset draws rows of the batch"),) * 2'),
    ]),
    ("keys", "quantizers/from_codebook.py", T + "test_from_codebook.py", [
        ("the choice has the key of revival", "jax.random.fold_in(key, 2)", "jax.random.split(key)[1]"),
        ("the noise has the key of the choice", "jax.random.fold_in(key, 3)", "jax.random.fold_in(key, 2)"),
    ]),
    ("keys", "quantizers/combinators/composition.py", T + "test_factories.py", [
        ("members share a key", "return list(jax.random.split(key, n))", "return [key] * n"),
    ]),
    ("keys", "quantizers/combinators/wrappers.py", T + "test_factories.py", [
        ("both projections with one key", "keys = jax.random.split(key)\n", "keys = (key, key)\n"),
        ("a map has the key of its quantizer", "key_inner, key_own = jax.random.split(key)", "key_inner = key_own = key"),
    ]),
    ("keys", "quantizers/codebooks/transforms.py", T + "test_factories.py", [
        ("a table has the key of the codes below", "key_inner, key_own = jax.random.split(key)", "key_inner = key_own = key"),
    ]),
    ("keys", "quantizers/relaxed.py", T + "test_factories.py", [
        ("codes and weights with one key", "key_e, key_w = jax.random.split(key)", "key_e = key_w = key"),
    ]),
    ("keys", "quantizers/combinators/dropout.py", T + "test_residual.py", [
        ("depths have the key of the stages", 'key, noise = jax.random.split(needed(key, "its dropout draws depths"))', 'key = noise = needed(key, "its dropout draws depths")'),
    ]),
    ("keys", "models/tokenizers.py", T + "test_factories.py", [
        ("projection and codebook with one key", "key_projection, key_codebook = jax.random.split(key)", "key_projection = key_codebook = key"),
    ]),
    ("no argument is without effect", "quantizers/vector_quantization.py", T + "test_factories.py", [
        ("beta of sampled codes", "beta=beta, assign=assign, estimator=estimator)\n\n\n@described\ndef sinkhorn", "assign=assign, estimator=estimator)\n\n\n@described\ndef sinkhorn"),
        ("estimator of codes that are dealt", "assign=assign, estimator=estimator)", "assign=assign)"),
    ]),
    ("no argument is without effect", "quantizers/derived_codebooks.py", T + "test_factories.py", [
        ("beta of simvq", "transform or linear(dim)), beta=beta,", "transform or linear(dim)),"),
    ]),
    ("no argument is without effect", "quantizers/lookup_free.py", T + "test_factories.py", [
        ("beta of lfq", "lambda z: z, 1.0, entropy, diversity, group, temperature, beta)", "lambda z: z, 1.0, entropy, diversity, group, temperature, 0.0)"),
    ]),
    ("rows are drawn alike", "reductions.py", "tests/quantizers/test_codebooks.py", [
        ("rows drawn in order", "jax.random.permutation(key_order, jnp.arange(n, dtype=jnp.int32))", "jnp.arange(n)"),
        ("place and turn with one key", "key_order, key_place, key_turn = jax.random.split(key, 3)", "key_order = key_place = key_turn = key"),
        ("the first row of each part", "jax.random.randint(key_place, (n,), 0, jnp.maximum(width, 1), dtype=jnp.int32)", "0"),
        ("the last row of a part never", "jnp.maximum(width, 1), ", "jnp.maximum(width - 1, 1), "),
        ("each replica draws by itself", "drawn = psum(jnp.where(me == 0, drawn, 0), axis_name)", ""),
    ]),
    ("weights", "reductions.py", "tests/quantizers/test_ema.py", [
        ("weights below zero count", "jnp.where(mask > 0, mask, 0)", "mask"),
        ("bad rows without weight are reported", "(weights > 0) & ~finite", "~finite"),
    ]),
    ("codebooks", "quantizers/codebooks/storage.py", "tests/quantizers/test_codebooks.py", [
        ("learnt codes die by unweighted rows", "assert reset is not None\n        hits = sum_by_code(rows.weights,", "assert reset is not None\n        hits = sum_by_code(jnp.ones_like(rows.weights),"),
        ("sums begin as the codes", 'state["counts"][:, None] * e)', "e)"),
    ]),
    ("inits", "quantizers/codebooks/inits.py", T + "test_from_codebook.py", [
        ("always ten steps of k-means", "axis_name), steps, axis_name)", "axis_name), 10, axis_name)"),
        ("codes of size 1 / D", "bound = 1 / size if", "bound = 1 / dim if"),
        ("codes on one side", "minval=-bound", "minval=0"),
    ]),
]  # fmt: skip
