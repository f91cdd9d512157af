"""Combinators that change what moves a quantizer: an optimizer of its own, or nothing.

The state is {"count", "params", "optimizer", "inner"} or a part of it.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.lax import stop_gradient as sg
from jaxtyping import Array

from vqvae_jax.checks import check_size
from vqvae_jax.quantizers.base import Quantizer, select_state
from vqvae_jax.quantizers.codebooks.editing import edit_codes
from vqvae_jax.quantizers.combinators.composition import check_members
from vqvae_jax.reductions import valid_rows
from vqvae_jax.saving.describe import described


@described
def alternated(q: Quantizer, optimizer: Any) -> Quantizer:
    """Trains q's params inside `apply`, by a separate optimizer on q's own losses.

    Alternated optimisation (arXiv:2305.08842): the codebook follows the encoder by its own steps,
    such as SGD with a large learning rate, and the task does not move it. Each training call with a
    valid row makes one step, on the mean gradient of all replicas. Params are {}, since everything
    is state: {"params": q's, "inner": q's state, "optimizer": its leaves by path}.

    The paper quantizes a batch with the codebook that this very batch has moved, so its codes don't
    decode with the state before. Here the outputs use the codebook before the step, and the next
    batch sees the new one: encoder and codebook move simultaneously, not in turn.

    Args:
        q: the quantizer, of any kind. Its losses stay in the output, constant to its params.
        optimizer: an optax optimizer, or `from_optax(...)`, which JSON can hold.

    Raises:
        TypeError: if q is not a Quantizer, or the optimizer has no init and update.

    Example:
        >>> import vqvae_jax as vj
        >>> q = alternated(vj.vq(1, 1), optax.sgd(0.25))
        >>> params, state = q.init(jax.random.key(0))
        >>> for _ in range(20):
        ...     _, state = q.apply(params, state, jnp.array([[3.0]]), train=True)
        >>> params, round(float(state["params"]["codebook"][0, 0]), 3)
        ({}, 3.0)
    """
    check_members([q])
    if not callable(getattr(optimizer, "init", None)) or not hasattr(optimizer, "update"):
        raise TypeError(f"optimizer must be an optax transformation, got {optimizer!r}")

    def init(key):
        params, inner = q.init(key)
        # Stored by path, since optax states are NamedTuples, which most file formats turn into
        # lists.
        leaves = by_path(optimizer.init(params))
        return {}, {"params": params, "inner": inner, "optimizer": leaves}

    def step(params, leaves, grads):
        # Only the structure of the optimizer's state is needed, so nothing is computed for it.
        old = from_paths(leaves, jax.eval_shape(optimizer.init, params))
        updates, new = optimizer.update(grads, old, params)
        return optax.apply_updates(params, updates), by_path(new)

    def apply(params, state, z, *, train=False, key=None, mask=None, axis_name=None):
        own, inner = state["params"], state["inner"]
        options = {"train": train, "key": key, "mask": mask, "axis_name": axis_name}
        if not train:
            return q.apply(own, inner, z, **options)[0], state

        def loss(own):
            out, new = q.apply(own, inner, z, **options)
            return out.loss, (out, new)

        # One evaluation gives both the gradient and, as its aux, the Output. The caller's gradient
        # to z flows through the Output; `sg` keeps it out of the codebook's step.
        grads, (out, inner) = jax.grad(loss, has_aux=True)(own)
        # The losses are global means, and by the contract's recipe their gradient is averaged too,
        # which keeps params bit-equal between replicas.
        grads = grads if axis_name is None else jax.lax.pmean(grads, axis_name)
        own, leaves = step(own, state["optimizer"], sg(grads))
        new = {"params": own, "inner": inner, "optimizer": leaves}
        # Without a valid row the gradient is 0, but a step would still move momenta and counts.
        return out, select_state(valid_rows(z, mask, axis_name).any_valid, new, state)

    def decode(params, state, indices):
        return q.decode(state["params"], state["inner"], indices)

    return Quantizer(init, apply, decode, q.dim, q.vocab, q.stochastic, edit_within(q))


@described
def frozen(q: Quantizer) -> Quantizer:
    """Freezes q: neither data nor an optimizer moves its params or its state.

    Params are {}, so that weight decay finds nothing. State is {"params": q's, "inner": q's state},
    to be filled from a trained q. In training too q runs in eval mode: it needs no key, draws
    nothing, and first-batch initialisation such as `kmeans()` never happens. Gradients pass through
    it to z; losses that only train codes are constants.

    Args:
        q: the quantizer, of any kind.

    Raises:
        TypeError: if q is not a Quantizer.

    Example:
        >>> import vqvae_jax as vj
        >>> trained = dict(zip(("params", "inner"), vj.vq(8, 2).init(jax.random.key(7))))
        >>> out, state = frozen(vj.vq(8, 2)).apply({}, trained, jnp.ones((5, 2)), train=True)
        >>> jax.tree.all(jax.tree.map(jnp.array_equal, state, trained))
        True
    """
    check_members([q])

    def init(key):
        params, inner = q.init(key)
        return {}, {"params": params, "inner": inner}

    def apply(params, state, z, *, train=False, key=None, mask=None, axis_name=None):
        # Neither `train` nor `key` is passed on: in training too q runs in eval mode.
        options = {"mask": mask, "axis_name": axis_name}
        return q.apply(sg(state["params"]), state["inner"], z, **options)[0], state

    def decode(params, state, indices):
        return q.decode(state["params"], state["inner"], indices)

    return Quantizer(init, apply, decode, q.dim, q.vocab, edit=edit_within(q))


@described
def frozen_after(q: Quantizer, step: int) -> Quantizer:
    """Freezes q, bit for bit, after `step` training calls.

    Calls with a valid row are counted from 0. Call number `step` stores its params in
    state["params"]; from then on these are used without gradient, whatever an optimizer does to the
    live ones, and the state no longer moves. Outputs are still those of training mode, with noise
    and dropout.

    Args:
        q: the quantizer, of any kind. Params are q's; state is {"count", "params", "inner": q's}.
        step: number of training calls (with a valid row) that move it.

    Raises:
        ValueError: if step is not an integer >= 1; for 0 use `frozen`.
        TypeError: if q is not a Quantizer.

    Example:
        >>> import vqvae_jax as vj
        >>> q = frozen_after(vj.ema_vq(8, 2), step=1)
        >>> params, state = q.init(jax.random.key(0))
        >>> _, first = q.apply(params, state, jnp.ones((5, 2)), train=True)
        >>> _, second = q.apply(params, first, -jnp.ones((5, 2)), train=True)
        >>> bool((first["inner"]["codebook"] == second["inner"]["codebook"]).all())
        True
    """
    check_members([q])
    check_size(step=step)

    def init(key):
        params, inner = q.init(key)
        return params, {"count": jnp.zeros((), jnp.int32), "params": params, "inner": inner}

    # > and not >=, since call number `step`, which stores the params, still uses the live ones.
    def present(params, state):
        return select_state(state["count"] > step, state["params"], params)

    def apply(params, state, z, *, train=False, key=None, mask=None, axis_name=None):
        stands = state["count"] >= step
        params = present(params, state)
        options = {"train": train, "key": key, "mask": mask, "axis_name": axis_name}
        # `select_state` between equal values, because it stops the gradient of the first one alone:
        # params have a gradient before `step` and none after, though the count is known only at run
        # time.
        out, inner = q.apply(select_state(stands, params, params), state["inner"], z, **options)
        if not train:
            return out, state
        some = valid_rows(z, mask, axis_name).any_valid
        return out, {
            "count": state["count"] + some,
            "params": select_state(some & stands, params, state["params"]),
            "inner": select_state(some & ~stands, inner, state["inner"]),
        }

    def decode(params, state, indices):
        return q.decode(present(params, state), state["inner"], indices)

    def edit(params, state, fn, stream):
        own, inner = edit_codes(q, params, state["inner"], fn, stream)
        # The stored params too, since `decode` uses either, depending on the count.
        stored, _ = edit_codes(q, state["params"], state["inner"], fn, stream)
        return own, state | {"params": stored, "inner": inner}

    return Quantizer(init, apply, decode, q.dim, q.vocab, q.stochastic, edit)


def edit_within(q: Quantizer):
    """Makes `edit` of a combinator whose state holds q's params and, as "inner", its state."""

    def edit(params, state, fn, stream):
        own, inner = edit_codes(q, state["params"], state["inner"], fn, stream)
        return params, state | {"params": own, "inner": inner}

    return edit


def by_path(tree) -> dict[str, Array]:
    """Leaves of any tree by path, as a plain dict, which every file format can hold."""
    return {path(keys): leaf for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def from_paths(leaves: dict[str, Array], like):
    """The inverse of `by_path`, for a tree of the structure of `like`."""
    return jax.tree_util.tree_map_with_path(lambda keys, _: leaves[path(keys)], like)


def path(keys: tuple) -> str:
    return jax.tree_util.keystr(keys, simple=True, separator=".")
