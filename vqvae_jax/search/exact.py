"""Exact nearest-code search in float32: k = argmin_j |z_e - e_j|_2."""

import math
from collections.abc import Callable
from functools import cache, partial

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.lax import stop_gradient as sg
from jaxtyping import Array, Bool, Float, Int

from vqvae_jax.conversions import boundary, under_defaults
from vqvae_jax.reductions import LARGEST_SQUARED_NORM, AxisName, is_valid, pmax, psum, vary
from vqvae_jax.search.joined_shards import join_shards
from vqvae_jax.search.near_ties import (
    ScannedRows,
    Scored,
    few_can_be_settled,
    settle,
    settle_few,
)
from vqvae_jax.search.pairs import power_of_two
from vqvae_jax.search.scans import SCAN, Scan, on_platform
from vqvae_jax.search.scores import Error, product

SAMPLE = 256  # codes whose mean is the centre: the mean of all costs a pass over the codebook
SMALL = 2**17  # largest N D K for which sums of squares are faster than scores
UNDERFLOW = 2.0**-124  # the most that a product can lose to underflow
LEAST_SQUARE = 2.0**-100  # sums of squares this large have lost nothing to underflow


@boundary
def nearest(
    z: Float[Array, "*rows D"], codebook: Float[Array, "K D"], axis_name: AxisName = None
) -> Int[Array, "*rows"]:
    """Index of the code nearest to each row: k = argmin_j |z - e_j|_2.

    The arithmetic is float32, whatever the dtypes, and there are two steps. The first computes all
    scores 1/2 |e_j|^2 - z.e_j, with z and e relative to the mean of the codebook and products in
    full precision (of 22 bits of each factor on a GPU), and a bound on their error. Where another
    code comes within the bound of the best, the second step compares those codes in pairs, by
    |z - e_i|^2 - |z - e_j|^2 = (e_j - e_i).((z - e_i) + (z - e_j)). The index is therefore that of
    float64, whatever the codebook, unless the least two distances agree to a relative
    (D + 8) 2^-22. This holds at any scale from 1e-36 to 1e15, and for codes or rows of mixed
    scales: vectors are scaled by a power of two before they are squared (differences below 2^-126
    count as 0). Ties go to the lowest index. Only one block of the N x K scores exists at a time.
    Small problems skip the scores and compute all sum_d (z_d - e_jd)^2, which is faster there.

    Under `jax.vmap` batches that share a codebook are searched as one.

    Args:
        z: rows, `[..., D]`.
        codebook: the codes e, `[K, D]`. A code that is not finite is never chosen.
        axis_name: within `jax.shard_map`, the mesh axis over which a codebook `[n K, D]` is
            sharded: each device searches its K codes, and all get the index among the n K.

    Returns:
        int32 `[...]`; -1 for a row that is not finite (or whose square overflows), and for every
        row if no code is finite.

    Raises:
        ValueError: if the codebook is not `[K, D]` with K >= 1 and the D of z.

    Example:
        >>> nearest(jnp.array([[0.1, 0.0], [0.9, 1.2]]), jnp.array([[0.0, 0.0], [1.0, 1.0]]))
        Array([0, 1], dtype=int32)
    """
    return search(z, codebook, axis_name, SCAN.get())


@partial(jax.jit, static_argnames=("axis_name", "scan"))
def search(
    z: Float[Array, "*rows D"],
    codebook: Float[Array, "K D"],
    axis_name: AxisName,
    scan: Scan | None,
) -> Int[Array, "*rows"]:
    """`nearest` by a scan, or by that of the platform."""
    check_shapes(z.shape, codebook.shape)
    if 0 in z.shape:
        return jnp.zeros(z.shape[:-1], jnp.int32)
    rows, d = z.shape[:-1], z.shape[-1]
    z, e = (sg(x).astype(jnp.float32) for x in (z, codebook))
    z = z.reshape(-1, d)
    k = of_rows(scan)(z, e) if axis_name is None else by_scores(z, e, axis_name, scan)
    return k.reshape(rows)


