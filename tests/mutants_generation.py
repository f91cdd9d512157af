"""Mutants of levels, priors, likelihoods and adversaries: (law, file, its tests, [(name, old, new)])."""

M, PRIOR, SAMPLING = (
    "models/",
    "tests/priors/test_autoregressive.py",
    "tests/priors/test_sampling.py",
)
LOSSES, MASKED = "tests/priors/test_losses_of_priors.py", "tests/priors/test_masked_decoding.py"
LEVELS, VAES = "tests/models/test_vqvae2.py", "tests/models/test_vae.py"
READING = " ".join(
    f"tests/saving/test_{name}.py"
    for name in ("bundle", "damaged_bundle", "strangers_bundle", "describe")
)
LIKELIHOODS, PLAYERS = "tests/test_likelihoods.py", "tests/training/test_adversarial.py"
GENERATION = [
    ("a padded example is encoded as alone", "models/blocks.py", "tests/models/test_masks.py", [
        ("padding seen after the first convolution", "x = within(nn.relu(Conv(width, taps, strides, dtype=self.dtype)(x)), real)", "x = nn.relu(Conv(width, taps, strides, dtype=self.dtype)(x))"),
        ("padding seen by residual blocks", "within(nn.relu(x), mask)", "nn.relu(x)"),
        ("padding seen by the decoder", "Upsample(width, self.dtype, doubled)(within(x, mask))", "Upsample(width, self.dtype, doubled)(x)"),
    ]),
    ("a row counts if any of its samples does", "models/masks.py", "tests/models/test_masks.py", [
        ("a row counts if all do", "return jnp.max(apart", "return jnp.min(apart"),
    ]),
    ("NNX follows train and eval", "models/nnx.py", "tests/models/test_nnx.py", [
        ("always training", "train = not self.deterministic if train is None else train", "train = True if train is None else train"),
        ("one key for all steps", "key = self.rngs()", "key = self.rngs.key[...]"),
    ]),
    ("parts of a model fit each other", "models/compatibility.py", "tests/models/test_compatibility.py", [
        ("widths not compared", "given is not None and taken is not None and given != taken", "False"),
        ("rank of codes not looked at", "indices.ndim - 2 != rank", "False"),
    ]),
    ("each level is told what the levels above decode to", "models/vqvae2.py", LEVELS, [
        ("bottom blind to the top", "together(h_l, d)) if level else h_l", "together(h_l, 0 * d)) if level else h_l"),
        ("x' from the bottom alone", "masked(self.decoders[level], together(out.quantized, d)", "masked(self.decoders[level], together(out.quantized, 0 * d)"),
        ("losses of the last level only", "losses[name] = losses.get(name, 0) + loss", "losses[name] = loss"),
        ("levels that are missing are ones", "missing = jnp.zeros(", "missing = jnp.ones("),
        ("mask of the examples ignored", "mask=of_rows(mask, z), **options", "mask=None, **options"),
        ("encoders from the top down", "for encoder in reversed(self.encoders)", "for encoder in self.encoders"),
    ]),
    ("KL(q | N(0, 1)) and z = mu + sigma epsilon", "models/vae.py", VAES, [
        ("KL without its mean", "0.5 * jnp.sum(jnp.square(mu) + excess, axis=-1)", "0.5 * jnp.sum(excess, axis=-1)"),
        ("variance for deviation", "jnp.exp(0.5 * log_variance) * jax.random.normal", "jnp.exp(log_variance) * jax.random.normal"),
        ("z is the mean in training", "if train and not self.is_initializing():", "if False:"),
        ("KL not per element of x", "self.beta / math.prod(x.shape[1:]) * nats", "self.beta * nats"),
    ]),
    ("the 256 probabilities add up to 1", "likelihoods.py", LIKELIHOODS, [
        ("tails cut off", "jnp.where(k == 0, below, jnp.where(k == LEVELS - 1, above, inside))", "inside"),
        ("cells of half the width", "below = jax.nn.log_sigmoid(z + 0.5 / s)", "below = jax.nn.log_sigmoid(z + 0.25 / s)"),
        ("components not weighed", "log_pi + logistic_log_mass(", "0 * log_pi + logistic_log_mass("),
        ("not normalised", "[..., 0] - logsumexp(logits, axis=-1)", "[..., 0]"),
        ("component and noise with one key", "key_which, key_noise = jax.random.split(key)", "key_which = key_noise = key"),
        ("scales of components not clipped", "mu, clipped_scale(log_scale)", "mu, jnp.exp(log_scale)"),
        ("channels share noise", "noise(key, mu.shape, ", "noise(key, (*mu.shape[:-1], 1), "),
        ("channels of a mixture share noise", "jax.random.logistic(key_noise, mu.shape, ", "jax.random.logistic(key_noise, (*mu.shape[:-1], 1), "),
        ("noise of deviation 1", "on_grid(y + scale * jax", "on_grid(y + jax"),
    ]),
    ("a rate is what a code would take", "rates.py", "tests/test_likelihoods.py", [
        ("codes not sent take bits", "jnp.sum(jnp.where(codes >= 0, bits, 0)", "jnp.sum(jnp.where(codes >= -1, bits, 0)"),
        ("histogram not smoothed", "smooth = [(n + 1.0) / jnp.sum(n + 1.0)", "smooth = [n / jnp.sum(n)"),
    ]),
    ("each term moves one player", "training/adversarial.py", PLAYERS, [
        ("generator moves the discriminator", 'sg(params["discriminator"]), y)', 'params["discriminator"], y)'),
        ("discriminator moves the model", "discriminator_loss(judge, game, x, sg(rec.x), mean)", "discriminator_loss(judge, game, x, rec.x, mean)"),
        ("model and discriminator with one key", "key_model, key_discriminator = jax.random.split(key)", "key_model = key_discriminator = key"),
        ("no delay", "jnp.where(state.step >= start, term, 0.0)", "term"),
        ("lambda has a gradient", "variables, z_q = sg((variables, z_q))", "variables, z_q = (variables, z_q)"),
        ("lambda of one replica", "gradient if axis_name is None else jax.lax.pmean(gradient, axis_name)", "gradient"),
        ("ratio upside down", "jnp.clip(reconstruction / (generator + 1e-4), 0, 1e4)", "jnp.clip(generator / (reconstruction + 1e-4), 0, 1e4)"),
        ("real for fake", "lambda real: jax.nn.relu(1 - real), lambda d: jax.nn.relu(1 + d)", "lambda real: jax.nn.relu(1 + real), lambda d: jax.nn.relu(1 - d)"),
    ]),
    ("no leak, no blind spot", "priors/transformer.py", PRIOR, [
        ("a token sees the next", "return jnp.arange(length, dtype=jnp.int32) <= i", "return jnp.arange(length, dtype=jnp.int32) <= i + 1"),
    ]),
    ("no leak, no blind spot", "priors/autoregressive.py", PRIOR, [
        ("not shifted", "jnp.concatenate([begin, content[:, :-1]], axis=1)", "content"),
        ("logits of the token before", "y[:, prefix_length:].reshape", "y[:, prefix_length - 1 : -1].reshape"),
    ]),
    ("no leak, no blind spot", "priors/pixelcnn.py", PRIOR, [
        ("own row seen", "moved(x, 1), moved(x, 2)", "x, moved(x, 2)"),
        ("own place seen", "moved(x, 1), moved(x, 2)", "moved(x, 1), x"),
        ("rows below seen", "jnp.pad(rows, ((0, 0), (far, 0), (far, far), (0, 0)))", "jnp.pad(rows, ((0, 0), (0, far), (far, far), (0, 0)))"),
        ("places to the right seen", "((0, 0), (0, 0), (far, 0), (0, 0))", "((0, 0), (0, 0), (0, far), (0, 0))"),
        ("blind spot", "conv((1, far + 1), left) + dense(twice, vertical)", "conv((1, far + 1), left) + dense(twice, 0 * vertical)"),
        ("own stream seen", "before = moved(content, 3)", "before = content"),
        ("no stream seen", "before = moved(content, 3)", "before = 0 * content"),
        ("far coarse codes not seen", "jnp.mean(level, axis=(1, 2), keepdims=True)", "level"),
    ]),
    ("each code has its own vector", "priors/conditioning.py", PRIOR, [
        ("codes of other streams", "known = (codes >= 0) & (codes < jnp.asarray(sizes)[q])", "known = codes >= 0"),
        ("-1 is a code", "jnp.where(known, row, sum(self.vocab))", "jnp.where(known, row, 0)"),
        ("streams share codes", "(np.cumsum(sizes) - sizes, ", "(0 * sizes, "),
        ("not told is a class", "jnp.where(known, label, self.classes)", "jnp.where(known, label, 0)"),
        ("logits of no code", "jnp.where(jnp.asarray(exists)[q], y, EXCLUDED)", "y"),
    ]),
    ("the cache changes nothing", "priors/autoregressive.py", SAMPLING, [
        ("written one too far", "at = length - math.prod(self.grid) * streams + t", "at = length - math.prod(self.grid) * streams + t + 1"),
        ("head of the next stream", "y[:, 0], t % streams", "y[:, 0], (t + 1) % streams"),
        ("place of the token before", "self.embedding.place(t))[:, None]", "self.embedding.place(jnp.maximum(t - 1, 0)))[:, None]"),
        ("stream of this token", "self.embedding.content(before, t - 1)", "self.embedding.content(before, t)"),
        ("no beginning", "jnp.where(t == 0, self.begin,", "jnp.where(t < 0, self.begin,"),
        ("no prefix", "if not prefix_length:", "if prefix_length:"),
    ]),
    ("samples follow p", "priors/sampling.py", SAMPLING + " tests/priors/test_sampling_filters.py", [
        ("given codes drawn again", "jnp.where(old < 0, new, old)", "new"),
        ("one key for all", "jax.random.fold_in(key, t)", "key"),
        ("guidance the other way", "(1 + w) * labelled - w * unlabelled", "(1 + w) * unlabelled - w * labelled"),
        ("guidance from none", "(1 + w) * labelled - w * unlabelled", "w * labelled + (1 - w) * unlabelled"),
        ("filters not applied", "reduce(lambda x, f: f(x), filters, logits)", "logits"),
        ("filters from the last", "reduce(lambda x, f: f(x), filters, logits)", "reduce(lambda x, f: f(x), filters[::-1], logits)"),
        ("a code too many where the sum is p", "before < p", "before <= p"),
        ("one code too few", "before < p", "before + probabilities <= p"),
        ("top k of one more", "min(k, logits", "min(k + 1, logits"),
        ("temperature inverted", "logits / t", "logits * t"),
        ("likelihood of what is not known", "return jnp.where(known, each, 0)", "return each"),
    ]),
    ("iterative decoding", "priors/masked_decoding.py", MASKED, [
        ("the most confident masked again", "jnp.where(masked, log_probs(logits, drawn) + gumbel, jnp.inf)", "jnp.where(masked, -log_probs(logits, drawn) - gumbel, jnp.inf)"),
        ("known codes masked again", "+ gumbel, jnp.inf)", "+ gumbel, -jnp.inf)"),
        ("noise not annealed", "noise * (1 - done)", "noise"),
        ("given codes counted", "free = jnp.sum(given < 0,", "free = jnp.sum(given < 9,"),
        ("a step without progress", "keepdims=True, dtype=jnp.int32) - 1", "keepdims=True, dtype=jnp.int32)"),
        ("one step late", "jnp.arange(1, steps + 1, dtype=jnp.int32)", "jnp.arange(steps, dtype=jnp.int32)"),
        ("examples share noise", "jax.random.gumbel(key_noise, codes.shape, ", "jax.random.gumbel(key_noise, codes.shape[1:], "),
    ]),
    ("masks of training", "priors/masked.py", MASKED, [
        ("linear schedule", "return jnp.cos(jnp.pi / 2 * r)", "return 1 - r"),
        ("how many and which with one key", "key_share, key_places = jax.random.split(key)", "key_share = key_places = key"),
        ("none masked", "n = jnp.ceil(", "n = jnp.floor("),
        ("places in order", "jax.random.uniform(key_places, shape, jnp.float32)", "jax.lax.iota(jnp.float32, 12).reshape(shape)"),
    ]),
    ("losses of priors", "priors/losses.py", LOSSES, [
        ("what is seen is predicted", "return jnp.where(masked, -1, codes), masked", "return jnp.where(masked, -1, codes), ~masked"),
        ("weights ignored", "each = counted * jnp.expand_dims(weights, range(1, codes.ndim))", "each = counted"),
        ("unknown codes count", "(is_code(codes, prior.vocab) & predicted)", "predicted"),
        ("metadata that is not finite counts", "return condition, jnp.where(finite, weights, 0), invalid", "return condition, weights, invalid"),
        ("each replica draws the same", "jax.lax.axis_index(axis_name) * batch", "0"),
        ("masked where labels are dropped", "jax.vmap(show)(keys[:, 1], codes)", "jax.vmap(show)(keys[:, 0], codes)"),
        ("labels kept", "jnp.where(drop, -1, condition.label)", "condition.label"),
        ("nats for bits", "/ jnp.log(2.0)", "/ 1.0"),
    ]),
    ("attention, layers and gates as their formulas", "priors/transformer.py", "tests/priors/test_transformer.py", [
        ("scores not scaled", "q / q.shape[-1] ** 0.5", "q"),
        ("scores scaled by the number of tokens", "q / q.shape[-1] ** 0.5", "q / q.shape[-2] ** 0.5"),
        ("keys for values", "q, *new = jnp.moveaxis(qkv, (2, 3), (0, 2))", "q, *new = jnp.moveaxis(qkv, (2, 3), (0, 2))[jnp.array([0, 2, 1])]"),
        ("not normalised before attention", "Attention(self.heads, self.dtype)(h, mask", "Attention(self.heads, self.dtype)(x, mask"),
        ("no residual around the MLP", "x = x + drop(nn.Dense(self.width", "x = drop(nn.Dense(self.width"),
    ]),
    ("attention, layers and gates as their formulas", "priors/pixelcnn.py", "tests/priors/test_transformer.py", [
        ("halves of the gate swapped", "jnp.tanh(a) * nn.sigmoid(b)", "nn.sigmoid(a) * jnp.tanh(b)"),
    ]),
    ("reading runs nothing", "saving/as_json.py", READING, [
        ("all that is public can be called", "if is_module(found) or (inspect.isfunction(found) and found in FACTORIES):", "if callable(found):"),
        ("all that is public can be named", "ours = is_module(listed) or", "ours = True or"),
        ("any number of calls", "if calls > CALLS:", "if False:"),
        ("some errors come through", "except Exception as error:  # of any kind", "except ValueError as error:  # of any kind"),
        ("Flax's parent from a text", 'if name not in ("parent", "name")', "if True"),
        ("a million characters in an error", "return text if len(text) <= 200 else", "return text if True else"),
    ]),
    ("text of a call is what it shows", "saving/as_text.py", "tests/saving/test_as_text.py", [
        ("no signs", "return -value", "return value"),
        ("any name before a name", 'if bare_name(before) in {"vj", "vqvae_jax", *package.NAMESPACES}:', "if bare_name(before):"),
        ("lists of stars", "case ast.List(items) | ast.Tuple(items):", "case ast.List(items):"),
        ("options without names", "if all(k.arg for k in keywords):", ":"),
        ("no limit of a text", "if len(text) > LENGTH:", "if False:"),
    ]),
    ("no file in two splits, none of validation trained on", "data/splitting.py", "tests/data/test_picture_folder.py tests/data/test_sequences.py", [
        ("splits by the case of letters", "SPLIT_FOLDERS.get(p.name.casefold())", "SPLIT_FOLDERS.get(p.name)"),
        ("validation is trained on", 'split_of = {"train": "train", "test" if', 'split_of = {"train": "train", "val": "train", "test" if'),
        ("validation beside a test is tested", '"test" if "test" in held else "val": "test"}', '"test": "test", "val": "test"}'),
        ("one in five to test", "number(name) % 10 == 0", "number(name) % 5 == 0"),
        ("no file to test", "return {min(names, key=number)} if not found else", "return set() if not found else"),
        ("hidden files are shown", 'return re.search(r"(^|/)\\.", name) is not None', "return False"),
    ]),
    ("a picture is one item or tiles of its own", "data/picture_folders.py", "tests/data/test_picture_folder.py tests/data/test_folder.py", [
        ("no middle square", "ops.cover if self.size else ops.fit", "ops.cover"),
        ("a bad file ends the run", "skipped.append(str(error))\n                continue", "raise"),
        ("labels not repeated", "np.repeat(np.array(each, np.int32), list(tiles.values()))", "np.array(each, np.int32)"),
        ("tiles from the corner", "top, left = (height - rows * size) // 2, (width - columns * size) // 2", "top, left = 0, 0"),
    ]),
    ("samples of a file in order and in scale", "data/wav_files.py", "tests/data/test_sequences.py", [
        ("no zero of bytes", 'zero = half if samples.dtype.kind == "u" else 0.0', "zero = 0.0"),
        ("twice as loud", "half = 2.0 ** (8 * samples.dtype.itemsize - 1)", "half = 2.0 ** (8 * samples.dtype.itemsize - 2)"),
    ]),
    ("samples of a file in order and in scale", "data/cut_files.py", "tests/data/test_sequences.py", [
        ("formats are mixed", "if form != common:", "if False:"),
        ("a broken file ends the run", "bad[name] = first_line(error)", "raise"),
    ]),
    ("a model or a BundleError", "saving/weights.py", READING, [
        ("links are followed", 'getattr(os, "O_NOFOLLOW", 0)', "0"),
        ("folders are files", "if not stat.S_ISREG(info.st_mode):", "if False:"),
        ("no limit", "if info.st_size > limit:", "if False:"),
        ("arrays of another dtype", "{name: (str(array.dtype), array.shape) for name, array in arrays.items()} != specs", "{name: (specs[name][0], array.shape) for name, array in arrays.items()} != specs"),
        ("arrays of another shape", "{name: (str(array.dtype), array.shape) for name, array in arrays.items()} != specs", "arrays.keys() != specs.keys()"),
        ("dtypes of others", 'if entry["dtype"] not in DTYPES:', "if False:"),
        ("the parser's own errors", "raise ValueError(first_words(error)) from None", "raise"),
        ("odd names", "if not whole or not is_name(name):", "if not whole:"),
        ("written through a link", "partial.unlink(missing_ok=True)  # of a crash", "# of a crash"),
        ("no limit of arrays", "if len(arrays) > ARRAYS:", "if False:"),
    ]),
    ("a file is weights or a ValueError", "saving/weight_files.py", "tests/saving/test_import_torch.py", [
        ("a header believed", 'with safe_open(path, "np"):', "if True:"),
        ("pickles are tried", 'if path.suffix != ".npz" and (', "if False and ("),
    ]),
    ("a loaded thing is a model", "saving/bundle.py", READING, [
        ("a function is a model", "if not isinstance(model, MODELS):\n        raise BundleError", "if False:\n        raise BundleError"),
        ("no model in a run", "        path = inner\n", "        pass\n"),
    ]),
    ("variables as they come", "conversions.py", "tests/test_variables.py", [
        ("NumPy stays NumPy", "concrete(a) if isinstance(a, np.ndarray | np.generic) else a", "a"),
    ]),
    ("variables as they come", "priors/conditioning.py", "tests/test_variables.py", [
        ("NumPy tables", "return jnp.asarray(self.param(*args, jnp.float32))", "return self.param(*args, jnp.float32)"),
        ("NumPy kernels", 'jnp.asarray(self.param("kernel", init, shape, jnp.float32))', 'self.param("kernel", init, shape, jnp.float32)'),
    ]),
    ("no bomb in a description", "quantizers/combinators/composition.py", READING, [
        ("twice the streams", "if number > 2**16:", "if number > 2**17:"),
    ]),
]  # fmt: skip
