"""The nearest of codes whose scores are too close to tell, by comparing them in pairs.

    |z - e_i|^2 - |z - e_j|^2 = (e_j - e_i).((z - e_i) + (z - e_j))

In float32 its sign is right unless | |z - e_i| - |z - e_j| | < (D + 8) 2^-24 |e_i - e_j|, however
far z and the codes lie from the origin: differences of like numbers are exact.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt

from vqvae_jax.scores import Codes, code_blocks, product

RUN = 128  # in each round, one row is settled of each run of so many rows
NONE = jnp.iinfo(jnp.int32).max


class Rows(NamedTuple):
    """Rows, and what a search has found out about them."""

    k: Int[Array, "*N"]  # the nearest code, unless unsure
    unsure: Bool[Array, "*N"]
    pairs: Bool[Array, "*N"]  # whether scores are too inexact: all codes up to the limit compete
    limit: Float[Array, "*N"]  # codes with a greater score are not the nearest
    z: Float[Array, "*N D"]
    centred: Float[Array, "*N D"]  # what scores are made of


def settle(
    rows: Rows, e: Float[Array, "K D"], centred: Float[Array, "K D"], half: Float[Array, "K"]
) -> Int[Array, "N"]:
    """The index of each row, after comparing codes for those that are unsure.

    Args:
        rows: `[N]`.
        e, centred, half: the codes, as they are and as they are scored.
    """
    some, codes = jnp.any(rows.unsure), (e, centred, half)
    return jax.lax.cond(some, lambda: settle_all(rows, *codes), lambda: rows.k)


def settle_all(rows: Rows, e, centred, half) -> Int[Array, "N"]:
    """One row of each run after another, until all rows are sure."""
    n, runs = rows.k.shape[0], jax.tree.map(deal_runs, rows)
    codes = code_blocks(centred, half, runs.k.shape[0])
    names = jnp.pad(fingerprints(e), (0, codes.half.size - e.shape[0])).reshape(codes.half.shape)

    def settle_one_each(carry):
        k, unsure = carry
        at = jnp.argmax(unsure, axis=1)
        one = jax.tree.map(partial(pick, at), runs)
        settled = nearest_by_pairs(one, e, codes, names)[:, None]
        here = unsure & (jnp.arange(unsure.shape[1]) == at[:, None])
        return jnp.where(here, settled, k), unsure & ~here

    carry = (runs.k, runs.unsure)
    k, _ = jax.lax.while_loop(lambda carry: jnp.any(carry[1]), settle_one_each, carry)
    return k.reshape(-1)[:n]


def deal_runs(x: Array) -> Array:
    """`[N, ...]` to `[N / RUN, RUN, ...]`, filled up with zeros; one run if N is small."""
    n = x.shape[0]
    if not isinstance(n, int) or n <= RUN:
        return x[None]
    return jnp.pad(x, ((0, -n % RUN), *[(0, 0)] * (x.ndim - 1))).reshape(-1, RUN, *x.shape[1:])


def pick(at: Int[Array, "P"], x: Array) -> Array:
    """x[i, at_i] for each run i."""
    return jax.vmap(lambda row, i: row[i])(x, at)


def fingerprints(e: Float[Array, "K D"]) -> UInt[Array, "K"]:
    """A number for each code: equal codes have equal ones, and hardly any others."""
    bits = jax.lax.bitcast_convert_type(e, jnp.uint32)
    odd = np.random.default_rng(0).integers(2**31, size=e.shape[1], dtype=np.uint32) * 2 + 1
    mixed = (bits ^ (bits >> 15)) * odd
    return jnp.sum(mixed ^ (mixed >> 13), axis=1, dtype=jnp.uint32)


def nearest_by_pairs(
    rows: Rows, e: Float[Array, "K D"], codes: Codes, names: UInt[Array, "B C"]
) -> Int[Array, "P"]:
    """The nearest of the codes with a score <= limit, for each row; of equal codes the first."""

    def step(k, block):
        codes, names = block
        scores = codes.half[:, None] - product(codes.e, rows.centred)
        least = jnp.min(scores, axis=0)
        near = scores <= jnp.where(rows.pairs, rows.limit, jnp.minimum(least, rows.limit))
        place = jnp.arange(near.shape[0], dtype=jnp.int32)[:, None]

        def compare_next(carry):
            k, near = carry
            at = jnp.min(jnp.where(near, place, NONE), axis=0)
            j = codes.first + jnp.minimum(at, near.shape[0] - 1)
            found = at < NONE
            k = jnp.where(found & ((k < 0) | closer(rows.z, e[j], e[k])), j, k)
            return k, near & (names[:, None] != names[jnp.minimum(at, near.shape[0] - 1)])

        return jax.lax.while_loop(lambda c: jnp.any(c[1]), compare_next, (k, near))[0], None

    return jax.lax.scan(step, jnp.full_like(rows.k, -1), (codes, names))[0]


def closer(z, e_j, e_k) -> Bool[Array, "P"]:
    """Whether |z - e_j| < |z - e_k|."""
    return jnp.sum((e_k - e_j) * ((z - e_k) + (z - e_j)), axis=-1) < 0
