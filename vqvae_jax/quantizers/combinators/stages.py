"""Stages of a residual quantizer: a single stage, and n equal ones as a scan."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient as sg
from jaxtyping import Array, Float, Int

from vqvae_jax.estimators import Estimator
from vqvae_jax.quantizers.base import Output, Quantizer
from vqvae_jax.quantizers.combinators.composition import split_streams
from vqvae_jax.reductions import Rows


def stacked_keys(key, n: int):
    """The keys of `member_keys` as one array, for a scan."""
    if key is None:
        return None
    return key[None] if n == 1 else jax.random.split(key, n)


def advance(stage: Callable, carry: tuple[Array, Array], seen: Array, estimator: Estimator | None):
    """Runs one stage; returns (residual, sum so far), its Output, and its extra result."""
    r, total = carry
    out, extra = stage(r, mask=seen)
    # Without sg the losses of later stages would move the codes of this one, through the residual.
    taken = out.quantized if estimator is None else sg(out.quantized)
    return (r - taken, total + out.quantized), out, extra


def scan_stages(stage: Callable, members, n: int, rows: Rows, depths, estimator: Estimator | None):
    """Scans `advance` over n stages `(member, r, mask) -> (Output, extra)`, compiled once.

    Returns the sum, the list of Outputs (without `quantized`, which would take memory n times), and
    the stages' extra results, stacked.
    """

    def step(carry, x):
        i, member = x
        seen = jnp.where(i < depths, rows.weights, 0)
        carry, out, extra = advance(partial(stage, member), carry, seen, estimator)
        # The carry holds the sum, so `quantized` need not be stacked.
        return carry, (out._replace(quantized=None), extra)

    start = rows.z, jnp.zeros_like(rows.z)
    (_, total), (outs, extra) = jax.lax.scan(step, start, (jnp.arange(n, dtype=jnp.int32), members))
    return total, unstack(outs, n), extra


def scan_sum(
    decode: Callable, q: Quantizer, n: int, indices: Int[Array, "*rows Q"], *members
) -> Float[Array, "*rows D"]:
    """Sums `decode(codes, *member)` over n stages q in the order of `scan_stages`, bit by bit.

    The arrays of `members` are stacked along a first axis of stages.
    """
    streams = jnp.stack(split_streams([q] * n, indices))

    def step(total, stage):
        return total + decode(*stage), None

    # zeros_like, because under shard_map the carry must vary over devices as the indices do.
    start = jnp.zeros_like(indices, jnp.float32, shape=(*indices.shape[:-1], q.dim))
    return jax.lax.scan(step, start, (streams, *members))[0]


def unstack(outs: Output, n: int) -> list[Output]:
    """Splits the Outputs that a scan stacked into a list."""
    parts = jax.tree.map(jnp.unstack, outs)
    return [jax.tree.map(lambda _, part, i=i: part[i], outs, parts) for i in range(n)]


def estimate(
    estimator: Estimator | None, n: int, z: Float[Array, "*rows D"], total: Float[Array, "*rows D"]
) -> Float[Array, "*rows D"]:
    """Gives the sum the gradient of the estimator; a single stage keeps its own gradient."""
    # Tests check that a combinator of one stage equals the stage, gradients included.
    return total if estimator is None or n == 1 else estimator(z, total)
