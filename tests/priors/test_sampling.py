"""Sampling one code after another: probabilities, both steppers, filters, guidance."""

import itertools
from functools import partial

import codes as made
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit
from scipy.special import log_softmax
from scipy.stats import chisquare

from vqvae_jax.priors import (
    MaskedPrior,
    PixelCNN,
    TransformerPrior,
    cached,
    free_codes,
    log_likelihood,
    sample_codes,
    top_k,
    uncached,
)
from vqvae_jax.priors.sampling import guided

KEY = jax.random.key(0)
TOLD = {"classes": 2, "coarse": (((1, 1), (3,)),), "metadata": 1}
ONE, TWO = ((3,), (2, 2)), ((2, 3), (1, 2))  # (vocab, grid) of 81 and of 36 outcomes
TINY = {
    f"{name}, {len(problem[0])} streams": prior(*problem, **TOLD, width=8, depth=2)
    for name, prior in {"transformer": TransformerPrior, "pixelcnn": PixelCNN}.items()
    for problem in (ONE, TWO)
}
each_tiny = pytest.mark.parametrize("prior", TINY.values(), ids=TINY)
each_stepper = pytest.mark.parametrize("stepper", [cached, uncached])


def outcomes(prior):
    """All codes that there are, `[N, *grid, Q]`, in lexical order."""
    places = int(np.prod(prior.grid))
    each = itertools.product(*(range(k) for _ in range(places) for k in prior.vocab))
    return jnp.asarray(list(each), jnp.int32).reshape(-1, *prior.grid, len(prior.vocab))


def repeated(condition, n):
    """The condition of the first example, n times."""
    return jax.tree.map(lambda a: jnp.repeat(a[:1], n, axis=0), condition)


def probabilities(prior, variables, condition):
    """Of all outcomes under the condition of one example."""
    codes = outcomes(prior)
    run = jit(partial(log_likelihood, prior))
    return np.exp(np.float64(run(variables, codes, repeated(condition, len(codes)))))


@each_tiny
def test_probabilities_of_all_outcomes_sum_to_one(prior):
    for seed in (0, 1):
        found = probabilities(prior, made.variables(prior, seed), made.told(prior, 1, seed))
        np.testing.assert_allclose(found.sum(), 1, rtol=1e-5)
        assert found.max() > 2 / len(found)  # not uniform


def test_likelihood_is_the_sum_of_log_softmax():
    prior, variables = made.TRANSFORMER, made.variables(made.TRANSFORMER)
    codes, condition = made.inputs(prior, 4)
    codes = codes.at[0, 1, 2, 1].set(-1)
    logits = np.float64(made.applied(prior)(variables, codes, condition))
    each = [
        sum(
            log_softmax(logits[(b, *at)][:k])[codes[(b, *at)]]
            for *place, q in np.ndindex(2, 3, 2)
            for at, k in [((*place, q), prior.vocab[q])]
            if codes[(b, *at)] >= 0
        )
        for b in range(4)
    ]
    found = jit(partial(log_likelihood, prior))(variables, codes, condition)
    np.testing.assert_allclose(found, each, rtol=1e-5)


def test_masked_priors_have_no_likelihood():
    prior = MaskedPrior((3,), (2,), **made.SMALL)
    with pytest.raises(TypeError, match="no likelihood"):
        log_likelihood(prior, made.variables(prior), made.random_codes((2,), (3,)))


CASES = [(name, uncached) for name in TINY] + [(n, cached) for n in TINY if n[0] == "t"]


@pytest.mark.parametrize("name, stepper", CASES, ids=lambda v: getattr(v, "__name__", v))
def test_samples_are_as_frequent_as_they_are_likely(name, stepper):
    prior, n = TINY[name], 4096
    variables, condition = made.variables(prior), made.told(prior)
    expected = n * probabilities(prior, variables, condition)
    draw = jit(partial(sample_codes, prior=prior, stepper=stepper))
    told = repeated(condition, n)
    codes = draw(KEY, variables=variables, given=free_codes(prior, n), condition=told)
    assert codes.dtype == jnp.int32 and codes.shape == (n, *prior.grid, len(prior.vocab))
    check_frequencies(codes, prior, expected)


def check_frequencies(codes, prior, expected):
    """Chi-square, with rare outcomes taken together."""
    sizes = np.tile(prior.vocab, int(np.prod(prior.grid)))
    index = np.ravel_multi_index(np.reshape(codes, (len(codes), -1)).T, sizes)
    counts, often = np.bincount(index, minlength=len(expected)), expected >= 5
    if not often.all():
        counts, expected = (np.append(a[often], a[~often].sum()) for a in (counts, expected))
    assert chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > 1e-3


@pytest.mark.parametrize("name", ["transformer", "three axes"])
@pytest.mark.parametrize("dtype, tol", [("float32", 1e-5), ("bfloat16", 0.05)])
def test_cached_logits_are_the_others(name, dtype, tol):
    """At all steps, with every condition, two streams, grids of two and three axes."""
    prior = made.CAUSAL[name].clone(dtype=dtype)
    variables = made.variables(prior, size=0.3)
    codes, condition = made.inputs(prior, 3)
    tokens = codes.reshape(3, -1)

    @jit
    def logits(variables, condition):
        def body(state, t):
            found, state = step(state, jnp.where(jnp.arange(tokens.shape[1]) < t, tokens, 0), t)
            return state, found

        state, step = cached(prior, variables, condition, 3)
        return jax.lax.scan(body, state, jnp.arange(tokens.shape[1]))[1]

    expected = made.applied(prior)(variables, codes, condition).reshape(3, tokens.shape[1], -1)
    found = jnp.swapaxes(logits(variables, condition), 0, 1)
    np.testing.assert_allclose(found, expected, rtol=tol, atol=tol)


