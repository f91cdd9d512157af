"""The codes of a whole data set, made by the model of a run."""

import dataclasses
import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int
from rich.console import Console

from vqvae_commands.data.data_checks import check_effect
from vqvae_commands.data.data_options import data_options, load_data, open_data
from vqvae_commands.data.padded import parts
from vqvae_commands.data.picture_counts import print_pictures
from vqvae_commands.generation.code_files import (
    DESCRIPTION,
    SPLITS,
    Codes,
    flat,
    open_codes,
    smallest,
    write_codes,
)
from vqvae_commands.run import code_streams
from vqvae_commands.run.batchwise import each_batch, joined
from vqvae_commands.run.progress import make_progress
from vqvae_commands.run.run_folder import open_run
from vqvae_jax.checks import check_size
from vqvae_jax.data.labels import open_labels
from vqvae_jax.data.pipeline import Examples
from vqvae_jax.data.scaling import preprocess
from vqvae_jax.saving.bundle import Bundle


def tokenize(run: Path, batch_size: int, **given) -> Codes:
    """The codes of a run's model for its own data, or others.

    Args:
        run: folder of the run, or of a model.
        batch_size: number of examples at a time.
        given: options of other data, see `data_options`.

    Raises:
        BundleError: no such run, or a damaged model.
        DataError: data that can't be read.
    """
    check_size(batch_size=batch_size)
    bundle, options = open_run(run)
    data = data_options(options, **given)
    source = open_data(data)
    check_effect(given, data.data, source)
    splits = dict(zip(SPLITS, load_data(data, source), strict=True))
    print_pictures(source)
    labels = open_labels(data.data, source)
    maps = {split: encode(bundle, x, batch_size, split) for split, x in splits.items()}
    quantizers = code_streams.quantizers(bundle.model)
    grids = (k.shape[1:-1] for k in maps["train"])
    return Codes(
        maps,
        {split: labels.read(split) for split in SPLITS} if labels else {},
        labels.names if labels else (),
        tuple((grid, q.vocab) for grid, q in zip(grids, quantizers, strict=True)),
        bundle.sha256,
        data,
    )


def codes_of(run: Path, bundle: Bundle, **given) -> Codes:
    """Reads RUN/codes, or makes them if there are none, or those of another model or other data."""
    folder = run / "codes"
    if (folder / DESCRIPTION).is_file():
        codes = open_codes(folder)
        same_data = data_options(dataclasses.asdict(codes.data), **given) == codes.data
        if codes.model == bundle.sha256 and same_data:
            return codes
        other = "other data" if codes.model == bundle.sha256 else "another model"
        print(f"{folder} is of {other} and is made again")
    codes = tokenize(run, 100, **given)
    write_codes(folder, codes)
    return codes


def encode(
    bundle: Bundle,
    data: Examples,
    batch_size: int,
    name: str = "",
    change: Callable[[int, Any], Any] = lambda i, batch: batch,
) -> tuple[Int[np.ndarray, "N ..."], ...]:
    """The codes `[N, *grid, Q]` of each level, batch by batch: the data need not fit in memory.

    `change(i, batch)` is applied to batch i first.
    """
    model, numbers, found = bundle.model, itertools.count(), []
    dtypes = [smallest(quantizer.vocab) for quantizer in code_streams.quantizers(model)]

    def look(batch):
        maps = tokenize_batch(model, bundle.variables, change(next(numbers), batch))
        return tuple(np.asarray(k).astype(t) for k, t in zip(maps, dtypes, strict=True))

    with make_progress(Console(), transient=True) as progress:
        task = progress.add_task("", total=len(data), now=name)
        for maps in each_batch(look, data, batch_size):
            found.append(maps)
            progress.update(task, advance=len(maps[0]))
    return joined(found)


@partial(jax.jit, static_argnums=0)
def tokenize_batch(model, variables, batch):
    """A map of codes for each level, -1 in rows of padding."""
    x, mask = parts(batch)
    x = preprocess(x) if getattr(model, "domain", None) is None else x
    return code_streams.as_levels(model.apply(variables, x, **mask, method="tokenize"))


def unique_share(maps: tuple[Int[np.ndarray, "N ..."], ...]) -> float:
    """The share of items whose codes, all levels and streams together, no other item has.

    Example:
        >>> unique_share((np.array([[0], [0], [1]]), np.array([[5, 5], [5, 6], [5, 5]])))
        1.0
        >>> round(unique_share((np.array([[0], [0], [1]]),)), 3)
        0.333
    """
    rows = np.concatenate(flat(maps), axis=1)
    _, times = np.unique(rows, axis=0, return_counts=True)
    return float(np.count_nonzero(times == 1) / len(rows))
