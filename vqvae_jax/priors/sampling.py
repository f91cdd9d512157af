"""Sampling from autoregressive priors, logit filters, guidance, and likelihood of codes."""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vqvae_jax.checks import Number, check_range, check_size
from vqvae_jax.conversions import boundary
from vqvae_jax.priors.conditioning import EXCLUDED, UNCONDITIONAL, Condition, check_codes, is_code
from vqvae_jax.priors.masked import MaskedPrior
from vqvae_jax.saving.describe import Function, described

Filter = Callable[[Array], Array]
"""Map of logits [..., K] -> logits [..., K]."""

Step = Callable[[Any, Array, Array], tuple[Array, Any]]
"""One step: (state, tokens [B, T], t) -> (logits [B, K] of token t given those before, state)."""

Stepper = Callable[..., tuple[Any, Step]]
"""Start: (prior, variables, condition, batch) -> (state before the first token, its `Step`)."""


@described
def temperature(t: float) -> Filter:
    """Divides logits by t: t < 1 favours likely codes, and t = 0 is `top_k(1)`.

    Example:
        >>> temperature(0.5)(jnp.array([1.0, 2.0]))
        Array([2., 4.], dtype=float32)
    """
    check_range(0, float("inf"), t=t)
    if t == 0:
        return top_k(1)

    def divide(logits: Float[Array, "*rows K"]):
        return logits / t

    return Function(divide)


@described
def top_k(k: int) -> Filter:
    """Keeps the k likeliest codes, and those tied with the last of them (arXiv:1805.04833).

    Example:
        >>> top_k(2)(jnp.array([1.0, 2.0, 3.0])) > EXCLUDED
        Array([False,  True,  True], dtype=bool)
    """
    check_size(k=k)

    def keep(logits: Float[Array, "*rows K"]):
        # A threshold instead of the indices of the k: it does not prefer one of equally likely
        # codes.
        least = jax.lax.top_k(logits, min(k, logits.shape[-1]))[0][..., -1:]
        return jnp.where(logits >= least, logits, EXCLUDED)

    return Function(keep)


@described
def top_p(p: float) -> Filter:
    """Keeps the smallest set of likeliest codes with total probability >= p (arXiv:1904.09751).

    Codes tied with the last of them are kept too.

    Raises:
        ValueError: unless 0 < p <= 1; 1 keeps all codes.

    Example:
        >>> top_p(0.7)(jnp.log(jnp.array([0.1, 0.6, 0.3]))) > EXCLUDED
        Array([False,  True,  True], dtype=bool)
    """
    if not 0 < p <= 1:
        raise ValueError(f"p must be in (0, 1], got {p!r}")

    def keep(logits: Float[Array, "*rows K"]):
        # Rounded sums reach 1 before the last codes, which would then be lost.
        if p == 1:
            return logits
        ordered = jnp.sort(logits, axis=-1, descending=True)
        probabilities = jax.nn.softmax(ordered)
        # The sum before a code decides, without the code itself, so that the code that passes p is
        # kept, and the likeliest one always is.
        before = jnp.cumsum(probabilities, axis=-1) - probabilities
        least = jnp.min(jnp.where(before < p, ordered, jnp.inf), axis=-1, keepdims=True)
        return jnp.where(logits >= least, logits, EXCLUDED)

    return Function(keep)


def cached(prior, variables, condition: Condition, batch: int) -> tuple[Any, Step]:
    """Stepper of `TransformerPrior` with a cache of keys and values of all tokens so far."""
    if not hasattr(prior, "step"):
        raise TypeError(f"{type(prior).__name__} keeps no cache: use stepper=uncached")

    def step(cache, tokens, t):
        # Any token will do at t = 0, where the prior uses a vector for the beginning.
        before = jax.lax.dynamic_index_in_dim(tokens, jnp.maximum(t - 1, 0), 1, keepdims=False)
        return prior.apply(variables, cache, before, t, method="step")

    return prior.apply(variables, condition, batch, method="start"), step


def uncached(prior, variables, condition: Condition, batch: int) -> tuple[Any, Step]:
    """Stepper of any autoregressive prior, which recomputes all logits for each token."""

    def step(state, tokens, t):
        # Tokens from t on are -1 or given, and a causal prior does not see them.
        codes = tokens.reshape(batch, *prior.grid, len(prior.vocab))
        logits = prior.apply(variables, codes, condition).reshape(*tokens.shape, -1)
        return jax.lax.dynamic_index_in_dim(logits, t, 1, keepdims=False), state

    return (), step


def guided(stepper: Stepper, w: Number) -> Stepper:
    """Returns a stepper with classifier-free guidance of weight w; see `guide`."""

    def start(prior, variables, condition, batch):
        both = with_unlabelled(prior, condition, batch)
        state, step = stepper(prior, variables, both, 2 * batch)

        def guided_step(state, tokens, t):
            # Both halves continue from the guided tokens, in one pass of twice the batch.
            logits, state = step(state, jnp.concatenate([tokens, tokens]), t)
            return guide(logits, w), state

        return state, guided_step

    return start