@cache  # JAX remembers what it has traced by the function
def of_rows(scan: Scan | None) -> Callable[[Array, Array], Array]:
    """The nearest codes of `[N, D]`, by whichever method is faster for these sizes."""

    # By default vmap would turn the `cond` of `by_scores` into a select, and every batch would pay
    # for comparisons in pairs. Rows of batches that share a codebook are just more rows.
    @custom_vmap
    def find(z, e):
        small = is_small(z.shape[0], *e.shape)
        return by_differences(z, e) if small else by_scores(z, e, scan=scan)

    @find.def_vmap
    @under_defaults  # this rule runs inside the caller's vmap, outside `boundary`
    def of_batches(size, batched, z, e):
        if batched[1]:
            return jax.vmap(find.fun, [0 if b else None for b in batched])(z, e), True
        return find(z.reshape(-1, z.shape[-1]), e).reshape(z.shape[:-1]), True

    return find


def is_small(n, size: int, d: int) -> bool:
    """Returns whether sums of squared differences are faster than products, measured on a CPU."""
    return isinstance(n, int) and (n <= 4 or n * size * d <= SMALL)


def by_differences(z: Float[Array, "N D"], e: Float[Array, "K D"]) -> Int[Array, "N"]:
    """The code with the least sum_d (z_d - e_jd)^2; the first of equal ones."""
    usable = is_valid(e)
    k = first_of_nearest(z, e[None], usable, jnp.arange(e.shape[0], dtype=jnp.int32))
    return jnp.where(is_valid(z) & jnp.any(usable), k, -1)


def first_of_nearest(
    z: Float[Array, "N D"],
    e: Float[Array, "#N M D"],
    usable: Bool[Array, "*N M"],
    k: Int[Array, "*N M"],
) -> Int[Array, "N"]:
    """The index k of the code e nearest by sum_d (z_d - e_d)^2; the lowest index at ties.

    Where the least sum is so small that underflow may have changed it, differences are scaled by a
    power of two before they are squared, so that those of the nearest code are about 1.
    """
    from_all = z[:, None] - e
    squared = jnp.where(usable, jnp.sum(jnp.square(from_all), axis=-1), jnp.inf)
    squared = jax.lax.optimization_barrier(squared)  # else XLA computes it again for each use

    def scaled():
        largest = jnp.where(usable, jnp.max(jnp.abs(z[:, None] - e), axis=-1), jnp.inf)
        unit = power_of_two(jnp.min(largest, axis=1))[:, None, None]
        return jnp.where(usable, jnp.sum(jnp.square((z[:, None] - e) / unit), axis=-1), jnp.inf)

    # Rare enough to redo the whole block: a choice per row would be a select, which always computes
    # both.
    lost = jnp.any(jnp.min(squared, axis=1) < LEAST_SQUARE)
    squared = jax.lax.cond(lost, scaled, lambda: squared)
    # `min` and a comparison instead of `argmin`, which XLA reduces much more slowly on a CPU.
    least = jnp.min(squared, axis=1, keepdims=True)
    return jnp.min(jnp.where(squared == least, k, jnp.iinfo(jnp.int32).max), axis=1)


def by_scores(
    z: Float[Array, "N D"],
    e: Float[Array, "K D"],
    axis_name: AxisName = None,
    scan: Scan | None = None,
) -> Int[Array, "N"]:
    """The code of the least score where rounding cannot change it, else the nearest by pairs."""
    codes = centred(e, axis_name)
    shortest, longest = shortest_and_longest(codes.half, axis_name)

    def scores(scan: Scan, z):
        return scan.over(partial(best_scores, scan, codes, shortest, longest, axis_name), z)

    found, squared, slack, whole = scores(scan, z) if scan else on_platform(scores, z)
    valid = (whole < LARGEST_SQUARED_NORM) & (shortest < jnp.inf)  # False for NaN as well
    best, k, sure = join_shards(found, slack, e, axis_name)
    k, unsure = jnp.where(valid, k, -1), valid & ~sure

    # `settle` computes scores anew, in float32. There too the nearest code's is within the limit:
    # half the slack bounds the error of `best`, and of scores in float32 all the more. All codes
    # within the slack need comparing in pairs only where the slack exceeds the promised relative
    # accuracy; elsewhere only those that equal the least score of a block.
    inexact = slack > (z.shape[-1] + 8) * 2.0**-22 * (squared + 2 * best)  # |z - e_k|^2
    rows = ScannedRows(k, unsure, inexact, best + slack, z)
    if few_can_be_settled(z.shape[0], e.shape[0], axis_name):
        rows = settle_few(rows, codes)
    # Outside the blocks of rows, so that the unsure rows of all blocks share the same rounds.
    settled = partial(settle, rows, codes, axis_name)
    return jax.lax.cond(jnp.any(rows.unsure), settled, lambda: rows.k)


