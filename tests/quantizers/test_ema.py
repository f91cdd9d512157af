"""Codebooks moved by averages, against float64; and rows and codes that are not finite."""

import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref

from vqvae_jax import ema_vq, vq
from vqvae_jax.quantizers.codebooks import ema_update, laplace_smoothing, underused
from vqvae_jax.quantizers.codebooks.inits import normal, samples, zero_debiased
from vqvae_jax.reductions import valid_rows

SIZE, DIM = 6, 3
KEY = jax.random.key(0)
BAD = pytest.mark.parametrize("poison", [np.nan, -np.inf, 1e20])
BOTH = pytest.mark.parametrize("make", [vq, ema_vq])
SEEDED = {"init": samples(), "reset": underused(0.1)}


def batches(n, rows=32, seed=0):
    return np.random.default_rng(seed).normal(size=(n, rows, DIM)).astype(np.float32)


def close(got, expected, rtol=1e-5, atol=1e-6):
    np.testing.assert_allclose(got, expected, rtol, atol)


def train(q, params, state, z, key=KEY, mask=None):
    return q.apply(params, state, jnp.asarray(z), train=True, key=key, mask=mask)


def compare_with_float64(q, step, state, zs, masks=None):
    """Codebook, counts and sums after each of several updates."""
    expected = tuple(ref.f64(state[k]) for k in ("codebook", "counts", "sums"))
    for t, z in enumerate(zs):
        mask = None if masks is None else jnp.asarray(masks[t])
        expected = step(z, *expected, t)
        state = train(q, {}, state, z, mask=mask)[1]
        for name, value in zip(("codebook", "counts", "sums"), expected, strict=True):
            close(state[name], value)


def test_moving_average_and_smoothing_in_closed_form():
    close(ema_update(jnp.array([1.0, -2.0]), jnp.array([3.0, 0.0]), 0.9), [1.2, -1.8])
    counts = np.array([5.0, 0.0, 1.0, 0.25])
    for eps in (0, 1e-5, 0.5):
        smoothed = laplace_smoothing(jnp.asarray(counts, jnp.float32), eps)
        close(smoothed, ref.laplace(counts, eps))
        close(smoothed.sum(), counts.sum())


@pytest.mark.parametrize(("decay", "eps"), [(0.99, 1e-5), (0.7, 0.1), (0.0, 1e-5)])
def test_codebook_after_updates(decay, eps):
    q = ema_vq(SIZE, DIM, decay, eps=eps, init=normal())
    zs = batches(8)
    compare_with_float64(q, lambda z, *s: ref.ema_step(z, *s[:3], decay, eps), q.init(KEY)[1], zs)


def test_codebook_after_updates_with_weighted_and_masked_rows():
    q = ema_vq(SIZE, DIM, 0.8, init=normal())
    zs = batches(8)
    masks = np.random.default_rng(1).choice([0, 0, 0.5, 1, 2], zs.shape[:2]).astype(np.float32)
    zs[masks == 0] = 50  # what padding holds must not matter

    def step(z, *state):
        return ref.ema_step(z, *state[:3], 0.8, weights=masks[state[3]])

    compare_with_float64(q, step, q.init(KEY)[1], zs, masks)


def test_codebook_after_updates_with_duplicated_codes():
    q = ema_vq(SIZE, DIM, 0.8, init=normal())
    state = q.init(KEY)[1]
    state |= {k: jnp.concatenate([state[k][:3]] * 2) for k in ("codebook", "sums")}
    compare_with_float64(q, lambda z, *s: ref.ema_step(z, *s[:3], 0.8), state, batches(5))


@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_zero_debiased_averages_are_corrected_for_their_beginning(eps):
    q = ema_vq(SIZE, DIM, 0.9, eps=eps, init=zero_debiased(normal()))
    state = q.init(KEY)[1]
    np.testing.assert_array_equal(state["counts"], 0)

    def step(z, *s):
        return ref.debiased_step(z, *s[:3], s[3] + 1, 0.9, eps)

    compare_with_float64(q, step, state, batches(8))


@pytest.mark.parametrize("init", [normal(), zero_debiased(normal())])
def test_without_smoothing_a_code_without_rows_stays_finite(init):
    q = ema_vq(SIZE, DIM, eps=0.0, init=init)
    state = q.init(KEY)[1]
    state["codebook"] = state["codebook"].at[2].set(100)
    state = train(q, {}, state, batches(1)[0])[1]
    assert np.isfinite(state["codebook"]).all()


def test_a_code_without_rows_keeps_its_value_bit_by_bit():
    q = ema_vq(SIZE, DIM, init=normal())
    state = q.init(KEY)[1]
    state |= {k: state[k].at[4].set(77.7) for k in ("codebook", "sums")}
    zs = jnp.asarray(batches(30))

    def step(state, t):
        return train(q, {}, state, zs[t % 30])[1], None

    after = jax.jit(lambda s: jax.lax.scan(step, s, jnp.arange(3000))[0])(state)
    np.testing.assert_array_equal(after["codebook"][4], state["codebook"][4])
    assert (after["codebook"] != state["codebook"]).any(-1).sum() == SIZE - 1


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_averages_of_low_precision_rows_move_in_float32(dtype):
    """In bfloat16 a decay of 0.999 never moves: 1 - 0.999 is lost in rounding."""
    q = ema_vq(1, 1, 0.999)
    state = {"codebook": jnp.ones((1, 1)), "counts": jnp.ones(1), "sums": jnp.ones((1, 1))}
    z = jnp.full((1, 1), 3, dtype)
    after = jax.lax.scan(lambda s, _: (train(q, {}, s, z)[1], None), state, length=1000)[0]
    close(after["codebook"], 3 - 2 * 0.999**1000, rtol=1e-4)
    chex.assert_trees_all_equal_dtypes(after, state)
    assert q.apply({}, state, z)[0].quantized.dtype == dtype


