"""Codebook quantizers, composed of a codebook, an assignment rule, losses and an estimator."""

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
from vqvae_jax.quantizers.base import Output, Quantizer, select_state, training_keys
from vqvae_jax.quantizers.codebooks.storage import Codebook
from vqvae_jax.reductions import AxisName, Rows, is_valid, lookup, mean, psum, valid_rows
from vqvae_jax.saving.describe import Described, described
from vqvae_jax.search.exact import nearest


class Lookup(NamedTuple):
    """Rows and the codes looked up for them, the argument of losses."""

    rows: Rows
    codes: Float[Array, "K D"]  # e, with its gradient
    k: Int[Array, "*rows"]  # -1 for an invalid row
    z_q: Float[Array, "*rows D"]  # e_k, with its gradient; 0 for k = -1
    axis_name: AxisName


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Assignment(Described):
    """Rule that assigns codes to rows in training; eval mode always takes the nearest code.

    Attributes:
        choose: `(key, rows, e, axis_name) -> k [...]`; values for invalid rows are ignored.
        stochastic: whether k depends on the key.
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

    k = argmin_j |z_e - e_j|_2, z_q = e_k. The losses are |sg[z_e] - z_q|^2 if gradients move the
    codebook, and beta |z_e - sg[z_q]|^2, each a mean over elements, and those of `terms`. `vq` and
    `ema_vq` are shorthands for the codebooks `gradient` and `ema`.

    Args:
        codebook: `gradient`, `ema`, `fixed`, or one derived from these, such as `partly_frozen`.
        beta: weight of the commitment term.
        assign: assignment rule in training, such as `sampled()` or `sinkhorn()`; None for the
            nearest code.
        estimator: gradient estimator `(z_e, z_q) -> z_q`.
        terms: further losses, functions from a `Lookup` to {name: value}, such as `orthogonal()`,
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
        raise ValueError(f"{codebook!r} takes neither assign nor terms: they need all codes")

    def losses(found: Lookup) -> dict[str, Array]:
        args = (found.rows.z, found.z_q, found.rows.weights, found.axis_name)
        # If no gradient reaches the codes, a codebook loss would move nothing.
        made = {"codebook": codebook_loss(*args)} if codebook.learnt else {}
        made["commitment"] = beta * commitment_loss(*args)
        for term in terms:
            made |= term(found)
        return made

    # An estimator needs no key; surrogates such as that of `diveq` do.
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
    """Makes the record of a quantizer that looks up codes in a codebook.

    Args:
        codebook: the codebook.
        losses: function from a `Lookup` to losses by name.
        surrogate: `(key, z_e, z_q, axis_name) -> quantized` in training, possibly with noise.
        estimator: `(z_e, z_q) -> quantized` in eval mode.
        assign: assignment rule in training.
        stochastic: as in `Quantizer`.
    """
    size, dim = codebook.size, codebook.dim

    def find(train, key, rows, e, axis_name):
        if not (train and assign):
            return nearest(rows.z, e, codebook.shards)
        # Folded in, independent of the split in `training_keys`: a codebook draws the same rows
        # whatever the assignment, and an assignment the same noise whatever the codebook.
        key = None if key is None else jax.random.fold_in(key, 2)
        # sg, since the choice is discrete: gradients flow through z_e and z_q, not through k.
        return assign.choose(key, sg(rows), sg(e), axis_name)

    def apply(params, state, z, *, train=False, key=None, mask=None, axis_name=None):
        check_rows(z, dim)
        rows = valid_rows(z, mask, axis_name)
        key_init, key_revive = training_keys(key, wanted=train and codebook.draws)
        # A first batch initialises the codebook before its rows are looked up, so that the rows
        # already get fitted codes. All outputs use this codebook, before the update.
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
        # Without a valid row on any replica, `start` is dropped too and not only the update:
        # padding must not count as the first batch.
        update = partial(codebook.update, params)
        draw = key_revive, rows, k, axis_name
        new = select_state(rows.any_valid, update(start, *draw), state)
        if codebook.adopt is None:
            return out, new
        # Codes that were written by hand take a second update under `cond`. A select before the
        # first would be cheaper to write, but might change the last bits of ordinary updates.
        by_hand, adopted = codebook.adopt(state)
        by_hand = by_hand & rows.any_valid
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
    """Warns if the codebook still waits for its first batch; silent where `jit` traces the state.

    Without it, params restored without their state would silently decode to other codes.
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
    """Metrics: "error", the mean of |z_e - z_q|^2, and counts of rows and codes not finite."""
    # sg, because by the contract metrics have no gradient.
    rows, codes = found.rows, sg(found.codes)
    return {
        "error": mean(jnp.square(sg(rows.z - found.z_q)), rows.weights, found.axis_name),
        "invalid_rows": rows.invalid,
        "invalid_codes": psum(jnp.sum(~is_valid(codes), dtype=jnp.float32), shards),
    }
