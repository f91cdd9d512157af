"""The whole VQ-VAE: codes, the gradient of each term by hand, masks, dtypes, and export."""

import functools
import math
import re
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vqvae_jax as vj
from vqvae_jax import MLP, VQVAE, Decoder, Encoder, as_functions, ema_vq, vq
from vqvae_jax.quantizers import RNG, STATE

KEY, SIZE, DIM, BETA = jax.random.key(0), 6, 3, 0.4
X = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
ROWS = X[..., 0]  # rows of vectors, for MLPs where convolutions add nothing but compile time
SPREAD = vj.inits.normal(0.5)  # codes spread about as z_e is, so that several are chosen
equal, close = np.testing.assert_array_equal, np.testing.assert_allclose


def build(quantizer, **options):
    """8 x 8 pixels to 4 x 4 codes."""
    sizes = {"dim": DIM, "width": 8, "depth": 1} | options
    return VQVAE(Encoder(**sizes, downsamplings=1), quantizer, Decoder(**sizes, upsamplings=1))


MODEL = build(vq(SIZE, DIM, beta=BETA, init=SPREAD))
FUNCTIONS = as_functions(MODEL)
JITTED = type(FUNCTIONS)(*map(jax.jit, FUNCTIONS))


@functools.cache
def variables():
    """Random ones by NumPy: to compile `MODEL.init` takes longer than the tests."""
    rng, shapes = np.random.default_rng(0), jax.eval_shape(MODEL.init, KEY, X)
    return jax.tree.map(lambda p: jnp.float32(0.3 * rng.normal(size=p.shape)), shapes)


@functools.cache
def training(quantizer):
    """The variables of a small model of rows, and (variables, x, mask, key) -> (rec, new)."""
    model = VQVAE(MLP(DIM, width=8, depth=1), quantizer, MLP(8, width=8, depth=1))

    def train(v, x, mask, key):
        return model.apply(v, x, train=True, mask=mask, mutable=[STATE], rngs={RNG: key})

    return jax.jit(model.init)(KEY, ROWS), jax.jit(train)


IMPLICIT = {
    "grid": vj.grid([4] * 14),
    "fsq": vj.fsq([4] * 14),
    "fsp": vj.fsp([4] * 14),
    "latent_vq": vj.latent_vq([4] * 14),
    "lfq": vj.lfq(28),
    "bsq": vj.bsq(28),
    "residual": vj.residual(vj.fsq([4] * 14), vj.grid([4] * 14)),
}


@pytest.mark.parametrize("quantizer", IMPLICIT.values(), ids=IMPLICIT)
def test_no_array_of_a_training_step_grows_with_a_codebook_that_is_implicit(quantizer):
    model = VQVAE(MLP(quantizer.dim, width=8, depth=1), quantizer, MLP(8, width=8, depth=1))
    v = jax.eval_shape(model.init, KEY, ROWS)

    def step(v, x):
        train = functools.partial(model.apply, train=True, mutable=[STATE], rngs={RNG: KEY})
        return jax.grad(lambda v: train(v, x)[0].loss)(v), train(v, x)[0].metrics

    shapes = re.findall(r"\[([\d,]+)\]", str(jax.make_jaxpr(step)(v, ROWS)))
    assert max(math.prod(map(int, shape.split(","))) for shape in shapes) < 2**16


def test_decoding_the_codes_gives_the_reconstruction():
    @jax.jit
    def both(v, x):
        codes = MODEL.apply(v, x, method="tokenize")
        return MODEL.apply(v, x), codes, MODEL.apply(v, codes, method="detokenize")

    rec, codes, x = both(variables(), X)
    equal(codes, rec.indices)
    equal(x, rec.x)
    assert (codes.shape, codes.dtype) == ((4, 4, 4, 1), jnp.int32)
    assert len(np.unique(codes)) > 2
    equal(JITTED.tokenize(variables(), X), codes)
    close(JITTED.detokenize(variables(), codes), rec.x, atol=1e-6)
    z_e = JITTED.encode(variables(), X)
    close(z_e, rec.z_e, atol=1e-6)
    close(JITTED.decode(variables(), JITTED.quantize(variables(), z_e).quantized), x, atol=1e-6)


def test_x_depends_on_z_e_through_its_voronoi_cell_only():
    z_e = JITTED.encode(variables(), X)
    out = JITTED.quantize(variables(), z_e)
    inside = JITTED.quantize(variables(), z_e + 0.7 * (out.quantized - z_e))  # cells are convex
    beyond = JITTED.quantize(variables(), z_e + 9)
    equal(inside.indices, out.indices)
    equal(inside.quantized, out.quantized)  # bit for bit: so x' is the same
    assert inside.loss < out.loss
    assert np.any(beyond.indices != out.indices)


