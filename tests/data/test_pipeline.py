import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqvae_jax.data.pipeline import batch_indices, batches, take_batches
from vqvae_jax.data.scaling import preprocess, to_pixels

SEEDS = st.integers(0, 2**32)
SIZES = st.integers(1, 40)
ORDER = [3716, 5640, 2595, 7082, 4771, 4627, 1503, 3643]


@given(seed=SEEDS, batch_size=SIZES, n=SIZES, epochs=st.integers(1, 3))
@settings(deadline=None)
def test_every_epoch_is_a_permutation(seed, batch_size, n, epochs):
    steps = -(-epochs * n // batch_size)
    order = np.concatenate([batch_indices(seed, s, batch_size, n) for s in range(steps)])
    assert order.dtype == np.int64
    for epoch in order[: epochs * n].reshape(epochs, n):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(n))


@given(seed=SEEDS, batch_size=SIZES, n=SIZES, start=st.integers(0, 30))
@settings(deadline=None)
def test_resuming_equals_going_straight(seed, batch_size, n, start):
    data = np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)
    straight = list(itertools.islice(batches(data, seed, batch_size), start + 3))
    resumed = list(itertools.islice(batches(data, seed, batch_size, start=start), 3))
    np.testing.assert_array_equal(straight[start:], resumed)


@given(seed=SEEDS, first=SIZES, second=SIZES, n=SIZES)
@settings(deadline=None)
def test_the_batch_size_only_cuts_one_order(seed, first, second, n):
    def order(size):
        steps = range(-(-80 // size))
        return np.concatenate([batch_indices(seed, s, size, n) for s in steps])[:80]

    np.testing.assert_array_equal(order(first), order(second))


def test_order_is_fixed_for_ever():
    """Saved runs resume only if later versions give the same order."""
    np.testing.assert_array_equal(batch_indices(7, 1000, 8, 8000), ORDER)


def test_epochs_and_seeds_have_different_orders():
    epoch = [batch_indices(0, step, 100, 100) for step in range(2)]
    assert (epoch[0] != epoch[1]).any()
    assert (epoch[0] != batch_indices(1, 0, 100, 100)).any()


def test_callers_may_change_the_returned_indices():
    expected = batch_indices(0, 0, 10, 10).copy()
    batch_indices(0, 0, 10, 10)[:] = 0
    np.testing.assert_array_equal(batch_indices(0, 0, 10, 10), expected)


@given(n=SIZES, batch_size=SIZES)
@settings(deadline=None)
def test_take_batches_gives_each_example_once_and_in_order(n, batch_size):
    data = np.arange(1, 2 * n + 1, dtype=np.int32).reshape(n, 2)
    pairs = list(take_batches(data, batch_size))
    assert len(pairs) == -(-n // batch_size)
    assert all(b.shape == (batch_size, 2) and b.dtype == np.int32 for b, _ in pairs)
    rows = np.concatenate([b for b, _ in pairs])
    mask = np.concatenate([m for _, m in pairs])
    assert mask.dtype == np.float32
    np.testing.assert_array_equal(rows[mask == 1], data)
    np.testing.assert_array_equal(rows[mask == 0], 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: batch_indices(0, -1, 4, 10), "step of at least 0, found -1"),
        (lambda: batch_indices(-2, 0, 4, 10), "seed of at least 0, found -2"),
        (lambda: batch_indices(0, 0, 0, 10), "batch_size of at least 1, found 0"),
        (lambda: batch_indices(0, 0, 4, 0), "number of examples of at least 1, found 0"),
        (lambda: batches(np.zeros([0, 3]), 0, 4), "number of examples of at least 1, found 0"),
        (lambda: batches(np.zeros([5, 3]), 0, 4, start=-3), "step of at least 0, found -3"),
        (lambda: take_batches(np.zeros([0, 3]), 4), "number of examples of at least 1, found 0"),
        (lambda: take_batches(np.zeros([5, 3]), -1), "batch_size of at least 1, found -1"),
    ],
)
def test_bad_arguments_raise_before_the_first_batch(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
@pytest.mark.parametrize("asarray", [np.asarray, jnp.asarray])
def test_all_pixel_values_round_trip(transform, asarray):
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    scaled = transform(preprocess)(asarray(pixels))
    assert scaled.dtype == jnp.float32
    np.testing.assert_allclose(scaled, pixels.astype(np.float64) / 255 - 0.5, rtol=0, atol=1e-7)
    assert (scaled.min(), scaled.max()) == (-0.5, 0.5)
    np.testing.assert_array_equal(scaled, preprocess(pixels))
    restored = transform(to_pixels)(scaled)
    assert restored.dtype == jnp.uint8
    np.testing.assert_array_equal(restored, pixels)


def test_to_pixels_rounds_and_clips():
    x = jnp.array([-9.0, -0.5 + 0.4 / 255, -0.5 + 0.6 / 255, 9.0])
    np.testing.assert_array_equal(to_pixels(x), [0, 0, 1, 255])
    np.testing.assert_array_equal(to_pixels(x.astype(jnp.bfloat16))[-1], 255)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_floats_pass_unchanged(dtype):
    x = jnp.array([[-3.0, 0.25, 100.0]], dtype)
    y = preprocess(x)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize("wide", [False, True])
def test_float64_becomes_float32(wide):
    x = np.array([-3.0, 0.1, 1e30])
    with jax.enable_x64(wide):
        y = preprocess(x)
    assert y.dtype == jnp.float32
    np.testing.assert_array_equal(y, x.astype(np.float32))


@pytest.mark.parametrize("dtype", [np.int32, np.int8, np.uint16, np.bool_])
def test_other_dtypes_raise(dtype):
    expected = f"expected uint8 or floats, found {np.dtype(dtype)}"
    with pytest.raises(TypeError, match=expected):
        preprocess(np.zeros([2, 4, 4, 3], dtype))
