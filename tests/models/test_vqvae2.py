"""Levels of codes: the equations of the class, one level is a VQ-VAE, every quantizer anywhere."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiling import jit
from test_laws import ROWS as QUANTIZERS
from test_laws import slow_but

import vqvae_jax as vj
from vqvae_jax import MLP, VQVAE, VQVAE2, Decoder, Encoder
from vqvae_jax.quantizers import RNG, STATE
from vqvae_jax.training.parallel import data_mesh, shard_map_step
from vqvae_jax.training.step import Batch, init_state, make_train_step

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
WIDE = vj.inits.normal(0.5)  # codes spread about as z_e is, so that several are chosen
equal, close = np.testing.assert_array_equal, np.testing.assert_allclose


def halving(channels, dim):
    return Encoder(channels, dim, width=6, downsamplings=1, depth=0)


def doubling(channels, dim):
    return Decoder(channels, dim, width=6, upsamplings=1, depth=0)


THREE = VQVAE2(  # 1 x 1, 2 x 2 and 4 x 4 codes
    (halving(5, 3), halving(4, 5), halving(1, 4)),
    (vj.vq(7, 3, init=WIDE, beta=0.4), vj.grouped(*[vj.vq(5, 1, init=WIDE)] * 2), vj.fsq([3, 4])),
    (doubling(6, 3), doubling(5, 2 + 6), doubling(1, 2 + 5)),
)
FUNCTIONS = vj.as_functions(THREE)


@functools.cache
def variables():
    """Random ones by NumPy, large enough for several codes to be chosen."""
    rng, shapes = np.random.default_rng(0), jax.eval_shape(THREE.init, KEY, X)
    return jax.tree.map(lambda p: jnp.float32(0.3 * rng.normal(size=p.shape)), shapes)


@functools.cache
def reconstruction():
    return jit(THREE.apply)(variables(), X)


def of(name):
    """The variables of a part of the model."""
    return {"params": variables()["params"][name]}


def test_the_equations():
    rec, params = reconstruction(), variables()["params"]
    h_2 = jit(THREE.encoders[2].apply)(of("encoders_2"), X)
    h_1 = jit(THREE.encoders[1].apply)(of("encoders_1"), h_2)
    z = [jit(THREE.encoders[0].apply)(of("encoders_0"), h_1)]
    d = []
    for level in range(3):
        q = THREE.quantizers[level]
        _, state = q.init(KEY)
        weights = params.get(f"codes_{level}", {}).get("weights", {})
        out, _ = jit(q.apply)(weights, state, z[level])
        equal(rec.indices[level], out.indices)
        assert len(np.unique(out.indices)) > 1
        close(rec.z_e[level], z[level], atol=1e-5)
        close(rec.z_q[level], out.quantized, atol=1e-5)
        below = [out.quantized] if level == 0 else [out.quantized, d[-1]]
        decode = jit(THREE.decoders[level].apply)
        d.append(decode(of(f"decoders_{level}"), jnp.concatenate(below, axis=-1)))
        if level < 2:
            join, h = params[f"joins_{level}"], (h_1, h_2)[level]
            z.append(jnp.concatenate([h, d[-1]], -1) @ join["kernel"] + join["bias"])
    close(rec.x, d[-1], atol=1e-5)
    assert [k.shape for k in rec.indices] == [(4, 1, 1, 1), (4, 2, 2, 2), (4, 4, 4, 1)]


def test_losses_add_by_name_and_metrics_have_their_level():
    rec = reconstruction()
    z, q = rec.z_e[0], rec.z_q[0]
    top = {"codebook": np.mean((z - q) ** 2), "commitment": 0.4 * np.mean((z - q) ** 2)}
    middle = np.mean((rec.z_e[1] - rec.z_q[1]) ** 2)
    close(rec.losses["codebook"], top["codebook"] + middle, rtol=1e-5)
    close(rec.losses["commitment"], top["commitment"] + 0.25 * middle, rtol=1e-5)
    close(rec.loss, sum(rec.losses.values()), rtol=1e-6)
    assert {name.split("/")[0] for name in rec.metrics} == {"level0", "level1", "level2"}


def test_methods_agree_with_the_whole():
    rec, f = reconstruction(), jax.tree.map(jit, FUNCTIONS)
    maps = f.tokenize(variables(), X)
    chex.assert_trees_all_equal(maps, rec.indices)
    close(f.detokenize(variables(), maps), rec.x, atol=1e-5)
    outs = f.quantize(variables(), f.encode(variables(), X))
    chex.assert_trees_all_close(tuple(out.quantized for out in outs), rec.z_q, atol=1e-5)
    close(f.decode(variables(), rec.z_q), rec.x, atol=1e-5)


@pytest.mark.parametrize("levels", [1, 2])
def test_fewer_levels_decode_with_zeros_below(levels):
    """What the top alone says: the same as codes of -1 below."""
    maps = reconstruction().indices
    none = [k if level < levels else jnp.full_like(k, -1) for level, k in enumerate(maps)]
    decode = jit(FUNCTIONS.detokenize)
    some = [*maps[:levels], *[None] * (3 - levels)]
    close(decode(variables(), some), decode(variables(), none), atol=1e-6)
    assert np.abs(decode(variables(), some) - reconstruction().x).max() > 1e-3


@pytest.mark.parametrize("level", [0, 1, 2])
def test_every_level_reaches_x_and_the_levels_below(level):
    """The gradient of x' and of the z_e below in the vectors of one level."""

    def below(z_q):
        return FUNCTIONS.decode(variables(), z_q)

    rec = reconstruction()
    slopes = jit(jax.grad(lambda z_q: jnp.sum(jnp.sin(below(z_q)))))(rec.z_q)
    assert np.abs(slopes[level]).max() > 1e-4

    def z_e(shift):  # the encoders' top output moves: by the straight-through gradient all below do
        moved = dict(variables()["params"])
        bias = moved["encoders_0"]["Conv_2"]["bias"] + shift
        moved["encoders_0"] = moved["encoders_0"] | {
            "Conv_2": moved["encoders_0"]["Conv_2"] | {"bias": bias}
        }
        return THREE.apply({"params": moved}, X).z_e[level]

    slope = jit(jax.jacfwd(z_e))(0.0)
    assert np.abs(slope).max() > 1e-4


