"""JAX's global switches, as careful pipelines set them: what users call works under each.

Most is traced, not run: what a switch forbids is an error when it is traced.
"""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import vqvae_jax as vj
from vqvae_jax import conversions
from vqvae_jax.data.scaling import to_pixels
from vqvae_jax.priors.losses import CodeBatch, masked_prior_loss, prior_loss
from vqvae_jax.testing import laws
from vqvae_jax.training.step import Batch, gradient_step, init_state, make_train_step, start_state


def typed(f, *args):
    """Shapes of what f gives: under a switch their dtypes are those without it; all is float32."""
    jaxpr, found = jax.make_jaxpr(f, return_shape=True)(*args)
    if jax.config.read("jax_enable_x64"):
        text = str(jaxpr)  # f64[] are Python's numbers; JAX's own resize has weights in float64
        assert "_resize" in text or not re.search(r"f64\[\d", text)
        with jax.enable_x64(False):
            assert laws.specs(found) == laws.specs(jax.eval_shape(f, *args))
    return found


KEY = jax.random.key(0)
KM = {"init": vj.inits.kmeans(2), "reset": vj.codebooks.underused(0.5)}
VQ = vj.vq(6, 4, init=vj.inits.normal())

# One of each factory, with the options that add code.
QUANTIZERS = {
    "vq": vj.vq(6, 4, **KM, estimator=vj.rotation_trick),
    "ema_vq": vj.ema_vq(6, 4, **KM, estimator=vj.estimators.synchronized(0.3)),
    "samples": vj.ema_vq(6, 4, init=vj.inits.zero_debiased(vj.inits.samples())),
    "terms": vj.codebook_vq(
        vj.codebooks.partly_frozen(vj.codebooks.gradient(2, 4), [True, False]),
        terms=[
            vj.regularizers.orthogonal_active(),
            vj.regularizers.diversity(0.1),
            vj.regularizers.cross_entropy(0.5),
        ],
    ),
    "stochastic": vj.stochastic_vq(6, 4),
    "sinkhorn": vj.sinkhorn_vq(6, 4),
    "bfloat16": vj.codebook_vq(vj.codebooks.gradient(6, 4), assign=vj.assignments.in_bfloat16(2)),
    "cosine": vj.cosine_vq(6, 4),
    "cosine_ema": vj.cosine_ema_vq(6, 4, **KM),
    "affine": vj.affine_vq(6, 4, **KM),
    "matched": vj.codebook_vq(vj.codebooks.moment_matched(vj.codebooks.ema(6, 4, **KM), 0.9)),
    "simvq": vj.simvq(6, 4),
    "gumbel": vj.gumbel_vq(6, 4, kl=0.1),
    "diveq": vj.diveq(6, 4, **KM),
    "nsvq": vj.nsvq(6, 4),
    "sqvae": vj.sqvae(6, 4),
    "grid": vj.grid([3] * 4),
    "fsq": vj.fsq([8, 6, 5, 5]),
    "fsp": vj.fsp([4] * 4),
    "latent": vj.latent_vq([3] * 4),
    "lfq": vj.lfq(4, diversity=0.5, group=2),
    "bsq": vj.bsq(4, group=2),
    "residual": vj.residual(VQ, vj.fsq([3] * 4), dropout=vj.combinators.quantizer_dropout(0.7)),
    "repeat": vj.repeat(
        vj.ema_vq(6, 4, **KM), 3, dropout=vj.combinators.quantizer_dropout(0.7, multiple=2)
    ),
    "shared": vj.shared(vj.ema_vq(6, 4), 2),
    "grouped": vj.grouped(vj.vq(6, 2), vj.fsq([3, 5])),
    "heads": vj.heads(vj.vq(6, 2), 2),
    "project": vj.project(vj.vq(6, 2), 4),
    "normalize": vj.normalize(VQ, vj.estimators.unit),
    "scale": vj.scale(VQ, 2.0),
    "rotate": vj.rotate(VQ),
    "scheduled": vj.scheduled(VQ, beta=vj.combinators.from_optax("linear_schedule", 0.5, 2.0, 4)),
    "alternated": vj.alternated(VQ, vj.combinators.from_optax("sgd", 0.1, momentum=0.9)),
    "frozen": vj.frozen(vj.ema_vq(6, 4)),
    "frozen_after": vj.frozen_after(VQ, 2),
}


