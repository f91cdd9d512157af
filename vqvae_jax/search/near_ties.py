"""Near ties of the nearest-code search: codes whose scores are too close, compared in pairs.

    |z - e_i|^2 - |z - e_j|^2 = (e_j - e_i).((z - e_i) + (z - e_j))

In float32 the sign of the right side is correct unless
| |z - e_i| - |z - e_j| | < (D + 8) 2^-24 |e_i - e_j|, however far z and the codes lie from the
origin: differences of nearly equal numbers are exact.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt

from vqvae_jax.reductions import AxisName, pmax, psum, vary
from vqvae_jax.search.scores import Codes, Nearest, code_blocks, product

FARTHEST = 2.0**60  # largest |y|: its square, plus half the square of a code, stays finite
# Unsure rows are few, but their number is known only at run time and shapes are fixed before. So
# each round settles one row in every run of RUN rows; all rows at once would recompute all N x K
# scores.
RUN = 128


class ScannedRows(NamedTuple):
    """Rows after a search by scores."""

    k: Int[Array, "*N"]  # the nearest code, unless unsure
    unsure: Bool[Array, "*N"]
    pairs: Bool[Array, "*N"]  # whether all codes up to the limit compete, as scores are too inexact
    limit: Float[Array, "*N"]  # codes with a greater score are not the nearest
    z: Float[Array, "*N D"]


class Scored(NamedTuple):
    """Codes prepared for scoring: all of them, or those of one shard."""

    e: Float[Array, "K D"]
    centre: Float[Array, "D"]
    scale: Float[Array, ""]  # a power of two that makes the largest |e - centre| about 1
    y: Float[Array, "K D"]  # scale (e - centre), which is what is scored
    half: Float[Array, "K"]  # 1/2 |y|^2, or inf: never chosen

    def place(self, z: Float[Array, "N D"]) -> tuple[Float[Array, "N D"], Float[Array, "N"]]:
        """Returns rows prepared for scoring, y = scale (z - centre), and |z - centre|^2.

        Rows so far away that float32 can't tell the codes apart get a smaller scale.
        """
        y = z - self.centre
        squared = jnp.sum(y * y, axis=-1)
        scale = jnp.minimum(self.scale, FARTHEST / power_of_two(jnp.sqrt(squared)))
        return y * scale[:, None], squared


def settle(rows: ScannedRows, codes: Scored, axis_name: AxisName = None) -> Int[Array, "N"]:
    """Returns the index k of each row; unsure rows get it by comparing codes in pairs.

    Each round settles one unsure row of each run, until all rows are sure.

    Args:
        rows: `[N]`.
        codes: `[K]`.
        axis_name: the mesh axis over which the codes are sharded.
    """
    n, runs = rows.k.shape[0], jax.tree.map(split_runs, rows)
    blocks = code_blocks(codes.y, codes.half, runs.k.shape[0])
    # Hashed once for all rounds: equal codes are then recognised by one number instead of D.
    names = jnp.pad(fingerprints(codes.e), (0, blocks.half.size - codes.half.size))
    names = names.reshape(blocks.half.shape)

    def settle_one_each(carry):
        k, unsure = carry
        # The first unsure row of each run. A run without one takes its row 0, whose result `here`
        # drops: with fixed shapes, skipping it would save nothing.
        at = jnp.argmax(unsure, axis=1)
        one = jax.tree.map(partial(pick, at), runs)
        settled = nearest_by_pairs(vary(one, axis_name), codes, blocks, names)
        settled = nearest_of_shards(one.z, settled, codes.e, axis_name)[:, None]
        here = unsure & (jnp.arange(unsure.shape[1], dtype=jnp.int32) == at[:, None])
        return jnp.where(here, settled, k), unsure & ~here

    carry = (runs.k, runs.unsure)
    k, _ = jax.lax.while_loop(lambda carry: jnp.any(carry[1]), settle_one_each, carry)
    return k.reshape(-1)[:n]


def split_runs(x: Array) -> Array:
    """Reshapes `[N, ...]` to `[N / RUN, RUN, ...]`, padded with zeros; one run if N is small."""
    n = x.shape[0]
    if not isinstance(n, int) or n <= RUN:
        return x[None]
    return jnp.pad(x, ((0, -n % RUN), *[(0, 0)] * (x.ndim - 1))).reshape(-1, RUN, *x.shape[1:])


def pick(at: Int[Array, "P"], x: Array) -> Array:
    """x[i, at_i] for each run i."""
    return jax.vmap(lambda row, i: row[i])(x, at)


def fingerprints(e: Float[Array, "K D"]) -> UInt[Array, "K"]:
    """Hashes of the codes: equal for equal codes, and hardly ever for different ones."""
    # Odd multipliers lose no bits; the shifts mix the high bits of a float into the low ones.
    bits = jax.lax.bitcast_convert_type(e, jnp.uint32)
    odd = np.random.default_rng(0).integers(2**31, size=e.shape[1], dtype=np.uint32) * 2 + 1
    mixed = (bits ^ (bits >> 15)) * odd
    return jnp.sum(mixed ^ (mixed >> 13), axis=1, dtype=jnp.uint32)


def nearest_by_pairs(
    rows: ScannedRows, codes: Scored, blocks: Codes, names: UInt[Array, "B C"]
) -> Int[Array, "P"]:
    """The nearest among the codes with a score <= limit, for each row; the first at ties."""

    y, e = codes.place(rows.z)[0], codes.e

    def step(k, block):
        codes, names = block
        scores = codes.half[:, None] - product(codes.e, y)
        least = jnp.min(scores, axis=0)
        near = scores <= jnp.where(rows.pairs, rows.limit, jnp.minimum(least, rows.limit))
        place = jnp.arange(near.shape[0], dtype=jnp.int32)[:, None]

        # A tournament in the order of the indices: `closer` is strict, so ties keep the lower one.
        def compare_next(carry):
            k, near = carry
            at = jnp.min(jnp.where(near, place, near.shape[0] - 1), axis=0)
            j, found = codes.first + at, jnp.any(near, axis=0)
            k = jnp.where(found & ((k < 0) | closer(rows.z, e[j], e[k])), j, k)
            # All copies of a code leave at once: in a collapsed codebook each copy would otherwise
            # take a round.
            return k, near & (names[:, None] != names[at])

        return jax.lax.while_loop(lambda c: jnp.any(c[1]), compare_next, (k, near))[0], None

    return jax.lax.scan(step, jnp.full_like(rows.k, -1), (blocks, names))[0]


def closer(z, e_j, e_k) -> Bool[Array, "P"]:
    """Returns whether |z - e_j| < |z - e_k|, by the product at the head of this file."""
    apart, off = near_one(e_k - e_j), near_one((z - e_k) + (z - e_j))
    return jnp.sum(apart * off, axis=-1) < 0


def near_one(x: Float[Array, "P D"]) -> Float[Array, "P D"]:
    """Scales x by a power of two so that max |x_d| is in [1, 2): exact, and nothing underflows."""
    return x / power_of_two(jnp.max(jnp.abs(x), axis=-1, keepdims=True))


def power_of_two(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The greatest power of two <= x, at least 2^-126.

    Example:
        >>> power_of_two(jnp.array([1.0, 3.9, 0.7, 0.0, 1e30]))
        Array([1.0000000e+00, 2.0000000e+00, 5.0000000e-01, 1.1754944e-38,
               6.3382530e+29], dtype=float32)
    """
    # Only the exponent bits are kept: exp2(floor(log2(x))) need not be a power of two to the last
    # bit, and then scaling would round. 1 << 23 is 2^-126, the least normal number.
    bits = jax.lax.bitcast_convert_type(x, jnp.int32)
    return jax.lax.bitcast_convert_type(jnp.maximum(bits & 0x7F800000, 1 << 23), jnp.float32)


