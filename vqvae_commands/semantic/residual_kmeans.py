"""Residual k-means: each stage is k-means on what the stages before it left over."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, PRNGKeyArray

from vqvae_jax import VQVAE, nearest, repeat, set_codes, vq
from vqvae_jax.models import Identity
from vqvae_jax.quantizers.base import STATE
from vqvae_jax.quantizers.codebooks.inits import lloyd

one_step = jax.jit(partial(lloyd, steps=1))


def fit_stages(
    x: Float32[np.ndarray, "N D"],
    stages: int,
    size: int,
    steps: int,
    seed: int,
    each_step: Callable[[int], object] = lambda stage: None,
) -> Float32[np.ndarray, "stages K D"]:
    """Fits the codebooks of all stages to all rows; the same seed gives the same ones.

    A code is without rows only if a stage has fewer distinct rows than codes.

    Args:
        x: the rows.
        stages: number of stages.
        size: K, number of codes in each.
        steps: steps of k-means in each.
        seed: seed of the rows from which k-means starts.
        each_step: called with the number of the stage after each step.

    Example:
        >>> x = np.array([[0, 0], [0, 1], [9, 0], [9, 1]], np.float32)
        >>> fit_stages(x, 2, 2, 10, 0).sum(0).mean(0)
        array([4.5, 0.5], dtype=float32)
    """
    codebooks = []
    for stage, key in enumerate(jax.random.split(jax.random.key(seed), stages)):
        e = spread_rows(key, x, size)
        for _ in range(steps):
            e = jax.block_until_ready(one_step(x, np.ones(len(x), np.float32), e))
            each_step(stage)
        codebooks.append(without_empty(x, np.array(e)))
        x = x - codebooks[-1][np.asarray(nearest(x, codebooks[-1]))]
    return np.stack(codebooks)


@partial(jax.jit, static_argnums=2)
def spread_rows(key: PRNGKeyArray, z: Float[Array, "N D"], size: int) -> Float[Array, "K D"]:
    """Draws K rows, each in proportion to its squared distance to the nearest before (k-means++).

    No row is drawn twice while others are left.
    """

    def draw(carry, key):
        row, distance = carry
        distance = jnp.minimum(distance, jnp.sum(jnp.square(z - row), -1))
        return (z[jax.random.categorical(key, jnp.log(distance))], distance), row

    first, *_ = keys = jax.random.split(key, size + 1)
    start = z[jax.random.randint(first, (), 0, len(z))], jnp.full(len(z), jnp.inf)
    return jax.lax.scan(draw, start, jnp.stack(keys[1:]))[1]


def without_empty(
    z: Float32[np.ndarray, "N D"], e: Float32[np.ndarray, "K D"]
) -> Float32[np.ndarray, "K D"]:
    """Moves codes without rows to the rows farthest from their codes, until none is left.

    Each move lowers the error. Codes stay without rows if all rows equal their codes.
    """
    e = e.copy()
    for _ in range(len(e)):
        k = np.asarray(nearest(z, e))
        empty = np.flatnonzero(np.bincount(k, minlength=len(e)) == 0)
        distance = np.sum(np.square(z - e[k]), axis=-1)
        far = np.argsort(-distance, kind="stable")[: len(empty)]
        far = far[distance[far] > 0]
        if not len(far):
            break
        e[empty[: len(far)]] = z[far]
    return e


def model_of(codebooks: Float32[np.ndarray, "stages K D"]) -> tuple[VQVAE, dict]:
    """Returns a model whose stages have these codes, and its variables.

    Its encoder and decoder are the identity, so that it quantizes the rows themselves.
    """
    stages, size, dim = codebooks.shape
    quantizer = repeat(vq(size, dim), stages)
    params, state = quantizer.init(jax.random.key(0))
    for stage, codes in enumerate(codebooks):
        params, state = set_codes(quantizer, params, state, codes, stage)
    variables = {"params": {"codes": {"weights": params}}, STATE: {"codes": {"state": state}}}
    return VQVAE(Identity(), quantizer, Identity()), variables
