"""Reader of arrays from files of other programs: safetensors or .npz, never a pickle."""

import zipfile
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from vqvae_jax.saving.as_json import first_words
from vqvae_jax.saving.weights import parse


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
    except (zipfile.BadZipFile, ValueError, EOFError, KeyError, TypeError, SafetensorError) as e:
        raise ValueError(f"{path} is no safetensors or .npz file: {first_words(e)}") from None


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Reads the arrays of a safetensors file; raises an error unless it is whole."""
    # Opening it checks header and size, so that no large file of another kind is read.
    with safe_open(path, "np"):
        return parse(path.read_bytes())
