"""Data sets larger than memory: folders of ArrayRecord shards, decoded when indexed.

    records.json                        count, shape and dtype of each split, sizes of its shards
    train-00000-of-00004.array_record   record i of a split is number i // 4 of shard i % 4

A record is an image file's bytes, a uint8 image as PNG, or another array as .npy. Grain,
array_record and Pillow are imported on first use. `writing` makes such folders.
"""

import hashlib
import io
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

from vqvae_jax.data.readers import MODES, DataError, decode_image, first_line, require
from vqvae_jax.saving.weights import LIMIT, BundleError, read_json

DESCRIPTION = "records.json"
FORMAT = 1


class Spec(NamedTuple):
    """Shape, dtype and encoding of every record of a split."""

    shape: tuple[int, ...]
    dtype: str
    encoding: str  # "image" or "npy"

    def encode(self, row: Shaped[np.ndarray, "..."]) -> bytes:
        """Encodes a row as one record."""
        out = io.BytesIO()
        if self.encoding == "image":
            grey = row[..., 0] if row.shape[-1] == 1 else row  # Pillow has no axis for one channel
            require("PIL.Image").fromarray(grey).save(out, "PNG")
        else:
            np.lib.format.write_array(out, np.asarray(row), allow_pickle=False)
        return out.getvalue()

    def decode(self, record: bytes, name: str) -> Shaped[np.ndarray, "..."]:
        """Decodes a record to its row; a `DataError` starts with `name`."""
        if self.encoding == "image":
            return self.checked(decode_image(record, MODES[self.shape[-1]], name), name)
        try:
            row = np.lib.format.read_array(io.BytesIO(record), allow_pickle=False)
        except (ValueError, EOFError, MemoryError) as error:
            found = first_line(error)
            raise DataError(f"{name}: expected a .npy array, found: {found}") from error
        return self.checked(row, name)

    def checked(self, row: Shaped[np.ndarray, "..."], name: str) -> Shaped[np.ndarray, "..."]:
        """Returns the row; raises a `DataError` unless it has the split's shape and dtype."""
        _same(name, f"{self.dtype} {self.shape}", f"{row.dtype} {row.shape}")
        return row


def spec_of(row: Shaped[np.ndarray, "..."]) -> Spec:
    """Returns the spec for rows like this one.

    >>> spec_of(np.zeros([8, 8, 3], np.uint8)), spec_of(np.zeros([8], np.float16)).encoding
    (Spec(shape=(8, 8, 3), dtype='uint8', encoding='image'), 'npy')
    """
    picture = row.dtype == np.uint8 and row.ndim == 3 and row.shape[-1] in MODES
    return Spec(row.shape, str(row.dtype), "image" if picture else "npy")


@dataclass(frozen=True)
class Records:
    """Array-like `[N, ...]` whose rows are decoded when indexed.

    >>> rows = Records((3, 2), np.dtype(int), lambda i: np.array([i, 10 * i]))
    >>> rows[1:].tolist(), rows[np.array([2, 0])].tolist(), len(rows)
    ([[1, 10], [2, 20]], [[2, 20], [0, 0]], 3)
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    example: Callable[[int], Shaped[np.ndarray, "..."]]
    """Function from a row's number to the row, of shape `shape[1:]`."""

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | Int[np.ndarray, "M"]) -> Shaped[np.ndarray, "M ..."]:
        numbers = range(len(self))[rows] if isinstance(rows, slice) else rows
        out = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        for i, number in enumerate(numbers):
            # `range` handles negative numbers, and raises an IndexError, like an array.
            out[i] = self.example(range(len(self))[number])
        return out