@pytest.mark.parametrize("name", ["transformer", "pixelcnn", "masked"])
def test_given_codes_are_kept_and_are_seen(name):
    """At any place: the likeliest codes are those that follow from them, one after another."""
    prior = made.ALL[name]
    variables, (codes, condition) = made.variables(prior), made.inputs(prior, 2)
    free = np.random.default_rng(0).random(codes.shape) < 0.5
    given = jnp.where(free, -1, codes)
    draw = jit(partial(sample_codes, prior=prior, stepper=uncached, filters=(top_k(1),)))
    found = draw(KEY, variables=variables, given=given, condition=condition)
    np.testing.assert_array_equal(found[~free], codes[~free])
    assert (found >= 0).all() and (found < jnp.array(prior.vocab)).all()
    tokens, apply = np.array(given).reshape(2, -1), made.applied(prior)
    for t in range(tokens.shape[1]):
        logits = apply(variables, jnp.asarray(tokens.reshape(given.shape)), condition)
        best = np.argmax(logits.reshape(2, tokens.shape[1], -1)[:, t], axis=-1)
        tokens[:, t] = np.where(tokens[:, t] < 0, best, tokens[:, t])
    np.testing.assert_array_equal(found.reshape(2, -1), tokens)


def test_both_steppers_draw_the_same():
    prior, variables = made.TRANSFORMER, made.variables(made.TRANSFORMER)
    given, condition = free_codes(prior, 5), made.told(prior, 5)
    both = [
        jit(partial(sample_codes, prior=prior, stepper=s, guidance=g))(
            KEY, variables=variables, given=given, condition=condition
        )
        for s in (cached, uncached)
        for g in (None, 30.0)
    ]
    np.testing.assert_array_equal(both[0], both[2])
    np.testing.assert_array_equal(both[1], both[3])
    assert (both[0] != both[1]).any() and len(np.unique(both[0].reshape(5, -1), axis=0)) == 5


@each_stepper
def test_guided_logits(stepper):
    w, prior, variables = 2.5, made.TRANSFORMER, made.variables(made.TRANSFORMER)
    codes, condition = made.inputs(prior, 3)
    apply, tokens = made.applied(prior), codes.reshape(3, -1)
    label = apply(variables, codes, condition)
    none = apply(variables, codes, condition._replace(label=None))
    assert np.abs(label - none).max() > 0.01
    expected = ((1 + w) * np.float64(label) - w * np.float64(none)).reshape(*tokens.shape, -1)
    state, step = guided(stepper, w)(prior, variables, condition, 3)
    step = jit(step)
    for t in range(4):
        logits, state = step(state, tokens, jnp.int32(t))
        np.testing.assert_allclose(logits, expected[:, t], rtol=1e-5, atol=1e-4)


def test_guidance_of_zero_is_none():
    prior, variables = made.TRANSFORMER, made.variables(made.TRANSFORMER)
    given, condition = free_codes(prior, 5), made.told(prior, 5)
    draw = jit(partial(sample_codes, prior=prior))
    args = {"variables": variables, "given": given, "condition": condition}
    none = draw(KEY, **args)
    np.testing.assert_array_equal(none, draw(KEY, **args, guidance=jnp.zeros(())))
    assert (none != draw(KEY, **args, guidance=jnp.float32(30))).any()


def test_guidance_needs_classes():
    prior = TransformerPrior((3,), (2,), **made.SMALL)
    with pytest.raises(ValueError, match="guidance needs a prior with classes"):
        sample_codes(KEY, prior, made.variables(prior), free_codes(prior, 1), guidance=1.0)


def test_not_all_priors_have_a_cache():
    prior, variables = made.PIXELCNN, made.variables(made.PIXELCNN)
    with pytest.raises(TypeError, match="PixelCNN keeps no cache: use stepper=uncached"):
        sample_codes(KEY, prior, variables, free_codes(prior, 1), made.told(prior))


def test_wrong_given_codes(as_users):
    prior = TransformerPrior((3,), (2,), **made.SMALL)
    for given in (jnp.zeros((1, 3, 1), int), jnp.full((1, 2, 1), 3)):
        with pytest.raises(ValueError, match=r"given must be|stream 0 must be"):
            sample_codes(KEY, prior, made.variables(prior), given)


def test_filters_are_applied_in_their_order():
    prior, n = TINY["transformer, 1 streams"], 3
    variables, condition = made.variables(prior), made.told(prior)
    given = jnp.where(jnp.arange(4).reshape(1, 2, 2, 1) < 3, 0, jnp.full((n, 2, 2, 1), -1))

    def dropping(logits):
        best = jnp.max(logits, axis=-1, keepdims=True)
        return jnp.where(logits == best, -50.0, logits)

    draw = jit(partial(sample_codes, prior=prior, filters=(dropping, top_k(1))))
    told = repeated(condition, n)
    codes = draw(KEY, variables=variables, given=given, condition=told)
    logits = made.applied(prior)(variables, given[:1], condition)[0, 1, 1, 0]
    np.testing.assert_array_equal(codes[:, 1, 1, 0], np.argsort(logits)[1])  # the second best