CASTS = {"convert_element_type", "select_n", "broadcast_in_dim", "jit"}


def in_use(q, wrap, z, mask):
    """A step with its gradient, eval mode and codes; `wrap` is around what is differentiated."""
    params, state = q.init(KEY)

    def loss(params, z):
        out, new = q.apply(params, state, z, train=True, key=KEY, mask=mask)
        return jnp.sum(out.quantized) + out.loss, new

    moved = jax.grad(wrap(loss), argnums=(0, 1), has_aux=True)(params, z)
    return moved, q.decode(params, state, q.encode(params, state, z))


@pytest.mark.parametrize("name", QUANTIZERS)
def test_quantizers(switched, name):
    q = QUANTIZERS[name]
    wrap = jax.checkpoint if name == "repeat" else jax.jit
    z, mask = (jnp.ones(shape, jnp.float32) for shape in ((2, 4, q.dim), (2, 1)))
    typed(partial(in_use, q, wrap), z, mask)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_products_of_quantizers_are_asked_for_in_full_precision(name):
    """On accelerators the default has 8 or 11 bits."""
    z, mask = (jnp.ones(shape, jnp.float32) for shape in ((2, 4, QUANTIZERS[name].dim), (2, 1)))
    text = str(jax.make_jaxpr(partial(in_use, QUANTIZERS[name], jax.jit))(z, mask))
    highest = text.count("precision=(Precision.HIGHEST, Precision.HIGHEST)")
    assert text.count("dot_general[") - highest == (name == "bfloat16")


@pytest.mark.parametrize("name", QUANTIZERS)
def test_quantizers_of_float64_compute_in_float32(name):
    q = QUANTIZERS[name]
    apply = partial(q.apply, *q.init(KEY), train=True, key=KEY)
    with jax.enable_x64(True):
        rows = jax.ShapeDtypeStruct((8, q.dim), jnp.float64)
        jaxpr, (out, new) = jax.make_jaxpr(apply, return_shape=True)(rows)
        kinds = set(re.findall(r"(\w+)\[\d[^]]*\] = (\w+)", str(jaxpr)))
    assert {made for dtype, made in kinds if dtype == "f64"} <= CASTS
    assert out.quantized.dtype == jnp.float64
    others = jax.eval_shape(apply, rows.update(dtype=jnp.float32))
    narrow = out._replace(quantized=others[0].quantized)
    assert laws.specs((narrow, new)) == laws.specs(others)


def test_under_vmap_and_in_bfloat16(switched):
    q = QUANTIZERS["residual"]
    variables = q.init(KEY)
    z = jnp.ones((2, 5, q.dim), jnp.bfloat16)
    typed(jax.vmap(jax.jit(partial(q.apply, *variables))), z)


Z, E, K = jnp.ones((2, 3, 4)), jnp.ones((6, 4)), jnp.zeros((2, 3, 1), jnp.int32)
W, X = jnp.ones((2, 3)), jnp.ones((2, 12, 12, 1))

