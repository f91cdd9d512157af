"""Filters of logits, beside their definitions in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from vqvae_jax import from_json, to_json
from vqvae_jax.priors import temperature, top_k, top_p
from vqvae_jax.priors.conditioning import EXCLUDED

LOGITS = np.random.default_rng(0).normal(size=(50, 7)) * 2


def p_of(logits):
    return softmax(np.float64(logits), axis=-1)


def kept(logits):
    return np.asarray(logits) > EXCLUDED / 2


@pytest.mark.parametrize("t", [0.1, 1.0, 3.0])
def test_temperature(t):
    """p^(1/t), normalised."""
    p = p_of(LOGITS) ** (1 / t)
    expected = p / p.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(p_of(temperature(t)(jnp.float32(LOGITS))), expected, rtol=1e-4)


def test_temperature_of_zero_is_argmax():
    for t in (0, 0.0, 1e-4):
        p = p_of(temperature(t)(jnp.float32(LOGITS)))
        np.testing.assert_allclose(p, np.eye(7)[LOGITS.argmax(axis=-1)], atol=1e-6)


@pytest.mark.parametrize("k", [1, 3, 7, 100])
def test_top_k(k):
    found = top_k(k)(jnp.float32(LOGITS))
    expected = np.argsort(np.argsort(-LOGITS, axis=-1), axis=-1) < k
    np.testing.assert_array_equal(kept(found), expected)
    np.testing.assert_array_equal(found[expected], np.float32(LOGITS)[expected])


@pytest.mark.parametrize("p", [1e-6, 0.3, 0.9, 1 - 1e-6])
def test_top_p(p):
    """The fewest codes whose probabilities sum to p: without the last of them less than p."""
    found, probabilities = kept(top_p(p)(jnp.float32(LOGITS))), p_of(LOGITS)
    for keep, row in zip(found, probabilities, strict=True):
        order = np.argsort(-row)
        n = 1 + int(np.searchsorted(np.cumsum(row[order]), p))
        assert set(np.flatnonzero(keep)) == set(order[: min(n, 7)])


def test_top_p_of_a_sum_that_is_p_needs_no_further_code():
    logits = jnp.log(jnp.array([0.25, 0.5, 0.125, 0.125]))
    for p, n in ((0.5, 1), (0.75, 2)):
        above, below = (np.nextafter(np.float32(p), np.float32(side)).item() for side in (1, 0))
        found = [kept(top_p(q)(logits)).sum() for q in (below, p, above)]
        assert found == [n, n, 2 if n == 1 else 4]  # the last two are as likely


def test_top_p_of_one_keeps_all():
    logits = jnp.array([[0.0, -90.0, 30.0]])  # probabilities that vanish beside 1
    np.testing.assert_array_equal(top_p(1.0)(logits), logits)
    np.testing.assert_array_equal(kept(top_p(0.999)(logits)), [[False, False, True]])


def test_filters_keep_what_does_not_exist_out():
    """Logits beyond the codes of a stream."""
    logits = jnp.array([[1.0, 2.0, EXCLUDED, EXCLUDED]])
    for f in (temperature(0.0), temperature(5.0), top_k(3), top_p(0.99), top_p(1.0)):
        np.testing.assert_array_equal(p_of(f(logits))[0, 2:], 0)


def test_filters_are_described():
    for f in (temperature(0.5), top_k(3), top_p(0.9)):
        assert from_json(to_json(f)) == f
    assert repr(top_k(k=3)) == "top_k(k=3)" and temperature(0.0) == temperature(0)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: temperature(-1.0), r"t must be in \[0, inf\), got -1.0"),
        (lambda: top_k(0), "k must be an integer >= 1, got 0"),
        (lambda: top_p(0.0), r"p must be in \(0, 1\], got 0.0"),
        (lambda: top_p(1.5), r"p must be in \(0, 1\], got 1.5"),
    ],
)
def test_wrong_filters(make, message):
    with pytest.raises(ValueError, match=message):
        make()