def centred(e: Float[Array, "K D"], axis_name: AxisName = None) -> Scored:
    """Prepares codes for scoring: relative to a centre, scaled by a power of two.

    Any centre gives the same index. Near the mean, scores and their rounding errors are small, so
    that most rows need no comparison in pairs.
    """
    some = e[:: max(e.shape[0] // SAMPLE, 1)]
    # A NaN, or a code too large to be squared, would spoil the centre for all codes.
    some = jnp.where(jnp.abs(some) < math.sqrt(LARGEST_SQUARED_NORM), some, 0)
    total = psum(product(jnp.ones((1, len(some)), jnp.float32), some.T)[0], axis_name)
    # Summed over the shards: scores of different shards compare only if their centre is the same.
    n = psum(len(some), axis_name)
    # Cut to 22 bits: a compiler may contract x - total / n, which rounds less than x - centre does,
    # in one place and not in another; z and e would then be relative to two different centres.
    centre = jax.lax.reduce_precision(total / n, 8, 22)
    usable = is_valid(e)
    y = jnp.where(usable[:, None], e - centre, 0)
    scale = 1 / power_of_two(pmax(jnp.max(jnp.abs(y)), axis_name))
    y = scale * y
    half = jnp.where(usable, 0.5 * jnp.sum(y * y, axis=-1), jnp.inf)
    return Scored(e, centre, scale, y, half)


def best_scores(scan: Scan, codes: Scored, shortest, longest, axis_name: AxisName, z):
    """The triple of each row, |y|^2, the slack, and |z - centre|^2 (not finite: invalid row)."""
    y, whole = codes.place(z)
    squared = jnp.sum(y * y, axis=-1)
    slack = rounding(jnp.sqrt(squared), shortest, longest, z.shape[-1], scan.error(z.shape[-1]))
    # Rows are equal on all shards, scores are not, and `shard_map` demands that types say so.
    here, margin = vary((y, slack), axis_name)
    return scan.search(here, codes.y, codes.half, margin), squared, slack, whole


def shortest_and_longest(half: Float[Array, "K"], axis_name: AxisName) -> tuple[Array, Array]:
    """The least and the greatest |y_j| of the usable codes; inf and 0 if there is none."""
    least, greatest = jnp.min(half), jnp.max(jnp.where(half < jnp.inf, half, 0))
    least, greatest = -pmax(-least, axis_name), pmax(greatest, axis_name)
    return jnp.sqrt(2 * least), jnp.sqrt(2 * greatest)


def rounding(norm: Float[Array, "N"], shortest, longest, d: int, error: Error) -> Float[Array, "N"]:
    """Bound on the error in the difference of two scores that may be the least, for rows |z| long.

    It is twice that of a score. The nearest code is at most |z| + |e_j| away, for any j, so its
    norm is at most 2 |z| + min_j |e_j|. Underflow costs each product less than UNDERFLOW.
    """
    # With the greatest |e_j| alone, a single runaway code would make every row unsure.
    e = jnp.maximum(jnp.minimum(longest, 2 * norm + shortest), error.least * longest)
    return 2 * error.relative * e * (norm + 0.5 * e) + d * UNDERFLOW


def check_shapes(z: tuple, codebook: tuple) -> None:  # of ints, or symbolic (jax.export)
    """Raises a ValueError unless z `[..., D]` can be looked up in a codebook `[K, D]`."""
    if len(codebook) != 2 or codebook[0] < 1 or codebook[1] < 1:
        raise ValueError(f"codebook must be [K, D] with K, D >= 1, got shape {codebook}")
    if len(z) < 1 or z[-1] != codebook[1]:
        raise ValueError(f"z must be [..., {codebook[1]}] like the codebook {codebook}, got {z}")