def test_one_level_is_a_vqvae():
    parts = halving(1, 3), vj.vq(7, 3, init=WIDE), doubling(1, 3)
    one, levels = VQVAE(*parts), VQVAE2(*((part,) for part in parts))
    variables = jit(one.init)(KEY, X)
    names = {"encoder": "encoders_0", "codes": "codes_0", "decoder": "decoders_0"}
    renamed = {"params": {names[k]: v for k, v in variables["params"].items()}}
    rec, hierarchy = jit(one.apply)(variables, X), jit(levels.apply)(renamed, X)
    chex.assert_trees_all_equal(
        (rec.x, rec.z_e, rec.z_q, rec.indices, rec.losses),
        (
            hierarchy.x,
            hierarchy.z_e[0],
            hierarchy.z_q[0],
            hierarchy.indices[0],
            hierarchy.losses,
        ),
    )


ROWS = jnp.asarray(np.random.default_rng(2).normal(size=(8, 6, 5)), jnp.float32)


def of_rows(top, bottom):
    """Two levels over rows of vectors, which compile soon."""

    def mlp(features):
        return MLP(features, width=8, depth=1)

    return VQVAE2((mlp(top.dim), mlp(4)), (top, bottom), (mlp(3), mlp(5)))


# Levels are the same code whatever the quantizer: one with a state that draws codes shows it, one
# without variables, and one of several streams.
@pytest.mark.parametrize("name", slow_but({"stochastic_top", "fsq", "repeat"}, of=QUANTIZERS))
def test_every_quantizer_at_every_level(name):
    """One step of training moves what it should; the codes decode to the reconstruction."""
    model = of_rows(QUANTIZERS[name], QUANTIZERS[name])

    def everything(key):
        v = model.init(key, ROWS)
        rec, new = model.apply(v, ROWS, train=True, mutable=[STATE], rngs={RNG: key})
        rec_eval = model.apply(v | new, ROWS)
        return rec, rec_eval, model.apply(v | new, rec_eval.indices, method="detokenize")

    rec, rec_eval, x = jit(everything)(KEY)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(rec))
    for quantizer, k in zip(model.quantizers, rec_eval.indices, strict=True):
        assert k.shape == (8, 6, len(quantizer.vocab)) and k.min() >= 0
    close(x, rec_eval.x, atol=1e-4)


