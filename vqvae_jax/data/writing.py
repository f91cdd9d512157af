"""Writer of folders of ArrayRecord shards, which `records` reads."""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from vqvae_jax.data.readers import DataError, decode_image, first_line, require
from vqvae_jax.data.records import DESCRIPTION, FORMAT, Spec, sha256, shard_files, spec_of

Example = bytes | Shaped[np.ndarray, "..."]


def write_records(
    folder: str | Path,
    splits: Mapping[str, Iterable[Example]],
    shards: int = 1,
    mode: str = "RGB",
) -> None:
    """Writes the examples of each split, one after another, and the description last.

    Everything goes to a temporary folder, which is renamed when it is complete: a run that is
    stopped leaves nothing at `folder`.

    Args:
        folder: path that must not exist yet.
        splits: examples of "train" and "test", each an array or the bytes of an image file; all
            examples of a split have the same shape and dtype.
        shards: number of files per split, from 1 to the number of its examples.
        mode: mode in which encoded images will be decoded: "RGB", "L" or "RGBA".

    Raises:
        DataError: if `folder` exists, a split has fewer examples than shards, an example differs
            from the first one or can't be stored, or the disk is full.

    >>> import tempfile
    >>> from vqvae_jax.data.records import open_records
    >>> folder = Path(tempfile.mkdtemp()) / "rows"
    >>> write_records(folder, {"train": np.arange(6.0).reshape(3, 2)}, shards=2)
    >>> sorted(path.name for path in folder.iterdir())[1:]
    ['train-00000-of-00002.array_record', 'train-00001-of-00002.array_record']
    >>> open_records(folder, "train")[1:]
    array([[2., 3.], [4., 5.]])
    """
    folder = Path(folder)
    if folder.exists():
        raise DataError(f"{folder}: expected a new folder, found one that exists")
    if shards < 1:
        raise DataError(f"{folder}: expected at least 1 shard, found {shards}")
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        found = {s: _write_split(partial, s, rows, shards, mode) for s, rows in splits.items()}
        text = json.dumps({"format": FORMAT, "splits": found}, indent=1)
        (partial / DESCRIPTION).write_text(text)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_split(
    folder: Path, split: str, examples: Iterable[Example], shards: int, mode: str
) -> dict[str, Any]:
    files = shard_files(folder, split, shards)
    module = require("array_record.python.array_record_module")
    # One record per group, since reading a record reads its group; images compress no further.
    options = "group_size:1,uncompressed"
    writers = [_done(file, module.ArrayRecordWriter, str(file), options) for file in files]
    spec, count = None, 0
    for own, record in _records(split, examples, mode):
        _done(files[count % shards], writers[count % shards].write, record)
        spec, count = own, count + 1
    for file, writer in zip(files, writers, strict=True):
        _done(file, writer.close)
    if spec is None or count < shards:
        raise DataError(f"{split}: expected an example for each of {shards} shards, found {count}")
    return {"count": count, **spec._asdict(), "shards": [_fingerprint(file) for file in files]}


def _records(split: str, examples: Iterable[Example], mode: str) -> Iterator[tuple[Spec, bytes]]:
    spec = None
    for i, example in enumerate(examples):
        name = f"{split} example {i}"
        row = decode_image(example, mode, name) if isinstance(example, bytes) else example
        if spec is None:
            spec = spec_of(row)
            spec.decode(spec.encode(row), name)  # fails for bfloat16 and objects, which .npy lacks
        spec.checked(row, name)
        yield spec, example if isinstance(example, bytes) else spec.encode(row)


def _done(file: Path, call: Callable, *args) -> Any:
    try:
        return call(*args)
    except RuntimeError as error:  # array_record raises it for everything, even a full disk
        raise DataError(f"{file}: can't be written: {first_line(error)}") from error


def _fingerprint(file: Path) -> dict[str, Any]:
    with file.open("rb") as opened:
        # Before the folder is renamed, so that a crash of the machine leaves no empty shards.
        os.fsync(opened.fileno())
    return {"bytes": file.stat().st_size, "sha256": sha256(file)}
