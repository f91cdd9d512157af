"""Priors over codes for tests: small ones with every condition, their variables, random codes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from compiling import jit

from vqvae_jax.priors import Condition, MaskedPrior, PixelCNN, TransformerPrior

TOLD = {"classes": 3, "coarse": (((1, 2), (3,)), ((2, 2), (2, 4))), "metadata": 2}
SMALL = {"width": 8, "depth": 2, "heads": 2}
TRANSFORMER = TransformerPrior((3, 5), (2, 3), **TOLD, **SMALL)
DEEP = TransformerPrior((3, 5), (2, 1, 2), **TOLD, **SMALL)  # a grid of three axes
PIXELCNN = PixelCNN((3, 5), (3, 4), **TOLD, width=8, depth=3)
MASKED = MaskedPrior((3, 5), (2, 3), **TOLD, **SMALL)
CAUSAL = {"transformer": TRANSFORMER, "three axes": DEEP, "pixelcnn": PIXELCNN}
ALL = CAUSAL | {"masked": MASKED}


def random_codes(grid, vocab, batch=1, seed=0):
    """Codes `[B, *grid, Q]`."""
    rng = np.random.default_rng(seed)
    codes = [rng.integers(0, k, (batch, *grid)) for k in vocab]
    return jnp.asarray(np.stack(codes, axis=-1), jnp.int32)


def told(prior, batch=1, seed=0) -> Condition:
    """All that the prior may be told."""
    rng = np.random.default_rng(seed)
    label = jnp.asarray(rng.integers(0, prior.classes, batch)) if prior.classes else None
    metadata = rng.normal(size=(batch, prior.metadata))
    coarse = (random_codes(*level, batch, seed + i) for i, level in enumerate(prior.coarse))
    return Condition(
        label, tuple(coarse), jnp.asarray(metadata, jnp.float32) if prior.metadata else None
    )


def inputs(prior, batch=1, seed=0):
    """(codes, condition)."""
    return random_codes(prior.grid, prior.vocab, batch, seed), told(prior, batch, seed)


@functools.cache
def applied(prior):
    """Its `apply`, compiled once for each shape whatever the test."""
    return jit(prior.apply)


def variables(prior, seed=0, size=0.4):
    """Normal ones by NumPy, biases as well: to compile their draw takes longest."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(prior.init, jax.random.key(0), *inputs(prior))
    return jax.tree.map(lambda p: jnp.float32(size * rng.normal(size=p.shape)), shapes)
