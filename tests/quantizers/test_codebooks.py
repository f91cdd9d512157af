"""Codebooks that begin from a batch, and codes that die: `samples`, `kmeans`, `underused`."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
from scipy.stats import chisquare

from vqvae_jax import ema_vq, vq
from vqvae_jax.quantizers.codebooks import underused
from vqvae_jax.quantizers.codebooks.inits import (
    given,
    kmeans,
    lloyd,
    normal,
    samples,
    uniform,
    zero_debiased,
)
from vqvae_jax.reductions import sample_rows

SIZE, DIM = 6, 3
KEY = jax.random.key(0)
BOTH = pytest.mark.parametrize("make", [vq, ema_vq])


def batch(rows=32, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, DIM)).astype(np.float32)


def close(got, expected, rtol=1e-5, atol=1e-6):
    np.testing.assert_allclose(got, expected, rtol, atol)


def train(q, params, state, z, key=KEY):
    return q.apply(params, state, jnp.asarray(z), train=True, key=key)


def codes(q, params, state):
    return np.asarray(q.decode(params, state, jnp.arange(q.vocab[0])[:, None]))


def rows_of(e, z):
    """Which row of the batch each code is, -1 for none."""
    same = np.isclose(e[:, None], z, atol=1e-6).all(-1)
    return np.where(same.any(1), same.argmax(1), -1)


def with_dead_codes(make):
    """A quantizer two of whose codes are far from all data, and long unused; code 5 as well, but
    for one row of the batch, which is nearest to it."""
    q = make(SIZE, DIM, init=normal(), reset=underused(0.1))
    params, state = q.init(KEY)
    far = jnp.array([0.0] * 3 + [50.0, 60.0, -40.0])
    e = jnp.where(far[:, None] != 0, far[:, None], jax.random.normal(KEY, (SIZE, DIM)))
    counts = jnp.array([9.0, 8.0, 7.0, 1e-3, 1e-4, 1e-3])
    (params if make is vq else state)["codebook"] = e
    sums = {} if make is vq else {"sums": counts[:, None] * e}
    z = batch()
    z[3] = -39
    return q, params, state | {"counts": counts} | sums, z


@BOTH
def test_dead_codes_become_rows_of_the_batch(make):
    q, params, state, z = with_dead_codes(make)
    hits = np.bincount(q.encode(params, state, jnp.asarray(z)).ravel(), minlength=SIZE)
    assert (hits[3:] == [0, 0, 1]).all()
    _, after = train(q, params, state, z)
    e, before = codes(q, params, after), codes(q, params, state)
    places = rows_of(e[3:5], z)
    assert (places >= 0).all() and places[0] != places[1]
    counts = ref.ema(ref.f64(state["counts"]), hits, 0.99)
    assert (rows_of(e[[0, 1, 2]], z) == -1).all()
    close(after["counts"], np.where([0, 0, 0, 1, 1, 0], counts.mean(), counts))
    assert counts[5] < 0.1 * counts.mean()  # as dead as the others, but for its one row
    if make is vq:
        np.testing.assert_array_equal(e[[0, 1, 2, 5]], before[[0, 1, 2, 5]])
    else:
        close(e[5], ref.ema_step(z, before, state["counts"], state["sums"], 0.99)[0][5])
        close(after["sums"][3:5], counts.mean() * e[3:5])


@BOTH
def test_codes_die_only_in_training_and_only_if_asked(make):
    q, params, state, z = with_dead_codes(make)
    assert q.apply(params, state, jnp.asarray(z))[1] is state
    plain = make(SIZE, DIM)
    kept = state if make is ema_vq else {}
    after = plain.apply(params, kept, jnp.asarray(z), train=True)[1]
    np.testing.assert_array_equal(codes(plain, params, after)[3:5], codes(q, params, state)[3:5])


def test_underused_compares_with_the_mean():
    counts = jnp.array([4.0, 0.39, 0.41, 0.0, 15.2])  # the mean is 4
    np.testing.assert_array_equal(underused(0.1)(counts), [False, True, False, True, False])
    assert not underused(0.1)(jnp.full(3, 1e-9)).any() and not underused(0)(counts).any()


def test_a_code_gone_bad_is_seeded_again():
    q = ema_vq(SIZE, DIM, reset=underused(0.1))
    state = q.init(KEY)[1]
    state |= {k: state[k].at[2, 1].set(jnp.nan) for k in ("codebook", "sums")}
    z = batch()
    _, after = train(q, {}, state, z)
    assert rows_of(np.asarray(after["codebook"][2:3]), z) >= 0
    assert np.isfinite(after["codebook"]).all() and np.isfinite(after["sums"]).all()
    assert train(q, {}, after, z)[0].metrics["invalid_codes"] == 0


@BOTH
@pytest.mark.parametrize("option", [{"init": samples()}, {"init": kmeans()}, "reset"])
def test_what_draws_rows_asks_for_a_key(make, option):
    q = make(SIZE, DIM, **({"reset": underused()} if option == "reset" else option))
    params, state = q.init(KEY)
    with pytest.raises(ValueError, match="needs key= when train=True"):
        train(q, params, state, batch(), key=None)
    assert q.apply(params, state, jnp.asarray(batch()))[1] is state


@pytest.mark.parametrize(("make", "init"), [(vq, samples()), (vq, kmeans(3)), (ema_vq, kmeans(3))])
@pytest.mark.parametrize("rows", [1, 4, SIZE])
def test_a_first_batch_of_any_size_gives_finite_codes(make, init, rows):
    q = make(SIZE, DIM, init=init)
    params, state = q.init(KEY)
    z = batch(rows)
    with warnings.catch_warnings(record=True, action="always") as caught:
        out, state = train(q, params, state, z)
    assert any("codes of the first batch repeat" in str(w.message) for w in caught) == (rows < SIZE)
    e = codes(q, params, state)
    assert np.isfinite(e).all() and np.isfinite(out.loss) and state["initialized"]
    if make is vq and init == samples():
        times = np.bincount(rows_of(e, z), minlength=rows)  # no more often than they must
        assert times.max() <= -(-SIZE // rows) and times.min() >= SIZE // rows


@BOTH
def test_a_first_batch_of_equal_rows_gives_finite_codes(make):
    q = make(SIZE, DIM, init=kmeans(2))
    params, state = q.init(KEY)
    z = np.ones((40, DIM), np.float32)
    out, state = train(q, params, state, z)
    close(codes(q, params, state)[0], 1, rtol=1e-4)
    np.testing.assert_array_equal(out.indices, 0)


@BOTH
def test_only_the_first_batch_initialises(make):
    q = make(SIZE, DIM, init=samples())
    params, state = q.init(KEY)
    z = batch(40)
    state = train(q, params, state, z)[1]
    other = jax.random.key(1)
    if make is vq:
        np.testing.assert_array_equal(
            train(q, params, state, z + 9, other)[1]["offset"], state["offset"]
        )
    else:
        expected = ref.ema_step(z, state["codebook"], state["counts"], state["sums"], 0.99)
        close(train(q, params, state, z, other)[1]["codebook"], expected[0])


def test_rows_drawn_are_all_different_where_there_are_enough():
    draw = jax.jit(sample_rows, static_argnums=3)
    for rows, n in ((8192, 8192), (600, 512)):
        z = jnp.arange(rows, dtype=jnp.float32)[:, None]
        here = z[:, 0] % 50 != 0
        drawn = np.asarray(draw(KEY, z, here.astype(jnp.float32), n))
        assert len(np.unique(drawn)) == min(n, int(here.sum())) and (drawn % 50 != 0).all()


def test_no_row_is_favoured():
    z = jnp.arange(5.0)[:, None]
    drawn = jax.vmap(lambda key: sample_rows(key, z, jnp.ones(5), 3))(jax.random.split(KEY, 500))
    close(np.bincount(np.asarray(drawn, int).ravel(), minlength=5) / 500, 3 / 5, atol=0.08)


def drawn(rows, n, keys=20_000):
    """Numbers of the rows drawn for many keys, `[keys, n]`."""
    z = jnp.arange(float(rows))[:, None]
    draw = jax.jit(jax.vmap(lambda key: sample_rows(key, z, jnp.ones(rows), n)))
    return np.asarray(draw(jax.random.split(KEY, keys))[..., 0], int)


def test_all_orders_of_the_rows_drawn_are_as_frequent():
    orders = drawn(4, 4) @ 4 ** np.arange(4)
    counts = np.unique(orders, return_counts=True)[1]
    assert len(counts) == 24 and chisquare(counts).pvalue > 1e-3


def test_a_single_row_is_any_row():
    assert chisquare(np.bincount(drawn(6, 1)[:, 0], minlength=6)).pvalue > 1e-3


@pytest.mark.parametrize("half", [2, 3])
def test_a_row_is_drawn_of_each_half_wherever_it_lies(half):
    """Of a and h + b with a and b uniform in 0 .. h - 1: how far apart they are, on a circle."""
    first, second = drawn(2 * half, 2).T
    counts = np.bincount((second - first) % (2 * half), minlength=2 * half)
    a, b = np.divmod(np.arange(half**2), half)
    expected = sum(
        np.bincount((sign * (half + b - a)) % (2 * half), minlength=2 * half) for sign in (1, -1)
    )
    assert counts[0] == 0
    assert chisquare(counts[1:], expected[1:] * 20_000 / expected.sum()).pvalue > 1e-3


def test_the_first_replica_draws_for_all():
    z = jnp.arange(24.0).reshape(3, 8, 1)
    keys = jax.random.split(KEY, 3)
    draw = jax.vmap(lambda key, z: sample_rows(key, z, jnp.ones(8), 5, "i"), axis_name="i")
    expected = sample_rows(keys[0], z.reshape(24, 1), jnp.ones(24), 5)
    for found in draw(keys, z):
        np.testing.assert_array_equal(found, expected)


def test_weights_count_in_the_averages_by_which_learnt_codes_die():
    q = vq(SIZE, DIM, init=given(batch()[:SIZE]), reset=underused(0.1))
    params, state = q.init(KEY)
    weights = np.random.default_rng(1).choice([0.5, 3], 32)
    out, after = q.apply(
        params, state, jnp.asarray(batch()), train=True, key=KEY, mask=jnp.asarray(weights)
    )
    hits, _ = ref.hits_and_totals(batch(), np.ravel(out.indices), SIZE, weights)
    assert (hits > 0).all()  # none is revived
    close(after["counts"], ref.ema(np.ones(SIZE), hits, 0.99))


def test_averages_that_begin_at_zero_stay_there_when_the_first_batch_makes_the_codes():
    q = ema_vq(SIZE, DIM, 0.9, init=zero_debiased(samples()))
    _, state = q.init(KEY)
    out, after = train(q, {}, state, batch())
    hits, totals = ref.hits_and_totals(batch(), np.ravel(out.indices), SIZE)
    close(after["counts"], 0.1 * hits)
    close(after["sums"], 0.1 * totals)


def test_kmeans_finds_separated_clusters_and_an_empty_cluster_stays():
    rng = np.random.default_rng(0)
    centres = 20 * np.eye(SIZE, DIM) + 10 * np.arange(SIZE)[:, None]
    which = rng.permutation(np.arange(120) % SIZE)
    z = (centres[which] + rng.normal(size=(120, DIM))).astype(np.float32)
    start = np.concatenate([centres + 2, [[900, 0, 0]]]).astype(np.float32)
    weights = jnp.asarray(rng.integers(0, 3, 120), jnp.float32)
    got = lloyd(jnp.asarray(z), weights, jnp.asarray(start), 5)
    hits, totals = ref.hits_and_totals(z, which, SIZE, weights)
    close(got[:SIZE], totals / hits[:, None])
    np.testing.assert_array_equal(got[SIZE], start[SIZE])


def test_kmeans_init_recovers_the_centres():
    """From random rows Lloyd's steps find the clusters where each has one of them."""
    centres = np.array([[30.0, 0, 0], [0, 30, 0]])
    z = np.concatenate([c + batch(50, i) for i, c in enumerate(centres)]).astype(np.float32)
    means = np.sort([z[:50].mean(0), z[50:].mean(0)], axis=0)
    q = vq(2, DIM, init=kmeans(10))
    params, state = q.init(KEY)
    e = codes(q, params, train(q, params, state, z)[1])
    close(np.sort(e, axis=0), means, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kmeans(0), "steps must be an integer >= 1, got 0"),
        (lambda: underused(1.5), r"share must be in \[0, 1\), got 1.5"),
        (lambda: uniform(-1.0), "scale must be .*got -1.0"),
        (lambda: normal(float("nan")), "scale must be .*got nan"),
    ],
)
def test_options_out_of_range_are_named(as_users, call, message):
    with pytest.raises(ValueError, match=message):
        call()
