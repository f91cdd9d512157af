"""Sharded codebooks: each device of a mesh axis holds part of the codes and their statistics."""

import dataclasses

import jax
import jax.numpy as jnp

from vqvae_jax.checks import check_size
from vqvae_jax.quantizers.codebooks.storage import Codebook
from vqvae_jax.reductions import in_shard, pmax
from vqvae_jax.saving.describe import described


@described
def sharded(codebook: Codebook, n: int, axis_name: str = "codebook") -> Codebook:
    """Shards n K codes over the n devices of a mesh axis; each holds its K codes in `codebook`.

    It works within `jax.shard_map`, where rows are equal on all devices of this axis. The arrays of
    params and state, except scalars, are sharded over it on axis 0. Another mesh axis may split the
    rows. A device searches its own codes, sums the rows that chose them, and initialises and resets
    them with a key of its own. Between devices travel, per row, a few numbers to find the nearest
    code, and z_q. Codes, `quantized` and losses are those of the whole codebook on one device.
    Moving averages differ in their smoothing, which uses the counts of K codes instead of n K, and
    a re-seeded code starts with the mean count of its shard.

    Args:
        codebook: codebook of K codes.
        n: number of devices along the axis.
        axis_name: name of the axis, which must not be that of the rows.

    Example:
        >>> import jax, vqvae_jax as vj
        >>> from jax.sharding import AxisType, PartitionSpec as P
        >>> q = vj.codebook_vq(vj.codebooks.sharded(vj.codebooks.ema(64, 8), n=1))
        >>> mesh = jax.make_mesh((1,), ("codebook",), (AxisType.Auto,))
        >>> init = jax.shard_map(q.init, mesh=mesh, in_specs=P(), out_specs=P("codebook"))
        >>> q.vocab, init(jax.random.key(0))[1]["codebook"].shape
        ((64,), (64, 8))
    """
    check_size(n=n)

    # Each shard has its own key: with a shared one all would reset their codes to the same rows.
    def own(key):
        return None if key is None else jax.random.fold_in(key, jax.lax.axis_index(axis_name))

    def begin(params, state, key, *args):
        return codebook.begin(params, state, own(key), *args)

    def update(params, state, key, rows, k, rows_axis):
        # Rows that chose codes of other shards become -1, which no sum counts, so that the codebook
        # below need not know of shards.
        mine = in_shard(k, codebook.size, axis_name)
        return codebook.update(params, state, own(key), rows, mine, rows_axis)

    def edit(params, state, fn):
        # `fn` sees all codes, as callers of `set_codes` expect; each device then cuts out its part.
        def part(e):
            new = fn(jax.lax.all_gather(e, axis_name, tiled=True))
            return jax.lax.dynamic_slice_in_dim(new, jax.lax.axis_index(axis_name) * len(e), len(e))

        assert codebook.edit is not None
        return codebook.edit(params, state, part)

    def adopt(state):
        assert codebook.adopt is not None
        by_hand, adopted = codebook.adopt(state)
        # All devices must take the same branch of the `cond` in `lookup_quantizer`: an update may
        # reduce over this axis, as `underused` does, and would wait forever for the other devices.
        return pmax(by_hand.astype(jnp.int32), axis_name) > 0, adopted

    # call=None, because @described sets the call of `sharded`, not that of the inner record.
    return dataclasses.replace(
        codebook,
        call=None,
        init=lambda key: codebook.init(own(key)),
        begin=begin,
        update=update,
        size=n * codebook.size,
        shards=axis_name,
        edit=edit if codebook.edit else None,
        adopt=adopt if codebook.adopt else None,
    )
