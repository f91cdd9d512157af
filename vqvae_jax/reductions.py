"""Sums and means over rows, replicas and codes, and lookup of codes.

A *row* is one vector z [D] of an array [..., D]; a row of weight 0 does not count. Under
`axis_name` (the name that pmap, shard_map or vmap gives to the axis of replicas) each sum runs over
the rows of all replicas, so that every replica sees the statistics of the global batch.
"""

from collections.abc import Hashable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PRNGKeyArray

from vqvae_jax.checks import check_mask
from vqvae_jax.conversions import boundary

AxisName = Hashable | tuple[Hashable, ...] | None

# Up to this |z|^2, float32 has room for the sum over 2^27 rows.
LARGEST_SQUARED_NORM = 1e30


def psum(x, axis_name: AxisName = None):
    """Sum of each leaf of `x` over the replicas; `x` itself without an axis."""
    return x if axis_name is None else jax.lax.psum(x, axis_name)


def pmax(x, axis_name: AxisName = None):
    """Maximum of each leaf of `x` over the replicas; `x` itself without an axis."""
    return x if axis_name is None else jax.lax.pmax(x, axis_name)


def vary(x, axis_name: AxisName = None):
    """Casts `x`, equal on all replicas, to the type of arrays that may differ (`jax.shard_map`)."""
    # shard_map gives different types to what may differ between replicas and what doesn't, and
    # loops and branches demand one type throughout: without the cast, tracing fails.
    return x if axis_name is None else jax.lax.pcast(x, axis_name, to="varying")


def in_shard(k: Int[Array, "*rows"], size: int, axis_name: AxisName = None) -> Int[Array, "*rows"]:
    """Index within this device's shard of `size` codes; -1 for codes of other devices.

    Without an axis the codes are not sharded, and k is returned as it is.
    """
    if axis_name is None:
        return k
    k = k - jax.lax.axis_index(axis_name) * size
    return jnp.where((k >= 0) & (k < size), k, -1)


def is_valid(z: Float[Array, "*rows D"]) -> Bool[Array, "*rows"]:
    """Returns whether each row is finite, and small enough for its square to be summed in float32.

    Example:
        >>> is_valid(jnp.array([[1.0, 2.0], [jnp.nan, 0.0], [1e20, 0.0]]))
        Array([ True, False, False], dtype=bool)
    """
    z = z.astype(jnp.float32)
    return jnp.sum(z * z, axis=-1) < LARGEST_SQUARED_NORM  # False for NaN as well


def usable_codes(e: Float[Array, "K D"]) -> tuple[Bool[Array, "K"], Float[Array, "K D"]]:
    """Returns which codes are finite, and the codes with 0 in place of the others.

    In a product 0 times a NaN code would be NaN, so one broken code would reach every row.
    """
    usable = is_valid(e)
    return usable, jnp.where(usable[:, None], e, 0)


class Rows(NamedTuple):
    """The rows of a batch after `valid_rows`, with invalid ones set to 0."""

    z: Float[Array, "*rows D"]  # float32; 0 where invalid, which keeps gradients finite too
    weights: Float[Array, "*rows"]  # 0 where invalid
    any_valid: Bool[Array, ""]  # whether any replica has a valid row
    invalid: Float[Array, ""]  # number of rows, over all replicas, dropped as not finite


@boundary
def valid_rows(
    z: Float[Array, "*rows D"], mask: ArrayLike | None = None, axis_name: AxisName = None
) -> Rows:
    """Finds the valid rows, which are finite with a mask > 0, and sets the others to 0.

    Args:
        z: rows, `[..., D]`.
        mask: None, or weights >= 0 of the rank of `z.shape[:-1]`, broadcast to it.
        axis_name: axis of the replicas.

    Raises:
        ValueError: if the mask has another rank or does not broadcast.
    """
    finite, weights = is_valid(z), jnp.ones(z.shape[:-1], jnp.float32)
    if mask is not None:
        mask = jnp.asarray(mask, jnp.float32)
        check_mask(mask.shape, finite.shape)
        weights = jnp.broadcast_to(jnp.where(mask > 0, mask, 0), finite.shape)
    w = jnp.where(finite, weights, 0)
    rows = jnp.where((w > 0)[..., None], z, 0).astype(jnp.float32)
    # All replicas must agree whether to update. A batch without a valid row anywhere changes
    # nothing, but a single replica without valid rows still takes part.
    n, invalid = psum((jnp.sum(w), jnp.sum((weights > 0) & ~finite, dtype=jnp.float32)), axis_name)
    return Rows(rows, w, n > 0, invalid)


def mean(
    x: Float[Array, "*shape"],
    weights: Float[Array, "*rows"] | None = None,
    axis_name: AxisName = None,
) -> Float[Array, ""]:
    """Weighted mean of x over the rows of all replicas and over its remaining axes.

    sum_i w_i x_i / sum_i w_i for x `[*rows, *rest]` and weights `[*rows]`. The mean of no rows, or
    of rows that all have weight 0, is 0, never NaN.

    Example:
        >>> mean(jnp.array([[1.0, 3.0], [100.0, 100.0]]), jnp.array([1.0, 0.0]))
        Array(2., dtype=float32)
    """
    weights = jnp.ones(x.shape, x.dtype) if weights is None else weights
    # Sums cross the replicas, and one division follows. A mean of the replicas' means would weigh
    # unequal masks wrongly, and its gradient would be wrong inside shard_map (4 times too large on
    # 4 devices).
    w = jnp.broadcast_to(weights.reshape(weights.shape + (1,) * (x.ndim - weights.ndim)), x.shape)
    total, n = psum((jnp.sum(x * w), jnp.sum(w)), axis_name)
    return jnp.where(n > 0, total / jnp.where(n > 0, n, 1), 0)


