"""Losses beside the quantizer's own, against their formulas in float64, and their slopes."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
from compiling import jit

from vqvae_jax import codebook_vq
from vqvae_jax.quantizers.codebooks import gradient
from vqvae_jax.quantizers.codebooks.inits import given
from vqvae_jax.quantizers.codebooks.regularizers import (
    cross_entropy,
    diversity,
    gram_excess,
    orthogonal,
    orthogonal_active,
)

K, D, N = 6, 3, 10
RNG = np.random.default_rng(0)
E = RNG.normal(size=(K, D)).astype(np.float32)
E[-1] = 9  # no row is near it
Z = RNG.normal(size=(N, D)).astype(np.float32)
WEIGHTS = np.float32([1, 0, 2, 1, 0.5, 1, 1, 0, 3, 1])
NEAREST = ref.nearest64(Z, E)
TERMS = {
    "orthogonal": orthogonal(2.0),
    "orthogonal_active": orthogonal_active(3.0),
    "diversity": diversity(4.0, 0.7),
    "cross_entropy": cross_entropy(5.0, 0.6),
}
close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
same = np.testing.assert_array_equal


def orthogonal64(e):
    u = ref.f64(e) / np.linalg.norm(ref.f64(e), axis=-1, keepdims=True)
    return np.square(u @ u.T).sum() / len(e) ** 2 - 1 / len(e)


def log_softmax64(z, e, temperature):
    x = -ref.distances(z, e) / temperature
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def terms64(z, e):
    """Each term as a function of z and e, for the codes that were chosen."""
    share = np.average(np.exp(log_softmax64(z, e, 0.7)), axis=0, weights=WEIGHTS)
    chosen = log_softmax64(z, e, 0.6)[np.arange(N), NEAREST]
    return {
        "orthogonal": 2 * orthogonal64(e),
        "orthogonal_active": 3 * orthogonal64(e[np.unique(NEAREST[WEIGHTS > 0])]),
        "diversity": 4 * np.sum(share * np.log(share)),
        "cross_entropy": -5 * np.average(chosen, weights=WEIGHTS),
    }


def slopes(f, x, h=1e-6):
    """The gradient of f by central differences, in float64."""
    steps = h * np.eye(x.size).reshape(x.size, *x.shape)
    return np.array([(f(x + s) - f(x - s)) / (2 * h) for s in steps]).reshape(x.shape)


def value_and_gradients(name, z=Z, mask=WEIGHTS):
    q = codebook_vq(gradient(K, D, init=given(E)), beta=0.0, terms=[TERMS[name]])

    def loss(e, z):
        out, _ = q.apply({"codebook": e}, {}, z, train=True, mask=jnp.asarray(mask))
        return out.losses[name.removesuffix("_active")], out

    e, z = jnp.asarray(E), jnp.asarray(z)
    (value, out), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(e, z)
    close(out.loss, value + out.losses["codebook"])
    return value, *gradients


@pytest.mark.parametrize("name", TERMS)
def test_term_and_its_gradient_in_float64(name):
    z = Z.copy()
    z[1] = np.nan  # of weight 0
    value, de, dz = value_and_gradients(name, z)
    e, z = ref.f64(E), ref.f64(Z)
    close(value, terms64(z, e)[name])
    expected = slopes(lambda e: terms64(z, e)[name], e)
    close(de, 0 * e if name == "cross_entropy" else expected, atol=1e-5)
    close(dz, slopes(lambda z: terms64(z, e)[name], z), atol=1e-5)


@pytest.mark.parametrize("name", TERMS)
def test_term_of_no_row_is_zero(name):
    value, *gradients = value_and_gradients(name, mask=0 * WEIGHTS)
    assert value == 0
    for g in gradients:
        same(g, 0)


def test_orthogonal_is_least_for_orthogonal_codes_and_most_for_parallel_ones():
    ones = jnp.ones(3)
    close(gram_excess(4 * jnp.eye(3), ones), 0)
    close(gram_excess(jnp.outer(jnp.arange(1.0, 4), jnp.ones(5)), ones), 1 - 1 / 3)
    assert np.isfinite(jax.grad(gram_excess)(jnp.zeros((3, 2)), ones)).all()


def test_orthogonal_of_the_peer():
    g = dict(np.load(Path(__file__).parents[1] / "golden" / "vqt_kmeans.npz"))
    e = jnp.asarray(g["means"])
    value, de = jax.value_and_grad(gram_excess)(e, jnp.ones(len(e)))
    close(value, g["orthogonal"])
    close(de, g["dmeans"])


def test_diversity_is_least_where_all_codes_are_used_alike():
    """-log K, where each row is at its own code; 0, where all are at one."""
    e = jnp.asarray(10 * np.eye(D), jnp.float32)
    q = codebook_vq(gradient(D, D, init=given(e)), terms=[diversity()])
    losses = [q.apply({"codebook": e}, {}, z)[0].losses["diversity"] for z in (e, e[:1])]
    close(losses, [-np.log(D), 0])


def test_terms_of_replicas_are_those_of_all_rows():
    q = codebook_vq(
        gradient(K, D, init=given(E)), terms=[t for n, t in TERMS.items() if n != "orthogonal"]
    )
    apply = partial(q.apply, {"codebook": jnp.asarray(E)}, {})
    whole = apply(jnp.asarray(Z), mask=jnp.asarray(WEIGHTS))[0].losses
    halves = Z.reshape(2, -1, D), WEIGHTS.reshape(2, -1)
    shards = jit(jax.vmap(lambda z, m: apply(z, mask=m, axis_name="i")[0].losses, axis_name="i"))
    for name, values in shards(*map(jnp.asarray, halves)).items():
        close(values, np.full(2, whole[name]))


def test_a_code_gone_bad_leaves_the_terms_finite():
    e = jnp.asarray(E).at[2].set(jnp.nan)
    q = codebook_vq(gradient(K, D, init=given(E)), terms=[diversity(), cross_entropy()])
    loss = lambda z: q.apply({"codebook": e}, {}, z)[0].loss  # noqa: E731
    assert all(np.isfinite(x).all() for x in jax.value_and_grad(loss)(jnp.asarray(Z)))