def join_shards(
    found: Nearest, slack: Float[Array, "N"], codes: Scored, axis_name: AxisName
) -> Nearest:
    """Joins the results of all shards of the codes; the index is that in the whole codebook."""
    if axis_name is None:
        return found
    best = -pmax(-found.best, axis_name)
    # Sure only if one shard alone comes within the slack, and was sure of its own winner. A shard
    # farther away need not have been sure.
    near = found.best <= best + slack
    count, doubtful = psum(
        (near.astype(jnp.int32), (near & ~found.sure).astype(jnp.int32)), axis_name
    )
    k = pmax(jnp.where(found.best == best, in_all(found.k, codes.e, axis_name), -1), axis_name)
    return Nearest(best, k, (count == 1) & (doubtful == 0))


def nearest_of_shards(
    z: Float[Array, "P D"], k: Int[Array, "P"], e: Float[Array, "K D"], axis_name: AxisName
) -> Int[Array, "P"]:
    """The nearest among the shards' codes k, as an index in the whole codebook; -1 if none."""
    if axis_name is None:
        return k
    mine = jnp.where(k < 0, -1, in_all(k, e, axis_name)), e[jnp.maximum(k, 0)]

    # Shards are compared in order, so that ties go to the lowest index, as on one device.
    def compare(best, shard):
        (k, e_k), (j, e_j) = best, shard
        better = (j >= 0) & ((k < 0) | closer(z, e_j, e_k))
        return (jnp.where(better, j, k), jnp.where(better[:, None], e_j, e_k)), None

    shards = jax.lax.all_gather(mine, axis_name)
    first = jax.tree.map(lambda x: x[0], shards)
    # The result is already equal on all devices; pmax only makes its type say so to `shard_map`.
    return pmax(jax.lax.scan(compare, first, shards)[0][0], axis_name)


def in_all(k: Int[Array, "N"], e: Float[Array, "K D"], axis_name: AxisName) -> Int[Array, "N"]:
    """Index in the whole codebook of code k of this device's shard."""
    return k + jax.lax.axis_index(axis_name) * e.shape[0]
