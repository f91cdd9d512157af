"""Weights in safetensors files, which are read without trusting their contents.

A file is opened once, must be a plain file of at most a limit of bytes, and must hold exactly the
arrays that the description names. safetensors checks every offset before it allocates.
"""

import hashlib
import json
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
from safetensors import SafetensorError, deserialize

from vqvae_jax.saving.as_json import LENGTH, brief, first_words

LIMIT = 2**33
"""Default limit on the size of weights that are read, in bytes."""

ARRAYS = 2**16
"""Limit on the number of a model's arrays."""

DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32",
    "I32": "int32", "U64": "uint64", "I64": "int64", "F16": "float16", "BF16": "bfloat16",
    "F32": "float32", "F64": "float64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "C64": "complex64",
}  # fmt: skip
"""Dtypes by their names in safetensors files."""

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
            case [str(dtype), [*shape]] if dtype in DTYPES.values() and len(shape) <= 32:
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


def parse(content: bytes) -> dict[str, np.ndarray]:
    """Parses the content of a safetensors file; raises a ValueError unless it is whole."""
    # Not by `safetensors.numpy.load`, which lacks bfloat16, nor by `safe_open`, which lacks float8
    # and maps the file into memory: if it is truncated meanwhile, the process crashes.
    try:
        return {name: as_array(name, entry) for name, entry in deserialize(content)}
    except SafetensorError as error:
        raise ValueError(first_words(error)) from None


def as_array(name: str, entry: Mapping[str, Any]) -> np.ndarray:
    """Returns the array of an entry of a file; raises a ValueError if NumPy can't hold it."""
    if entry["dtype"] not in DTYPES:
        raise ValueError(f"array {brief(name)} has dtype {entry['dtype']}")
    dtype = jnp.dtype(DTYPES[entry["dtype"]])
    return np.frombuffer(entry["data"], dtype).reshape(entry["shape"])


def read_arrays(path: Path, specs: Mapping[str, Spec], limit: int) -> dict[str, np.ndarray]:
    """Reads the arrays of a file; raises a BundleError unless they are of these specs."""
    with opened(path, limit) as file:
        try:
            arrays = parse(file.read())
        except ValueError as error:
            raise BundleError(f"{path} is damaged: {first_words(error)}") from None
        except (OSError, MemoryError) as error:
            raise BundleError(f"{path} can't be read: {first_words(error)}") from None
    if {name: (str(array.dtype), array.shape) for name, array in arrays.items()} != specs:
        raise BundleError(f"{path} is damaged: not the arrays that model.json names")
    return {name: arrays[name] for name in specs}  # safetensors gives them in any order


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
        if str(array.dtype) not in DTYPES.values():
            raise ValueError(
                f"dtypes of variables must be one of {list(DTYPES.values())},"
                f" got {name}: {array.dtype}"
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
