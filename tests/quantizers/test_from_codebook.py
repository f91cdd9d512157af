"""Codebooks, choices, estimators and losses put together; codes that are given."""

import dataclasses
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref

import vqvae_jax as vj
from vqvae_jax.estimators import exactly
from vqvae_jax.quantizers.codebooks.inits import lloyd
from vqvae_jax.quantizers.from_codebook import lookup_quantizer
from vqvae_jax.reductions import sample_rows
from vqvae_jax.saving.describe import Function

K, D, N = 5, 3, 16
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
E = RNG.normal(size=(K, D)).astype(np.float32)
Z = RNG.normal(size=(N, D)).astype(np.float32)
WEIGHTS = RNG.choice([0, 0.5, 1, 2], N).astype(np.float32)
close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
same = np.testing.assert_array_equal
CODEBOOKS = {
    "learnt": vj.codebooks.gradient(K, D, init=vj.inits.given(E)),
    "averaged": vj.codebooks.ema(K, D, init=vj.inits.given(E)),
    "fixed": vj.codebooks.fixed(K, D, vj.inits.given(E)),
}


@vj.described
def farthest() -> vj.quantizers.Assignment:
    """A choice that no other makes."""

    def choose(key, rows, e, axis_name):
        return jnp.argmax(jnp.sum((rows.z[..., None, :] - e) ** 2, -1), -1).astype(jnp.int32)

    return vj.quantizers.Assignment(choose, stochastic=False)


@vj.described
def size_of(weight: float) -> Function:
    """A loss of everything that a `Lookup` tells."""

    def term(found):
        total = jnp.sum(found.codes) + jnp.sum(found.z_q) + jnp.sum(found.k) + jnp.sum(found.rows.z)
        return {"size": weight * total}

    return Function(term)


def doubled(z_e, z_q):
    return exactly(z_q, 2 * z_e)


@pytest.mark.parametrize("kind", CODEBOOKS)
def test_the_parts_are_put_together(kind):
    """Training takes the choice that it is told, eval mode the nearest; both the estimator."""
    q = vj.codebook_vq(
        CODEBOOKS[kind], beta=0.5, assign=farthest(), estimator=doubled, terms=[size_of(0.1)]
    )
    params, state = q.init(KEY)
    chosen = np.where(WEIGHTS > 0, ref.distances(Z, E).argmax(-1), -1)

    def loss(z, train):
        out, new = q.apply(params, state, z, train=train, mask=jnp.asarray(WEIGHTS))
        return jnp.sum(out.quantized) + out.losses["commitment"], (out, new)

    for train, k in ((True, chosen), (False, np.where(WEIGHTS > 0, ref.nearest64(Z, E), -1))):
        dz, (out, new) = jax.grad(loss, has_aux=True)(jnp.asarray(Z), train)
        z, z_q = np.where(k[:, None] < 0, 0, [Z, E[k]])
        same(out.indices[:, 0], k)
        same(out.quantized, z_q)
        error = ref.mse(z, z_q, WEIGHTS)
        expected = {
            "commitment": 0.5 * error,
            "size": 0.1 * (E.sum() + z_q.sum() + k.sum() + z.sum()),
        }
        expected |= {"codebook": error} if kind == "learnt" else {}
        assert out.losses.keys() == expected.keys()
        for name, value in expected.items():
            close(out.losses[name], value, rtol=1e-4)
        close(out.metrics["error"], error)
        pull = WEIGHTS[:, None] * (z - ref.f64(z_q)) / (WEIGHTS.sum() * D)
        close(dz, np.where(k[:, None] < 0, 0, 2 + pull))
        moved = any(
            (a != b).any() for a, b in zip(*map(jax.tree.leaves, (new, state)), strict=True)
        )
        assert moved == (train and kind == "averaged")
    same(q.decode(params, state, jnp.array([[0], [-1]])), [E[0], 0 * E[0]])


def test_averages_follow_the_choice():
    q = vj.codebook_vq(CODEBOOKS["averaged"], assign=farthest())
    _, state = q.init(KEY)
    _, new = q.apply({}, state, jnp.asarray(Z), train=True)
    hits, totals = ref.hits_and_totals(Z, ref.distances(Z, E).argmax(-1), K)
    close(new["counts"], ref.ema(np.ones(K), hits, 0.99))
    close(new["sums"], ref.ema(ref.f64(E), totals, 0.99))


