"""A prior fitted to the codes of training images, and the bits of codes under it."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.sweep.training_budget import compiler_options, run_steps
from vqvae_commands.run.batchwise import in_batches
from vqvae_commands.run.recipe import make_optimizer
from vqvae_jax.data.pipeline import batches
from vqvae_jax.priors import Condition, TransformerPrior, log_likelihood
from vqvae_jax.priors.losses import CodeBatch, prior_loss
from vqvae_jax.training.step import gradient_step, start_state

Maps = tuple[np.ndarray, ...]
"""Codes of all images: `[N, *grid, Q]` for each level, the top one first."""


@dataclasses.dataclass(frozen=True)
class Prior:
    """Options of the learned prior, which are the same for every level of codes."""

    steps: int = 1000
    tokens: int = 2048  # codes in a batch, however many an image has
    learning_rate: float = 2e-3
    warmup: int = 100
    width: int = 64
    depth: int = 2
    heads: int = 4
    dropout: float = 0.1
    fast_compile: bool = False


def quick_prior(prior: Prior) -> Prior:
    """The prior with fewer codes at a time, one layer, fast to compile: it shows that all runs."""
    return dataclasses.replace(prior, tokens=512, depth=1, fast_compile=True)


def learned_bits(
    prior: Prior, vocabs, level: int, train: Maps, test: Maps, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Fits a prior to the training codes of one level, and measures the bits of each image.

    Returns:
        The bits of as many training images as there are test images, and of the test images.
    """
    sides = [codes.shape[1:-1] for codes in train]
    known = tuple(zip(sides[:level], vocabs[:level], strict=True))
    _, fit, bits = make_fitted(prior, vocabs[level], sides[level], known)
    params = fit(train, seed)
    return bits(params, tuple(codes[: len(test[0])] for codes in train)), bits(params, test)


class FittedPrior(NamedTuple):
    """Prior of one level, with functions to fit it and to measure bits."""

    module: TransformerPrior
    fit: Callable[..., Any]  # (maps, seed) -> params
    bits: Callable[..., np.ndarray]  # (params, maps) -> bits of each image [N]


@cache
def make_fitted(prior: Prior, vocab, grid, coarse=()) -> FittedPrior:
    """Makes the prior of this vocab and grid, given coarser codes; compiled once for all seeds."""
    level, length = len(coarse), math.prod(grid) * len(vocab)
    inner = {name: getattr(prior, name) for name in ("width", "depth", "heads", "dropout")}
    module = TransformerPrior(vocab, grid, coarse=coarse, **inner)
    optimizer = make_optimizer(prior)
    *told, codes = (jnp.zeros((1, *g, len(v)), jnp.int32) for g, v in (*coarse, (grid, vocab)))
    init = partial(module.init, codes=codes, condition=Condition(coarse=tuple(told)))
    start = jax.jit(partial(start_state, init, optimizer), compiler_options=compiler_options())
    options = compiler_options(prior.fast_compile)
    step = jax.jit(
        gradient_step(prior_loss(module), optimizer), donate_argnums=0, compiler_options=options
    )

    def pick(maps: Maps, rows: np.ndarray) -> CodeBatch:
        return CodeBatch(maps[level][rows], Condition(coarse=tuple(m[rows] for m in maps[:level])))

    def in_order(maps: Maps, seed: int) -> Iterator[CodeBatch]:
        rows = np.arange(len(maps[level]))
        return (pick(maps, b) for b in batches(rows, seed, max(prior.tokens // length, 1)))

    def fit(maps: Maps, seed: int):
        order = in_order(maps, seed)
        return run_steps(step, start(jax.random.key(seed)), order, prior.steps)[0].params

    @partial(jax.jit, compiler_options=options)
    def look(params, batch: CodeBatch):
        return -log_likelihood(module, {"params": params}, *batch[:2]) / math.log(2)

    def bits(params, maps: Maps) -> np.ndarray:
        size = max(4 * prior.tokens // length, 1)
        return in_batches(lambda i: look(params, pick(maps, i)), np.arange(len(maps[level])), size)

    return FittedPrior(module, fit, bits)
