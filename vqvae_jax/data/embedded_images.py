"""The 10,000 Fashion-MNIST images inside the package, and their labels, read by NumPy alone.

`tools/make_fashion_mnist.py` made the file.
"""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, UInt8

from vqvae_jax.data.readers import check_split

EMBEDDED = "fashion_mnist_10k"
"""Name of the data set."""

_FILE = Path(__file__).parent / "fashion_mnist" / "fashion_mnist_10k.npz"


def read_images(split: str) -> UInt8[np.ndarray, "N 28 28 1"]:
    """Reads the images of split "train" (8,000) or "test" (2,000)."""
    return _read(split, "images")


def read_labels(split: str) -> Int32[np.ndarray, "N"]:
    """Reads the class of each image of a split."""
    return _read(split, "labels").astype(np.int32)


def class_names() -> tuple[str, ...]:
    """Reads the names of classes 0 to 9."""
    with np.load(_FILE, allow_pickle=False) as arrays:
        return tuple(arrays["names"].tolist())


def _read(split: str, part: str) -> Any:
    check_split(EMBEDDED, split)
    with np.load(_FILE, allow_pickle=False) as arrays:
        return arrays[f"{split}_{part}"]
