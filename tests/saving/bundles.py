"""A model with its arrays in a folder, for the tests of folders."""

import json

import jax.numpy as jnp
import ml_dtypes
import numpy as np

from vqvae_jax import MLP, VQVAE, BundleError, ema_vq, load_model, save_model
from vqvae_jax.quantizers import STATE

MODEL = VQVAE(MLP(3), ema_vq(4, 3), MLP(2))
DESCRIPTION = "model.json"


def arrays(seed=0):
    """Arrays of every kind that a model has; saving looks at no shape."""
    rng = np.random.default_rng(seed)
    return {
        "params": {
            "encoder": {"Dense_0": {"kernel": rng.normal(size=(3, 4)).astype(np.float32)}},
            "half": jnp.asarray(rng.normal(size=5), jnp.bfloat16),
            "complex": np.array([1 + 2j], np.complex64),
            "fp8": rng.normal(size=(2, 3)).astype(ml_dtypes.float8_e4m3fn),
        },
        STATE: {
            "initialized": np.array(True),
            "step": np.int32(seed),
            "nothing": np.zeros((0, 3), np.float32),
            "columns": np.asfortranarray(rng.normal(size=(3, 2))),
            "special": np.array([np.nan, np.inf, -0.0], np.float32),
        },
    }


def leaves(tree, path=""):
    """{path: (dtype, shape, bytes)}: equal only if the trees are, bit by bit."""
    if isinstance(tree, dict):
        return {p: v for name in tree for p, v in leaves(tree[name], f"{path}/{name}").items()}
    array = np.asarray(tree, order="C")
    return {path: (str(array.dtype), array.shape, array.tobytes())}


def saved(tmp_path):
    save_model(tmp_path / "model", MODEL, arrays())
    return tmp_path / "model"


def weights_of(folder):
    (path,) = folder.glob("weights-*.safetensors")
    return path


def edit(folder, **fields):
    path = folder / DESCRIPTION
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def whole_or_refused(folder, whole) -> bool:
    """Whether the folder loads: then it is the whole model, and else the error is one line."""
    try:
        bundle = load_model(folder)
    except BundleError as error:
        assert "\n" not in str(error) and str(folder) in str(error)
        return False
    assert (bundle.model, leaves(bundle.variables)) == (MODEL, whole)
    return True
