"""The images inside the package are the known ones, and need NumPy alone."""

import gzip
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tools import make_fashion_mnist
from vqvae_jax.data import embedded_images as module
from vqvae_jax.data.labels import open_labels
from vqvae_jax.data.readers import DataError
from vqvae_jax.data.sources import EMBEDDED, embedded

ROOT = Path(__file__).parents[2]
IMAGES = {
    "train": "dcda5d31d243feac2ab8288403fb2d43b54ca240d7c12197455f1e39d833ad86",
    "test": "96315b1732ab731e68b8def3c284f34b605f7deb7a61e683c7d786265c827c83",
}
LABELS = {
    "train": "40d9ebb3360a5b5cb166291f701a07115f2843b1b97edb918703734bf0bb4832",
    "test": "306fe07077dd1527c5b03487629049b319ec185fa6fa8e7b7548e87de93fd7f0",
}
needs_idx = pytest.mark.skipif(
    not make_fashion_mnist.SOURCE_DIR.is_dir(), reason="needs the package dataset-fashion-mnist"
)


@pytest.mark.parametrize(("split", "count"), [("train", 8000), ("test", 2000)])
def test_embedded_images_are_the_known_ones(split, count):
    images = embedded()(split)
    assert (images.shape, images.dtype) == ((count, 28, 28, 1), np.uint8)
    assert hashlib.sha256(images.tobytes()).hexdigest() == IMAGES[split]


@pytest.mark.parametrize(("split", "count"), [("train", 800), ("test", 200)])
def test_embedded_classes_are_balanced(split, count):
    labels = open_labels(EMBEDDED)
    found = labels.read(split)
    np.testing.assert_array_equal(np.bincount(found), [count] * 10)
    assert found.dtype == np.int32
    assert hashlib.sha256(found.tobytes()).hexdigest() == LABELS[split]
    assert labels.names == make_fashion_mnist.NAMES


WITHOUT = """
import hashlib, sys
for name in ("tensorflow_datasets", "tensorflow", "array_record", "grain", "PIL"):
    sys.modules[name] = None
from vqvae_jax.data.labels import open_labels
from vqvae_jax.data.sources import open_source
labels = open_labels("fashion_mnist_10k")
for split in ("train", "test"):
    for array in (open_source("fashion_mnist_10k")(split), labels.read(split)):
        print(hashlib.sha256(array.tobytes()).hexdigest())
"""


def test_embedded_images_and_labels_need_no_other_package():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        digests[split] for split in ("train", "test") for digests in (IMAGES, LABELS)
    ]


@pytest.mark.parametrize("read", [module.read_images, module.read_labels])
def test_embedded_splits_are_two(read):
    with pytest.raises(DataError, match="expected split 'train' or 'test', found 'validation'"):
        read("validation")


@needs_idx
@pytest.mark.parametrize(("split", "prefix", "count"), make_fashion_mnist.SPLITS)
def test_embedded_images_equal_the_originals(split, prefix, count):
    images, labels = make_fashion_mnist.read_subset(make_fashion_mnist.SOURCE_DIR, prefix, count)
    np.testing.assert_array_equal(embedded()(split), images)
    np.testing.assert_array_equal(module.read_labels(split), labels)


def write_originals(folder: Path) -> None:
    """IDX files of all embedded images, in their order: what is kept of them is all."""
    for split, prefix, _ in make_fashion_mnist.SPLITS:
        images, labels = embedded()(split)[..., 0], module.read_labels(split).astype(np.uint8)
        for stem, array in (("images-idx3", images), ("labels-idx1", labels)):
            sizes = b"".join(n.to_bytes(4) for n in array.shape)
            content = bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()
            (folder / f"{prefix}-{stem}-ubyte.gz").write_bytes(gzip.compress(content, 1))


def test_building_twice_gives_the_same_bytes(tmp_path):
    write_originals(tmp_path)
    files = [tmp_path / "a.npz", tmp_path / "b.npz"]
    for file in files:
        make_fashion_mnist.build(tmp_path, file)
    assert files[0].read_bytes() == files[1].read_bytes()
    with np.load(files[0]) as built, np.load(make_fashion_mnist.FILE) as kept:
        assert built.files == kept.files
        for name in kept.files:
            np.testing.assert_array_equal(built[name], kept[name])


def test_too_few_images_of_a_class_raise():
    with pytest.raises(ValueError, match="expected 2 examples of each class, found 1 of one"):
        make_fashion_mnist.first_of_each_class(np.array([0, 0, 1]), 2)
