"""The files in a folder of pictures, told apart by their names: splits, classes, and the rest."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from vqvae_jax.data.readers import DataError, require

SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "val",
    "valid": "val",
    "validation": "val",
}
"""Split that a folder holds, by its name in small letters."""
_NOT_STILL = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
"""Formats that Pillow can't decode by itself."""
_BY_HASH = "by a hash of each name, about 1 file in 10 to test"


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
    suffixes = picture_suffixes()
    files = (p for p in root.rglob("*") if p.suffix.lower() in suffixes and p.is_file())
    return (p for p in files if not _is_hidden(p.relative_to(root).as_posix()))


def lay_out(root: Path) -> Layout:
    """Lists a folder and its sub-folders.

    The splits are sub-folders with the names of `SPLIT_FOLDERS`, in any capitalisation; without a
    test folder, the validation folder is the test split. Without any of these, or with a folder
    train alone, a hash of the relative name sends about 1 picture in 10 to the test split.

    Raises:
        DataError: if there is a folder for tests or validation, but none for training.
    """
    names = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
    suffixes = picture_suffixes()
    pictures = [n for n in names if PurePosixPath(n).suffix.lower() in suffixes]
    shown = [n for n in pictures if not _is_hidden(n)]
    others = Counter(
        PurePosixPath(n).suffix.lower() or "without suffix"
        for n in names
        if PurePosixPath(n).suffix.lower() not in suffixes and not _is_hidden(n)
    )
    splits, rule = _split(root, shown)
    used = set().union(*splits.values())
    unused = Counter(_top(n) for n in shown if n not in used)
    return Layout(
        splits,
        rule,
        _classes(used),
        tuple(n for n in pictures if _is_hidden(n)),
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


def _split(root: Path, names: Iterable[str]) -> tuple[dict[str, tuple[str, ...]], str]:
    folders = {p.name: SPLIT_FOLDERS.get(p.name.casefold()) for p in root.iterdir() if p.is_dir()}
    found = {name: split for name, split in sorted(folders.items()) if split}
    held = set(found.values())
    if held <= {"train"}:
        return _where(names, lambda n: "test" if _in_test(n) else "train"), _BY_HASH
    if "train" not in held:
        raise DataError(
            f"{root}: expected a folder train beside {' and '.join(found)}, found none; "
            "rename folders that hold no split"
        )
    # Pictures for validation are never trained on, and a test folder is the better test.
    split_of = {"train": "train", "test" if "test" in held else "val": "test"}
    used = [name for s in split_of for name, split in found.items() if split == s]
    rule = f"by the folders {' and '.join(used)}"
    return _where(names, lambda n: split_of.get(found.get(_top(n), ""))), rule


def _where(
    names: Iterable[str], split_of: Callable[[str], str | None]
) -> dict[str, tuple[str, ...]]:
    return {s: tuple(n for n in names if split_of(n) == s) for s in ("train", "test")}


def _classes(names: Iterable[str]) -> tuple[str, ...]:
    found = {class_of(name) or "" for name in names}
    # One folder of everything says nothing about its pictures.
    return () if "" in found or len(found) < 2 else tuple(sorted(found))


def _top(name: str) -> str:
    parts = PurePosixPath(name).parts
    return parts[0] if len(parts) > 1 else "."


def _is_hidden(name: str) -> bool:
    """Whether a file or one of its folders is hidden; macOS leaves hidden ._NAME beside NAME."""
    return re.search(r"(^|/)\.", name) is not None


def _in_test(relative: str) -> bool:
    # Chosen by a hash of the name, so that an image stays in its split when others come or go.
    # Python's `hash()` differs between processes.
    return int.from_bytes(hashlib.sha256(relative.encode()).digest()) % 10 == 0
