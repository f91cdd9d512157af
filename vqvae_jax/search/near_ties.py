"""Near ties of the nearest-code search: rows whose best code is not sure get it here."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt

from vqvae_jax.reductions import AxisName, vary
from vqvae_jax.search.joined_shards import nearest_of_shards
from vqvae_jax.search.pairs import closer, power_of_two
from vqvae_jax.search.scores import Codes, code_blocks, product

FARTHEST = 2.0**60  # largest |y|: its square, plus half the square of a code, stays finite
# Unsure rows are few, but their number is known only at run time and shapes are fixed before. So
# each round settles one row in every run of RUN rows; all rows at once would recompute all N x K
# scores. On accelerators it is MANY rows in every run of MANY times RUN, of which fewer runs have
# more than their share: a round there costs waits for the device.
RUN, MANY = 128, 16
FEW = 4  # codes that `settle_few` compares for a row
MOST = 2**27  # scores of `settle_few`, which exist at once


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


def few_can_be_settled(n, size: int, axis_name: AxisName) -> bool:
    """Returns whether `settle_few` pays: on accelerators, where loops wait for the device."""
    known = isinstance(n, int) and axis_name is None
    return jax.default_backend() != "cpu" and known and -(-n // RUN) * size <= MOST


def settle_few(rows: ScannedRows, codes: Scored) -> ScannedRows:
    """Settles up to MANY unsure rows of each run to whose limit at most FEW codes come, at once.

    That is nearly all of them, unless codes are equal or far from the rows. There is no loop, and
    nothing waits for the device.
    """
    many = min(MANY, rows.k.shape[0])
    runs = jax.tree.map(partial(split_runs, run=many * RUN), rows)
    at = first_true(runs.unsure, many)
    some = jax.tree.map(partial(pick, at), runs)
    scores = codes.half - product(codes.place(some.z)[0], codes.y)
    least, k = jax.lax.top_k(-scores, min(FEW + 1, scores.shape[1]))
    near = -least <= some.limit[:, None]
    # In the order of the indices, as in `nearest_by_pairs`: ties keep the lower one.
    j = jnp.sort(jnp.where(near, k, scores.shape[1]), axis=1)[:, :FEW]
    best = j[:, 0]
    for other in j.T[1:]:
        e_j, e_best = codes.e[other], codes.e[best]  # out of range: clipped, and not `found`
        found = (other < scores.shape[1]) & closer(some.z, e_j, e_best)
        best = jnp.where(found, other, best)
    settled = near[:, 0] & ~jnp.any(near[:, FEW:], axis=1)
    k, unsure = written(runs.k, runs.unsure, at, best, settled)
    n = rows.k.shape[0]
    return rows._replace(k=k.reshape(-1)[:n], unsure=unsure.reshape(-1)[:n])


def settle(rows: ScannedRows, codes: Scored, axis_name: AxisName = None) -> Int[Array, "N"]:
    """Returns the index k of each row; unsure rows get it by comparing codes in pairs.

    Each round settles one unsure row of each run, or a few, until all rows are sure.

    Args:
        rows: `[N]`.
        codes: `[K]`.
        axis_name: the mesh axis over which the codes are sharded.
    """
    n = rows.k.shape[0]
    many = 1 if jax.default_backend() == "cpu" or not isinstance(n, int) else min(MANY, n)
    runs = jax.tree.map(partial(split_runs, run=many * RUN), rows)
    blocks = code_blocks(codes.y, codes.half, many * runs.k.shape[0])
    # Hashed once for all rounds: equal codes are then recognised by one number instead of D.
    names = jnp.pad(fingerprints(codes.e), (0, blocks.half.size - codes.half.size))
    names = names.reshape(blocks.half.shape)

    def settle_some(carry):
        k, unsure = carry
        # The first unsure rows of each run. A run with fewer takes others, whose result is
        # dropped: with fixed shapes, skipping them would save nothing.
        at = first_true(unsure, many)
        some = jax.tree.map(partial(pick, at), runs)
        found = nearest_by_pairs(vary(some, axis_name), codes, blocks, names)
        found = nearest_of_shards(some.z, found, codes.e, axis_name)
        return written(k, unsure, at, found, jnp.ones_like(found, bool))

    carry = (runs.k, runs.unsure)
    k, _ = jax.lax.while_loop(lambda carry: jnp.any(carry[1]), settle_some, carry)
    return k.reshape(-1)[:n]


def written(
    k: Int[Array, "R M"],
    unsure: Bool[Array, "R M"],
    at: Int[Array, "R T"],
    found: Int[Array, "P"],
    settled: Bool[Array, "P"],
) -> tuple[Int[Array, "R M"], Bool[Array, "R M"]]:
    """Writes the codes of settled rows, at these places, if they were unsure."""
    here = (at[:, :, None] == jnp.arange(k.shape[1], dtype=jnp.int32)) & unsure[:, None]
    here = here & settled.reshape(at.shape)[:, :, None]
    new = jnp.sum(jnp.where(here, found.reshape(at.shape)[:, :, None], 0), axis=1, dtype=jnp.int32)
    now = jnp.any(here, axis=1)
    return jnp.where(now, new, k), unsure & ~now


def split_runs(x: Array, run: int) -> Array:
    """Reshapes `[N, ...]` to `[N / run, run, ...]`, padded with zeros; one run if N is small."""
    n = x.shape[0]
    if not isinstance(n, int) or n <= run:
        return x[None]
    return jnp.pad(x, ((0, -n % run), *[(0, 0)] * (x.ndim - 1))).reshape(-1, run, *x.shape[1:])


def first_true(x: Bool[Array, "R M"], many: int) -> Int[Array, "R T"]:
    """The places of the first true values of each run, then of others."""
    if many == 1:  # much faster than to sort, on a CPU
        return jnp.argmax(x, axis=1, keepdims=True).astype(jnp.int32)
    return jax.lax.top_k(x.astype(jnp.float32), many)[1]


def pick(at: Int[Array, "R T"], x: Array) -> Array:
    """x[i, at_it] for each run i and each t, `[R T, ...]`."""
    return jax.vmap(lambda run, i: run[i])(x, at).reshape(-1, *x.shape[2:])


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
