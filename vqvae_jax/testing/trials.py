"""Trials of a quantizer for the laws: its arrays, a training step, and evaluation."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from vqvae_jax.quantizers.base import Quantizer
from vqvae_jax.quantizers.codebooks.editing import edit_codes
from vqvae_jax.quantizers.combinators.beam import codebook_of
from vqvae_jax.reductions import psum

REPLICAS = 4


class Trial(NamedTuple):
    """A quantizer with the arrays and compiled functions with which the laws test it."""

    q: Quantizer
    key: PRNGKeyArray
    z: Float[Array, "N D"]
    spoilt: Float[Array, "R M D"]  # z split over R replicas, each after one invalid row
    mask: Float[Array, "R M"]  # 1, but 0 for an invalid row that is finite
    params: Any
    start: Any  # the state that init makes
    state: Any  # after one training step, so after any first-batch initialisation
    jit: Callable  # `jax.jit` with the compiler options
    step: Callable  # jitted `training_step`
    look: Callable  # jitted `evaluate`
    glance: Callable  # jitted `look_up`


def begin_trial(q: Quantizer, key=None, z=None, compiler_options=None) -> Trial:
    """Initialises the quantizer and takes one training step; arguments as in `check_quantizer`."""
    jit = partial(jax.jit, compiler_options=compiler_options)
    key, z = choose_inputs(q, key, z)
    # np.resize repeats rows where they don't divide evenly.
    dealt = np.resize(z, (REPLICAS, -(-z.size // q.dim // REPLICAS), q.dim)).astype(np.float32)
    spoilt = np.concatenate([dealt[:, :1], dealt], axis=1)
    mask = np.ones(spoilt.shape[:-1])
    # One kind of invalid row for each replica: NaN, infinite, too large to square, masked out.
    spoilt[:, 0, 0], mask[3, 0] = (np.nan, np.inf, 1e20, 5), 0
    params, start = jit(q.init)(key)
    step, look, glance = (jit(partial(f, q)) for f in (training_step, evaluate, look_up))
    z = jnp.asarray(dealt.reshape(-1, q.dim))
    state = step(params, start, z, key)["state"]
    inputs = (z, jnp.asarray(spoilt), jnp.asarray(mask))
    return Trial(q, key, *inputs, params, start, state, jit, step, look, glance)


def choose_inputs(q: Quantizer, key=None, z=None) -> tuple[PRNGKeyArray, Array]:
    """Returns key and rows as given, or the defaults of `check_quantizer`."""
    key = jax.random.key(0, impl="rbg" if q.stochastic else None) if key is None else key
    drawn = jax.random.normal(jax.random.fold_in(key, 1), (64, q.dim), jnp.float32)
    return key, drawn if z is None else z


def training_step(q: Quantizer, params, state, z, key, mask=None, axis_name=None) -> dict[str, Any]:
    """Takes a training step by the contract's recipe; gradients are those of params and of a shift.

    The shift is added to all rows, so that its gradient is that of z summed over rows.
    """

    def loss(params, shift):
        z_e = z + jnp.broadcast_to(shift, z.shape)
        out, new = q.apply(params, state, z_e, train=True, key=key, mask=mask, axis_name=axis_name)
        task = psum(jnp.sum(jnp.sin(out.quantized)), axis_name)  # a pmean times the replicas
        return 0.01 * task + out.loss, (out, new)

    grads, (out, new) = jax.grad(loss, argnums=(0, 1), has_aux=True)(
        params, jnp.zeros(q.dim, jnp.float32)
    )
    grads = grads if axis_name is None else jax.lax.pmean(grads, axis_name)
    decoded = q.decode(params, state, out.indices)
    return out._asdict() | {"decoded": decoded, "state": new, "grads": grads}


def look_up(q: Quantizer, params, state, z) -> dict[str, Any]:
    """Quantizes in eval mode and decodes, compiled together."""
    out, new = q.apply(params, state, z)
    decoded = q.decode(params, state, out.indices).astype(z.dtype)
    return out._asdict() | {"decoded": decoded, "state": new}


def evaluate(q: Quantizer, params, state, z) -> dict[str, Any]:
    """Runs `look_up`, and takes the gradient of the metrics."""

    def total(params, z):
        result = look_up(q, params, state, z)
        return sum(result["metrics"].values(), jnp.zeros((), jnp.float32)), result

    grads, result = jax.grad(total, argnums=(0, 1), has_aux=True)(params, z)
    return result | {"grads": grads}


def reverse_in_turn(q: Quantizer, editable, params, state):
    """Reverses the codes of each stream in turn; returns the codebooks before and after each."""
    looks, streams = [], range(len(q.vocab))
    for stream in editable:
        before = [codebook_of(q, params, state, i) for i in streams]
        params, state, e = reverse_codes(q, stream, params, state)
        looks.append((before, [codebook_of(q, params, state, i) for i in streams], e))
    return looks, (params, state)


def reverse_codes(q: Quantizer, stream: int, params, state):
    """Reverses the codes of a stream; returns params, state, and the codes before."""
    seen = []

    def reverse(e):
        seen.append(e)
        return e[::-1]

    return *edit_codes(q, params, state, reverse, stream), seen[-1]
