"""Runs that nobody trained: random models over images and labels of a folder of IDX files."""

import json
import struct
from pathlib import Path

import jax
import numpy as np
from test_reconstruct import save_random

import vqvae_jax as vj
from vqvae_commands.run.recipe import hierarchy

SIZES = {"train": 60, "t10k": 20}
CLASSES = 3


def write_idx(folder: Path) -> Path:
    """Random images of 8 x 8 pixels of three classes, in no order."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for split, n in SIZES.items():
        label = rng.permutation(np.arange(n) % CLASSES).astype(np.uint8)
        # A texture for each class, and noise.
        texture = np.random.default_rng(1).integers(0, 200, (CLASSES, 8, 8))
        images = (texture[label] + rng.integers(0, 56, (n, 8, 8))).astype(np.uint8)
        header = struct.pack(">4BI", 0, 0, 8, 1, n)
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(header + label.tobytes())
        header = struct.pack(">4BIII", 0, 0, 8, 3, n, 8, 8)
        (folder / f"{split}-images-idx3-ubyte").write_bytes(header + images.tobytes())
    return folder


def one_level():
    """Codes of 2 x 2."""
    inner = {"width": 8, "depth": 1}
    return vj.VQVAE(vj.Encoder(1, 4, **inner), vj.vq(16, 4), vj.Decoder(1, 4, **inner))


def two_levels():
    """Codes of 2 x 2 in two streams, and of 4 x 4."""
    top = vj.grouped(vj.vq(4, 2), vj.vq(8, 2))
    return hierarchy(1, [top, vj.vq(16, 4)], 2, width=8, depth=1)


def write_run(folder: Path, data: Path, model=None) -> Path:
    """The folder of a run of random weights."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"data": str(data), "crop": None}))
    bundle = vj.load_model(save_random(folder / "model", model or one_level(), 8, 8, 1))
    # Larger and centred, what the encoder makes lies among the codes: many of them occur.
    louder = jax.tree_util.tree_map_with_path(vary, bundle.variables)
    vj.save_model(folder / "model", bundle.model, louder)
    return folder


def vary(path, x: np.ndarray) -> np.ndarray:
    """Weights of an encoder are larger, and biases 0."""
    name = jax.tree_util.keystr(path)
    if "encoder" not in name:
        return x
    return 0 * x if "bias" in name else 3 * x