def open_records(folder: str | Path, split: str) -> Records:
    """Opens the rows of a split without decoding any.

    Indexing raises a `DataError` that names shard and record if a record is damaged or does not fit
    the description. Shards are checked by their sizes; `check_records` reads all of them.

    Raises:
        DataError: if there is no such split, the description is missing or damaged, or a shard is
            missing or does not have its original size.
    """
    count, spec, shards = read_description(Path(folder), split)
    files = _whole_files(Path(folder), split, shards)
    lengths = [len(range(i, count, len(files))) for i in range(len(files))]
    starts = [0, *itertools.accumulate(lengths)]
    parts = [_Part(str(f), 0, n, n) for f, n in zip(files, lengths, strict=True)]
    source = require("grain").sources.ArrayRecordDataSource(parts)

    def example(number: int) -> Shaped[np.ndarray, "..."]:
        # Records are written to the shards in turn, so that a stream can be written without knowing
        # its length.
        place, shard = divmod(number, len(files))
        name = f"{files[shard]} record {place}"
        try:
            record = source[starts[shard] + place]
        except RuntimeError as error:  # array_record raises nothing more specific
            found = first_line(error)
            raise DataError(f"{name}: expected a complete record, found: {found}") from error
        return spec.decode(record, name)

    return Records((count, *spec.shape), np.dtype(spec.dtype), example)


def check_records(folder: str | Path) -> None:
    """Reads every shard; raises a `DataError` that names the first one with a wrong SHA-256."""
    for split in _splits(Path(folder)):
        _, _, shards = read_description(Path(folder), split)
        for file, shard in zip(_whole_files(Path(folder), split, shards), shards, strict=True):
            _same(str(file), f"SHA-256 {shard['sha256']}", f"SHA-256 {sha256(file)}")


def shard_files(folder: Path, split: str, shards: int) -> list[Path]:
    """Returns the paths of a split's shards.

    >>> [file.name for file in shard_files(Path(), "test", 1)]
    ['test-00000-of-00001.array_record']
    """
    return [folder / f"{split}-{i:05d}-of-{shards:05d}.array_record" for i in range(shards)]


def _whole_files(folder: Path, split: str, shards: list[dict[str, Any]]) -> list[Path]:
    # Sizes instead of digests: hashing would read the whole set at each start; see `check_records`.
    files = shard_files(folder, split, len(shards))
    for file, shard in zip(files, shards, strict=True):
        found = f"{file.stat().st_size} bytes" if file.is_file() else "no such file"
        _same(str(file), f"{shard['bytes']} bytes", found)
    return files


def read_description(folder: Path, split: str) -> tuple[int, Spec, list[dict[str, Any]]]:
    """Reads (count, spec, bytes and SHA-256 of each shard) of a split."""
    splits = _splits(folder)
    if split not in splits:
        raise DataError(f"{folder}: expected a split {split!r}, found {sorted(splits)}")
    found, path = splits[split], folder / DESCRIPTION
    try:
        spec = Spec(tuple(map(int, found["shape"])), found["dtype"], found["encoding"])
        shards = [{"bytes": int(s["bytes"]), "sha256": s["sha256"]} for s in found["shards"]]
        count, dtype = int(found["count"]), np.dtype(spec.dtype)
        # The description is not trusted: an object dtype would be unpickled, and a huge shape would
        # fill memory at the first batch.
        if dtype.hasobject or min(spec.shape, default=0) < 0 or nbytes(spec.shape, dtype) > LIMIT:
            raise ValueError(f"rows of {dtype} {spec.shape}")
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: expected split {split!r} described, found: {error!r}") from error
    picture = len(spec.shape) == 3 and spec.shape[-1] in MODES
    if (
        spec.encoding not in (["image", "npy"] if picture else ["npy"])
        or not 1 <= len(shards) <= count
    ):
        state = f"{spec.encoding} of {spec.shape}, {count} in {len(shards)} shards"
        raise DataError(f"{path}: expected records that are images or .npy, found {state}")
    return count, spec, shards


def nbytes(shape: tuple[int, ...], dtype: np.dtype) -> int:
    """Returns the size of an array."""
    return math.prod(shape) * dtype.itemsize


def _splits(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    try:
        document = read_json(path)
    except BundleError as error:
        found = first_line(error)
        raise DataError(f"{path}: expected a description of records, found: {found}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        version = document.get("format") if isinstance(document, dict) else None
        raise DataError(f"{path}: expected format {FORMAT}, found {version}")
    splits = document.get("splits")
    return splits if isinstance(splits, dict) else {}


class _Part(NamedTuple):
    """Description of a file for Grain, which then need not open all files to count records."""

    filename: str
    skip: int
    take: int
    examples_in_shard: int


def sha256(file: Path) -> str:
    """Returns the SHA-256 of a file of any size."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _same(name: str, expected: str, found: str) -> None:
    if expected != found:
        raise DataError(f"{name}: expected {expected}, found {found}")