def test_codes_in_training_follow_from_the_state_and_not_from_the_key():
    v, train = training(
        ema_vq(SIZE, DIM, decay=0.5, init=vj.inits.normal(5.0), reset=vj.codebooks.underused(0.9))
    )
    (a, state_a), (b, state_b) = (train(v, ROWS, jnp.ones(4), jax.random.key(i)) for i in (1, 2))
    chex.assert_trees_all_equal(a, b)
    with pytest.raises(AssertionError):  # the key did something: dead codes were replaced
        chex.assert_trees_all_equal(state_a, state_b)


def test_masked_examples_drop_out_of_losses_metrics_and_state():
    v, train = training(ema_vq(SIZE, DIM, init=SPREAD))
    mask = jnp.array([1.0, 0.0, 1.0, 1.0])
    rec, new = train(v, ROWS.at[1].set(100.0), mask, KEY)
    kept, expected = train(v, ROWS[mask > 0], jnp.ones(3), KEY)
    chex.assert_trees_all_close((rec.losses, rec.metrics), (kept.losses, kept.metrics), rtol=1e-5)
    chex.assert_trees_all_close(new, expected, rtol=1e-5, atol=1e-6)
    equal(rec.indices[1], -1)
    equal(rec.z_q[1], 0)
    equal(rec.indices[mask > 0], kept.indices)
    counts = np.bincount(np.ravel(kept.indices), minlength=SIZE)
    close(
        rec.metrics["perplexity_batch"],
        vj.metrics.usage(jnp.float32(counts))["perplexity"],
        rtol=1e-5,
    )


@functools.cache
def gradients():
    """The gradient of each term in all parameters."""

    def terms(params):
        rec = MODEL.apply({"params": params}, X, train=True, mutable=[STATE])[0]
        return rec.losses | {"reconstruction": jnp.mean(jnp.square(X - rec.x))}

    return jax.jit(jax.jacrev(terms))(variables()["params"])


@pytest.mark.parametrize(
    "term, moved", [("codebook", "codes"), ("commitment", "encoder"), ("reconstruction", None)]
)
def test_each_term_moves_its_own_parameters_only(term, moved):
    moves = {moved} if moved else {"encoder", "decoder"}
    for part, gradient in gradients()[term].items():
        for leaf in jax.tree.leaves(gradient):
            assert np.any(leaf) == (part in moves), (term, part)


def test_gradients_of_the_encoder_by_hand():
    params = variables()["params"]
    encoder, decoder, codebook = (params[k] for k in ("encoder", "decoder", "codes"))
    e = codebook["weights"]["codebook"]

    @jax.jit
    def by_hand(encoder, decoder):
        z_e, pull = jax.vjp(lambda p: MODEL.encoder.apply({"params": p}, X), encoder)
        k = jnp.argmin(jnp.sum(jnp.square(z_e[..., None, :] - e), -1), -1)
        z_q = e[k]
        slope = jax.grad(
            lambda z: jnp.mean(jnp.square(X - MODEL.decoder.apply({"params": decoder}, z)))
        )
        difference = 2 * (z_e - z_q) / z_e.size
        return {
            "reconstruction": pull(slope(z_q))[0],  # dL/dz_e := dL/dz_q
            "commitment": pull(BETA * difference)[0],
        }, jnp.zeros_like(e).at[k].add(-difference)

    expected, moved_codes = by_hand(encoder, decoder)
    ours = {term: gradients()[term]["encoder"] for term in expected}
    chex.assert_trees_all_close(ours, expected, rtol=1e-5, atol=1e-7)
    close(
        gradients()["codebook"]["codes"]["weights"]["codebook"], moved_codes, rtol=1e-5, atol=1e-7
    )


def test_indices_that_no_encoder_gives(as_users):
    v, codes = variables(), jnp.full((1, 2, 2, 1), -1)
    zero = JITTED.decode(v, jnp.zeros((1, 2, 2, DIM)))
    equal(JITTED.detokenize(v, codes), zero)
    equal(JITTED.detokenize(v, codes + 100), zero)  # under jit values are not known
    for bad in (-2, SIZE):
        with pytest.raises(ValueError, match=rf"must be from -1 to {SIZE - 1}, got {bad} to {bad}"):
            FUNCTIONS.detokenize(v, jnp.full((1, 2, 2, 1), bad))
    with pytest.raises(TypeError, match="indices must be integers, got dtype float32"):
        FUNCTIONS.detokenize(v, jnp.zeros((1, 2, 2, 1)))
    with pytest.raises(ValueError, match=r"\[\.\.\., 1\], got shape \(1, 2, 2\)"):
        FUNCTIONS.detokenize(v, jnp.zeros((1, 2, 2), int))


