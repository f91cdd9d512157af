"""Product quantization: slices of the channels, with a quantizer for each or one for all."""

import jax.numpy as jnp
import numpy as np

from vqvae_jax.checks import check_indices, check_rows, check_size
from vqvae_jax.quantizers.base import Quantizer
from vqvae_jax.quantizers.combinators.composition import (
    check_members,
    check_streams,
    edit_members,
    edit_shared,
    init_members,
    join_outputs,
    member_keys,
    report_rows,
    split_streams,
)
from vqvae_jax.reductions import valid_rows
from vqvae_jax.saving.describe import described


@described
def grouped(*qs: Quantizer) -> Quantizer:
    """Product quantization: each member quantizes its own slice of the channels.

    z = [z_1 .. z_G] in slices of the members' D_i, quantized = [q_1(z_1) .. q_G(z_G)], and the loss
    is sum_i D_i / D loss_i, a mean over all elements of z, however many groups there are. A row
    that is not finite in one slice is invalid in all. With one member the result equals it.

    Args:
        *qs: the members, of any kind. Params and state are {"0": ..., "1": ...}.

    Raises:
        ValueError: if there is no member.
        TypeError: if a member is not a Quantizer.

    Example:
        >>> import vqvae_jax as vj
        >>> q = grouped(vj.vq(512, 6), vj.ema_vq(16, 2))
        >>> q.dim, q.vocab
        (8, (512, 16))
    """
    check_members(qs)
    check_streams(sum(len(q.vocab) for q in qs))
    dim, vocab = sum(q.dim for q in qs), tuple(size for q in qs for size in q.vocab)
    ends = np.cumsum([q.dim for q in qs])[:-1]

    def apply(params, state, z, *, train=False, key=None, mask=None, axis_name=None):
        check_rows(z, dim)
        rows = valid_rows(z, mask, axis_name)
        options = {"train": train, "mask": rows.weights, "axis_name": axis_name}
        # `valid_rows` comes before the split, so that all members see the same valid rows.
        slices, outs, new = jnp.split(rows.z, ends, axis=-1), [], {}
        for i, (q, k) in enumerate(zip(qs, member_keys(key, len(qs)), strict=True)):
            member = params[str(i)], state[str(i)]
            out, new[str(i)] = q.apply(*member, slices[i], key=k, **options)
            outs.append(out)
        quantized = jnp.concatenate([out.quantized for out in outs], axis=-1).astype(z.dtype)
        # D_i / D turns the members' means over a slice into one mean over all elements.
        return join_outputs(
            outs, quantized, rows, [q.dim / dim for q in qs]
        ), new if train else state

    def decode(params, state, indices):
        check_indices(indices, vocab)
        members = enumerate(zip(qs, split_streams(qs, indices), strict=True))
        parts = [q.decode(params[str(i)], state[str(i)], codes) for i, (q, codes) in members]
        return jnp.concatenate(parts, axis=-1)

    stochastic = any(q.stochastic for q in qs)
    return Quantizer(init_members(qs), apply, decode, dim, vocab, stochastic, edit_members(qs))


@described
def heads(q: Quantizer, n: int) -> Quantizer:
    """Splits the channels into n slices and quantizes all with q, which sees n times as many rows.

    Params and state are q's. All slices of all rows make one update of the state, and losses are
    means over all of them. The streams are those of slice 0, then of slice 1, and so on.

    Args:
        q: the quantizer.
        n: number of slices; the dim is n q.dim.

    Raises:
        ValueError: if n is not an integer >= 1.
        TypeError: if q is not a Quantizer.

    Example:
        >>> import vqvae_jax as vj
        >>> q = heads(vj.vq(512, 4), n=2)
        >>> q.dim, q.vocab
        (8, (512, 512))
    """
    check_members([q])
    check_size(n=n)
    check_streams(n * len(q.vocab))
    dim, vocab = n * q.dim, q.vocab * n

    def merge(x, width):
        return x.reshape(*x.shape[:-2], n * width)

    def apply(params, state, z, *, train=False, key=None, mask=None, axis_name=None):
        check_rows(z, dim)
        rows = valid_rows(z, mask, axis_name)
        # Slices become one more axis of rows, so that one call makes one update from all of them.
        # Weights are shared by the slices of a row: invalid in one, it is invalid in all.
        slices, weights = rows.z.reshape(*z.shape[:-1], n, q.dim), rows.weights[..., None]
        out, new = q.apply(
            params, state, slices, train=train, key=key, mask=weights, axis_name=axis_name
        )
        return out._replace(
            quantized=merge(out.quantized, q.dim).astype(z.dtype),
            indices=merge(out.indices, len(q.vocab)),
            metrics=report_rows(out.metrics, rows),
        ), new

    def decode(params, state, indices):
        check_indices(indices, vocab)
        streams = indices.reshape(*indices.shape[:-1], n, len(q.vocab))
        return merge(q.decode(params, state, streams), q.dim)

    return Quantizer(q.init, apply, decode, dim, vocab, q.stochastic, edit_shared(q))
