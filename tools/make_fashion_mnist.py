"""Builds the embedded Fashion-MNIST subset: `python tools/make_fashion_mnist.py [SOURCE] [FILE]`.

The source is a folder of the original IDX files, by default where Debian's package
`dataset-fashion-mnist` installs them. `vqvae_jax.data.embedded_images` reads the .npz it makes.
"""

import gzip
import sys
from pathlib import Path

import numpy as np
from jaxtyping import Shaped, UInt8

SOURCE_DIR = Path("/usr/share/datasets/fashion-mnist")
FILE = Path(__file__).parents[1] / "vqvae_jax/data/fashion_mnist/fashion_mnist_10k.npz"
NAMES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
# (split, prefix of the IDX files, images kept of each class)
SPLITS = (("train", "train", 800), ("test", "t10k", 200))


def first_of_each_class(labels: Shaped[np.ndarray, "N"], count: int) -> Shaped[np.ndarray, "K"]:
    """Indices of the first `count` examples of every class, in the original order.

    Args:
        labels: integers `[N]`.
        count: how many to keep of each class that occurs.

    Raises:
        ValueError: a class has fewer than `count` examples.

    >>> first_of_each_class(np.array([1, 0, 1, 1, 0]), 2)
    array([0, 1, 2, 4])
    """
    classes, totals = np.unique(labels, return_counts=True)
    if totals.min() < count:
        raise ValueError(f"expected {count} examples of each class, found {totals.min()} of one")
    return np.sort(np.concatenate([np.flatnonzero(labels == c)[:count] for c in classes]))


def read_subset(
    source: Path, prefix: str, count: int
) -> tuple[UInt8[np.ndarray, "K H W 1"], UInt8[np.ndarray, "K"]]:
    """Images `[10 * count, 28, 28, 1]` and labels `[10 * count]` of one split, both uint8."""
    raw_images = gzip.decompress((source / f"{prefix}-images-idx3-ubyte.gz").read_bytes())
    raw_labels = gzip.decompress((source / f"{prefix}-labels-idx1-ubyte.gz").read_bytes())
    labels = np.frombuffer(raw_labels, np.uint8, offset=8)
    images = np.frombuffer(raw_images, np.uint8, offset=16).reshape(len(labels), 28, 28, 1)
    kept = first_of_each_class(labels, count)
    return images[kept], labels[kept]


def build(source: Path, file: Path) -> None:
    """Writes `file` from the IDX files in `source`; the same source gives the same bytes.

    Raises:
        FileNotFoundError: `source` lacks one of the four IDX files.
    """
    arrays = {"names": np.array(NAMES)}
    for split, prefix, count in SPLITS:
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = read_subset(source, prefix, count)
    np.savez_compressed(file, **arrays)


def main(source: str = str(SOURCE_DIR), file: str = str(FILE)) -> None:
    """Command line: `[SOURCE] [FILE]`."""
    build(Path(source), Path(file))


if __name__ == "__main__":
    main(*sys.argv[1:])
