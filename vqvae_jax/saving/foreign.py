"""Reader of arrays from files of other programs: safetensors or .npz, never a pickle.

Nothing in a file is trusted: offsets, shapes and dtypes are checked before use. Neither the package
safetensors nor the other program is needed.
"""

import json
import math
import zipfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped, UInt8

from vqvae_jax.saving.weights import DTYPES

HEADER = 10**8
"""Largest header of a safetensors file in bytes, by its format."""


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """Reads the arrays of a file, by name.

    Raises:
        ValueError: if it is neither a whole safetensors file nor a whole .npz.
        OSError: if it can't be opened.
    """
    with open(path, "rb") as file:
        start = file.read(2)
    if path.suffix != ".npz" and (start == b"PK" or start[:1] == b"\x80"):
        raise ValueError(
            f"{path} is a pickle, which can run code: save the state_dict() by"
            " safetensors.torch.save_file"
        )
    try:
        if path.suffix != ".npz":
            return read_safetensors(path)
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (zipfile.BadZipFile, ValueError, EOFError, KeyError, TypeError) as e:
        raise ValueError(f"{path} is no safetensors or .npz file: {e}") from None


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Reads the arrays of a safetensors file; raises a ValueError unless it is whole."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(size - 8, HEADER):
            raise ValueError(f"a header of {length} bytes in a file of {size}")
        entries = parse(file.read(length))
        data = np.fromfile(file, np.uint8)
    arrays = {name: array_of(name, entry, data) for name, entry in entries.items()}
    if sum(array.nbytes for array in arrays.values()) != len(data):
        raise ValueError(f"{len(data)} bytes of data, not those of the arrays that it names")
    return arrays


def parse(header: bytes) -> dict[str, Any]:
    """Parses a header; returns its entries by the names of the arrays."""
    try:
        entries = json.loads(header)
    except RecursionError:
        raise ValueError("a header nested too deep") from None
    if not isinstance(entries, dict):
        raise ValueError("a header that names no arrays")
    return {name: entry for name, entry in entries.items() if name != "__metadata__"}


def array_of(name: str, entry: Any, data: UInt8[np.ndarray, "N"]) -> Shaped[np.ndarray, "..."]:
    """Returns the array that an entry of the header describes."""
    known = {code: dtype for dtype, code in DTYPES.items()}
    match entry:
        case {"dtype": str(code), "shape": [*shape], "data_offsets": [int(begin), int(end)]}:
            whole = code in known and all(type(n) is int and n >= 0 for n in shape)
        case _:
            whole = False
    if not whole:
        raise ValueError(f"{name} is {str(entry)[:100]}")
    dtype = jnp.dtype(known[code])
    if not 0 <= begin <= end <= len(data) or end - begin != dtype.itemsize * math.prod(shape):
        raise ValueError(f"{name}, {code} {shape}, is at {begin} to {end} of {len(data)} bytes")
    return data[begin:end].copy().view(dtype).reshape(shape)
