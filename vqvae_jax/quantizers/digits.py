"""Quantizers with one digit per dimension: the shared record, and packing into one stream.

Dimension i has a digit d_i from 0 to L_i - 1; the index is sum_i d_i prod_{j<i} L_j, so the first
dimension varies fastest (arXiv:2309.15505, appendix A.1). "Levels" are L_1..L_D, integers >= 2.
"""

import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient as sg
from jaxtyping import Array, Int

from vqvae_jax.checks import check_indices, check_rows
from vqvae_jax.conversions import boundary
from vqvae_jax.estimators import exactly
from vqvae_jax.quantizers.base import Output, Quantizer, local_key
from vqvae_jax.reductions import mean, valid_rows

Levels = Int[np.ndarray, "D"]


def digital(
    levels: Levels,
    bound: Callable[[Array], Array],
    digits: Callable,
    values: Callable,
    terms: Callable = lambda params, rows, y, z_q, axis_name: ({}, {}),
    *,
    perturb: Callable | None = None,
    start: Callable[[], dict[str, Array]] = dict,
) -> Quantizer:
    """Makes the record of a quantizer with a digit for each dimension, such as FSQ and LFQ.

    Args:
        levels: L_1..L_D.
        bound: z -> y, whose gradient is that of the quantizer.
        digits: (params, y) -> digits `[..., D]`.
        values: (params, digits) -> z_q `[..., D]`.
        terms: (params, rows, y, z_q, axis_name) -> losses, metrics.
        perturb: None, or (key, y, quantized) -> replacement of quantized in training.
        start: function that makes the initial params.
    """
    dim, vocab = len(levels), (math.prod(levels.tolist()),)

    def init(key):
        return start(), {}

    # `apply` goes through the index too, so that its result equals that of `decode` bit for bit. An
    # index out of range decodes to 0, like -1.
    def code(params, k):
        known = (k >= 0) & (k < vocab[0])
        return jnp.where(known, values(params, unpack(jnp.where(known, k, 0), levels)), 0)

    def apply(params, state, z, *, train=False, key=None, mask=None, axis_name=None):
        check_rows(z, dim)
        rows = valid_rows(z, mask, axis_name)
        valid, y = rows.weights[..., None] > 0, bound(rows.z)
        d = sg(digits(params, y)).astype(jnp.int32)
        k = jnp.where(valid, pack(d, levels), -1)
        z_q = code(params, k)
        losses, metrics = terms(params, rows, y, z_q, axis_name)
        error = mean(jnp.square(sg(y - z_q)), rows.weights, axis_name)
        # The gradient goes through y: only the rounding is straight-through, `bound` is not.
        quantized = exactly(z_q, y)
        if train and perturb is not None:
            quantized = jnp.where(valid, perturb(local_key(key, axis_name), y, quantized), 0)
        metrics = {"error": error, "invalid_rows": rows.invalid} | metrics
        return Output(quantized.astype(z.dtype), k, losses, metrics), state

    def decode(params, state, indices):
        check_indices(indices, vocab)
        return code(params, indices)

    return Quantizer(init, apply, decode, dim, vocab, stochastic=perturb is not None)


def check_levels(levels: Sequence[int]) -> Levels:
    """Returns the levels as an array; raises a ValueError unless they fit one stream."""
    if len(levels) > 31:  # checked before the product: an untrusted description may hold many
        raise ValueError(f"{len(levels)} levels do not fit a stream of int32: use grouped")
    whole = [n for n in levels if isinstance(n, int | np.integer) and 2 <= n <= 2**24]
    if not levels or len(whole) < len(levels):
        raise ValueError(f"levels must be integers from 2 to 2^24, got {levels!r}")
    size = math.prod(map(int, levels))
    if size > 2**31 - 1:
        raise ValueError(f"{size} codes do not fit a stream of int32: make several with grouped")
    return np.array(levels)


@boundary
def pack(digits: Int[Array, "*rows D"], levels: Levels) -> Int[Array, "*rows 1"]:
    """Packs digits into one index; the first digit varies fastest.

    Example:
        >>> pack(jnp.array([[1, 0], [2, 1]]), np.array([3, 2])).tolist()
        [[1], [5]]
    """
    # int32 suffices, since `check_levels` made sure that all codes fit.
    places = np.cumprod([1, *levels[:-1]]).astype(np.int32)
    return jnp.sum(digits * places, axis=-1, keepdims=True, dtype=jnp.int32)


@boundary
def unpack(k: Int[Array, "*rows 1"], levels: Levels) -> Int[Array, "*rows D"]:
    """Unpacks an index into its digits: the inverse of `pack`."""
    return k // np.cumprod([1, *levels[:-1]]).astype(np.int32) % levels.astype(np.int32)
