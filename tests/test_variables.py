"""Variables as they come: of NumPy, closed over by a transformed function, or on any devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec, SingleDeviceSharding

import vqvae_jax as vj

slow = pytest.mark.slow
KEY = jax.random.key(0)
KM = {"init": vj.inits.kmeans(2), "reset": vj.codebooks.underused(0.5)}
HELD = [True, False, False, True, False, False]

# One of each family, and each combinator around something with a codebook.
QUANTIZERS = {
    "vq": vj.vq(12, 4, **KM),
    "ema_vq": vj.ema_vq(12, 4, **KM),
    "zero_debiased": vj.ema_vq(12, 4, init=vj.inits.zero_debiased(vj.inits.normal())),
    "terms": vj.codebook_vq(
        vj.codebooks.gradient(6, 3),
        terms=[
            vj.regularizers.orthogonal(),
            vj.regularizers.diversity(),
            vj.regularizers.cross_entropy(),
        ],
    ),
    "held": vj.codebook_vq(
        vj.codebooks.partly_frozen(vj.codebooks.ema(6, 3), HELD),
        terms=[vj.regularizers.orthogonal_active()],
    ),
    "matched": vj.codebook_vq(vj.codebooks.moment_matched(vj.codebooks.ema(6, 3), 0.9)),
    "bfloat16": vj.codebook_vq(vj.codebooks.gradient(6, 3), assign=vj.assignments.in_bfloat16(2)),
    "affine": vj.affine_vq(6, 3),
    "simvq": vj.simvq(6, 3),
    "cosine": vj.cosine_ema_vq(6, 3),
    "stochastic": vj.stochastic_vq(6, 3),
    "sinkhorn": vj.sinkhorn_vq(6, 3, iterations=2),
    "gumbel": vj.gumbel_vq(6, 3),
    "diveq": vj.diveq(6, 3),
    "nsvq": vj.nsvq(6, 3),
    "sqvae": vj.sqvae(6, 3),
    "fsq": vj.fsq([8, 5]),
    "latent": vj.latent_vq([3, 4]),
    "lfq": vj.lfq(4, group=2),
    "bsq": vj.bsq(4),
    "residual": vj.residual(
        vj.vq(6, 3), vj.ema_vq(5, 3), dropout=vj.combinators.quantizer_dropout()
    ),
    "repeat": vj.repeat(vj.ema_vq(6, 3), 2),
    "shared": vj.shared(vj.ema_vq(6, 3), 2),
    "grouped": vj.grouped(vj.vq(6, 2), vj.ema_vq(5, 1)),
    "heads": vj.heads(vj.vq(6, 2), 2),
    "rotate(project)": vj.rotate(vj.project(vj.vq(6, 2), 3)),
    "normalize(scale)": vj.normalize(vj.scale(vj.vq(6, 3), 2.0), vj.estimators.unit),
    "scheduled": vj.scheduled(
        vj.ema_vq(6, 3), beta=vj.combinators.from_optax("linear_schedule", 0.5, 2.0, 4)
    ),
    "alternated": vj.alternated(vj.vq(6, 3), vj.combinators.from_optax("sgd", 0.1, momentum=0.9)),
    "frozen": vj.frozen(vj.frozen_after(vj.vq(6, 3), 1)),
}

MLP = vj.VQVAE(vj.MLP(3), vj.ema_vq(4, 3, **KM), vj.MLP(2))
TWO = vj.VQVAE2((vj.MLP(3), vj.MLP(3)), (vj.vq(4, 3), vj.ema_vq(4, 3)), (vj.MLP(3), vj.MLP(2)))
SMALL = {"width": 8, "depth": 1}
PRIORS = {
    "transformer": vj.priors.TransformerPrior((4, 3), (2, 2), heads=2, classes=3, **SMALL),
    "coarse": vj.priors.PixelCNN((4, 3), (2, 2), coarse=(((1, 1), (5,)),), classes=3, **SMALL),
    "masked": vj.priors.MaskedPrior((4, 3), (2, 2), heads=2, classes=3, **SMALL),
}
TOLD = vj.priors.Condition(label=jnp.array([0, 2]))


def as_numpy(tree):
    """What `load_model` returns, and orbax, and safetensors."""
    return jax.tree.map(np.asarray, tree)


def trace(f, x):
    """f under jit, vmap, scan and grad; its numbers are those of other tests."""

    def total(x):
        return sum((jnp.sum(leaf) for leaf in jax.tree.leaves(f(x)) if floats(leaf)), 0.0)

    jax.eval_shape(jax.jit(f), x)
    jax.eval_shape(jax.vmap(f), x[None])
    jax.eval_shape(lambda x: jax.lax.map(f, x), x[None])
    if floats(x):
        jax.eval_shape(jax.grad(total), x)


def floats(x):
    return jnp.issubdtype(x.dtype, jnp.floating)


# Where they enter is the same code for all: one of each kind of table, and of each combinator that
# has a loop or a state of its own.
ALWAYS = {
    *("vq", "zero_debiased", "held", "affine", "stochastic", "latent", "lfq", "residual"),
    *("repeat", "grouped", "scheduled", "frozen"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[slow] * (n not in ALWAYS)) for n in QUANTIZERS]
)
def test_a_transformed_function_closes_over_numpy_variables(name):
    q = QUANTIZERS[name]
    params, state = as_numpy(jax.jit(q.init)(KEY))
    z, codes = jnp.ones((5, q.dim)), jnp.zeros((5, len(q.vocab)), int)
    trace(lambda z: q.apply(params, state, z), z)
    trace(lambda z: q.apply(params, state, z, train=True, key=KEY), z)
    trace(lambda codes: q.decode(params, state, codes), codes)
    jax.eval_shape(jax.grad(lambda p: q.apply(p, state, z, train=True, key=KEY)[0].loss), params)
    layer = vj.Quantize(q)
    variables = as_numpy(jax.jit(layer.init)(KEY, z))
    trace(lambda codes: layer.apply(variables, codes, method="decode"), codes)
    trace(lambda z: layer.apply(variables, z).quantized, z)


@pytest.mark.parametrize("model", [MLP, TWO], ids=["VQVAE", "VQVAE2"])
def test_models_close_over_numpy_variables(model):
    f, x = vj.as_functions(model), jnp.ones((5, 2))
    variables = as_numpy(jax.jit(f.init)(KEY, x))
    codes = jax.eval_shape(f.tokenize, variables, x)
    codes = jax.tree.map(lambda k: jnp.zeros(k.shape, k.dtype), codes)
    trace(lambda x: model.apply(variables, x), x)
    trace(lambda x: f.tokenize(variables, x), x)
    jax.eval_shape(jax.jit(lambda k: f.detokenize(variables, k)), codes)
    stacked = jax.tree.map(lambda k: k[None], codes)
    jax.eval_shape(jax.vmap(lambda k: f.detokenize(variables, k)), stacked)

    def loss(params):
        rest = {vj.quantizers.STATE: variables[vj.quantizers.STATE], "params": params}
        out, _ = model.apply(
            rest, x, train=True, mutable=[vj.quantizers.STATE], rngs={vj.quantizers.RNG: KEY}
        )
        return out.loss

    jax.eval_shape(jax.jit(jax.grad(loss)), variables["params"])


def prior_functions(prior):
    """What is done with a prior."""

    def logits(variables, codes):
        return prior.apply(variables, codes, condition(prior))

    def draw(variables, codes):
        if isinstance(prior, vj.priors.MaskedPrior):
            return vj.priors.sample_masked(KEY, prior, variables, codes, condition(prior), steps=2)
        stepper = vj.priors.cached if hasattr(prior, "step") else vj.priors.uncached
        return vj.priors.sample_codes(
            KEY, prior, variables, codes, condition(prior), stepper=stepper
        )

    return logits, draw


def condition(prior):
    coarse = (jnp.zeros((2, 1, 1, 1), int),) if getattr(prior, "coarse", ()) else ()
    return TOLD._replace(coarse=coarse)


@pytest.mark.parametrize("name", PRIORS)
def test_priors_close_over_numpy_variables(name):
    prior, codes = PRIORS[name], jnp.zeros((2, 2, 2, 2), int)
    variables = as_numpy(jax.jit(prior.init)(KEY, codes, condition(prior)))
    for f in prior_functions(prior):
        trace(lambda codes, f=f: f(variables, codes), codes)


def test_other_functions_close_over_numpy_arrays():
    e = np.asarray(jax.random.normal(KEY, (6, 3)))
    for f in (vj.nearest, vj.quantize):
        trace(lambda z, f=f: f(z, e), jnp.ones((4, 3)))
    trace(lambda k: vj.lookup(e, k), jnp.zeros(4, int))
    tokenizer = vj.models.random_projection(8, 5, 2)
    state = as_numpy(tokenizer.init(KEY))
    trace(lambda x: tokenizer.encode(state, x), jnp.ones((4, 5)))
    q = vj.repeat(vj.vq(6, 3), 2)
    params, state = as_numpy(q.init(KEY))
    trace(lambda z: vj.combinators.beam_search(q, params, state, z, 2), jnp.ones((4, 3)))


def places():
    mesh = jax.make_mesh((8,), ("data",), (AxisType.Auto,))
    return {
        "NumPy": as_numpy,
        "device 3": lambda tree: jax.device_put(tree, SingleDeviceSharding(jax.devices()[3])),
        "all devices": lambda tree: jax.device_put(tree, NamedSharding(mesh, PartitionSpec())),
    }


@pytest.mark.parametrize("place", ["NumPy", "device 3", "all devices"])
@pytest.mark.parametrize(
    "name",
    [
        "VQVAE",
        "coarse",
        *(pytest.param(n, marks=slow) for n in ("VQVAE2", "transformer", "masked")),
    ],
)
def test_variables_on_any_devices_give_the_same(name, place):
    put = places()[place]
    if name in PRIORS:
        model, x = PRIORS[name], np.zeros((2, 2, 2, 2), np.int32)
        variables = jax.jit(model.init)(KEY, x, condition(model))
        fs = prior_functions(model)
    else:
        model, x = {"VQVAE": MLP, "VQVAE2": TWO}[name], np.ones((5, 2), np.float32)
        variables = jax.jit(model.init)(KEY, x)
        fs = [model.apply, vj.as_functions(model).tokenize]
    for f in fs:
        expected, found = (jax.jit(f)(v, x) for v in (variables, put(variables)))
        jax.tree.map(np.testing.assert_array_equal, found, expected)
        devices = {d for leaf in jax.tree.leaves(found) for d in leaf.devices()}
        assert len(devices) == (8 if place == "all devices" else 1)
        assert place != "device 3" or devices == {jax.devices()[3]}


@pytest.mark.parametrize("place", ["NumPy", pytest.param("device 3", marks=slow), "all devices"])
def test_eager_calls_take_variables_on_any_devices(place):
    put = places()[place]
    q = vj.residual(vj.ema_vq(6, 3, **KM), vj.vq(6, 3))
    params, state = q.init(KEY)
    z = np.asarray(jax.random.normal(KEY, (7, 3)))
    out, new = q.apply(params, state, z, train=True, key=KEY)
    found, moved = q.apply(put(params), put(state), z, train=True, key=KEY)
    jax.tree.map(np.testing.assert_array_equal, (found, moved), (out, new))
    again = q.decode(put(params), put(new), np.asarray(out.indices))
    np.testing.assert_array_equal(again, q.decode(params, new, out.indices))


def test_a_loaded_model_is_used_in_a_transformed_function(tmp_path):
    x = jnp.ones((5, 2))
    vj.save_model(tmp_path / "model", MLP, MLP.init(KEY, x))
    model, variables, _ = vj.load_model(tmp_path)
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(variables))
    jax.eval_shape(jax.jit(lambda x: model.apply(variables, x)), x)


@pytest.mark.parametrize("place", ["NumPy", "device 3", "all devices"])
def test_variables_are_saved_from_any_devices(tmp_path, place):
    variables = MLP.init(KEY, jnp.ones((5, 2)))
    digests = {vj.save_model(tmp_path, MLP, v) for v in (variables, places()[place](variables))}
    assert len(digests) == 1