def row_mean(
    x: Float[Array, "*rows D"],
    weights: Float[Array, "*rows"],
    axis_name: AxisName = None,
) -> Float[Array, "D"]:
    """Weighted mean row over all replicas, sum_i w_i x_i / sum_i w_i; 0 if no row counts.

    Example:
        >>> row_mean(jnp.array([[1.0, 2.0], [3.0, 6.0], [9.0, 9.0]]), jnp.array([1.0, 1.0, 0.0]))
        Array([2., 4.], dtype=float32)
    """
    total = jnp.sum(x * weights[..., None], axis=tuple(range(weights.ndim)))
    total, n = psum((total, jnp.sum(weights)), axis_name)
    return total / jnp.where(n > 0, n, 1)


@boundary
def sum_by_code(
    x: Float[Array, "*shape"],
    indices: Int[Array, "*rows"],
    size: int,
    axis_name: AxisName = None,
) -> Float[Array, "K *rest"]:
    """Sum of x `[*rows, *rest]` over the rows of each code, over all replicas: `[K, *rest]`.

    Rows whose index is -1 belong to no code.

    Example:
        >>> sum_by_code(jnp.array([1.0, 2.0, 4.0, 8.0]), jnp.array([0, 2, 2, -1]), size=3)
        Array([1., 0., 6.], dtype=float32)
    """
    x = x.reshape((indices.size, *x.shape[indices.ndim :]))
    # segment_sum drops what is out of range, and to it -1 is: it doesn't count from the end.
    return psum(jax.ops.segment_sum(x, indices.ravel(), size), axis_name)


@boundary
def lookup(
    codebook: Float[Array, "K D"], k: Int[Array, "*rows"], axis_name: AxisName = None
) -> Float[Array, "*rows D"]:
    """Looks up z_q = e_k; 0 for k = -1 ("not sent") and for k outside the codebook.

    With `axis_name`, as in `nearest`, the codebook is sharded over this mesh axis.

    Example:
        >>> lookup(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([1, -1]))
        Array([[3., 4.],
               [0., 0.]], dtype=float32)
    """
    k = in_shard(k, codebook.shape[0], axis_name)
    # Plain indexing takes -1 for the last code and clips what is too large. With shards exactly one
    # device holds each code, and the others add 0.
    known = (k >= 0) & (k < codebook.shape[0])
    return psum(jnp.where(known[..., None], codebook[jnp.where(known, k, 0)], 0), axis_name)


def sample_rows(
    key: PRNGKeyArray,
    z: Float[Array, "*rows D"],
    weights: Float[Array, "*rows"],
    n: int,
    axis_name: AxisName = None,
) -> Float[Array, "n D"]:
    """Draws n valid rows of the global batch, the same on every replica.

    One row is drawn from each of n equal parts of the batch, in random order: all are different if
    there are n rows or more, else rows repeat. The first replica's key decides. Without any valid
    row the result is 0.
    """
    # `random.choice` over the global batch would need to gather it. This takes one count from each
    # replica, and sends only the rows that are drawn.
    z, here = z.reshape(-1, z.shape[-1]), (weights > 0).reshape(-1)
    if z.shape[0] == 0:
        return psum(jnp.zeros((n, z.shape[-1]), jnp.float32), axis_name)
    rank = jnp.cumsum(here, dtype=jnp.int32)
    me = jnp.int32(0) if axis_name is None else jax.lax.axis_index(axis_name)
    replicas = jnp.arange(1 if axis_name is None else jax.lax.psum(1, axis_name), dtype=jnp.int32)
    # A psum of one-hot counts instead of all_gather: shard_map types a psum as equal everywhere,
    # and the drawn rows must be so typed, or the state could not stay replicated.
    counts = psum(jnp.where(replicas == me, rank[-1], 0), axis_name)
    key_order, key_place, key_turn = jax.random.split(key, 3)
    part = jax.random.permutation(key_order, jnp.arange(n, dtype=jnp.int32))
    total = jnp.maximum(jnp.sum(counts, dtype=jnp.int32), 1)
    width = total // n + (part < total % n)  # whole rows, so that no two parts share one
    begin = part * (total // n) + jnp.minimum(part, total % n)
    begin = jnp.where(width > 0, begin, part % total)  # fewer rows than parts: rows repeat
    drawn = begin + jax.random.randint(key_place, (n,), 0, jnp.maximum(width, 1), dtype=jnp.int32)
    # A common random shift, since parts differ in width by one: without it the rows of the narrower
    # parts, always the last ones, would be drawn more often.
    drawn = (drawn + jax.random.randint(key_turn, (), 0, total, dtype=jnp.int32)) % total
    # Replicas may have different keys; the first one's draw is used, so states stay bit-equal.
    drawn = psum(jnp.where(me == 0, drawn, 0), axis_name)
    local = drawn - jnp.sum(jnp.where(replicas < me, counts, 0), dtype=jnp.int32)
    # The valid row number `local` is where the running count of valid rows first reaches local + 1.
    # On replicas that don't hold it the place means nothing, and `mine` drops it.
    # Unrolled: as a loop, a GPU would launch several tiny kernels for each of its iterations.
    place = jnp.searchsorted(rank, local + 1, method="scan_unrolled")
    row = z[jnp.minimum(place, z.shape[0] - 1)]
    mine = (local >= 0) & (local < rank[-1])
    return psum(jnp.where(mine[:, None], row, 0), axis_name)