FUNCTIONS = {
    "nearest": (vj.nearest, Z, E),
    "nearest_in_bfloat16": (vj.search.nearest_in_bfloat16, Z, E),
    "lookup": (vj.lookup, E, K[..., 0]),
    "quantize": (vj.quantize, Z, E),
    "straight_through": (vj.straight_through, Z, Z),
    "rotation_trick": (vj.rotation_trick, Z, Z),
    "synchronized": (vj.estimators.synchronized(), Z, Z),
    "exactly": (vj.estimators.exactly, Z, Z),
    "unit": (vj.estimators.unit, Z),
    "codebook_loss": (vj.losses.codebook_loss, Z, Z, W),
    "commitment_loss": (vj.losses.commitment_loss, Z, Z, W),
    "code_counts": (partial(vj.metrics.code_counts, (6,)), K, W),
    "usage": (vj.metrics.usage, W[0]),
    "psnr": (vj.metrics.psnr, W),
    "ssim": (vj.metrics.ssim, X, X),
    "sharpness": (vj.metrics.sharpness, X),
    "gaussian_kl": (vj.models.gaussian_kl, Z, Z),
    "bits_per_dim": (partial(vj.rates.bits_per_dim, dims=4), W, W),
    "uniform_bits": (partial(vj.rates.uniform_bits, (6,)), K),
    "static_bits": (vj.rates.static_bits, [E[:, 0]], K),
    "temperature": (vj.priors.temperature(0.5), Z),
    "top_k": (vj.priors.top_k(2), Z),
    "top_p": (vj.priors.top_p(0.5), Z),
    "layer_norm": (vj.models.layer_norm, Z),
    "ema_update": (vj.codebooks.ema_update, E, E, 0.9),
    "laplace_smoothing": (partial(vj.codebooks.laplace_smoothing, eps=1e-5), E[:, 0]),
    "to_pixels": (to_pixels, Z),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(switched, name):
    f, *args = FUNCTIONS[name]
    typed(f, *args)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, jnp.bfloat16, list])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_take_lists_and_arrays_of_numpy(name, dtype):
    """Their values are 0, 1 and 6, which all dtypes hold."""
    f, *args = FUNCTIONS[name]

    def given(x):
        x = np.asarray(x)
        if dtype is list:
            return x.tolist()
        return x.astype(dtype if x.dtype == np.float32 else np.int16)

    found, expected = f(*jax.tree.map(given, args)), f(*args)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-2), found, expected)


def test_arrays_that_a_jitted_function_closes_over_are_known_there():
    q = vj.vq(6, 4)
    variables = q.init(KEY)
    with pytest.raises(ValueError, match="indices of stream 0 must be from -1 to 5, got 6 to 6"):
        jax.jit(lambda: q.decode(*variables, np.array([[6]], np.uint8)))()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, jnp.bfloat16, list, tuple])
def test_quantizers_models_and_steps_take_lists_and_arrays_of_numpy(dtype):
    """Of 0 and 1, which all dtypes hold; masks are of bools and ints."""
    rows = np.eye(4)[None]
    z = tuple(map(tuple, rows[0])) if dtype is tuple else rows[0].tolist()
    z = (z,) if dtype is tuple else [z] if dtype is list else rows.astype(dtype)
    q, mask = vj.residual(vj.vq(6, 4), vj.fsq([3] * 4)), [[True, False, True, True]]
    params, state = q.init(KEY)
    out, _ = q.apply(params, state, z, train=True, mask=mask)
    expected, _ = q.apply(params, state, jnp.asarray(rows), train=True, mask=jnp.array(mask))
    np.testing.assert_array_equal(out.indices, expected.indices)
    assert out.quantized.dtype == (jnp.float32 if not hasattr(z, "dtype") else jnp.asarray(z).dtype)
    tokenizer = vj.models.random_projection(8, 4, 2)
    tokens = [tokenizer.encode(tokenizer.init(KEY), x, mask) for x in (z, jnp.asarray(rows))]
    np.testing.assert_array_equal(*tokens)
    if dtype != np.float64:  # which no batch may be, see `preprocess`
        model, optimizer = vj.VQVAE(vj.MLP(4, 8), VQ, vj.MLP(4, 8)), optax.sgd(0.1)
        start, step = init_state(model, optimizer, KEY, Z), make_train_step(model, optimizer)
        found, expected = (step(start, x)[1] for x in (Batch(z, [1]), jnp.asarray(rows)))
        np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-2)
        x = model.apply({"params": start.params}, z, method="tokenize")
        assert x.shape == (1, 4, 1) and x.dtype == jnp.int32


def test_integers_for_floats_are_refused_in_words():
    for z in ([[0, 1]], np.zeros((1, 2), np.uint8), jnp.zeros((1, 2), int)):
        with pytest.raises(TypeError, match="z must be float, got"):
            vj.nearest(z, E[:, :2])
    with pytest.raises(TypeError, match="codebook must be float, got int32"):
        vj.nearest(Z[..., :2], [[0, 1]])


