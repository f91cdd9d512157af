"""Sampling from a `MaskedPrior` by iterative decoding, many codes at a time."""

from collections.abc import Callable, Sequence
from functools import reduce

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from vqvae_jax.checks import Number, check_range, check_size
from vqvae_jax.conversions import boundary
from vqvae_jax.priors.conditioning import UNCONDITIONAL, Condition, check_codes
from vqvae_jax.priors.masked import masked_share, ranks
from vqvae_jax.priors.sampling import Filter, guide, log_probs, with_unlabelled


@boundary
def sample_masked(
    key: PRNGKeyArray,
    prior,
    variables,
    given: Int[Array, "B *grid Q"],
    condition: Condition = UNCONDITIONAL,
    *,
    steps: int = 8,
    noise: Number = 4.5,
    filters: Sequence[Filter] = (),
    guidance: Number | None = None,
) -> Int[Array, "B *grid Q"]:
    """Samples codes by iterative decoding (arXiv:2202.04200, section 3.2).

    Each step samples all masked codes and masks the least confident ones again. After step s of S,
    floor(N cos(pi s / (2 S))) of the N codes that are not given stay masked, and at least one fewer
    than before. Confidence is log p + noise (1 - s / S) g with g ~ Gumbel(0, 1).

    It is a pure function to be jitted (`prior`, `steps` and `filters` are static).

    Args:
        key: random key.
        prior: `MaskedPrior`.
        variables: variables of the prior.
        given: codes to keep; -1 where they are to be sampled.
        condition: condition of each example.
        steps: S, the number of forward passes.
        noise: weight of the noise in the confidence; more of it gives more diverse codes.
        filters: filters of the logits, as in `sample_codes`; confidence uses the unfiltered ones.
        guidance: w of `guide`, which doubles the batch; None for no guidance.

    Raises:
        ValueError, TypeError: from the prior, or if the prior has no classes for guidance.

    Example:
        >>> from vqvae_jax.priors import MaskedPrior
        >>> prior = MaskedPrior((8,), (2, 2), width=8, depth=1, heads=1)
        >>> given = jnp.full((3, 2, 2, 1), -1).at[:, 0].set(5)
        >>> variables = jax.jit(prior.init)(jax.random.key(0), given)
        >>> codes = sample_masked(jax.random.key(1), prior, variables, given, steps=2)
        >>> codes.shape, bool((codes[:, 0] == 5).all()), bool((codes >= 0).all())
        ((3, 2, 2, 1), True, True)
    """
    check_size(steps=steps)
    check_range(0, float("inf"), noise=noise)
    check_codes("given", given, prior.grid, prior.vocab)
    predict = predictor(prior, variables, condition, len(given), guidance)
    free = jnp.sum(given < 0, axis=range(1, given.ndim), keepdims=True, dtype=jnp.int32)

    def refine(codes, s):
        logits, masked, done = predict(codes), codes < 0, s.astype(jnp.float32) / steps
        key_draw, key_noise = jax.random.split(jax.random.fold_in(key, s))
        kept = reduce(lambda x, f: f(x), filters, logits)
        drawn = jax.random.categorical(key_draw, kept).astype(codes.dtype)
        # Confidence uses the logits before the filters: after top_k(1) each code would have
        # probability 1, and all would be equally confident. Codes that are already fixed have
        # infinite confidence, so that they are never masked again.
        gumbel = noise * (1 - done) * jax.random.gumbel(key_noise, codes.shape, jnp.float32)
        confidence = jnp.where(masked, log_probs(logits, drawn) + gumbel, jnp.inf)
        # At least one code fewer, since a step would be wasted if the schedule rounds to no change.
        # In the last step cos(pi / 2) may round to below 0; then n = -1, and no rank is below that.
        left = jnp.sum(masked, axis=range(1, codes.ndim), keepdims=True, dtype=jnp.int32) - 1
        n = jnp.minimum(left, jnp.floor(free * masked_share(done)).astype(left.dtype))
        again = ranks(confidence.reshape(len(codes), -1)).reshape(codes.shape) < n
        return jnp.where(again, -1, jnp.where(masked, drawn, codes)), None

    # Masks have a fixed shape, so the scan compiles one step, however many there are.
    return jax.lax.scan(refine, given, jnp.arange(1, steps + 1, dtype=jnp.int32))[0]


def predictor(
    prior, variables, condition: Condition, batch: int, guidance: Number | None
) -> Callable[[Array], Array]:
    """Returns the function codes -> logits, with or without guidance."""
    if guidance is None:
        return lambda codes: prior.apply(variables, codes, condition)
    both = with_unlabelled(prior, condition, batch)

    def guided(codes):
        return guide(prior.apply(variables, jnp.concatenate([codes, codes]), both), guidance)

    return guided