def test_functions_vmap():
    mapped = jax.jit(jax.vmap(FUNCTIONS.tokenize, in_axes=(None, 0)))
    equal(mapped(variables(), X[:, None])[:, 0], JITTED.tokenize(variables(), X))


@pytest.mark.parametrize("batch", ["1", "64", "batch"])
def test_functions_export(batch):
    """The last is a symbolic size: one exported function for batches of any size."""
    shape = jax.export.symbolic_shape(f"{batch}, 8, 8, 1")
    exported = jax.export.export(jax.jit(FUNCTIONS.tokenize))(
        variables(), jax.ShapeDtypeStruct(shape, jnp.float32)
    )
    many, codes = (jnp.tile(a, (16, 1, 1, 1)) for a in (X, JITTED.tokenize(variables(), X)))
    n = 48 if batch == "batch" else int(batch)
    equal(exported.call(variables(), many[:n]), codes[:n])


READER = """
import sys
sys.modules["vqvae_jax"] = sys.modules["flax"] = None  # importing them fails
import jax, jax.export, numpy as np
tokenize, detokenize = (jax.export.deserialize(bytearray(open(f, "rb").read())) for f in ("t", "d"))
codes = tokenize.call(np.load("x.npy"))
np.savez("out.npz", codes=codes, x=detokenize.call(codes))
"""


def test_exported_files_need_nothing_but_jax(tmp_path):
    for name, function, array in (
        ("t", FUNCTIONS.tokenize, X),
        ("d", FUNCTIONS.detokenize, JITTED.tokenize(variables(), X)),
    ):
        exported = jax.export.export(jax.jit(functools.partial(function, variables())))(array)
        (tmp_path / name).write_bytes(exported.serialize())
    np.save(tmp_path / "x.npy", X)
    subprocess.run([sys.executable, "-I", "-c", READER], cwd=tmp_path, check=True)
    with np.load(tmp_path / "out.npz") as out:
        equal(out["codes"], JITTED.tokenize(variables(), X))
        close(out["x"], JITTED.detokenize(variables(), out["codes"]), atol=1e-6)


def test_a_model_is_its_json_and_equal_models_compile_once():
    traces = []

    @functools.partial(jax.jit, static_argnums=0)
    def codes(model, v, x):
        traces.append(model)
        return model.apply(v, x, method="tokenize")

    again = vj.from_json(vj.to_json(MODEL))
    other = build(vq(SIZE, DIM, beta=BETA / 2, init=SPREAD))
    assert again is not MODEL and again == MODEL and hash(again) == hash(MODEL) != hash(other)
    equal(codes(MODEL, variables(), X), codes(again, variables(), X))
    assert len(traces) == 1
    codes(other, variables(), X)
    assert len(traces) == 2


def test_bfloat16_is_for_activations_only():
    model = build(ema_vq(SIZE, DIM), dtype="bfloat16")
    v = jax.eval_shape(model.init, KEY, X)
    rec, new = jax.eval_shape(lambda v: model.apply(v, X, train=True, mutable=[STATE]), v)
    assert rec.z_e.dtype == rec.z_q.dtype == jnp.bfloat16
    rest = (v, rec.x, rec.losses, rec.metrics, new)
    assert {leaf.dtype for leaf in jax.tree.leaves(rest)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("size", [257, 65537])
def test_codes_survive_at_the_ends_of_small_integer_types(size):
    quantizer, codes = (
        vq(size, 4, init=vj.inits.normal()),
        jnp.r_[:5, 250:256, size - 200 : size][:, None],
    )
    params, state = quantizer.init(KEY)
    again = quantizer.encode(params, state, quantizer.decode(params, state, codes))
    equal(again, codes)
    assert again.dtype == jnp.int32


@pytest.mark.parametrize("sides", [(8,), (4, 6), (2, 4, 8)])
def test_one_to_three_spatial_axes(sides):
    model, x = build(ema_vq(SIZE, DIM)), jnp.zeros((2, *sides, 1))
    v = jax.eval_shape(model.init, KEY, x)
    rec, _ = jax.eval_shape(lambda v: model.apply(v, x, train=True, mutable=[STATE]), v)
    assert rec.x.shape == x.shape
    assert rec.indices.shape == (2, *(side // 2 for side in sides), 1)
