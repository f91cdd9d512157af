"""A model as a folder: its JSON description and its weights, identified by their SHA-256.

Nothing is pickled and nothing in a folder is run: the description names public functions only.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vqvae_jax.describe import from_json, to_json

FORMAT = 1
DESCRIPTION = "model.json"


class BundleError(ValueError):
    """A folder that holds no model, or a damaged one; one line, naming the file."""


class Bundle(NamedTuple):
    """What `load_model` returns."""

    model: Any
    variables: dict[str, Any]
    sha256: str  # identifies the description and the weights together


def save_model(
    folder: str | os.PathLike, model, variables, names: Mapping[str, Any] | None = None
) -> str:
    """Writes `model.json` and the weights into the folder, and returns the model's SHA-256.

    The description is put in place last and in one move, so that a folder holds the whole old
    model or the whole new one at any time.

    Args:
        folder: made if missing.
        model: a Flax module with a JSON description.
        variables: nested dicts of arrays.
        names: the user's own modules and functions in the model, by name.

    Raises:
        ValueError: if the model has no JSON description.
    """
    folder, arrays = Path(folder), to_arrays(variables)
    description = to_json(model, names)
    digest = fingerprint(description, arrays)
    weights = f"weights-{digest[:16]}.npz"
    dtypes = {name: str(array.dtype) for name, array in arrays.items()}
    document = {
        "format": FORMAT,
        "sha256": digest,
        "weights": weights,
        "model": json.loads(description),
        "dtypes": dtypes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    raw = {name: array.view(raw_dtype(array.dtype)) for name, array in arrays.items()}
    write(folder / weights, lambda file: np.savez(file, allow_pickle=False, **raw))
    text = json.dumps(document, indent=1).encode()
    write(folder / DESCRIPTION, lambda file: file.write(text))
    for old in set(folder.glob("weights-*.npz")) - {folder / weights}:
        old.unlink()
    return digest


def load_model(folder: str | os.PathLike, names: Mapping[str, Any] | None = None) -> Bundle:
    """The model and its variables from a folder written by `save_model`.

    Raises:
        BundleError: if a file is missing, damaged or of another version, naming it.
    """
    path = Path(folder) / DESCRIPTION
    document = read_description(path)
    weights = path.parent / document["weights"]
    try:
        with np.load(weights, allow_pickle=False) as file:
            arrays = {name: file[name].view(dtype) for name, dtype in document["dtypes"].items()}
    except Exception as error:  # damage shows as many types: BadZipFile, KeyError, TypeError, ...
        raise BundleError(f"{weights} can't be read: {type(error).__name__}: {error}") from None
    description = json.dumps(document["model"])
    digest = fingerprint(description, arrays)
    if digest != document["sha256"]:
        raise BundleError(f"{weights} is damaged: SHA-256 {document['sha256']} became {digest}")
    try:
        model = from_json(description, names)
    except ValueError as error:
        raise BundleError(f"{path}: {error}") from None
    return Bundle(model, unflatten_dict(arrays, sep="/"), digest)


def read_description(path: Path) -> dict[str, Any]:
    """The parsed `model.json`, its fields checked."""
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError:
        raise BundleError(f"no model in {path.parent}: {path.name} is missing") from None
    except ValueError as error:
        raise BundleError(f"{path} is damaged: {error}") from None
    expected = {"format": int, "sha256": str, "weights": str, "model": dict, "dtypes": dict}
    for field, kind in expected.items():
        if not isinstance(document, dict) or not isinstance(document.get(field), kind):
            raise BundleError(f"{path} is damaged: {field} is missing or not a {kind.__name__}")
    if document["format"] != FORMAT:
        raise BundleError(f"{path} has format {document['format']}, this version reads {FORMAT}")
    if Path(document["weights"]).name != document["weights"]:
        raise BundleError(f"{path} names weights outside its folder: {document['weights']}")
    return document


def to_arrays(variables) -> dict[str, np.ndarray]:
    """Nested dicts of arrays as one flat dict of NumPy arrays."""
    flat = flatten_dict(jax.device_get(variables), sep="/")
    return {name: np.asarray(array, order="C") for name, array in sorted(flat.items())}


def raw_dtype(dtype: np.dtype) -> np.dtype:
    """Unsigned integers of the same size for a dtype that .npy files don't know, as bfloat16."""
    return dtype if dtype.isbuiltin == 1 else np.dtype(f"u{dtype.itemsize}")


def fingerprint(description: str, arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over the description and every array: name, dtype, shape and bytes."""
    digest = hashlib.sha256(json.dumps(json.loads(description), sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def write(path: Path, fill) -> None:
    """Writes a file under another name and moves it in place when it is complete."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
