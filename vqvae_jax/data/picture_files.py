"""The files in a folder of pictures, told apart by their names: splits, classes, and the rest."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from vqvae_jax.data.readers import require
from vqvae_jax.data.splitting import (
    SPLIT_FOLDERS,
    by_hash,
    is_hidden,
    names_in,
    split_names,
    top_folder,
    visible_files,
)

_NOT_STILL = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
"""Formats that Pillow can't decode by itself."""


class Layout(NamedTuple):
    """Files of a folder of pictures, by their names alone.

    Attributes:
        splits: names of the pictures of "train" and "test", relative to the folder and sorted.
        rule: how the splits were made, in words.
        classes: names of the class folders, sorted; empty unless all pictures lie in such folders.
        hidden: names of hidden pictures, which are skipped.
        unused: number of pictures in each folder that belongs to neither split.
        others: number of files of each suffix that is not one of a picture.
    """

    splits: dict[str, tuple[str, ...]]
    rule: str
    classes: tuple[str, ...]
    hidden: tuple[str, ...]
    unused: dict[str, int]
    others: dict[str, int]


def picture_suffixes() -> frozenset[str]:
    """Returns the suffixes of the formats that Pillow reads as still pictures.

    >>> {".png", ".jpeg", ".gif", ".tif"} <= picture_suffixes(), ".pdf" in picture_suffixes()
    (True, False)
    """
    pil = require("PIL.Image")
    formats = pil.registered_extensions()  # loads Pillow's plugins, which register what they open
    known = pil.OPEN.keys() - _NOT_STILL
    return frozenset(suffix for suffix, name in formats.items() if name in known)


def image_files(root: Path) -> Iterator[Path]:
    """Yields the pictures under `root`, by their suffixes and without hidden ones, in no order."""
    return visible_files(root, picture_suffixes())


def lay_out(root: Path) -> Layout:
    """Lists a folder and its sub-folders.

    Raises:
        DataError: as `split_names` does.
    """
    names = names_in(root, (p for p in root.rglob("*") if p.is_file()))
    suffixes = picture_suffixes()
    pictures = [n for n in names if PurePosixPath(n).suffix.lower() in suffixes]
    shown = [n for n in pictures if not is_hidden(n)]
    others = Counter(
        PurePosixPath(n).suffix.lower() or "without suffix"
        for n in names
        if PurePosixPath(n).suffix.lower() not in suffixes and not is_hidden(n)
    )
    splits, rule = split_names(root, shown, by_hash)
    used = set().union(*splits.values())
    unused = Counter(top_folder(n) for n in shown if n not in used)
    return Layout(
        splits,
        rule,
        _classes(used),
        tuple(n for n in pictures if is_hidden(n)),
        dict(unused),
        dict(others.most_common()),
    )


def class_of(name: str) -> str | None:
    """Returns the first folder of a picture, inside the folder of its split; None without one.

    >>> class_of("Train/cats/1/a.png"), class_of("cats/a.png"), class_of("train/a.png")
    ('cats', 'cats', None)
    """
    folders = PurePosixPath(name).parts[:-1]
    inner = folders[1:] if folders and folders[0].casefold() in SPLIT_FOLDERS else folders
    return inner[0] if inner else None


def _classes(names: Iterable[str]) -> tuple[str, ...]:
    found = {class_of(name) or "" for name in names}
    # One folder of everything says nothing about its pictures.
    return () if "" in found or len(found) < 2 else tuple(sorted(found))
