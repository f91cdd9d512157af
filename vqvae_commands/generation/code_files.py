"""Files of the codes of a whole data set: `tokenize` writes them, priors are trained on them.

codes.json            grid and vocab of each level, classes, the model, SHA-256 of each file
train.npz, test.npz   level0 [N, *grid, Q], level1, ...; label [N] where the source has labels
records/              ArrayRecord instead of .npz: each row is all codes of an item, and its label
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from vqvae_commands.data.data_options import DataOptions, data_options
from vqvae_commands.run.run_folder import strict_json, write_text
from vqvae_commands.run.whole_folder import whole_folder
from vqvae_jax.data.readers import DataError, first_line
from vqvae_jax.data.records import open_records, sha256
from vqvae_jax.data.writing import write_records
from vqvae_jax.priors.conditioning import Level
from vqvae_jax.saving.bundle import write
from vqvae_jax.saving.weights import LIMIT, BundleError, read_json

DESCRIPTION, FORMAT = "codes.json", 1
SPLITS = ("train", "test")
RECORDS = "records"


class Codes(NamedTuple):
    """The codes of both splits of a source.

    Attributes:
        maps: ints `[N, *grid, Q]` of "train" and "test" for each level, the top one first.
        labels: class of each item of both splits; empty where the source has none.
        classes: names of the classes.
        levels: (grid, vocab) of each level.
        model: SHA-256 of the model.
        data: options of the data.
    """

    maps: dict[str, tuple[Int[np.ndarray, "N ..."], ...]]
    labels: dict[str, Int[np.ndarray, "N"]]
    classes: tuple[str, ...]
    levels: tuple[Level, ...]
    model: str
    data: DataOptions

    @property
    def source(self) -> str:
        """Name of the data."""
        return self.data.data

    @property
    def grids(self) -> tuple[tuple[int, ...], ...]:
        """Grid of each level."""
        return tuple(grid for grid, _ in self.levels)

    @property
    def vocab(self) -> tuple[tuple[int, ...], ...]:
        """Sizes K of the streams of each level."""
        return tuple(vocab for _, vocab in self.levels)

    def label(self, split: str) -> Int[np.ndarray, "N"] | None:
        """Returns the classes of a split, None without labels."""
        return self.labels.get(split)


def write_codes(folder: Path, codes: Codes, form: str = "npz") -> None:
    """Writes a folder completely or not at all; existing codes in it are replaced.

    Args:
        folder: a new or empty folder, or one of codes.
        codes: codes to write.
        form: "npz" or "records".

    Raises:
        DataError: if the folder holds anything else.
    """
    with whole_folder(folder, "codes", lambda known: (known / DESCRIPTION).is_file()) as partial:
        FORMS[form][0](partial, codes)
        files = {name: sha256(partial / name) for name in file_names(partial)}
        write_text(partial / DESCRIPTION, strict_json(description(codes, form, files), indent=1))


def open_codes(folder: Path) -> Codes:
    """Reads the codes that `write_codes` wrote.

    Raises:
        DataError: if a file is missing or was changed; the message has one line.
    """
    path = folder / DESCRIPTION
    try:
        document = read_json(path)
    except BundleError as error:
        raise DataError(f"{path}: expected codes, found: {first_line(error)}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise DataError(f"{path}: expected codes of format {FORMAT}, found another")
    try:
        check_files(folder, document["files"])
        codes = FORMS[document["form"]][1](folder, document)
        check_maps(codes, document["counts"])
        return codes
    except DataError:
        raise
    except Exception as error:  # any kind: the files may come from anyone
        raise DataError(f"{path}: expected a description of codes, found: {error!r}") from error


def description(codes: Codes, form: str, files: dict[str, str]) -> dict[str, Any]:
    """Returns the content of codes.json."""
    levels = [{"grid": grid, "vocab": vocab} for grid, vocab in codes.levels]
    counts = {split: len(maps[0]) for split, maps in codes.maps.items()}
    facts = {**dataclasses.asdict(codes.data), "model": codes.model}
    known = {"counts": counts, "levels": levels, "classes": codes.classes}
    return {"format": FORMAT, "form": form, **facts, **known, "files": files}


def codes_from(document: dict[str, Any], maps: dict, labels: dict) -> Codes:
    """Makes `Codes` from the content of codes.json and the arrays of the files."""
    levels = tuple((tuple(x["grid"]), tuple(x["vocab"])) for x in document["levels"])
    classes = tuple(document["classes"])
    for split, label in labels.items() if classes else ():
        if label.size and (label.min() < -1 or label.max() >= len(classes)):
            found = f"{label.min()} to {label.max()} in {split}"
            raise DataError(f"expected labels from -1 to {len(classes) - 1}, found {found}")
    return Codes(
        maps,
        labels if classes else {},
        classes,
        levels,
        document["model"],
        data_options(document, data=document.get("source")),  # its name in older files
    )


def check_files(folder: Path, files: dict[str, str]) -> None:
    """Raises a DataError that names the first file with another SHA-256, or that is a link."""
    here = set(file_names(folder))
    for name, digest in files.items():
        found = sha256(folder / name) if name in here else "no such file"
        if found != digest:
            raise DataError(f"{folder / name}: expected SHA-256 {digest}, found {found}")


def check_maps(codes: Codes, counts: dict[str, int]) -> None:
    """Raises a ValueError unless the maps are integers from -1 to K - 1, of their shape."""
    for split, maps in codes.maps.items():
        for k, (grid, vocab) in zip(maps, codes.levels, strict=True):
            shape = (counts[split], *grid, len(vocab))
            if k.shape != shape or not np.issubdtype(k.dtype, np.integer):
                raise ValueError(f"expected integers {shape}, found {k.dtype} {k.shape}")
            if k.size and (k.min() < -1 or (k >= np.array(vocab)).any()):
                raise ValueError(f"codes must be from -1 to K - 1 for K of {vocab}")
        if codes.labels and codes.labels[split].shape != (counts[split],):
            raise ValueError(f"expected {counts[split]} labels")


def file_names(folder: Path) -> list[str]:
    """Returns all files of a folder and of its sub-folders, without links."""
    files = (p for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
    return sorted(p.relative_to(folder).as_posix() for p in files)


def smallest(vocab: tuple[int, ...]) -> type[np.signedinteger]:
    """Returns int16 where it holds all codes and -1, else int32.

    Example:
        >>> smallest((512, 32768)).__name__, smallest((32769,)).__name__
        ('int16', 'int32')
    """
    return np.int16 if max(vocab) - 1 <= np.iinfo(np.int16).max else np.int32


def write_npz(folder: Path, codes: Codes) -> None:
    """Writes a file of arrays for each split."""
    for split, maps in codes.maps.items():
        arrays = {f"level{i}": k for i, k in enumerate(maps)}
        if codes.labels:
            arrays["label"] = codes.labels[split]
        write(folder / f"{split}.npz", partial(np.savez_compressed, **arrays))


def read_npz(folder: Path, document: dict[str, Any]) -> Codes:
    """Reads what `write_npz` wrote."""
    maps, labels = {}, {}
    row = sum(math.prod(x["grid"]) * len(x["vocab"]) for x in document["levels"]) + 1
    for split, count in document["counts"].items():
        with np.load(folder / f"{split}.npz", allow_pickle=False) as file:
            # Checked before unpacking: a small damaged or hostile file may claim any size. No
            # integer has more than 8 bytes, and the headers of the arrays are small.
            size = sum(info.file_size for info in file.zip.infolist())
            if size > min(LIMIT, 8 * row * count + 10_000):
                raise ValueError(f"{split}.npz unpacks to {size} bytes")
            maps[split] = tuple(file[f"level{i}"] for i in range(len(document["levels"])))
            labels[split] = file.get("label")
    return codes_from(document, maps, labels)


def write_rows(folder: Path, codes: Codes) -> None:
    """Writes a record for each item: the codes of all levels, flat, then its label."""
    rows = {}
    for split, maps in codes.maps.items():
        parts = flat(maps)
        if codes.labels:
            parts.append(codes.labels[split][:, None].astype(smallest((len(codes.classes),))))
        rows[split] = np.concatenate(parts, axis=1)
    write_records(folder / RECORDS, rows)


def read_rows(folder: Path, document: dict[str, Any]) -> Codes:
    """Reads what `write_rows` wrote."""
    maps, labels = {}, {}
    shapes = [(*x["grid"], len(x["vocab"])) for x in document["levels"]]
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    for split in document["counts"]:
        *parts, label = np.split(open_records(folder / RECORDS, split)[:], ends, axis=1)
        maps[split] = tuple(
            part.reshape(-1, *shape).astype(smallest(tuple(x["vocab"])))
            for part, shape, x in zip(parts, shapes, document["levels"], strict=True)
        )
        labels[split] = label[:, 0].astype(np.int32) if label.size else None
    return codes_from(document, maps, labels)


def flat(maps: tuple[Int[np.ndarray, "N ..."], ...]) -> list[Int[np.ndarray, "N _"]]:
    """Returns the codes of each level as rows, one for each item."""
    return [k.reshape(len(k), -1) for k in maps]


FORMS: dict[str, tuple[Callable[[Path, Codes], None], Callable[[Path, dict], Codes]]] = {
    "npz": (write_npz, read_npz),
    "records": (write_rows, read_rows),
}
