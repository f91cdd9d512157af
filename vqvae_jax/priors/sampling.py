"""Sampling from autoregressive priors, filters of logits, guidance, and likelihood of codes."""

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
"""logits [..., K] -> logits [..., K]"""

Step = Callable[[Any, Array, Array], tuple[Array, Any]]
"""(state, tokens [B, T], t) -> (logits [B, K] of token t given those before, the next state)"""

Stepper = Callable[..., tuple[Any, Step]]
"""(prior, variables, condition, batch) -> (the state before the first token, its `Step`)"""


@described
def temperature(t: float) -> Filter:
    """Divides logits by t: t < 1 favours likely codes; 0 is `top_k(1)`.

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
    """Keeps the k likeliest codes, and those as likely as the last of them (arXiv:1805.04833).

    Example:
        >>> top_k(2)(jnp.array([1.0, 2.0, 3.0])) > EXCLUDED
        Array([False,  True,  True], dtype=bool)
    """
    check_size(k=k)

    def keep(logits: Float[Array, "*rows K"]):
        # A threshold and not the indices of the k: among equal codes no order would be fair.
        least = jax.lax.top_k(logits, min(k, logits.shape[-1]))[0][..., -1:]
        return jnp.where(logits >= least, logits, EXCLUDED)

    return Function(keep)


@described
def top_p(p: float) -> Filter:
    """Keeps the fewest likeliest codes of total probability p or more (arXiv:1904.09751).

    Codes as likely as the last of them stay as well.

    Raises:
        ValueError: unless 0 < p <= 1; 1 keeps all codes.

    Example:
        >>> top_p(0.7)(jnp.log(jnp.array([0.1, 0.6, 0.3]))) > EXCLUDED
        Array([False,  True,  True], dtype=bool)
    """
    if not 0 < p <= 1:
        raise ValueError(f"p must be in (0, 1], got {p!r}")

    def keep(logits: Float[Array, "*rows K"]):
        # Rounded sums reach 1 before the last codes, which would be lost.
        if p == 1:
            return logits
        ordered = jnp.sort(logits, axis=-1, descending=True)
        probabilities = jax.nn.softmax(ordered)
        # What comes before a code decides, without the code itself: so the one that passes p is
        # kept, and the likeliest one always.
        before = jnp.cumsum(probabilities, axis=-1) - probabilities
        least = jnp.min(jnp.where(before < p, ordered, jnp.inf), axis=-1, keepdims=True)
        return jnp.where(logits >= least, logits, EXCLUDED)

    return Function(keep)


def cached(prior, variables, condition: Condition, batch: int) -> tuple[Any, Step]:
    """Stepper of `TransformerPrior` with a cache of the keys and values of all tokens before."""
    if not hasattr(prior, "step"):
        raise TypeError(f"{type(prior).__name__} keeps no cache: use stepper=uncached")

    def step(cache, tokens, t):
        # Any token will do at t = 0, where the prior has a vector for the beginning.
        before = jax.lax.dynamic_index_in_dim(tokens, jnp.maximum(t - 1, 0), 1, keepdims=False)
        return prior.apply(variables, cache, before, t, method="step")

    return prior.apply(variables, condition, batch, method="start"), step


def uncached(prior, variables, condition: Condition, batch: int) -> tuple[Any, Step]:
    """Stepper of any prior, which computes all logits again for each token."""

    def step(state, tokens, t):
        # Tokens from t on are -1 or given: a causal prior does not see them.
        codes = tokens.reshape(batch, *prior.grid, len(prior.vocab))
        logits = prior.apply(variables, codes, condition).reshape(*tokens.shape, -1)
        return jax.lax.dynamic_index_in_dim(logits, t, 1, keepdims=False), state

    return (), step


def guided(stepper: Stepper, w: Number) -> Stepper:
    """Returns a stepper with classifier-free guidance of weight w, see `guide`."""

    def start(prior, variables, condition, batch):
        both = with_unlabelled(prior, condition, batch)
        state, step = stepper(prior, variables, both, 2 * batch)

        def guided_step(state, tokens, t):
            # Both halves go on from the guided tokens: one pass of twice the batch, with one cache.
            logits, state = step(state, jnp.concatenate([tokens, tokens]), t)
            return guide(logits, w), state

        return state, guided_step

    return start


def with_unlabelled(prior, condition: Condition, batch: int) -> Condition:
    """Doubles the batch of a condition: as it is, then without labels."""
    if not prior.classes:
        raise ValueError("guidance needs a prior with classes")
    twice = jax.tree.map(lambda x: jnp.concatenate([x, x]), condition)
    label = jnp.full(batch, -1, jnp.int32) if condition.label is None else condition.label
    return twice._replace(label=jnp.concatenate([label, jnp.full_like(label, -1)]))


def guide(logits: Float[Array, "two_B *rows K"], w: Number) -> Float[Array, "B *rows K"]:
    """Classifier-free guidance: (1 + w) l(k | label) - w l(k) (arXiv:2207.12598, equation 6).

    l(k) are the logits of label -1, the second half of a batch of `with_unlabelled`. w = 0 changes
    nothing; larger w make samples more typical of their label, and more alike.
    """
    labelled, unlabelled = jnp.split(logits, 2)
    return (1 + w) * labelled - w * unlabelled


@boundary
def free_codes(prior, batch: int) -> Int[Array, "B *grid Q"]:
    """Returns codes of -1 for `given`, all of which are to be drawn."""
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

    A pure function to be jitted (`prior`, `stepper` and `filters` are static).

    Args:
        key: consumed.
        prior: `TransformerPrior`, or with `stepper=uncached` any other.
        variables: of the prior.
        given: codes that are kept; -1 where they are drawn. None is given: `free_codes`.
        condition: of each example.
        stepper: `cached` or `uncached`.
        filters: such as `temperature`, `top_k`, `top_p`; applied one after another.
        guidance: w of `guide`, which takes a batch of twice the size; None: no guidance.

    Raises:
        ValueError, TypeError: from the prior; if guidance has no classes, or the prior no cache.

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
        # The key follows from t alone: cached and uncached steppers draw the same codes.
        new = jax.random.categorical(jax.random.fold_in(key, t), logits).astype(tokens.dtype)
        old = jax.lax.dynamic_index_in_dim(tokens, t, 1, keepdims=False)
        # Given codes are drawn too, and dropped: their pass through the prior fills the cache.
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
    """Log likelihood of each code in nats, 0 where there is none (-1)."""
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

    Codes that are not known (-1) are left out.

    Raises:
        TypeError: for a `MaskedPrior`, which gives no likelihood.
    """
    if isinstance(prior, MaskedPrior):
        raise TypeError("a MaskedPrior has no likelihood: it sees the codes that it predicts")
    logits = prior.apply(variables, codes, condition)
    return jnp.sum(log_probs(logits, codes), axis=range(1, codes.ndim))
