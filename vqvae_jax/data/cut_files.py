"""Files of any length cut into pieces of one: which can be used, and in which split they are."""

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

from vqvae_jax.data.readers import DataError, first_line
from vqvae_jax.data.splitting import at_least_one, split_names

NAMED = 3  # skipped files that a warning names


class Recording(NamedTuple):
    """The content of a file, and its format in words, which all files of a folder share."""

    samples: Shaped[np.ndarray, "T ..."]
    form: str


def read_pieces(
    root: Path, names: Sequence[str], read: Callable[[Path], Recording], length: int, unit: str
) -> dict[str, Shaped[np.ndarray, "N length ..."]]:
    """Reads files and cuts each into pieces of `length`; returns those of both splits.

    Warnings name files that can't be read, and count what is too short for a piece.

    Args:
        root: folder of the files.
        names: their names, relative to it, in order.
        read: from a path to the recording; raises a DataError for a file that can't be read.
        length: number of samples of a piece, at least 1.
        unit: what is counted along the first axis, such as "samples".

    Raises:
        DataError: if a split has no file with a piece, or two files differ in their format.
    """
    found, bad = read_all(root, names, read)
    check_forms(root, found)
    sizes = {name: len(recording.samples) for name, recording in found.items()}
    used = [name for name, size in sizes.items() if size >= length]
    splits, _ = split_names(root, used, at_least_one)
    if not all(splits.values()):
        counts = " and ".join(f"{len(chosen)} to {split}" for split, chosen in splits.items())
        raise DataError(
            f"{root}: expected files of at least {length:,} {unit} to train and others to test, "
            f"found {counts} among {len(names)} files, the longest of "
            f"{max(sizes.values(), default=0):,} {unit}{reasons(bad)}"
        )
    if bad:
        warn(f"{root}: skipped {len(bad)} of {len(names)} files{reasons(bad)}")
    warn_of_rests(root, [*sizes.values()], length, unit)
    return {
        split: np.concatenate([cut(found[name].samples, length) for name in chosen])
        for split, chosen in splits.items()
    }


def read_all(
    root: Path, names: Sequence[str], read: Callable[[Path], Recording]
) -> tuple[dict[str, Recording], dict[str, str]]:
    """Returns the recordings, and what was found in files that can't be read, by their names."""
    found, bad = dict[str, Recording](), dict[str, str]()
    for name in names:
        try:
            found[name] = read(root / name)
        except DataError as error:
            bad[name] = first_line(error)
    return found, bad


def check_forms(root: Path, found: dict[str, Recording]) -> None:
    """Raises a DataError that names a file of another format than most."""
    forms = {name: recording.form for name, recording in found.items()}
    for common, _ in Counter(forms.values()).most_common(1):
        first = next(name for name, form in forms.items() if form == common)
        for name, form in forms.items():
            if form != common:
                raise DataError(f"{root / name}: expected {common}, as in {first}, found {form}")


def warn_of_rests(root: Path, sizes: Sequence[int], length: int, unit: str) -> None:
    """Warns of what is left at the ends of files, if there is anything."""
    rest, short = sum(size % length for size in sizes), sum(size < length for size in sizes)
    if rest:
        whole = f", and all of {short} files shorter than {length:,}" if short else ""
        warn(f"{root}: left out {rest:,} of {sum(sizes):,} {unit}, at the ends of files{whole}")


def warn(message: str) -> None:
    """Warns of what is left out."""
    warnings.warn(message, stacklevel=2)


def reasons(bad: dict[str, str]) -> str:
    """Names the first of the files that can't be read, and says why the first one can't be."""
    if not bad:
        return ""
    more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    return f": {', '.join([*bad][:NAMED])}{more} ({next(iter(bad.values()))})"


def cut(samples: Shaped[np.ndarray, "T ..."], length: int) -> Shaped[np.ndarray, "N length ..."]:
    """Cuts into pieces one after another; what is left at the end is dropped.

    >>> cut(np.arange(7), 3).tolist()
    [[0, 1, 2], [3, 4, 5]]
    """
    whole = len(samples) // length
    return samples[: whole * length].reshape(whole, length, *samples.shape[1:])