@BAD
@BOTH
def test_a_bad_row_counts_as_if_it_were_not_there(make, poison):
    q = make(SIZE, DIM)
    params, state = q.init(KEY)
    (z,) = batches(1)
    bad = z.copy()
    bad[5, 1] = poison
    out, after = train(q, params, state, bad)
    without, expected = train(q, params, state, np.delete(z, 5, axis=0))
    chex.assert_trees_all_close((out.losses, after), (without.losses, expected), rtol=1e-6)
    np.testing.assert_array_equal(np.delete(out.indices, 5, axis=0), without.indices)
    assert out.indices[5] == -1 and out.metrics["invalid_rows"] == 1
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((out, after)))
    gradient = jax.grad(lambda p, z: q.apply(p, state, z)[0].loss, (0, 1))(params, jnp.asarray(bad))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))


def test_a_weight_below_zero_is_none_and_a_bad_row_without_weight_is_not_counted():
    z = jnp.asarray(batches(1)[0][:4]).at[1].set(jnp.nan).at[3].set(jnp.nan)
    rows = valid_rows(z, jnp.array([2.0, 0.0, -3.0, 0.5]))
    np.testing.assert_array_equal(rows.weights, [2, 0, 0, 0])
    np.testing.assert_array_equal(rows.z, np.where([[1], [0], [0], [0]], z, 0))
    assert rows.any_valid and rows.invalid == 1


@pytest.mark.parametrize(
    ("make", "kind"), [(vq, "nan"), (vq, "empty"), (ema_vq, "nan"), (ema_vq, "masked")]
)
def test_a_batch_without_a_valid_row_changes_nothing(make, kind):
    q = make(SIZE, DIM, **SEEDED)
    params, state = q.init(KEY)
    for ready in (state, train(q, params, state, batches(1)[0])[1]):
        z = {"nan": np.full((4, DIM), np.nan, np.float32), "masked": batches(1)[0][:4]}
        z = z.get(kind, np.zeros((0, DIM), np.float32))
        mask = jnp.zeros(4) if kind == "masked" else None
        with warnings.catch_warnings(action="ignore"):
            out, after = train(q, params, ready, z, mask=mask)
        chex.assert_trees_all_equal(after, ready)
        assert out.loss == 0 and out.metrics["invalid_rows"] == (4 if kind == "nan" else 0)
        np.testing.assert_array_equal(out.indices, np.full((len(z), 1), -1))


@BOTH
def test_a_code_gone_bad_is_reported_and_never_chosen(make):
    q = make(SIZE, DIM, init=normal())
    params, state = q.init(KEY)
    tree = params if make is vq else state
    tree["codebook"] = tree["codebook"].at[2, 1].set(jnp.nan)
    out, _ = q.apply(params, state, jnp.asarray(batches(1)[0]))
    assert out.metrics["invalid_codes"] == 1 and not (out.indices == 2).any()
    assert np.isfinite(out.loss) and np.isfinite(out.quantized).all()


@BOTH
@pytest.mark.parametrize(("size", "dim"), [(1, 3), (4, 1), (1, 1)])
def test_one_code_and_one_dimension_work(make, size, dim):
    q = make(size, dim, init=normal())
    params, state = q.init(KEY)
    z = batches(1)[0][:, :dim]
    out, state = train(q, params, state, z)
    e = np.asarray(q.init(KEY)[0 if make is vq else 1]["codebook"])
    np.testing.assert_array_equal(out.quantized, e[ref.nearest64(z, e)])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((out, state)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vq(0, 4), "size must be an integer >= 1, got 0"),
        (lambda: vq(8, -4), "dim must be an integer >= 1, got -4"),
        (lambda: vq(8.0, 4), "size must be an integer >= 1, got 8.0"),
        (lambda: vq(True, 4), "size must be .*got True"),
        (lambda: vq(8, 4, beta=-1), r"beta must be in \[0, inf\), got -1"),
        (lambda: vq(8, 4, beta=float("nan")), "beta must be .*got nan"),
        (lambda: ema_vq(0, 4), "size must be an integer >= 1, got 0"),
        (lambda: ema_vq(8, 4.5), "dim must be an integer >= 1, got 4.5"),
        (lambda: ema_vq(8, 4, decay=7), r"decay must be in \[0, 1\), got 7"),
        (lambda: ema_vq(8, 4, decay=1.0), r"decay must be in \[0, 1\), got 1.0"),
        (lambda: ema_vq(8, 4, eps=-1e-3), "eps must be .*got -0.001"),
        (lambda: ema_vq(8, 4, beta=-1), "beta must be .*got -1"),
    ],
)
def test_options_out_of_range_are_named(as_users, call, message):
    with pytest.raises(ValueError, match=message):
        call()


@BOTH
def test_rows_that_do_not_fit_are_named(as_users, make):
    q = make(SIZE, DIM)
    with pytest.raises(ValueError, match=r"z must be \[\.\.\., 3\], got shape \(2, 4\)"):
        q.apply(*q.init(KEY), jnp.ones((2, 4)))
    with pytest.raises(TypeError, match="z must be float, got uint8"):
        q.apply(*q.init(KEY), jnp.ones((2, 3), jnp.uint8))
    with pytest.raises(ValueError, match=r"mask must have the shape .*\(2,\).*got \(3,\)"):
        q.apply(*q.init(KEY), jnp.ones((2, 3)), mask=jnp.ones(3))