TRAINED = of_rows(
    vj.ema_vq(16, 3, decay=0.9, init=WIDE), vj.residual(vj.vq(8, 2, init=WIDE), vj.vq(8, 2))
)


def test_masked_examples_drop_out():
    v = jit(TRAINED.init)(KEY, ROWS)
    mask = jnp.array([1.0, 0, 1, 1, 0, 1, 1, 1])

    @jit
    def train(x, mask):
        return TRAINED.apply(v, x, train=True, mask=mask, mutable=[STATE])

    rec, new = train(ROWS.at[1].set(np.nan).at[4].set(50.0), mask)
    kept, expected = train(ROWS[mask > 0], jnp.ones(6))
    chex.assert_trees_all_close(rec.losses, kept.losses, rtol=1e-5)
    chex.assert_trees_all_close(new, expected, rtol=1e-5, atol=1e-6)
    for k in rec.indices:
        equal(k[mask == 0], -1)


def test_the_train_step_on_many_devices_is_that_on_one():
    optimizer = optax.sgd(0.1)
    step = make_train_step(TRAINED, optimizer)
    state = init_state(TRAINED, optimizer, KEY, ROWS)
    batch = Batch(np.asarray(ROWS), np.array([1, 0, 1, 1, 0.5, 1, 1, 1], np.float32))
    one, metrics = jit(step)(state, batch)
    many, their_metrics = shard_map_step(step, data_mesh(jax.devices()[:4]))(state, batch)
    chex.assert_trees_all_close(jax.device_get(many), jax.device_get(one), rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(
        jax.device_get(their_metrics), jax.device_get(metrics), rtol=1e-4, atol=1e-5
    )


def test_a_model_is_plain_json_and_weights(tmp_path):
    v = jit(TRAINED.init)(KEY, ROWS)
    digest = vj.save_model(tmp_path, TRAINED, v)
    model, loaded, found = vj.load_model(tmp_path)
    assert model == TRAINED and found == digest
    tokenize = jit(lambda v: model.apply(v, ROWS).indices)
    chex.assert_trees_all_equal(tokenize(loaded), tokenize(v))


def test_errors(as_users):
    with pytest.raises(ValueError, match="1 encoders, 2 quantizers, 1 decoders"):
        VQVAE2((MLP(3),), (vj.vq(4, 3),) * 2, (MLP(3),)).init(KEY, ROWS)
    with pytest.raises(ValueError, match="0 encoders"):
        VQVAE2((), (), ()).init(KEY, ROWS)
    for given in ((), reconstruction().indices[2:], (None, *reconstruction().indices[1:])):
        with pytest.raises(ValueError, match="an entry for each of 3 levels, top-down"):
            FUNCTIONS.detokenize(variables(), given)
    with pytest.raises(ValueError, match=r"each of 3 levels.*got 4"):
        FUNCTIONS.decode(variables(), (*reconstruction().z_q, X))
    uneven = VQVAE2(
        (halving(4, 3), halving(1, 4)), (vj.vq(4, 3),) * 2, (Decoder(4, 3), doubling(1, 7))
    )
    with pytest.raises(ValueError, match=r"decoder above, \(\d+, 8, 8\), got \(\d+, 4, 4\)"):
        jax.eval_shape(uneven.init, KEY, X)