LIKELIHOODS = [
    vj.likelihoods.gaussian(),
    vj.likelihoods.logistic(),
    vj.likelihoods.mixture(2),
    vj.likelihoods.categorical(),
]


@pytest.mark.parametrize("likelihood", [*LIKELIHOODS, vj.likelihoods.dequantized_gaussian(0.1)])
def test_likelihoods(switched, likelihood):
    y = jnp.ones((2, 4, 4, likelihood.outputs), jnp.float32)
    typed(jax.grad(lambda y: likelihood.log_prob(X[:, :4, :4], y).sum()), y)
    typed(vj.likelihoods.task_loss(likelihood), X[:, :4, :4], y)
    typed(lambda y: (likelihood.mean(y), likelihood.sample(KEY, y)), y)


def test_tokenizers_and_beam_search(switched):
    tokenizer = vj.models.random_projection(8, 4, 2, heads=2)
    typed(lambda z: tokenizer.encode(tokenizer.init(KEY), z), Z)
    q = QUANTIZERS["repeat"]
    typed(lambda z: vj.combinators.beam_search(q, *q.init(KEY), z, width=2), Z)


SMALL = {"dim": 4, "width": 4, "depth": 1}
ENCODER, DECODER = vj.Encoder(**SMALL), vj.Decoder(**SMALL)
MODELS = {
    "VQVAE": vj.VQVAE(ENCODER, QUANTIZERS["ema_vq"], DECODER),
    "Microbatched": vj.VQVAE(
        vj.models.Microbatched(ENCODER, 2), VQ, vj.models.Microbatched(DECODER, 2)
    ),
    "VAE": vj.VAE(vj.Encoder(dim=8), DECODER),
    "Autoencoder": vj.Autoencoder(ENCODER, DECODER),
    "Pyramid": vj.Pyramid(ENCODER, VQ, DECODER, sizes=((1, 1), (3, 3))),
    "VQVAE2": vj.VQVAE2(
        (vj.Encoder(8, 4, downsamplings=1), vj.Encoder(dim=8, downsamplings=1)),
        (VQ, vj.fsq([5, 5])),
        (vj.Decoder(8, 4, upsamplings=1), vj.Decoder(1, 2 + 8, upsamplings=1)),
    ),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "Microbatched")) for n in MODELS]
)
def test_models_and_their_steps(switched, name):
    model, optimizer = MODELS[name], optax.adam(1e-3)
    state = typed(partial(init_state, model, optimizer), KEY, X)
    typed(make_train_step(model, optimizer), state, X)

    def loss(params, x):  # a user's own, whose gradient is taken out here
        variables = {"params": params, **state.collections}
        options = {"mutable": list(state.collections), "rngs": {vj.quantizers.RNG: KEY}}
        out, _ = model.apply(variables, x, train=True, mask=jnp.ones(2, jnp.float32), **options)
        return jnp.mean(jnp.square(out.x - x)) + out.loss

    state = jax.tree.map(lambda a: jnp.ones(a.shape, a.dtype), state)
    typed(jax.grad(jax.jit(loss)), state.params, X)
    if hasattr(model, "tokenize"):
        f = vj.as_functions(model)
        variables = state.variables
        typed(lambda x: f.detokenize(variables, f.tokenize(variables, x)), X)


def test_nnx_and_discriminator(switched):
    layer = vj.QuantizeNNX(VQ, rngs=nnx.Rngs(0))
    assert layer(Z, train=True).quantized.shape == Z.shape
    typed(vj.models.PatchDiscriminator(width=8).init_with_output, KEY, X)


