"""Priors over the codes of a run: models, optimizer, data, and loading."""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import optax
from jaxtyping import Bool, Int

from vqvae_commands.generation.code_files import Codes
from vqvae_commands.run.optimizers import SCHEDULES
from vqvae_jax import BundleError, load_model
from vqvae_jax.priors import Condition, MaskedPrior, PixelCNN, TransformerPrior
from vqvae_jax.priors.losses import CodeBatch
from vqvae_jax.saving.bundle import Bundle
from vqvae_jax.saving.weights import read_json

PRIORS = {"transformer": TransformerPrior, "pixelcnn": PixelCNN, "masked": MaskedPrior}


def prior_model(config, codes: Codes, level: int):
    """Makes the prior of the options for one level of codes, given all coarser levels."""
    *coarse, (grid, vocab) = (with_grid(found) for found in codes.levels[: level + 1])
    heads = {} if config.prior == "pixelcnn" else {"heads": config.heads}
    return PRIORS[config.prior](
        vocab,
        grid,
        classes=len(codes.classes),
        coarse=tuple(coarse),
        width=config.width,
        depth=config.depth,
        dropout=config.dropout,
        **heads,
    )


def with_grid(level):
    """Returns the level with a grid: one of a single place where an item has one code."""
    grid, vocab = level
    return grid or (1,), vocab


def prior_optimizer(config) -> optax.GradientTransformation:
    """Returns AdamW with the schedule of the options."""
    schedule = SCHEDULES[config.schedule](config)
    return optax.adamw(schedule, b2=0.98, weight_decay=config.weight_decay)


def items(
    maps: Sequence[Int[np.ndarray, "N ..."]], label: Int[np.ndarray, "N"] | None, level: int
) -> CodeBatch:
    """Returns the codes of a level, with labels and coarser codes as the prior's condition."""
    *coarse, codes = (
        np.asarray(k if k.ndim > 2 else k[:, None], np.int32) for k in maps[: level + 1]
    )
    return CodeBatch(codes, Condition(label, tuple(coarse)))


def take_items(data: CodeBatch, rows: Int[np.ndarray, "B"] | Bool[np.ndarray, "N"]) -> CodeBatch:
    """Returns some of the items."""
    return jax.tree.map(lambda array: array[rows], data)


def held_out(label: Int[np.ndarray, "N"] | None, n: int) -> Bool[np.ndarray, "N"]:
    """Marks the last tenth of each class, or of all, which validates and is not trained on.

    Example:
        >>> np.flatnonzero(held_out(np.repeat([0, 1], [20, 10]), 30))
        array([18, 19, 29])
    """
    label = np.zeros(n, int) if label is None else label
    out = np.zeros(n, bool)
    for c in np.unique(label):
        rows = np.flatnonzero(label == c)
        out[rows[len(rows) - len(rows) // 10 :]] = True
    return out


def load_priors(run: Path, name: str, model: str, levels: int) -> list[Bundle]:
    """Loads the prior of each level.

    Args:
        run: folder of the run.
        name: name of the priors in the folder.
        model: SHA-256 of the model on whose codes the priors must be trained.
        levels: number of levels of the model.

    Raises:
        BundleError: if one is missing or damaged, or was trained on the codes of another model.
    """
    found = []
    for level in range(levels):
        folder = run / name / f"level{level}"
        if not (folder / "config.json").is_file():
            command = f"`vqvae prior {run}`"
            raise BundleError(f"{folder}: expected a prior, found none; run {command}")
        if (options := read_json(folder / "config.json")).get("model") != model:
            raise BundleError(
                f"{folder}: expected a prior of the codes of model {model[:16]}, found one of "
                f"{str(options.get('model'))[:16]}; train it again with another --name"
            )
        found.append(load_model(folder / "model"))
    return found
