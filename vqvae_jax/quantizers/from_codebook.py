"""Codebook quantizers: a codebook, a rule of assignment, losses and an estimator, composed."""

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient as sg
from jaxtyping import Array, Float, Int

from vqvae_jax.checks import Number, check_indices, check_range, check_rows
from vqvae_jax.estimators import Estimator, straight_through
from vqvae_jax.losses import codebook_loss, commitment_loss
from vqvae_jax.quantizers.base import Output, Quantizer, choose, training_keys
from vqvae_jax.quantizers.codebooks.storage import Codebook
from vqvae_jax.reductions import AxisName, Rows, is_valid, lookup, mean, psum, valid_rows
from vqvae_jax.saving.describe import Described, described
from vqvae_jax.search.exact import nearest


class Lookup(NamedTuple):
    """Rows and the codes looked up for them: the argument of the losses."""

    rows: Rows
    codes: Float[Array, "K D"]  # e, with its gradient
    k: Int[Array, "*rows"]  # -1 for a row that is not valid
    z_q: Float[Array, "*rows D"]  # e_k, with its gradient; 0 for k = -1
    axis_name: AxisName


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Assignment(Described):
    """Rule by which rows choose their codes in training; in eval mode they choose the nearest.

    Attributes:
        choose: `(key, rows, e, axis_name) -> k [...]`; its values for invalid rows are ignored.
        stochastic: whether the choice depends on the key.
    """

    choose: Callable[..., Array]
    stochastic: bool


@described
def codebook_vq(
    codebook: Codebook,
    *,
    beta: Number = 0.25,
    assign: Assignment | None = None,
    estimator: Estimator = straight_through,
    terms: Sequence[Callable[[Lookup], dict[str, Array]]] = (),
) -> Quantizer:
    """VQ-VAE's quantizer (arXiv:1711.00937) for any codebook, however it is made or moved.

    k = argmin_j |z_e - e_j|_2, z_q = e_k; losses |sg[z_e] - z_q|^2 if gradients move the codebook,
    beta |z_e - sg[z_q]|^2, each a mean over elements, and `terms`. `vq` and `ema_vq` are short for
    the codebooks `gradient` and `ema`.

    Args:
        codebook: `gradient`, `ema`, `fixed`, or one made of these, such as `held`.
        beta: weight of the commitment term.
        assign: how rows choose in training, None for the nearest code: `sampled()`, `sinkhorn()`.
        estimator: `(z_e, z_q) -> z_q`, which gives the gradient.
        terms: more losses, functions of a `Lookup` to {name: value}: `orthogonal()`,
            `diversity()`, `cross_entropy()`.

    Raises:
        ValueError: if beta is out of range.

    Example:
        >>> import vqvae_jax as vj
        >>> codebook = vj.codebooks.ema(512, 64, init=vj.inits.kmeans())
        >>> q = codebook_vq(codebook, assign=vj.assignments.sampled(0.5))
        >>> q.vocab, q.dim, q.stochastic
        ((512,), 64, True)
    """
    check_range(0, float("inf"), beta=beta)
    if codebook.shards is not None and (assign or terms):
        raise ValueError(f"{codebook!r} allows no assign and no terms: they need all codes")

    def losses(found: Lookup) -> dict[str, Array]:
        args = (found.rows.z, found.z_q, found.rows.weights, found.axis_name)
        # Without a gradient to codes the codebook loss would be a number that moves nothing.
        made = {"codebook": codebook_loss(*args)} if codebook.learnt else {}
        made["commitment"] = beta * commitment_loss(*args)
        for term in terms:
            made |= term(found)
        return made

    # An estimator draws nothing: the key is for surrogates such as that of `diveq`.
    def surrogate(key, z_e, z_q, axis_name):
        return estimator(z_e, z_q)

    stochastic = assign is not None and assign.stochastic
    return lookup_quantizer(codebook, losses, surrogate, estimator, assign, stochastic)


