"""Labels are those of the source's examples, in their order."""

import gzip

import numpy as np
import pytest

from vqvae_jax.data.labels import open_labels
from vqvae_jax.data.readers import DataError
from vqvae_jax.data.sources import embedded


def idx_labels(values, axes=1) -> bytes:
    return bytes([0, 0, 8, axes]) + len(values).to_bytes(4) + bytes(values)


@pytest.fixture
def digits(tmp_path):
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_labels([3, 0, 1]))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_labels([2])))
    return tmp_path


def test_embedded_labels_belong_to_their_images():
    """Trousers (class 1) are narrow, bags (8) are wide: a nearest class mean is right mostly."""
    labels, source = open_labels("fashion_mnist_10k"), embedded()
    train, test = labels.read("train"), labels.read("test")
    assert np.bincount(train).tolist() == [800] * 10 and len(labels.names) == 10
    x, y = (source(split).reshape(-1, 784) / 255.0 for split in ("train", "test"))
    means = np.stack([x[train == k].mean(0) for k in range(10)])
    nearest = np.argmin(np.square(y[:, None] - means).sum(-1), axis=1)
    assert np.mean(nearest == test) > 0.6  # a tenth, were the order another


def test_labels_of_idx_files(digits):
    labels = open_labels(str(digits))
    assert labels.names == ("0", "1", "2", "3")
    assert labels.read("train").tolist() == [3, 0, 1] and labels.read("test").tolist() == [2]
    assert labels.read("train").dtype == np.int32


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (idx_labels([1, 2])[:-1], "expected (2,) labels, found 1 bytes"),
        (idx_labels([1, 2], axes=3), "expected the header of uint8 labels"),
    ],
)
def test_damaged_idx_labels_are_named(digits, content, found):
    (digits / "train-labels-idx1-ubyte").write_bytes(content)
    with pytest.raises(DataError) as error:
        open_labels(str(digits))
    assert found in str(error.value) and "train-labels" in str(error.value)


def test_a_source_without_labels_has_none(tmp_path):
    np.save(tmp_path / "rows.npy", np.zeros((20, 4), np.float32))
    assert open_labels(str(tmp_path / "rows.npy")) is None
    assert open_labels(str(tmp_path)) is None
