"""Remarks of a run, in plain sentences: misleading numbers, and what to do about them.

Each remark is printed, and repeated in the report.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Shaped

from vqvae_commands.data.padded import parts
from vqvae_commands.run import code_streams
from vqvae_commands.run.code_streams import as_levels
from vqvae_commands.run.first_codes import from_data
from vqvae_jax.data.value_range import admit
from vqvae_jax.models.masks import hidden, of_rows
from vqvae_jax.training.step import TrainState

GUIDE = "docs/when-training-looks-wrong.md"
ENOUGH = 100  # test items
ROWS = 20_000  # rows of the first batch that are compared


def of_first_batches(model, state: TrainState, batches: Sequence[Any]) -> list[str]:
    """Returns remarks on first batches from which k-means would make equal codes."""
    if not from_data(state.collections):
        return []

    @jax.jit
    def encode(variables, batch):
        given, mask = parts(batch)
        x = admit(model.domain, given, check=False)
        maps = as_levels(model.apply(variables, x, **mask, method="encode"))
        return tuple(hidden(z, of_rows(mask.get("mask"), z)) for z in maps)

    maps = [encode(state.variables, batch) for batch in batches]
    found, levels = [], code_streams.quantizers(model)
    for level, (quantizer, each) in enumerate(zip(levels, zip(*maps, strict=True), strict=True)):
        rows, distinct = count_rows(np.concatenate([np.asarray(z, np.float32) for z in each]))
        where = f" of level {level}" if len(levels) > 1 else ""
        size = max(quantizer.vocab)
        if rows < size:
            found.append(
                f"The first codes{where} are made from {rows:,} rows, for {size:,} codes, so some "
                f"start equal: use a larger batch, more data or fewer codes ({GUIDE})."
            )
        elif distinct < size:
            found.append(
                f"Only {distinct:,} rows are distinct of those that make the first {size:,} "
                f"codes{where}, so some start equal: check that the data vary and are shuffled "
                f"({GUIDE})."
            )
    return found


def count_rows(z: Shaped[np.ndarray, "B *grid D"]) -> tuple[int, int]:
    """Counts the finite rows, and how many of them differ by more than rounding.

    >>> count_rows(np.float32([[[1, 2], [1, 2]], [[3, 4], [np.nan, 0]]]))
    (3, 2)
    """
    rows = z.reshape(-1, z.shape[-1])
    rows = rows[np.isfinite(rows).all(axis=1)]
    if not rows.size:
        return 0, 0
    some = rows[:: math.ceil(len(rows) / ROWS)]
    steps = np.round(some / (1e-5 * max(float(np.abs(some).max()), 1e-30)))
    return len(rows), len(np.unique(steps, axis=0)) * (len(rows) // len(some))


def of_test_size(items: int) -> list[str]:
    """Returns a remark on a small test set.

    >>> of_test_size(100), of_test_size(6)[0][:31]
    ([], 'The test set has only 6 items, ')
    """
    if items >= ENOUGH:
        return []
    return [
        f"The test set has only {items:,} items, so its numbers are rough: with {ENOUGH} the "
        "standard error of a mean is a tenth of the deviation between items."
    ]


def of_results(table: Mapping[str, Any], sizes: Mapping[str, int]) -> list[str]:
    """Returns remarks on misleading numbers of the test set.

    Args:
        table: the table that `evaluate` gives.
        sizes: K of each stream, by its prefix.
    """
    found = []
    if not math.isfinite(table["mse"]):
        found.append(f"The model gives values that are not finite: it diverged ({GUIDE}).")
    if table.get("left_out"):
        found.append(
            f"{table['left_out']:,.0f} test examples are not finite, or outside the range of the "
            "model's data, and are ignored."
        )
    for prefix, size in sizes.items():
        used, seen = table[f"{prefix}used"] * size, table[f"{prefix}seen"]
        stream = f" ({code_streams.title(prefix)})" if prefix else ""
        if seen < size:
            found.append(
                f"The test set has {seen:,.0f} codes, fewer than the {size:,} of the "
                f"codebook{stream}: the share used and the perplexity mean little."
            )
        if used < min(size, seen) / 2:
            found.append(
                f"Only {used:,.0f} of {size:,} codes{stream} are in use: train longer or with a "
                f"lower learning rate, reset unused codes, or start from k-means ({GUIDE})."
            )
    return found


def of_training(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns a remark on steps that changed nothing, from the lines of metrics.jsonl."""
    counted = [line for line in metrics if line.get("train/skipped")]
    if not counted:
        return []
    skipped, steps = int(counted[-1]["train/skipped"]), counted[-1]["step"]
    return [
        f"{skipped:,} of {steps:,} steps changed nothing: they had no valid example, or no finite "
        f"gradient ({GUIDE})."
    ]
