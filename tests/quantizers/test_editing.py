"""Codes put in by hand, trained on from there; the law for all quantizers is `law_put_in`."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
from compiling import jit

import vqvae_jax as vj

KEY = jax.random.key(0)
SEEDED = {"init": vj.inits.kmeans(2), "reset": vj.codebooks.underused(0.3)}
RNG = np.random.default_rng(0)
E = RNG.normal(size=(6, 3)).astype(np.float32)
Z = RNG.normal(size=(5, 32, 3)).astype(np.float32)


def decode(q, params, state, stream=0):
    size, streams = q.vocab[stream], len(q.vocab)
    indices = jnp.full((size, streams), -1).at[:, stream].set(jnp.arange(size))
    return np.asarray(q.decode(params, state, indices))


@functools.cache
def step(q):
    return jit(functools.partial(q.apply, train=True, key=KEY))


def train(q, params, state, z):
    return step(q)(params, state, jnp.asarray(z))


def write(q, params, state, codes):
    """What people do who know of no `set_codes`."""
    return params, state | {"codebook": jnp.asarray(codes)}


@pytest.mark.parametrize(
    "init",
    [vj.inits.normal(), vj.inits.zero_debiased(vj.inits.normal()), vj.inits.kmeans(2)],
    ids=["", "debiased", "fit"],
)
@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("put", [vj.set_codes, write], ids=["set_codes", "written"])
def test_averages_go_on_from_codes_put_in(init, steps, put):
    """Against float64: each code has the mean count, and the sum that belongs to it."""
    q = vj.ema_vq(6, 3, 0.9, init=init)
    params, state = q.init(KEY)
    for z in Z[:steps]:
        state = train(q, params, state, z)[1]
    mean = np.mean(state["counts"]) / state.get("weight", 1) if steps else 1
    params, state = put(q, params, state, E)
    expected = E, np.full(6, mean), mean * E
    for z in Z[2:]:
        expected = ref.ema_step(z, *map(ref.f64, expected), 0.9)
        state = train(q, params, state, z)[1]
        for name, value in zip(("codebook", "counts", "sums"), expected, strict=True):
            np.testing.assert_allclose(state[name], value, 1e-5, 1e-6)
        assert state.get("weight", 1) == 1  # what was put in needs no correction


def test_codes_put_in_replace_what_data_added_to_the_old_ones():
    q = vj.vq(6, 3, **SEEDED)
    params, state = q.init(KEY)
    state = train(q, params, state, Z[0])[1]
    assert np.all(state["offset"])
    np.testing.assert_array_equal(decode(q, *vj.set_codes(q, params, state, E)), E)


@pytest.mark.parametrize(
    "around",
    [lambda q: q, lambda q: vj.repeat(q, 2), lambda q: vj.heads(q, 2)],
    ids=["alone", "repeat", "heads"],
)
@pytest.mark.parametrize("decay", [0.9, 0.5])
def test_one_code_written_by_hand_is_averaged_on_and_the_others_as_before(around, decay):
    inner = vj.ema_vq(6, 3, decay, **SEEDED)
    q = around(inner)
    params, state = q.init(KEY)
    z = np.tile(Z, q.dim // 3)
    state = train(q, params, state, z[0])[1]

    def new(state, z):
        return train(q, params, state, z)[1]

    written = state | {"codebook": state["codebook"].at[..., 2, :].set(50.0)}  # chosen by no row
    before, after = new(state, z[1]), new(written, z[1])
    np.testing.assert_allclose(after["codebook"][..., 2, :], 50.0, rtol=1e-5)
    mean = np.mean(state["counts"], axis=-1)
    np.testing.assert_allclose(after["counts"][..., 2], decay * mean, rtol=1e-5)
    rest = np.arange(6) != 2
    hits = (np.asarray(before["counts"]) - decay * np.asarray(state["counts"]))[..., 2]
    if not np.any(np.abs(hits) > 1e-4):  # then the other codes have the rows that they had
        np.testing.assert_allclose(
            after["sums"][..., rest, :], before["sums"][..., rest, :], rtol=1e-5, atol=1e-6
        )


def test_counts_and_sums_that_are_written_too_are_taken_as_they_are():
    q = vj.ema_vq(6, 3, 0.9)
    params, state = q.init(KEY)
    counts = np.arange(1, 7, dtype=np.float32)
    own = {"codebook": E, "counts": counts, "sums": counts[:, None] * E}
    expected = ref.ema_step(Z[0], *map(ref.f64, own.values()), 0.9)
    new = train(q, params, state | {k: jnp.asarray(v) for k, v in own.items()}, Z[0])[1]
    for name, value in zip(own, expected, strict=True):
        np.testing.assert_allclose(new[name], value, 1e-5, 1e-6)


def test_codes_that_were_never_fitted_warn():
    q = vj.project(vj.vq(6, 3, init=vj.inits.kmeans(2)), 4)
    params, state = q.init(KEY)
    z = jnp.ones((9, 4))
    with pytest.warns(UserWarning, match="never fitted to a first batch"):
        q.decode(params, state, [[0]])
    with pytest.warns(UserWarning, match="never fitted to a first batch"):
        q.apply(params, state, z)
    with warnings.catch_warnings():  # nor does what was fitted, nor the init of a Flax module
        warnings.simplefilter("error")
        q.apply(params, train(q, params, state, z)[1], z)
        vj.Quantize(q).init(KEY, z)


@pytest.mark.parametrize("make", [vj.vq, vj.ema_vq])
def test_codes_put_in_are_not_revived_for_the_counts_of_the_old_ones(make):
    q = make(6, 3, init=vj.inits.normal(), reset=vj.codebooks.underused(0.3))
    params, state = q.init(KEY)
    state["counts"] = state["counts"].at[2:4].set(1e-4)
    far = np.where(np.arange(6)[:, None] < 4, 100 + E, E)  # which no row chooses
    params, state = vj.set_codes(q, params, state, far)
    new = train(q, params, state, Z[0])[1]
    np.testing.assert_array_equal(decode(q, params, new)[:4], far[:4])


def test_kmeans_of_numpy_in_one_stage_of_a_residual_quantizer_trained_on():
    q = vj.residual(vj.ema_vq(6, 3, **SEEDED), vj.ema_vq(4, 3, 0.999, **SEEDED))
    params, state = q.init(KEY)
    state = train(q, params, state, Z[0])[1]
    rest = Z[0] - np.asarray(
        q.decode(params, state, q.encode(params, state, jnp.asarray(Z[0])).at[:, 1].set(-1))
    )
    centroids = rest[:4].astype(np.float64)
    for _ in range(10):  # Lloyd's algorithm
        k = ref.nearest64(rest, centroids)
        centroids = np.stack([rest[k == j].mean(0) for j in range(4)])
    before = decode(q, params, state)
    params, state = vj.set_codes(q, params, state, centroids, stream=1)
    np.testing.assert_array_equal(decode(q, params, state), before)
    np.testing.assert_array_equal(decode(q, params, state, 1), centroids.astype(np.float32))
    for z in Z:
        out, state = train(q, params, state, z)
    moved = np.abs(decode(q, params, state, 1) - centroids).max()
    assert 0 < moved < 0.02 and np.isfinite(out.loss)


def test_codes_of_maps_are_as_decoded_or_in_the_space_of_the_member():
    narrow, wide = RNG.normal(size=(6, 2)), RNG.normal(size=(6, 3))
    q = vj.project(vj.ema_vq(6, 2), 3)
    params, state = vj.set_codes(q, *q.init(KEY), narrow)
    np.testing.assert_allclose(decode(q, params, state), narrow @ params["up"], 1e-5, 1e-6)
    for q in (vj.scale(vj.vq(6, 3), 3.0), vj.rotate(vj.ema_vq(6, 3)), vj.affine_vq(6, 3)):
        np.testing.assert_allclose(
            decode(q, *vj.set_codes(q, *q.init(KEY), wide)), wide, 1e-5, 1e-6
        )
    q = vj.cosine_ema_vq(6, 3)
    unit = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    np.testing.assert_allclose(decode(q, *vj.set_codes(q, *q.init(KEY), wide)), unit, 1e-5)
    q = vj.grouped(vj.vq(4, 1), vj.heads(vj.ema_vq(6, 2), 2))
    params, state = vj.set_codes(q, *q.init(KEY), narrow, stream=2)
    for stream in (1, 2):
        got = decode(q, params, state, stream)[:, 2 * stream - 1 : 2 * stream + 1]
        np.testing.assert_array_equal(got, narrow.astype(np.float32))


def test_codes_put_in_reach_what_stands_still():
    q = vj.frozen_after(vj.vq(6, 3), 1)
    params, state = q.init(KEY)
    for z in Z[:3]:
        state = train(q, params, state, z)[1]
    params, state = vj.set_codes(q, params, state, E)
    np.testing.assert_array_equal(decode(q, {"codebook": params["codebook"] + 9}, state), E)
    q = vj.codebook_vq(vj.codebooks.partly_frozen(vj.codebooks.ema(6, 3), [True] * 5 + [False]))
    np.testing.assert_array_equal(decode(q, *vj.set_codes(q, *q.init(KEY), E)), E)


def test_codes_may_be_put_in_under_jit():
    q = vj.repeat(vj.ema_vq(6, 3, **SEEDED), 3)
    new = jax.jit(lambda e, *args: vj.set_codes(q, *args, e, stream=2))(E, *q.init(KEY))
    np.testing.assert_array_equal(decode(q, *new, 2), E)


@pytest.mark.parametrize(
    ("q", "codes", "stream", "error", "message"),
    [
        (vj.fsq([3, 3, 3]), E, 0, ValueError, r"fsq\(.* computes its codes, which can't be set"),
        (vj.residual(vj.vq(6, 3), vj.simvq(6, 3)), E, 1, ValueError, r"simvq\(.* computes"),
        (vj.vq(6, 3), E[:5], 0, ValueError, r"stream 0 must be \(6, 3\), got shape \(5, 3\)"),
        (vj.vq(6, 3), 0.0, 0, ValueError, r"must be \(6, 3\), got shape \(\)"),
        (vj.vq(6, 3), E, 1, ValueError, "stream must be from 0 to 0, got 1"),
        (vj.vq(6, 3), E, -1, ValueError, "stream must be from 0 to 0, got -1"),
        (vj.vq(6, 3), E, 0.0, TypeError, "stream must be an integer, got 0.0"),
        (
            vj.vq(6, 3),
            np.where(E > 0, np.inf, E),
            0,
            ValueError,
            "codes must be finite, got .* as code",
        ),
        (vj.vq(6, 3), E.astype(complex), 0, TypeError, "real numbers .*got dtype complex"),
    ],
)
def test_codes_that_cannot_be_put_in_are_named(as_users, q, codes, stream, error, message):
    with pytest.raises(error, match=message):
        vj.set_codes(q, *q.init(KEY), codes, stream)