def lookup_quantizer(
    codebook: Codebook,
    losses: Callable[[Lookup], dict[str, Array]],
    surrogate: Callable[..., Array],
    estimator: Estimator = straight_through,
    assign: Assignment | None = None,
    stochastic: bool = False,
) -> Quantizer:
    """The record of a quantizer that looks its codes up.

    Args:
        codebook: of the codes.
        losses: from a `Lookup` to losses by name.
        surrogate: `(key, z_e, z_q, axis_name) -> quantized` in training, where noise is allowed.
        estimator: `(z_e, z_q) -> quantized` in eval mode.
        assign: how rows choose in training.
        stochastic: as in `Quantizer`.
    """
    size, dim = codebook.size, codebook.dim

    def find(train, key, rows, e, axis_name):
        if not (train and assign):
            return nearest(rows.z, e, codebook.shards)
        # Folded in beside the split of `training_keys`: a codebook draws the same rows whatever
        # the assignment, and an assignment the same noise whatever the codebook.
        key = None if key is None else jax.random.fold_in(key, 2)
        return assign.choose(key, sg(rows), sg(e), axis_name)

    def apply(params, state, z, *, train=False, key=None, mask=None, axis_name=None):
        check_rows(z, dim)
        rows = valid_rows(z, mask, axis_name)
        key_init, key_revive = training_keys(key, wanted=train and codebook.draws)
        # A first batch makes the codebook before its rows are looked up, so that they already get
        # codes of their own; all outputs are of this codebook, before the update.
        start = codebook.begin(params, state, key_init, rows, axis_name) if train else state
        e = codebook.codes(params, start)
        k = jnp.where(rows.weights > 0, find(train, key, rows, e, axis_name), -1)
        z_q = lookup(e, k, codebook.shards)
        found = Lookup(rows, e, k, z_q, axis_name)
        noise = None if key is None else jax.random.fold_in(key, 3)
        quantized = surrogate(noise, rows.z, z_q, axis_name) if train else estimator(rows.z, z_q)
        out = Output(
            quantized.astype(z.dtype), k[..., None], losses(found), measure(found, codebook.shards)
        )
        if not train:
            warn_unless_fitted(state)
            return out, state
        # `start` as well as the update is dropped if no replica has a valid row: a first batch must
        # not be spent on padding.
        update = partial(codebook.update, params)
        draw = key_revive, rows, k, axis_name
        new = choose(rows.some, update(start, *draw), state)
        if codebook.adopt is None:
            return out, new
        # Codes written by hand take a second update under `cond`, instead of a select before the
        # first: so the usual update has no bit that depends on this.
        by_hand, adopted = codebook.adopt(state)
        by_hand = by_hand & rows.some
        return out, jax.lax.cond(by_hand, lambda: update(adopted, *draw), lambda: new)

    def decode(params, state, indices):
        check_indices(indices, (size,))
        warn_unless_fitted(state)
        return lookup(codebook.codes(params, state), indices[..., 0], codebook.shards)

    def edit(params, state, fn, stream):
        assert codebook.edit is not None
        return codebook.edit(params, state, fn)

    return Quantizer(
        codebook.init, apply, decode, dim, (size,), stochastic, edit if codebook.edit else None
    )


def warn_unless_fitted(state: dict) -> None:
    """Warns of codes that still wait for a first batch, where the state is known (not in `jit`).

    Params restored without their state would else silently decode to other codes.
    """
    flag = state.get("initialized")
    if flag is None and "inner" in state:
        return warn_unless_fitted(state["inner"])
    if flag is not None and not isinstance(flag, jax.core.Tracer) and not np.all(np.asarray(flag)):
        warnings.warn(
            "the codebook was never fitted to a first batch: train it, or restore its state too",
            stacklevel=2,
        )


def measure(found: Lookup, shards: AxisName = None) -> dict[str, Array]:
    """Metrics: "error", the mean of |z_e - z_q|^2; counts of rows and codes that are not finite."""
    rows, codes = found.rows, sg(found.codes)
    return {
        "error": mean(jnp.square(sg(rows.z - found.z_q)), rows.weights, found.axis_name),
        "invalid_rows": rows.invalid,
        "invalid_codes": psum(jnp.sum(~is_valid(codes), dtype=jnp.float32), shards),
    }
