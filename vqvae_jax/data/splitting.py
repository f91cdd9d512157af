"""The split of each file of a folder: by the folders train, test and validation, or by its name."""

import hashlib
import re
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from vqvae_jax.data.readers import DataError

Splits = dict[str, tuple[str, ...]]

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


def split_names(
    root: Path, names: Sequence[str], chosen: Callable[[Sequence[str]], set[str]]
) -> tuple[Splits, str]:
    """Returns the names of both splits, and how the splits were made, in words.

    The splits are sub-folders with the names of `SPLIT_FOLDERS`, in any capitalisation; without a
    test folder, the validation folder is the test split. Without any of these, or with a folder
    train alone, `chosen` says which names are of the test split.

    Args:
        root: folder.
        names: names relative to it.
        chosen: `by_hash`, or a function like it.

    Raises:
        DataError: if there is a folder for tests or validation, but none for training.
    """
    folders = {p.name: SPLIT_FOLDERS.get(p.name.casefold()) for p in root.iterdir() if p.is_dir()}
    found = {name: split for name, split in sorted(folders.items()) if split}
    held = set(found.values())
    if held <= {"train"}:
        test = chosen(names)
        rule = "by a hash of each name, about 1 file in 10 to test"
        return sorted_into(names, lambda n: "test" if n in test else "train"), rule
    if "train" not in held:
        raise DataError(
            f"{root}: expected a folder train beside {' and '.join(found)}, found none; "
            "rename folders that hold no split"
        )
    # Files for validation are never trained on, and a test folder is the better test.
    split_of = {"train": "train", "test" if "test" in held else "val": "test"}
    used = [name for s in split_of for name, split in found.items() if split == s]
    rule = f"by the folders {' and '.join(used)}"
    return sorted_into(names, lambda n: split_of.get(found.get(top_folder(n), ""))), rule


def sorted_into(names: Iterable[str], split_of: Callable[[str], str | None]) -> Splits:
    """Returns the names of "train" and "test", in their order."""
    return {s: tuple(n for n in names if split_of(n) == s) for s in ("train", "test")}


def by_hash(names: Sequence[str]) -> set[str]:
    """Returns the names that a hash sends to the test split, about 1 in 10.

    A name stays in its split when others come or go.

    >>> sorted(by_hash([f"{i}.png" for i in range(20)]))
    ['7.png']
    """
    return {name for name in names if number(name) % 10 == 0}


def at_least_one(names: Sequence[str]) -> set[str]:
    """Returns the names of `by_hash`, or the one that comes nearest where it sends none.

    >>> at_least_one(["a.wav", "b.wav", "c.wav"]), at_least_one(["a.wav"])
    ({'c.wav'}, set())
    """
    found = by_hash(names)
    if len(names) < 2 or 0 < len(found) < len(names):
        return found if len(found) < len(names) else set()
    return {min(names, key=number)} if not found else found - {max(names, key=number)}


def number(name: str) -> int:
    """Returns the hash of a name. Python's `hash()` differs between processes."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest())


def visible_files(root: Path, suffixes: Container[str]) -> Iterator[Path]:
    """Yields the files under `root` with these suffixes, without hidden ones, in no order."""
    files = (p for p in root.rglob("*") if p.suffix.lower() in suffixes and p.is_file())
    return (p for p in files if not is_hidden(p.relative_to(root).as_posix()))


def names_in(root: Path, files: Iterable[Path]) -> list[str]:
    """Returns the names of files relative to `root`, in order."""
    return sorted(p.relative_to(root).as_posix() for p in files)


def top_folder(name: str) -> str:
    """Returns the first folder of a name; "." without one."""
    parts = PurePosixPath(name).parts
    return parts[0] if len(parts) > 1 else "."


def is_hidden(name: str) -> bool:
    """Whether a file or one of its folders is hidden; macOS leaves hidden ._NAME beside NAME."""
    return re.search(r"(^|/)\.", name) is not None
