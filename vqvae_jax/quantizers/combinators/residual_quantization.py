"""Residual quantization: each stage quantizes the residual of the stages before it.

r_1 = z, r_{i+1} = r_i - q_i(r_i), z_q = sum_i q_i(r_i). `residual` takes different stages, `repeat`
n equal ones that are compiled once, and `shared` n stages with one codebook.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient as sg

from vqvae_jax.checks import check_indices, check_rows, check_size
from vqvae_jax.estimators import Estimator, straight_through
from vqvae_jax.quantizers.base import Quantizer
from vqvae_jax.quantizers.codebooks.editing import edit_codes
from vqvae_jax.quantizers.combinators.composition import (
    check_members,
    check_same_dim,
    check_streams,
    edit_members,
    edit_shared,
    init_members,
    join_outputs,
    member_keys,
    split_streams,
)
from vqvae_jax.quantizers.combinators.dropout import Dropout, draw_depths
from vqvae_jax.quantizers.combinators.stages import (
    advance,
    estimate,
    scan_stages,
    scan_sum,
    stacked_keys,
)
from vqvae_jax.reductions import valid_rows
from vqvae_jax.saving.describe import described


@described
def residual(
    *qs: Quantizer, estimator: Estimator | None = straight_through, dropout: Dropout = None
) -> Quantizer:
    """Residual quantization: each stage quantizes the residual of the stages before it.

    arXiv:2107.03312, arXiv:2203.01941. r_1 = z, r_{i+1} = r_i - sg[q_i(r_i)], and quantized =
    estimator(z, sum_i q_i(r_i)). The losses of a stage are means over the rows that it sees, and
    add up by name over the stages. They move z and the stage's own codes, never those of another
    stage. With one stage the result equals it.

    A prefix of the streams is a coarser code: if the later ones are -1, `decode` gives the sum of
    the first stages. With -1 in all streams but i, it decodes `arange(K)` to the codebook of stage
    i.

    Args:
        *qs: the stages, all of the same D. Params and state are {"0": ..., "1": ...}.
        estimator: gradient estimator `(z_e, z_q) -> z_q` for the sum; a gradient that it passes to
            z_q goes on through the stages' own estimators. None uses these alone:
            r_{i+1} = r_i - q_i(r_i), and quantized is the sum of what the stages return. Stages
            whose params learn by the gradient of `quantized` (Gumbel, DiVeQ, the up-projection of
            `project`) need None, since under an estimator they don't learn.
        dropout: None, or `quantizer_dropout()`, by which some examples use only the first stages in
            training.

    Raises:
        ValueError: if there is no stage, or their D differ.
        TypeError: if a stage is not a Quantizer.

    Example:
        >>> import vqvae_jax as vj
        >>> q = residual(vj.vq(512, 8), vj.vq(16, 8))
        >>> params, state = q.init(jax.random.key(0))
        >>> out, _ = q.apply(params, state, jnp.ones((3, 8)))
        >>> q.vocab, out.indices.shape
        ((512, 16), (3, 2))
        >>> coarse = q.decode(params, state, out.indices.at[:, 1].set(-1))
    """
    check_members(qs)
    check_same_dim(qs)
    check_streams(sum(len(q.vocab) for q in qs))
    vocab = tuple(size for q in qs for size in q.vocab)

    def apply(params, state, z, *, train=False, key=None, mask=None, axis_name=None):
        check_rows(z, qs[0].dim)
        rows = valid_rows(z, mask, axis_name)
        key, depths = draw_depths(dropout, len(qs), z, train, key, axis_name)
        # The residual stays float32 whatever the dtype of z; bfloat16 would leave nothing to later
        # stages.
        carry, outs, new = (rows.z, jnp.zeros_like(rows.z)), [], {}
        for i, (q, k) in enumerate(zip(qs, member_keys(key, len(qs)), strict=True)):
            member = params[str(i)], state[str(i)]
            stage = partial(q.apply, *member, train=train, key=k, axis_name=axis_name)
            # Weight 0 makes the rows of dropped examples invalid: index -1, vector 0, no
            # statistics.
            seen = jnp.where(i < depths, rows.weights, 0)
            carry, out, new[str(i)] = advance(stage, carry, seen, estimator)
            outs.append(out)
        quantized = estimate(estimator, len(qs), rows.z, carry[1]).astype(z.dtype)
        # Eval mode returns the very state that was given, as the contract demands.
        return join_outputs(outs, quantized, rows), new if train else state

    def decode(params, state, indices):
        check_indices(indices, vocab)
        # Added in the order of `apply`, since another order would give other bits.
        total = jnp.zeros((*indices.shape[:-1], qs[0].dim), jnp.float32)
        for i, (q, codes) in enumerate(zip(qs, split_streams(qs, indices), strict=True)):
            total = total + q.decode(params[str(i)], state[str(i)], codes)
        return total

    stochastic = dropout is not None or any(q.stochastic for q in qs)
    edit = edit_members(qs)
    return Quantizer(init_members(qs), apply, decode, qs[0].dim, vocab, stochastic, edit)


@described
def repeat(
    q: Quantizer, n: int, *, estimator: Estimator | None = straight_through, dropout: Dropout = None
) -> Quantizer:
    """Repeats a stage n times: `residual(*[q] * n)` as a scan, which compiles the stage once.

    Params and state are q's, stacked along a new first axis of size n.

    Args:
        q: the stage.
        n: number of stages.
        estimator, dropout: as in `residual`.

    Raises:
        ValueError: if n is not an integer >= 1.
        TypeError: if q is not a Quantizer.

    Example:
        >>> import vqvae_jax as vj
        >>> q = repeat(vj.ema_vq(64, 8), n=32)
        >>> params, state = q.init(jax.random.key(0))
        >>> state["codebook"].shape, len(q.vocab)
        ((32, 64, 8), 32)
    """
    check_members([q])
    check_size(n=n)
    check_streams(n * len(q.vocab))

    def init(key):
        return jax.lax.map(q.init, stacked_keys(key, n))

    def apply(params, state, z, *, train=False, key=None, mask=None, axis_name=None):
        check_rows(z, q.dim)
        rows = valid_rows(z, mask, axis_name)
        key, depths = draw_depths(dropout, n, z, train, key, axis_name)

        def stage(member, r, mask):
            params, state, k = member
            return q.apply(params, state, r, train=train, key=k, mask=mask, axis_name=axis_name)

        members = params, state, stacked_keys(key, n)
        total, outs, new = scan_stages(stage, members, n, rows, depths, estimator)
        quantized = estimate(estimator, n, rows.z, total).astype(z.dtype)
        return join_outputs(outs, quantized, rows), new if train else state

    def decode(params, state, indices):
        check_indices(indices, q.vocab * n)
        return scan_sum(lambda codes, p, s: q.decode(p, s, codes), q, n, indices, params, state)

    def edit(params, state, fn, stream):
        i, stream = divmod(stream, len(q.vocab))
        # Converted to JAX arrays, since loaded ones may be NumPy arrays, which have no `.at`.
        stacked = jax.tree.map(jnp.asarray, (params, state))
        own, own_state = jax.tree.map(lambda a: a[i], stacked)
        new = edit_codes(q, own, own_state, fn, stream)
        return jax.tree.map(lambda a, x: a.at[i].set(x), stacked, new)

    stochastic = dropout is not None or q.stochastic
    return Quantizer(init, apply, decode, q.dim, q.vocab * n, stochastic, edit)


@described
def shared(
    q: Quantizer, n: int, *, estimator: Estimator | None = straight_through, dropout: Dropout = None
) -> Quantizer:
    """Residual quantization with one codebook for n stages (RQ-VAE, arXiv:2203.01941, section 3.1).

    The rows r_1 .. r_n of all stages make one update of the state instead of n successive ones.
    This update chooses codes anew, so a stochastic q draws different ones for it. On the first
    batch, codebooks that are fitted to data (`kmeans()`) are fitted to each stage's rows for the
    outputs, and once to the rows of all stages for the state.

    Args:
        q: the stage, whose params and state are those of the whole.
        n: number of stages.
        estimator, dropout: as in `residual`.

    Raises:
        ValueError: if n is not an integer >= 1.
        TypeError: if q is not a Quantizer.

    Example:
        >>> import vqvae_jax as vj
        >>> q = shared(vj.ema_vq(64, 8), n=4)
        >>> params, state = q.init(jax.random.key(0))
        >>> state["codebook"].shape, q.vocab
        ((64, 8), (64, 64, 64, 64))
    """
    check_members([q])
    check_size(n=n)
    check_streams(n * len(q.vocab))

    def apply(params, state, z, *, train=False, key=None, mask=None, axis_name=None):
        check_rows(z, q.dim)
        rows = valid_rows(z, mask, axis_name)
        key, depths = draw_depths(dropout, n, z, train, key, axis_name)
        options = {"train": train, "axis_name": axis_name}

        def stage(k, r, mask):
            return q.apply(params, state, r, key=k, mask=mask, **options)[0], (sg(r), mask)

        keys = stacked_keys(key, n)
        total, outs, (r, seen) = scan_stages(stage, keys, n, rows, depths, estimator)
        quantized = estimate(estimator, n, rows.z, total).astype(z.dtype)
        # The stages' new states are dropped, since each is the old codebook moved by one stage's
        # rows only. Instead q sees the rows of all stages as one batch, for which it chooses codes
        # again, and that Output is dropped. Stages go last among the axes of rows, so that rows are
        # in the same order however they are divided among devices.
        if train:
            r, seen = jnp.moveaxis(r, 0, -2), jnp.moveaxis(seen, 0, -1)
            state = q.apply(sg(params), state, r, key=key, mask=seen, **options)[1]
        return join_outputs(outs, quantized, rows), state

    def decode(params, state, indices):
        check_indices(indices, q.vocab * n)
        return scan_sum(partial(q.decode, params, state), q, n, indices)

    stochastic = dropout is not None or q.stochastic
    return Quantizer(q.init, apply, decode, q.dim, q.vocab * n, stochastic, edit_shared(q))
