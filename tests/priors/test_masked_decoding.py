"""Iterative decoding: how many codes each step draws, which ones, and what stays."""

import itertools
import math
from functools import partial
from typing import NamedTuple

import codes as made
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit
from scipy.special import log_softmax, softmax
from scipy.stats import chisquare

from vqvae_jax.priors import MaskedPrior, free_codes, sample_masked, top_k
from vqvae_jax.priors.masked import random_mask, ranks
from vqvae_jax.priors.masked_decoding import predictor

KEY = jax.random.key(0)
PRIOR, N = made.MASKED, 12
VARIABLES = made.variables(PRIOR)


class Fixed(NamedTuple):
    """A prior of the same logits always, which remembers what it saw."""

    vocab: tuple
    grid: tuple
    logits: np.ndarray
    seen: list

    def apply(self, variables, codes, condition):
        self.seen.append(np.asarray(codes))
        return jnp.broadcast_to(self.logits, (*codes.shape, self.logits.shape[-1]))


def fixed(n=17, k=4, seed=0):
    logits = np.random.default_rng(seed).normal(size=(n, 1, k)).astype(np.float32) * 2
    return Fixed((k,), (n,), logits, [])


def steps_of(prior, given, **options):
    """The codes before each step, and those at the end."""
    with jax.disable_jit():
        last = sample_masked(KEY, prior, {}, given, **options)
    return [*prior.seen, np.asarray(last)]


@pytest.mark.parametrize("steps", [1, 2, 5, 17, 30])
def test_how_many_stay_masked(steps):
    """floor(N cos(pi s / 2 S)), and one less each time at least, until none is."""
    prior = fixed()
    given = free_codes(prior, 2).at[1, 3:8].set(2)
    seen = steps_of(prior, given, steps=steps)
    assert len(seen) == steps + 1
    for row, free in ((0, 17), (1, 12)):
        left = free
        for s, codes in enumerate(seen):
            if s:
                share = math.cos(math.pi / 2 * s / steps)
                left = max(min(left - 1, math.floor(free * share + 1e-9)), 0)
            assert (codes[row] < 0).sum() == left, s
    for before, after in itertools.pairwise(seen):
        np.testing.assert_array_equal(after[before >= 0], before[before >= 0])


def test_without_noise_the_most_confident_stay():
    """Each of those that a step keeps is likelier than each of those it masks again."""
    prior = fixed()
    seen = steps_of(prior, free_codes(prior, 1), steps=4, noise=0.0, filters=(top_k(1),))
    best = log_softmax(np.float64(prior.logits), axis=-1).max(axis=-1)
    np.testing.assert_array_equal(seen[-1][0], prior.logits.argmax(axis=-1))
    for codes in seen[1:-1]:
        known = codes[0] >= 0
        assert best[known].min() > best[~known].max()


def test_the_noise_of_the_confidence():
    """After step s those stay whose log p + noise (1 - s / S) g is largest."""
    prior, noise, steps = fixed(), 3.0, 5
    seen = steps_of(prior, free_codes(prior, 1), steps=steps, noise=noise, filters=(top_k(1),))
    best = log_softmax(np.float64(prior.logits), axis=-1).max(axis=-1).ravel()
    for s, (before, after) in enumerate(itertools.pairwise(seen), start=1):
        key = jax.random.split(jax.random.fold_in(KEY, s))[1]
        gumbel = np.asarray(jax.random.gumbel(key, before.shape)).ravel()
        confidence = best + noise * (1 - s / steps) * gumbel
        masked, again = (before < 0).ravel(), (after < 0).ravel()
        new = masked & ~again
        assert not again.any() or confidence[new].min() > confidence[again].max()


def test_each_example_has_noise_of_its_own():
    prior = fixed()
    seen = steps_of(prior, free_codes(prior, 2), steps=4, noise=100.0, filters=(top_k(1),))
    assert ((seen[1][0] < 0) != (seen[1][1] < 0)).any()


