"""Lengths as masks: a padded example has the codes, the losses and the training of one alone."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiling import jit

import vqvae_jax as vj
from vqvae_jax.models.masks import of_rows, of_samples, sequence_mask
from vqvae_jax.training.parallel import data_mesh, shard_map_step
from vqvae_jax.training.step import Batch, init_state, make_train_step

KEY = jax.random.key(0)
equal, close = (
    np.testing.assert_array_equal,
    functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
)
LENGTHS = np.array([16, 9, 8, 1])
SIGNALS = 3 * jax.random.normal(KEY, (4, 16, 2))
MASK = sequence_mask(LENGTHS, 16)
CODES = vj.inits.normal(0.2)  # spread about as z_e is, so that several are chosen


def pair(halvings, channels=2, dim=3, **options):
    sizes = {"width": 6, "depth": 1} | options
    encoder = vj.Encoder(channels, dim, downsamplings=halvings, **sizes)
    return encoder, vj.Decoder(channels, dim, upsamplings=halvings, **sizes)


def model(halvings=2, quantizer=None, wrap=lambda module: module):
    encoder, decoder = pair(halvings)
    quantizer = quantizer or vj.fsq([8, 8, 8])
    return vj.VQVAE(wrap(encoder), quantizer, wrap(decoder))


def levels():
    encoder, _ = pair(1, dim=4)
    top, above = pair(1, channels=4)
    below = vj.Decoder(2, 3 + 4, width=6, depth=1, upsamplings=1)
    return vj.VQVAE2((top, encoder), (vj.vq(12, 3, init=CODES),) * 2, (above, below))


def random_variables(module, x):
    """Of the shapes of `init`, without compiling it; biases are not zero."""
    rng, shapes = np.random.default_rng(0), jax.eval_shape(module.init, KEY, x)
    return jax.tree.map(lambda p: jnp.float32(0.3 * rng.normal(size=p.shape)), shapes)


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int32", None])
def test_lengths_as_masks(dtype):
    lengths = [0, 2, 3] if dtype is None else np.array([0, 2, 3], dtype)
    expected = [[0, 0, 0], [1, 1, 0], [1, 1, 1]]
    equal(sequence_mask(lengths, 3), np.array(expected, bool))
    equal(jax.jit(lambda n: sequence_mask(n, 3))(jnp.asarray(lengths)), np.array(expected, bool))
    equal(sequence_mask(2, 3), [True, True, False])


def test_lengths_that_can_not_be_are_named(as_users):
    for lengths in ([-1, 2], [2, 4]):
        with pytest.raises(ValueError, match=r"from 0 to the size 3, got (-1 to 2|2 to 4)"):
            sequence_mask(lengths, 3)
    with pytest.raises(TypeError, match="integers, got dtype float"):
        sequence_mask([1.0], 3)


def test_a_row_counts_if_any_of_its_samples_does():
    z = jnp.zeros((2, 2, 3, 5))
    mask = np.zeros((2, 4, 9), np.float32)
    mask[0, 3, 2], mask[1, 0, 8], mask[1, 1, 7] = 0.5, 2, 1
    equal(of_rows(mask, z), [[[0, 0, 0], [0.5, 0, 0]], [[0, 0, 2], [0, 0, 0]]])
    equal(of_rows(mask[:, :, :1], z), np.zeros((2, 2, 1)))  # the same along an axis
    assert of_rows(np.ones(2), z).shape == (2, 1, 1) and of_rows(None, z) is None
    equal(of_rows(mask[:, :2, :3], z), mask[:, :2, :3])


def test_masks_of_examples_and_of_rows_are_none_of_samples():
    x = jnp.zeros((2, 8, 8, 1))
    for shape in ((2,), (2, 1, 1), (2, 4, 4), (2, 8)):
        assert of_samples(np.ones(shape), x) is None
    for shape in ((2, 8, 8), (2, 8, 1), (1, 1, 8)):
        assert of_samples(np.ones(shape), x).shape == (2, 8, 8)
    assert of_samples(np.ones(2), jnp.zeros((2, 5))) is None and of_samples(None, x) is None


@pytest.mark.parametrize(
    "wrap", [lambda m: m, lambda m: vj.models.Microbatched(m, 2)], ids=["", "in parts"]
)
def test_padded_signals_have_the_codes_and_the_x_that_they_have_alone(wrap):
    f, v = vj.as_functions(model()), random_variables(model(), SIGNALS)
    padded = jnp.where(MASK[..., None], SIGNALS, jnp.nan)  # padding may be anything
    masked = vj.as_functions(model(wrap=wrap))
    codes = jit(masked.tokenize)(v, padded, MASK)
    tokenize, detokenize = jit(f.tokenize), jit(f.detokenize)
    rec = jit(functools.partial(model(wrap=wrap).apply, mask=MASK))(v, padded)
    ys = jit(masked.detokenize)(v, codes, MASK)
    assert len(np.unique(codes)) > 4
    for x, k, y, whole, n in zip(SIGNALS, codes, ys, rec.x, LENGTHS, strict=True):
        up = -(-n // 4) * 4  # alone, an example is padded with zeros to a multiple of the stride
        alone = jnp.pad(x[:n], ((0, up - n), (0, 0)))[None]
        one = tokenize(v, alone)
        equal(k[: up // 4], one[0])
        equal(k[up // 4 :], -1)
        close(y[:up], detokenize(v, one)[0])
        close(whole[:up], y[:up])
        equal(whole[up:], 0)
    equal(rec.indices, codes)


@pytest.mark.parametrize(
    ("halvings", "sides"), [((1, 2), (4, 8)), ((0, 1, 1), (3, 4, 4))], ids=["picture", "video"]
)
def test_padded_pictures_and_videos_have_the_codes_that_they_have_alone(halvings, sides):
    f = vj.as_functions(model(halvings))
    x = 3 * jax.random.normal(KEY, (2, *sides, 2))
    v = random_variables(model(halvings), x)
    small = tuple(side - 2**n for side, n in zip(sides, halvings, strict=True))
    inside = (slice(None), *map(slice, small))
    mask = jnp.zeros((2, *sides)).at[inside].set(1)
    tokenize = jit(f.tokenize)
    codes, alone = tokenize(v, x, mask), tokenize(v, x[inside])
    equal(codes[(slice(None), *map(slice, alone.shape[1:-1]))], alone)
    assert (np.asarray(codes) == -1).sum() == codes.size - alone.size > 0
    assert len(np.unique(alone)) > 1


def test_frames_of_a_video_are_masked_by_their_axis_alone():
    f = vj.as_functions(model((1, 1, 1)))
    x = jax.random.normal(KEY, (2, 4, 4, 4, 2))
    v = random_variables(model((1, 1, 1)), x)
    frames = sequence_mask([4, 2], 4)
    tokenize = jit(f.tokenize)
    codes = tokenize(v, x, frames[:, :, None, None])
    equal(codes, tokenize(v, x, jnp.broadcast_to(frames[:, :, None, None], x.shape[:-1])))
    equal(codes[1, :1], tokenize(v, x[1:, :2])[0])
    equal(codes[1, 1:], -1)


def test_all_levels_of_padded_signals_are_as_alone():
    f, v = vj.as_functions(levels()), random_variables(levels(), SIGNALS)
    maps = jit(f.tokenize)(v, SIGNALS, MASK)
    rec = jit(functools.partial(levels().apply, mask=MASK))(v, SIGNALS)
    for b, n in ((0, 16), (2, 8)):
        alone = jit(f.tokenize)(v, SIGNALS[b : b + 1, :n])
        for k, one in zip(maps, alone, strict=True):
            equal(k[b, : one.shape[1]], one[0])
            equal(k[b, one.shape[1] :], -1)
        close(rec.x[b, :n], jit(f.detokenize)(v, alone)[0])
    for level, k in enumerate(maps):
        stride = 4 >> level
        equal((k[..., 0] >= 0).sum(1), -(-LENGTHS // stride))  # rounded up
        equal(rec.indices[level], k)
    equal(jit(f.detokenize)(v, maps, MASK)[MASK], rec.x[MASK])


def test_masks_of_examples_are_told_to_no_layer():
    """So that they change no bits of what is trained with them."""
    m, v = model(), random_variables(model(), SIGNALS)
    weights = jnp.array([1.0, 0.0, 2.0, 1.0])
    equal(m.apply(v, SIGNALS, mask=weights).x[0], m.apply(v, SIGNALS).x[0])
    assert np.any(m.apply(v, SIGNALS, mask=weights).x[1] != 0)


@pytest.mark.parametrize("kind", ["vqvae", "vae", "autoencoder"])
def test_a_step_on_padded_signals_is_that_without_padding(kind):
    encoder, decoder = pair(1, dim=4)
    m = {
        "vqvae": model(
            1, vj.ema_vq(12, 3, 0.9, init=vj.inits.kmeans(2), reset=vj.codebooks.underused(0.5))
        ),
        "vae": vj.VAE(encoder, vj.Decoder(2, 2, width=6, depth=1, upsamplings=1)),
        "autoencoder": vj.Autoencoder(encoder, decoder),
    }[kind]
    optimizer = optax.adam(0.01)
    state = init_state(m, optimizer, KEY, SIGNALS)
    step = jit(make_train_step(m, optimizer))
    short = SIGNALS[:, :10]
    padded = jnp.pad(short, ((0, 0), (0, 6), (0, 0)), constant_values=np.nan)
    mask = np.broadcast_to(sequence_mask(10, 16), (4, 16))
    if kind == "vae":  # its noise is drawn for all rows: only the mean can be compared
        a = jit(m.apply)({"params": state.params}, short)
        b = jit(m.apply)({"params": state.params}, jnp.nan_to_num(padded), mask=mask)
        chex.assert_trees_all_close(b.metrics, a.metrics, rtol=1e-5)
        close(b.x[:, :10], a.x)
        assert np.isfinite(step(state, Batch(padded, mask))[1]["loss"])
        return
    plain, expected = step(state, short)
    new, metrics = step(state, Batch(padded, mask))
    drawn = {k for k in expected if k.startswith("revived")}  # rows are drawn from all rows
    for name in set(expected) - drawn:
        close(metrics[name], expected[name], err_msg=name)
    if kind == "autoencoder":
        chex.assert_trees_all_close(new, plain, rtol=1e-4, atol=1e-5)
    assert metrics["invalid_examples"] == 0


def test_lengths_weigh_samples_in_the_losses_on_one_device_and_on_four():
    m, optimizer = model(1, vj.ema_vq(12, 3, init=CODES)), optax.sgd(0.1)
    state = init_state(m, optimizer, KEY, SIGNALS)
    step = make_train_step(m, optimizer)
    batch = Batch(np.asarray(jnp.where(MASK[..., None], SIGNALS, jnp.inf)), np.float32(MASK))
    new, metrics = jit(step)(state, batch)
    rec = jit(m.apply)(state.variables, SIGNALS, mask=MASK)
    close(metrics["reconstruction"], np.mean((rec.x - SIGNALS)[MASK] ** 2))
    close(metrics["mse"], metrics["reconstruction"])
    assert metrics["skipped"] == 0
    many, theirs = shard_map_step(step, data_mesh(jax.devices()[:4]))(state, batch)
    chex.assert_trees_all_close(jax.device_get(many), jax.device_get(new), rtol=1e-4, atol=1e-5)
    close(theirs["loss"], metrics["loss"])


def test_an_example_with_a_sample_that_is_not_finite_is_dropped_as_a_whole():
    m, optimizer = model(1), optax.sgd(0.1)
    state, step = init_state(m, optimizer, KEY, SIGNALS), jit(make_train_step(m, optax.sgd(0.1)))
    broken = SIGNALS.at[1, 3, 0].set(jnp.nan)
    new, metrics = step(state, Batch(broken, MASK))
    expected, _ = step(state, Batch(SIGNALS, MASK.at[1].set(False)))
    chex.assert_trees_all_equal(new, expected)
    assert metrics["invalid_examples"] == 1


def test_modules_whose_calls_take_no_mask_see_zeros():
    m = vj.VQVAE(nn.Dense(3), vj.vq(8, 3, init=CODES), nn.Dense(2))
    v = random_variables(m, SIGNALS)
    rec = jit(m.apply)(v, jnp.where(MASK[..., None], SIGNALS, jnp.nan), mask=MASK)
    equal(rec.indices[..., 0] >= 0, MASK)
    assert np.isfinite(rec.x).all() and np.isfinite(rec.loss)
    padded = jnp.where(MASK[..., None], SIGNALS, jnp.nan)

    def loss(v):
        rec = m.apply(v, padded, mask=MASK)
        return rec.loss + jnp.sum(jnp.where(MASK[..., None], rec.x, 0))

    assert all(np.isfinite(g).all() for g in jax.tree.leaves(jit(jax.grad(loss))(v)))


def test_masks_that_fit_nothing_are_named(as_users):
    m = model()
    v = jax.eval_shape(m.init, KEY, SIGNALS)
    for shape in ((3,), (4, 3), (4, 16, 2), (5, 16)):
        with pytest.raises(ValueError, match=r"of the 4 examples, \[B\], of the samples of x"):
            jax.eval_shape(functools.partial(m.apply, mask=jnp.ones(shape)), v, SIGNALS)
    step = make_train_step(m, optax.sgd(0.1))
    state = jax.eval_shape(lambda: init_state(m, optax.sgd(0.1), KEY, SIGNALS))
    with pytest.raises(ValueError, match=r"samples of x, \(4, 16\), got shape \(4, 15\)"):
        jax.eval_shape(step, state, Batch(SIGNALS, jnp.ones((4, 15))))
