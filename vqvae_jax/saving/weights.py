"""Weights in safetensors files, which are read without trusting their contents.

A file is opened once, must be a plain file of exactly the expected size, and must start with
exactly the header that is written for its arrays. So nothing in it is parsed, and nothing larger
than the file is allocated.
"""

import hashlib
import json
import math
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict
from flax.traverse_util import flatten_dict

from vqvae_jax.saving.as_json import LENGTH, brief, first_words

LIMIT = 2**33
"""Default limit on the size of weights that are read, in bytes."""

ARRAYS = 2**16
"""Limit on the number of a model's arrays."""

DTYPES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16", "uint32": "U32",
    "int32": "I32", "uint64": "U64", "int64": "I64", "float16": "F16", "bfloat16": "BF16",
    "float32": "F32", "float64": "F64", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
    "complex64": "C64",
}  # fmt: skip
"""Names of dtypes in safetensors files."""

Spec = tuple[str, tuple[int, ...]]  # dtype and shape of an array


class BundleError(ValueError):
    """Error about a folder without a model or with a damaged one: one line that names the file."""


def check_specs(path: Path, arrays: dict[str, Any]) -> dict[str, Spec]:
    """Parses dtype and shape of each array; raises a BundleError unless they are plain."""
    if len(arrays) > ARRAYS:
        raise BundleError(f"{path} is damaged: {len(arrays)} arrays, more than {ARRAYS}")
    for name, spec in arrays.items():
        match spec:
            # Any parsed JSON may stand here; all but [name, [sizes]] falls through.
            case [str(dtype), [*shape]] if dtype in DTYPES and len(shape) <= 32:
                whole = all(type(n) is int and 0 <= n < 2**48 for n in shape)
            case _:
                whole = False
        if not whole or not is_name(name):
            raise BundleError(f"{path} is damaged: array {brief(name)} is {brief(spec)}")
    return {name: (dtype, tuple(shape)) for name, (dtype, shape) in sorted(arrays.items())}


def is_name(name: str) -> bool:
    """Returns whether a name is a path of printable parts.

    >>> [is_name(n) for n in ("params/Dense_0/kernel", "a//b", "", "a/", "a\\n")]
    [True, False, False, False, False]
    """
    return len(name) <= 1000 and all(part and part.isprintable() for part in name.split("/"))


@contextmanager
def opened(path: Path, limit: int) -> Iterator[BinaryIO]:
    """Opens a plain file of at most `limit` bytes, without following links or waiting for FIFOs."""
    # O_NONBLOCK, since opening a FIFO would wait for a writer, possibly forever.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        file = os.open(path, flags | getattr(os, "O_BINARY", 0))
    except OSError as error:
        found = "it is a symbolic link" if path.is_symlink() else error.strerror
        raise BundleError(f"{path} can't be read: {found}") from None
    # Checked on the open file, not its path: between a check of the path and the opening, another
    # file could take its place.
    info = os.fstat(file)
    if not stat.S_ISREG(info.st_mode):
        os.close(file)
        raise BundleError(f"{path} can't be read: it is no plain file")
    with os.fdopen(file, "rb") as reader:
        if info.st_size > limit:
            raise BundleError(f"{path} is too large: {info.st_size} bytes, limit={limit}")
        yield reader


def read_json(path: Path) -> Any:
    """Reads a JSON file; a BundleError names one that is damaged, too large or no plain file."""
    with opened(path, LENGTH) as file:
        text = file.read(LENGTH)
    try:
        return json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is damaged: {first_words(error)}") from None


def header(specs: Mapping[str, Spec]) -> tuple[bytes, list[str], int]:
    """Returns the header of a safetensors file of these arrays, their order, and the file's size.

    The widest dtypes come first, so that each array is aligned.
    """
    order = sorted(specs, key=lambda name: (-jnp.dtype(specs[name][0]).itemsize, name))
    entries, end = {}, 0
    for name in order:
        dtype, shape = specs[name]
        begin, end = end, end + count_bytes(specs[name])
        entries[name] = {"dtype": DTYPES[dtype], "shape": shape, "data_offsets": (begin, end)}
    text = json.dumps(entries).encode()
    # Spaces, which JSON ignores, make the arrays start at a multiple of 8 bytes.
    text += b" " * (-len(text) % 8)
    start = len(text).to_bytes(8, "little") + text
    return start, order, len(start) + end


def count_bytes(spec: Spec) -> int:
    """Returns the size of an array in bytes."""
    dtype, shape = spec
    return jnp.dtype(dtype).itemsize * math.prod(shape)


def write_arrays(file: BinaryIO, arrays: Mapping[str, np.ndarray], specs) -> None:
    """Writes a safetensors file."""
    start, order, _ = header(specs)
    file.write(start)
    for name in order:
        file.write(arrays[name].reshape(-1).view(np.uint8).data)


def read_arrays(path: Path, specs: Mapping[str, Spec], limit: int) -> dict[str, np.ndarray]:
    """Reads the arrays of a file from `write_arrays`; any other file raises a BundleError."""
    start, order, size = header(specs)
    arrays = {}
    with opened(path, limit) as file:
        found = os.fstat(file.fileno()).st_size
        # The header is compared, never parsed, so that offsets that overlap or point beyond the
        # file do no harm. The size is checked first, so that no array is allocated for a short
        # file.
        if found != size or file.read(len(start)) != start:
            raise BundleError(f"{path} is damaged: not the arrays that model.json names")
        try:
            for name in order:
                dtype, shape = specs[name]
                raw = np.fromfile(file, np.uint8, count_bytes(specs[name]))
                arrays[name] = raw.view(jnp.dtype(dtype)).reshape(shape)
        except (ValueError, OSError, MemoryError) as error:
            raise BundleError(f"{path} can't be read: {first_words(error)}") from None
    return arrays


def to_arrays(variables) -> dict[str, np.ndarray]:
    """Flattens nested dicts to one dict of NumPy arrays; raises if they can't be saved."""
    if not isinstance(variables, dict | FrozenDict):
        raise TypeError(
            f"variables must be nested dicts of arrays, got {type(variables).__name__};"
            " of a Flax NNX state, nnx.to_pure_dict makes them"
        )
    arrays = {}
    for path, value in flatten_dict(jax.device_get(variables)).items():
        name, array = "/".join(map(str, path)), np.asarray(value, order="C")
        if not all(isinstance(part, str) and "/" not in part for part in path) or not is_name(name):
            raise TypeError(f"names of variables must be printable and without /, got {path}")
        if str(array.dtype) not in DTYPES:
            raise ValueError(
                f"dtypes of variables must be one of {list(DTYPES)}, got {name}: {array.dtype}"
            )
        arrays[name] = array
    return arrays


def fingerprint(description: Any, arrays: Mapping[str, np.ndarray]) -> str:
    """Returns the SHA-256 of the description and every array: name, dtype, shape and bytes."""
    # Over contents, not files, so that the digest does not depend on how JSON is indented.
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        # Dtype and shape too, since the same bytes in another shape are another model.
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def write(path: Path, fill: Callable[[BinaryIO], Any]) -> None:
    """Writes a file under a temporary name and moves it into place when it is complete."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)  # of a crash, or a link that someone put there
    try:
        with open(partial, "xb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        # Only after fsync; else a crash of the machine can leave an empty file under the new name.
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
