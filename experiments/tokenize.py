"""The codes of a whole data set, by a trained model.

python -m experiments.tokenize runs/fashion                 to runs/fashion/codes/
python -m experiments.tokenize runs/fashion --data mnist -o mnist-codes
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import tyro
from jaxtyping import Int
from rich.console import Console
from rich.table import Table

from experiments.generation.code_files import (
    DESCRIPTION,
    SPLITS,
    Codes,
    flat,
    open_codes,
    smallest,
    write_codes,
)
from experiments.run import codes as streams
from experiments.run.command import run
from experiments.run.progress import make_progress
from experiments.run.recipe import load_data
from vqvae_jax import BundleError, load_model
from vqvae_jax.checks import check_size
from vqvae_jax.data.labels import open_labels
from vqvae_jax.data.pipeline import Examples, preprocess, take_batches
from vqvae_jax.saving.bundle import Bundle
from vqvae_jax.saving.weights import read_json


@dataclasses.dataclass(frozen=True)
class Config:
    """Write the codes of a whole data set."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="DIR")] = None
    """The folder for the codes, by default RUN/codes; codes that it holds are replaced."""
    data: str | None = None
    """Another source than the run's own."""
    crop: int | None = None
    """Side of the crops from a folder of images."""
    format: Literal["npz", "records"] = "npz"
    """NumPy files, or ArrayRecord with a record for each item."""
    batch_size: int = 100
    """Examples at a time."""


def main(config: Config) -> dict[str, dict[str, float]]:
    """Tokenizes both splits, writes their codes and prints a table of them."""
    codes = tokenize(config.run, config.data, config.crop, config.batch_size)
    output = config.output or config.run / "codes"
    write_codes(output, codes, config.format)
    found = {split: summary(codes, split) for split in SPLITS}
    show(found, f"{output}, model {codes.model[:16]}, {codes.source}")
    print(*(without_codes(codes.maps[split], split) for split in SPLITS), sep="", end="")
    return found


def tokenize(run: Path, data: str | None, crop: int | None, batch_size: int) -> Codes:
    """The codes of a run's model for its own data, or others.

    Raises:
        BundleError: no such run, or a damaged model.
        DataError: data that can't be read.
    """
    check_size(batch_size=batch_size)
    bundle, options = open_run(run)
    data, crop = data or options["data"], crop or options["crop"]
    splits = dict(zip(SPLITS, load_data(data, crop), strict=True))
    labels = open_labels(data)
    maps = {split: encode(bundle, x, batch_size, split) for split, x in splits.items()}
    quantizers = streams.quantizers(bundle.model)
    grids = (k.shape[1:-1] for k in maps["train"])
    return Codes(
        maps,
        {split: labels.read(split) for split in SPLITS} if labels else {},
        labels.names if labels else (),
        tuple((grid, q.vocab) for grid, q in zip(grids, quantizers, strict=True)),
        bundle.sha256,
        data,
        crop,
    )


def open_run(run: Path) -> tuple[Bundle, dict[str, Any]]:
    """A run's model and options.

    Raises:
        BundleError: no such run, or a damaged model.
    """
    path = run / "config.json"
    if not path.exists():
        raise BundleError(f"{run} is no run: it has no config.json")
    return load_model(run / "model"), read_json(path)


def codes_of(run: Path, bundle: Bundle) -> Codes:
    """RUN/codes; they are made if there are none, or those of another model."""
    folder = run / "codes"
    if (folder / DESCRIPTION).is_file():
        codes = open_codes(folder)
        if codes.model == bundle.sha256:
            return codes
        print(f"{folder} is of another model and is made again")
    codes = tokenize(run, None, None, batch_size=100)
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

    `change` is what is done to batch i before.
    """
    model, parts = bundle.model, []
    dtypes = [smallest(quantizer.vocab) for quantizer in streams.quantizers(model)]
    batch_size = min(batch_size, len(data))
    with make_progress(Console(), transient=True) as progress:
        task = progress.add_task("", total=len(data), now=name)
        for i, (batch, mask) in enumerate(take_batches(data, batch_size)):
            maps = jax.device_get(tokenize_batch(model, bundle.variables, change(i, batch)))
            parts.append([k[mask > 0].astype(dtype) for k, dtype in zip(maps, dtypes, strict=True)])
            progress.update(task, advance=len(parts[-1][0]))
    return tuple(map(np.concatenate, zip(*parts, strict=True)))


@partial(jax.jit, static_argnums=0)
def tokenize_batch(model, variables, batch):
    """A map of codes for each level."""
    x = preprocess(batch) if getattr(model, "domain", None) is None else batch
    return streams.as_levels(model.apply(variables, x, method="tokenize"))


def summary(codes: Codes, split: str) -> dict[str, float]:
    """The numbers of the table, of one split."""
    maps, sizes = codes.maps[split], [size for _, vocab in codes.levels for size in vocab]
    each = [k[..., q] for k in maps for q in range(k.shape[-1])]
    per_item = [math.prod(k.shape[1:]) for k in each]
    used = [len(streams.tally(k)) / size for k, size in zip(each, sizes, strict=True)]
    bits = sum(n * math.log2(size) for n, size in zip(per_item, sizes, strict=True))
    numbers = {"items": len(maps[0]), "codes": sum(per_item), "bits_uniform": bits}
    return numbers | {"unique": unique_share(maps), "used": float(np.mean(used))}


def without_codes(maps: tuple[Int[np.ndarray, "N ..."], ...], split: str) -> str:
    """A line on the items without any code, if there are some.

    Example:
        >>> print(without_codes((np.array([[0], [-1]]), np.array([[5, -1], [-1, -1]])), "test"))
        1 of 2 test items have no codes: not finite, or out of the range of the model's data
    """
    none = int(np.count_nonzero((np.concatenate(flat(maps), axis=1) < 0).all(axis=1)))
    why = "not finite, or out of the range of the model's data"
    return f"{none:,} of {len(maps[0]):,} {split} items have no codes: {why}\n" if none else ""


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


ROWS = {
    "items": ("items", "{:,.0f}"),
    "codes": ("codes of an item", "{:,.0f}"),
    "bits_uniform": ("bits of an item, log2 K a code", "{:,.1f}"),
    "unique": ("items whose codes no other item has", "{:.2%}"),
    "used": ("share of the codebook used", "{:.1%}"),
}


def show(found: dict[str, dict[str, float]], title: str) -> None:
    """Prints the table."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for split in found:
        table.add_column(split, justify="right")
    for name, (text, form) in ROWS.items():
        table.add_row(text, *(form.format(numbers[name]) for numbers in found.values()))
    Console().print(table)


if __name__ == "__main__":
    run(main, Config)
