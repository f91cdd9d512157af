"""Models saved as folders: JSON description and weights, identified by their SHA-256.

    model.json                               the description; dtype and shape of each array
    weights-<start of SHA-256>.safetensors   the arrays

Nothing is pickled and no code in a folder is run: a description calls only factories and modules.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
from flax.traverse_util import unflatten_dict
from safetensors.numpy import save

from vqvae_jax.saving.as_json import LENGTH, brief, build, first_words, to_json
from vqvae_jax.saving.describe import Model
from vqvae_jax.saving.weights import (
    LIMIT,
    check_specs,
    fingerprint,
    read_arrays,
    read_json,
    to_arrays,
    write,
)
from vqvae_jax.saving.weights import BundleError as BundleError

FORMAT = 2
DESCRIPTION = "model.json"
MODELS = nn.Module, Model


class Bundle(NamedTuple):
    """A loaded model, returned by `load_model`.

    Attributes:
        model: the Flax module, `Quantizer` or `Tokenizer`, equal to the one that was saved.
        variables: nested dicts of NumPy arrays with the saved bits, not yet on a device. Pass them
            to a Flax module as `model.apply(variables, ...)`; for loops over many batches, move
            them once by `jax.device_put(variables)`.
        sha256: digest of description and weights together, with which codes are marked.
    """

    model: Any
    variables: dict[str, Any]
    sha256: str


def save_model(
    folder: str | os.PathLike, model, variables, names: Mapping[str, Any] | None = None
) -> str:
    """Writes `model.json` and the weights into the folder, and returns the model's SHA-256.

    The description is moved into place last and atomically, so that at any time a folder holds
    either the whole old model or the whole new one.

    Args:
        folder: folder, created if missing.
        model: a Flax module, a `Quantizer` or a `Tokenizer` with a JSON description.
        variables: nested dicts, with string keys, of NumPy or JAX arrays on any devices.
        names: the user's own modules and functions in the model, by name.

    Raises:
        ValueError: if the model has no JSON description, or an array has a dtype or name that can't
            be saved.
        TypeError: if the model is something else, or the variables are not such dicts.
    """
    if not isinstance(model, MODELS):
        raise TypeError(f"model must be a Flax (Linen) module or a Quantizer, got {brief(model)}")
    folder, arrays = Path(folder), to_arrays(variables)
    description = json.loads(to_json(model, names))
    digest = fingerprint(description, arrays)
    specs = {name: (str(array.dtype), array.shape) for name, array in arrays.items()}
    document = {"format": FORMAT, "sha256": digest, "model": description, "arrays": specs}
    text = json.dumps(document, indent=1).encode()
    if len(text) > LENGTH:
        raise ValueError(f"the description takes {len(text)} bytes, more than {LENGTH}")
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / weights_name(digest)
    # Weights are named by the digest, so new ones never overwrite those to which the description in
    # place still refers. Old ones are removed last.
    write(weights, lambda file: file.write(save(arrays)))
    write(folder / DESCRIPTION, lambda file: file.write(text))
    for old in set(folder.glob("weights-*.safetensors")) - {weights}:
        old.unlink()
    return digest


def load_model(
    folder: str | os.PathLike, names: Mapping[str, Any] | None = None, *, limit: int = LIMIT
) -> Bundle:
    """Loads (model, variables, sha256) from a folder written by `save_model`; see `Bundle`.

    Args:
        folder: folder of the model, or of a run, which holds the model in its folder `model`.
        names: the user's own modules and functions in the model, by name.
        limit: largest size of the weights, in bytes.

    Raises:
        BundleError: if a file is missing, damaged, of another version, a link, or too large.

    Example:
        >>> import jax, tempfile, vqvae_jax as vj
        >>> layer, z = vj.Quantize(vj.vq(16, 4)), jax.numpy.ones((1, 4))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     digest = save_model(folder, layer, layer.init(jax.random.key(0), z))
        ...     model, variables, sha256 = load_model(folder)
        >>> model == layer, sha256 == digest, model.apply(variables, z).indices.shape
        (True, True, (1, 1))
    """
    path = Path(folder) / DESCRIPTION
    inner = Path(folder, "model", DESCRIPTION)
    # lexists, since a dangling link must be named in the error and not count as a missing model.
    if not os.path.lexists(path) and os.path.lexists(inner):
        path = inner
    document = read_description(path)
    weights = path.parent / weights_name(document["sha256"])
    # Weights come first: nothing in the description is called before the digest of both is
    # verified.
    arrays = read_arrays(weights, document["arrays"], limit)
    digest = fingerprint(document["model"], arrays)
    if digest != document["sha256"]:
        raise BundleError(f"{weights} is damaged: SHA-256 {document['sha256']} became {digest}")
    try:
        model = build(document["model"], names or {})
        variables = unflatten_dict(arrays, sep="/")
    except (ValueError, TypeError) as error:  # of the latter kind if "a" and "a/b" are there
        raise BundleError(f"{path}: {first_words(error)}") from None
    if not isinstance(model, MODELS):
        raise BundleError(f"{path}: expected a model, found {brief(model)}")
    return Bundle(model, variables, digest)


def read_description(path: Path) -> dict[str, Any]:
    """Reads `model.json` and checks its fields."""
    if not os.path.lexists(path):
        raise BundleError(f"no model in {path.parent}: {path.name} is missing")
    document = read_json(path)
    version = document.get("format") if isinstance(document, dict) else None
    if isinstance(version, int) and version != FORMAT:
        raise BundleError(f"{path} has format {brief(version)}, this version reads {FORMAT}")
    expected = {"format": int, "sha256": str, "model": dict, "arrays": dict}
    for field, kind in expected.items():
        if not isinstance(document, dict) or not isinstance(document.get(field), kind):
            raise BundleError(f"{path} is damaged: {field} is missing or not a {kind.__name__}")
    # It becomes part of a file name, and could otherwise lead out of the folder.
    if not re.fullmatch("[0-9a-f]{64}", document["sha256"]):
        raise BundleError(f"{path} is damaged: {brief(document['sha256'])} is no SHA-256")
    specs = check_specs(path, document["arrays"])
    return document | {"arrays": specs}


def weights_name(digest: str) -> str:
    """Returns the name of the file of the weights."""
    return f"weights-{digest[:16]}.safetensors"
