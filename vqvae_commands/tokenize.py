"""Write the codes that a trained model gives a whole data set.

vqvae tokenize runs/fashion                 to runs/fashion/codes/
vqvae tokenize runs/fashion --data mnist -o mnist-codes
"""

import dataclasses
import math
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from jaxtyping import Int

from vqvae_commands.data.data_options import GivenData, given_data
from vqvae_commands.generation.code_files import SPLITS, Codes, flat, write_codes
from vqvae_commands.generation.codes_of_data import tokenize, unique_share
from vqvae_commands.run.code_streams import tally
from vqvae_commands.terminal.terminal_table import print_lines


@dataclasses.dataclass(frozen=True)
class Config(GivenData):
    """Write the codes of a whole data set."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder, or that of a saved model."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="DIR")] = None
    """Folder for the codes, by default RUN/codes; existing codes in it are replaced."""
    format: Literal["npz", "records"] = "npz"
    """Format: NumPy files (npz), or ArrayRecord with one record per item (records)."""
    batch_size: int = 100
    """Examples per batch."""


def main(config: Config) -> dict[str, dict[str, float]]:
    """Tokenizes both splits, writes their codes and prints a table of them."""
    codes = tokenize(config.run, config.batch_size, **given_data(config))
    output = config.output or config.run / "codes"
    write_codes(output, codes, config.format)
    found = {split: summary(codes, split) for split in SPLITS}
    print_codes(found, f"{output}, model {codes.model[:16]}, {codes.source}")
    print(*(without_codes(codes.maps[split], split) for split in SPLITS), sep="", end="")
    return found


def summary(codes: Codes, split: str) -> dict[str, float]:
    """The numbers of the table, of one split."""
    maps, sizes = codes.maps[split], [size for _, vocab in codes.levels for size in vocab]
    each = [k[..., q] for k in maps for q in range(k.shape[-1])]
    per_item = [np.count_nonzero(k >= 0) / len(k) for k in each]
    used = [len(tally(k)) / size for k, size in zip(each, sizes, strict=True)]
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


ROWS = {
    "items": ("items", "{:,.0f}"),
    "codes": ("codes of an item, mean", "{:,.1f}"),
    "bits_uniform": ("bits of an item, log2 K a code", "{:,.1f}"),
    "unique": ("items whose codes no other item has", "{:.2%}"),
    "used": ("share of the codebook used", "{:.1%}"),
}


def print_codes(found: dict[str, dict[str, float]], title: str) -> None:
    """Prints the table."""
    lines = [["", *found]]
    for name, (text, form) in ROWS.items():
        lines.append([text, *(form.format(numbers[name]) for numbers in found.values())])
    print_lines(lines, title)