PLAN = {"classes": 3, "coarse": (((1, 1), (5,)),), "metadata": 2, "width": 8, "depth": 1}
PRIORS = {
    "transformer": (vj.priors.TransformerPrior((6, 5), (2, 2), heads=2, **PLAN), prior_loss),
    "pixelcnn": (vj.priors.PixelCNN((6, 5), (2, 2), **PLAN), prior_loss),
    "masked": (vj.priors.MaskedPrior((6, 5), (2, 2), heads=2, **PLAN), masked_prior_loss),
}
CODES = jnp.zeros((2, 2, 2, 2), jnp.int32)
TOLD = vj.priors.Condition(jnp.arange(2), (jnp.zeros((2, 1, 1, 1), jnp.int32),), jnp.ones((2, 2)))


@pytest.mark.parametrize("name", PRIORS)
def test_priors(switched, name):
    prior, loss = PRIORS[name]
    optimizer = optax.adam(1e-3)
    init = partial(start_state, lambda key: prior.init(key, CODES, TOLD), optimizer)
    state = typed(init, KEY)
    batch = CodeBatch(CODES, TOLD, W[0, :2])
    typed(gradient_step(loss(prior), optimizer), state, batch)
    variables = {"params": state.params}

    def draw(variables, codes, told):
        if name == "masked":
            return vj.priors.sample_masked(
                KEY, prior, variables, codes, told, steps=2, guidance=1.0
            )
        stepper = vj.priors.cached if name == "transformer" else vj.priors.uncached
        options = {"stepper": stepper, "filters": [vj.priors.top_k(2)], "guidance": 1.0}
        drawn = vj.priors.sample_codes(KEY, prior, variables, codes, told, **options)
        return drawn, vj.priors.log_likelihood(prior, variables, codes, told)

    typed(draw, variables, CODES, TOLD)


@pytest.mark.parametrize("switched", ["promotion"], indirect=True)
def test_the_laws(switched):
    vj.check_quantizer(vj.vq(3, 2, init=vj.inits.normal()))


@pytest.mark.parametrize(
    "switch", [("jax_numpy_rank_promotion", "raise"), ("jax_numpy_dtype_promotion", "strict")]
)
def test_a_single_switch_is_set_aside_and_comes_back(switch):
    name, value = switch
    before = getattr(jax.config, name)

    @conversions.under_defaults
    def within():
        return getattr(jax.config, name), jnp.ones((2, 3)) * jnp.arange(3)

    jax.config.update(name, value)
    try:
        assert within()[0] == before and getattr(jax.config, name) == value
    finally:
        jax.config.update(name, before)


def test_a_step_is_run_under_the_switches(switched):
    """Compiling traces what is lowered by rules."""
    model, optimizer = vj.VQVAE(vj.MLP(4, 8), QUANTIZERS["vq"], vj.MLP(4, 8)), optax.adam(1e-3)
    state = init_state(model, optimizer, KEY, Z)
    _, metrics = jax.jit(make_train_step(model, optimizer))(state, Z)
    assert np.isfinite(metrics["loss"])


CHECKS = {
    "jax_debug_nans": True,
    "jax_debug_infs": True,
    "jax_check_tracer_leaks": True,
    "jax_transfer_guard": "disallow",
    "jax_enable_custom_prng": True,
}


@pytest.mark.parametrize("switch", CHECKS)
def test_a_training_step_passes_the_checks_of_jax(switch):
    q = vj.residual(vj.vq(6, 4, **KM), vj.fsq([3] * 4), vj.lfq(4))
    step = jax.jit(partial(in_use, q, lambda f: f), compiler_options=vj.fast_compile())
    before, z = getattr(jax.config, switch), 2 * Z - 0.5
    jax.config.update(switch, CHECKS[switch])
    try:
        step(z, W)
    finally:
        jax.config.update(switch, before)


def test_a_training_step_without_jit_and_with_a_legacy_key():
    q = vj.residual(vj.vq(6, 4, **KM), vj.fsq([3] * 4))
    variables, key = q.init(jax.random.PRNGKey(0)), jax.random.PRNGKey(1)
    with jax.disable_jit():
        out, _ = q.apply(*variables, Z, train=True, key=key)
    same, _ = jax.jit(partial(q.apply, train=True))(*variables, Z, key=key)
    np.testing.assert_allclose(out.loss, same.loss, rtol=1e-5)