def test_whatever_draws_has_a_key_of_its_own():
    """The first batch, the codes that die, the choice, and the noise."""
    base = vj.codebooks.ema(K, D, init=vj.inits.samples(), reset=vj.codebooks.underused())
    seen = []

    def recorded(step):
        return lambda params, state, key, *args: step(params, state, seen.append(key) or key, *args)

    def choose(key, rows, e, axis_name):
        seen.append(key)
        return vj.nearest(rows.z, e)

    def surrogate(key, z_e, z_q, axis_name):
        seen.append(key)
        return z_q

    once = {"begin": recorded(base.begin), "update": recorded(base.update), "adopt": None}
    codebook = dataclasses.replace(base, **once)
    assign = vj.quantizers.Assignment(choose, stochastic=True)
    q = lookup_quantizer(codebook, lambda found: {}, surrogate, assign=assign)
    q.apply(*q.init(KEY), jnp.asarray(Z), train=True, key=KEY)
    keys = np.array([jax.random.key_data(key) for key in (KEY, *seen)])
    assert len(np.unique(keys, axis=0)) == len(keys) == 5


def test_given_codes_are_the_codebook():
    init = vj.inits.given(E)
    same(init.draw(KEY, K, D), E)
    same(vj.vq(K, D, init=init).init(KEY)[0]["codebook"], E)
    assert init.draw(KEY, K, D).dtype == jnp.float32


def test_given_codes_are_their_description():
    init = vj.inits.given(E)
    for equal in (
        vj.inits.given(jnp.asarray(E)),
        vj.inits.given(E.tolist()),
        vj.from_json(vj.to_json(init)),
    ):
        assert equal == init and hash(equal) == hash(init)
        same(equal.draw(None, K, D), E)
    assert vj.inits.given(np.nextafter(E, 9)) != init
    q = vj.vq(K, D, init=init)
    assert vj.from_json(vj.to_json(q)) == q


@pytest.mark.parametrize("shape", [(K,), (1, K, D)])
def test_given_codes_must_be_a_matrix(shape):
    with pytest.raises(ValueError, match=r"codebook must be \[K, D\], got shape"):
        vj.inits.given(np.zeros(shape))


def test_given_codes_must_fit():
    with pytest.raises(ValueError, match=r"must be \(5, 4\), got \(5, 3\)"):
        vj.vq(K, 4, init=vj.inits.given(E)).init(KEY)


def test_drawn_codes_have_the_scale_that_they_are_told():
    """U(-1 / K, 1 / K) by default, and not 1 / D."""
    for init, deviation in (
        (vj.inits.uniform(), 12**-0.5 * 2 / 400),
        (vj.inits.uniform(3.0), 12**-0.5 * 6),
        (vj.inits.normal(0.3), 0.3),
    ):
        e = init.draw(KEY, 400, 7)
        close(e.std(), deviation, rtol=0.05)
        assert abs(e.mean()) < 0.1 * deviation


@pytest.mark.parametrize("steps", [1, 3])
def test_kmeans_makes_the_steps_that_it_is_told(steps):
    z, weights = jax.random.normal(KEY, (300, D)), jnp.ones(300)
    first = sample_rows(KEY, z, weights, K)
    fitted = vj.inits.kmeans(steps).fit(KEY, z, weights, K, None)
    close(fitted, lloyd(z, weights, first, steps))
    assert np.any(fitted != lloyd(z, weights, first, steps + 1))


def test_kmeans_of_the_peer():
    """From the same means; the last has no row and stays."""
    g = dict(np.load(Path(__file__).parents[1] / "golden" / "vqt_kmeans.npz"))
    z, means = jnp.asarray(g["z"]), jnp.asarray(g["means"])
    for steps in (1, 5):
        got = lloyd(z, jnp.ones(len(z)), means, steps)
        close(got, g[f"kmeans{steps}"])
        same(got[-1], means[-1])
    assert np.abs(g["kmeans5"] - g["kmeans1"]).max() > 0.1


def test_options_out_of_range_are_named(as_users):
    with pytest.raises(ValueError, match=r"beta must be .*got -1"):
        vj.codebook_vq(CODEBOOKS["fixed"], beta=-1)
    with pytest.raises(ValueError, match="can't be made from a batch"):
        vj.codebooks.fixed(K, D, vj.inits.samples())