def with_unlabelled(prior, condition: Condition, batch: int) -> Condition:
    """Doubles the batch of a condition: first as it is, then without labels."""
    if not prior.classes:
        raise ValueError("guidance needs a prior with classes")
    twice = jax.tree.map(lambda x: jnp.concatenate([x, x]), condition)
    label = jnp.full(batch, -1, jnp.int32) if condition.label is None else condition.label
    return twice._replace(label=jnp.concatenate([label, jnp.full_like(label, -1)]))


def guide(logits: Float[Array, "two_B *rows K"], w: Number) -> Float[Array, "B *rows K"]:
    """Classifier-free guidance: (1 + w) l(k | label) - w l(k) (arXiv:2207.12598, equation 6).

    l(k) are the logits for label -1, the second half of a batch of `with_unlabelled`. w = 0 changes
    nothing; a larger w makes samples more typical of their label, and more alike.
    """
    labelled, unlabelled = jnp.split(logits, 2)
    return (1 + w) * labelled - w * unlabelled


@boundary
def free_codes(prior, batch: int) -> Int[Array, "B *grid Q"]:
    """Returns codes of -1 for the argument `given`, so that all are sampled."""
    return jnp.full((batch, *prior.grid, len(prior.vocab)), -1, jnp.int32)


@boundary
def sample_codes(
    key: PRNGKeyArray,
    prior,
    variables,
    given: Int[Array, "B *grid Q"],
    condition: Condition = UNCONDITIONAL,
    *,
    stepper: Stepper = cached,
    filters: Sequence[Filter] = (),
    guidance: Number | None = None,
) -> Int[Array, "B *grid Q"]:
    """Samples codes k_t ~ p(k_t | k_1, ..., k_{t-1}, c) one after another in raster order.

    It is a pure function to be jitted (`prior`, `stepper` and `filters` are static).

    Args:
        key: random key.
        prior: `TransformerPrior`, or any other autoregressive prior with `stepper=uncached`.
        variables: variables of the prior.
        given: codes to keep; -1 where they are to be sampled. `free_codes` samples all.
        condition: condition of each example.
        stepper: `cached` or `uncached`.
        filters: filters such as `temperature`, `top_k` and `top_p`, applied in this order.
        guidance: w of `guide`, which doubles the batch; None for no guidance.

    Raises:
        ValueError, TypeError: from the prior, or if it has no classes for guidance, or no cache.

    Example:
        >>> from vqvae_jax.priors import TransformerPrior
        >>> prior = TransformerPrior((8,), (2, 2), width=8, depth=1, heads=1)
        >>> given = free_codes(prior, 3).at[:, 0].set(5)
        >>> variables = jax.jit(prior.init)(jax.random.key(0), given)
        >>> codes = sample_codes(jax.random.key(1), prior, variables, given, filters=[top_k(4)])
        >>> codes.shape, bool((codes[:, 0] == 5).all()), bool((codes >= 0).all())
        ((3, 2, 2, 1), True, True)
    """
    check_codes("given", given, prior.grid, prior.vocab)
    stepper = stepper if guidance is None else guided(stepper, guidance)
    state, step = stepper(prior, variables, condition, len(given))

    def draw(carry, t):
        state, tokens = carry
        logits, state = step(state, tokens, t)
        logits = reduce(lambda x, f: f(x), filters, logits)
        # The key depends on t alone, so cached and uncached steppers draw the same codes.
        new = jax.random.categorical(jax.random.fold_in(key, t), logits).astype(tokens.dtype)
        old = jax.lax.dynamic_index_in_dim(tokens, t, 1, keepdims=False)
        # Given codes are sampled too and then dropped: passing them through the prior fills the
        # cache.
        new = jnp.where(old < 0, new, old)
        return (state, jax.lax.dynamic_update_index_in_dim(tokens, new, t, 1)), None

    tokens = given.reshape(len(given), -1)
    # Cache and tokens have fixed shapes, so the scan compiles one step for the whole sequence.
    (_, tokens), _ = jax.lax.scan(
        draw, (state, tokens), jnp.arange(tokens.shape[1], dtype=jnp.int32)
    )
    return tokens.reshape(given.shape)


@boundary
def log_probs(
    logits: Float[Array, "B *grid Q K"], codes: Int[Array, "B *grid Q"]
) -> Float[Array, "B *grid Q"]:
    """Log likelihood of each code in nats; 0 for unknown codes (-1)."""
    # Unknown codes are dropped by a select, since index -1 would read the last logit.
    known = is_code(codes, (logits.shape[-1],) * codes.shape[-1])
    row = jnp.where(known, codes, 0)[..., None]
    each = jnp.take_along_axis(jax.nn.log_softmax(logits), row, axis=-1)[..., 0]
    return jnp.where(known, each, 0)


@boundary
def log_likelihood(
    prior,
    variables,
    codes: Int[Array, "B *grid Q"],
    condition: Condition = UNCONDITIONAL,
) -> Float[Array, "B"]:
    """Log likelihood log p(codes | c) of each example in nats, without filters.

    Unknown codes (-1) are left out.

    Raises:
        TypeError: for a `MaskedPrior`, which gives no likelihood.
    """
    if isinstance(prior, MaskedPrior):
        raise TypeError("a MaskedPrior has no likelihood: it sees the codes that it predicts")
    logits = prior.apply(variables, codes, condition)
    return jnp.sum(log_probs(logits, codes), axis=range(1, codes.ndim))
