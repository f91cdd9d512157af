"""Joins what the shards of a codebook have found, each device among its own codes."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vqvae_jax.reductions import AxisName, pmax, psum
from vqvae_jax.search.pairs import closer
from vqvae_jax.search.scores import Nearest


def join_shards(
    found: Nearest, slack: Float[Array, "N"], e: Float[Array, "K D"], axis_name: AxisName
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
    k = pmax(jnp.where(found.best == best, in_all(found.k, e, axis_name), -1), axis_name)
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
