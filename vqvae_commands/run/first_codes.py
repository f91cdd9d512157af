"""The first codes, where k-means makes them: from enough rows, though one batch may have fewer."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from vqvae_commands.run.code_streams import as_levels, quantizers
from vqvae_commands.run.recipe import in_parts
from vqvae_jax.training.step import TrainState, in_training, valid_examples

ENOUGH = 3  # rows for each code, at least


def from_data(collections: Any) -> bool:
    """Returns whether the first examples make codes of this state."""
    leaves = jax.tree_util.tree_leaves_with_path(collections)
    return any("initialized" in jax.tree_util.keystr(path) and not x.all() for path, x in leaves)


def first_batches(model, state: TrainState, load: Callable[[int], Any], most: int) -> list[Any]:
    """Returns the first batch, and as many of the next as k-means needs rows.

    Args:
        model, state: an autoencoder before the first step.
        load: from the number of a step to its batch.
        most: number of batches in which no example comes twice.
    """
    first = load(0)
    if not from_data(state.collections):
        return [first]
    return [first, *map(load, range(1, min(batches_needed(model, state, first), max(most, 1))))]


def batches_needed(model, state: TrainState, batch) -> int:
    """Returns how many batches like this one have `ENOUGH` rows for each code, at every level."""
    x, _, _ = jax.eval_shape(lambda b: valid_examples(b, getattr(model, "domain", None)), batch)
    encode = partial(model.apply, method="encode")
    maps = as_levels(jax.eval_shape(encode, state.variables, x))
    rows = [math.prod(z.shape[:-1]) for z in maps]
    sizes = [max(quantizer.vocab) for quantizer in quantizers(model)]
    return max(math.ceil(ENOUGH * size / n) for size, n in zip(sizes, rows, strict=True))


def with_first_codes(model, state: TrainState, batches: list[Any]) -> TrainState:
    """Returns the state with the codes that several first batches together make.

    A single batch is left to the first step of the training, which does the same.
    """
    if len(batches) == 1:
        return state
    whole = jax.tree.map(lambda *arrays: np.concatenate(arrays), *batches)
    model = in_parts(model, len(batches))  # activations of one batch at a time

    @jax.jit
    def fit(state, batch):
        x, weights, _ = valid_examples(batch, getattr(model, "domain", None))
        return in_training(model, state.params, state, x, weights, None)[1]

    return state._replace(collections=dict(fit(state, whole)))