def test_one_step_draws_each_code_as_often_as_it_is_likely():
    prior = fixed(n=3, k=4)
    codes = steps_of(prior, free_codes(prior, 4096), steps=1)[-1]
    for place, p in enumerate(softmax(np.float64(prior.logits[:, 0]), axis=-1)):
        counts = np.bincount(codes[:, place, 0], minlength=4)
        assert chisquare(counts, 4096 * p).pvalue > 1e-3


@pytest.mark.parametrize("steps", [1, 3, N])
def test_all_codes_are_drawn_and_given_ones_stay(steps):
    codes, condition = made.inputs(PRIOR, 4)
    free = np.random.default_rng(0).random(codes.shape) < 0.6
    free[0], free[1] = True, False  # none is given, and all are
    run = jit(partial(sample_masked, prior=PRIOR, steps=steps))
    given = jnp.where(free, -1, codes)
    found = run(KEY, variables=VARIABLES, given=given, condition=condition)
    assert found.dtype == given.dtype
    np.testing.assert_array_equal(found[~free], codes[~free])
    assert (found >= 0).all() and (found < jnp.array(PRIOR.vocab)).all()


def test_guidance():
    codes, condition = made.inputs(PRIOR, 3)
    codes = codes.at[:, 0].set(-1)
    apply = jit(PRIOR.apply)
    label = np.float64(apply(VARIABLES, codes, condition))
    none = np.float64(apply(VARIABLES, codes, condition._replace(label=None)))
    assert np.abs(label - none).max() > 0.01
    for w in (0.0, 2.5):
        found = jit(predictor(PRIOR, VARIABLES, condition, 3, w))(codes)
        np.testing.assert_allclose(found, (1 + w) * label - w * none, rtol=1e-5, atol=1e-4)
    run = jit(partial(sample_masked, prior=PRIOR, steps=3))
    args = {"variables": VARIABLES, "given": codes, "condition": condition}
    plain, zero, more = (run(KEY, **args, guidance=w) for w in (None, 0.0, 100.0))
    np.testing.assert_array_equal(plain, zero)
    assert (plain != more).any()


def test_wrong_options(as_users):
    run = partial(sample_masked, KEY, PRIOR, VARIABLES)
    given, condition = free_codes(PRIOR, 2), made.told(PRIOR, 2)
    for options, message in (
        ({"steps": 0}, "steps must be an integer >= 1, got 0"),
        ({"noise": -1.0}, r"noise must be in \[0, inf\), got -1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            run(given, condition, **options)
    with pytest.raises(ValueError, match="given must be"):
        run(given[:, 0], condition)
    plain = MaskedPrior((3,), (2,), **made.SMALL)
    with pytest.raises(ValueError, match="guidance needs a prior with classes"):
        sample_masked(KEY, plain, made.variables(plain), free_codes(plain, 1), guidance=1.0)


def test_masks_of_training():
    """ceil(N cos(pi r / 2)) places, each as often as another; r is uniform."""
    masks = jit(jax.vmap(lambda key: random_mask(key, (2, 3, 2))))(jax.random.split(KEY, 4000))
    masks = np.asarray(masks)
    counts = masks.sum(axis=(1, 2, 3))
    assert counts.min() == 1 and counts.max() == N
    edges = 2 / math.pi * np.arccos(np.arange(N, -1, -1) / N)  # of r where the count changes
    expected = np.diff(edges)[::-1] * len(masks)
    assert chisquare(np.bincount(counts, minlength=N + 1)[1:], expected).pvalue > 1e-3
    for some in (counts < N / 2, counts >= N / 2):  # which places does not depend on how many
        often = masks[some & (counts < N)].reshape(-1, N).sum(axis=0)
        assert chisquare(often).pvalue > 1e-3


def test_ranks():
    x = np.random.default_rng(0).normal(size=(5, 9))
    x[0, 3:6] = np.inf
    found = np.asarray(ranks(jnp.float32(x)))
    expected = np.argsort(np.argsort(x, axis=-1, kind="stable"), axis=-1)
    np.testing.assert_array_equal(found, expected)
