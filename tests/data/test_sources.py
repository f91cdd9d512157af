import gzip
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from vqvae_jax.data import readers, sources
from vqvae_jax.data.sources import DataError, array, embedded, idx, open_source


def noise(height, width, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, channels), np.uint8)


def idx_bytes(images):
    shape = b"".join(n.to_bytes(4, "big") for n in images.shape)
    return b"\0\0\x08\x03" + shape + images.tobytes()


def test_importing_sources_is_light():
    code = "import sys, vqvae_jax.data.sources, vqvae_jax.data.background\n"
    code += "print({'PIL', 'array_record', 'grain', 'tensorflow_datasets'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_gives_the_pixels(suffix, tmp_path):
    pack = gzip.compress if suffix else bytes
    expected = {"train": noise(6, 5, 4, seed=1), "test": noise(2, 5, 4, seed=2)}
    for split, stem in readers.IDX_NAMES.items():
        (tmp_path / f"{stem}{suffix}").write_bytes(pack(idx_bytes(expected[split])))
    for split, images in expected.items():
        np.testing.assert_array_equal(idx(tmp_path)(split)[..., 0], images)
    np.testing.assert_array_equal(open_source(str(tmp_path))("test"), idx(tmp_path)("test"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train-images-idx3-ubyte", idx_bytes(noise(3, 4, 5))[:-1], r"\(3, 4, 5\) .*found 59"),
        ("train-images-idx3-ubyte", b"\0\0\x08\x01" + bytes(20), "header of uint8 images, found"),
        ("train-images-idx3-ubyte", b"", "header of uint8 images, found b''"),
        ("train-images-idx3-ubyte", idx_bytes(noise(3, 4, 5)[:0]), "split 'train' is empty"),
        ("train-images-idx3-ubyte.gz", b"not gzip", "train-.*gz: expected a gzip file"),
        (
            "train-images-idx3-ubyte.gz",
            gzip.compress(bytes(99), mtime=0)[:-9],
            "expected a gzip file",
        ),
        ("t10k-images-idx3-ubyte", b"", r"expected train-images-idx3-ubyte\(.gz\), found no"),
    ],
)
def test_idx_errors(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        idx(tmp_path)("train")


def test_array_keeps_dtype_and_order(tmp_path):
    rows = np.random.default_rng(0).normal(size=(25, 3)).astype(np.float32)
    np.save(tmp_path / "x.npy", rows)
    for source in (array(rows), array(tmp_path / "x.npy"), open_source(str(tmp_path / "x.npy"))):
        np.testing.assert_array_equal(source("train"), rows[:23])
        np.testing.assert_array_equal(source("test"), rows[23:])
        assert source("train").dtype == np.float32


def test_array_takes_bfloat16():
    assert array(np.ones([20, 2], ml_dtypes.bfloat16))("test").dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros([20], np.float32), r"expected numbers of shape \[N, ..., C\], found float32"),
        (np.full([20, 2], None), "found object"),
        (np.full([20, 2], "a"), "found <U1"),
        (np.zeros([20, 2], "V2"), r"found \|V2"),
        (np.zeros([9, 2], np.float32), r"split 'test' is empty, found shape \(0, 2\)"),
        (np.zeros([0, 2], np.float32), "split 'test' is empty"),
    ],
)
def test_array_errors(rows, message):
    with pytest.raises(DataError, match=message):
        array(rows)("test")


def test_array_files_that_are_not_plain_numbers_raise(tmp_path):
    np.save(tmp_path / "object.npy", np.full([20, 2], None), allow_pickle=True)
    (tmp_path / "text.npy").write_text("hello")
    np.save(tmp_path / "cut.npy", np.zeros([20, 2]))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:-1])
    with (tmp_path / "archive.npy").open("wb") as file:
        np.savez(file, x=np.zeros([20, 2]))
    for name in ("object", "text", "cut", "missing"):
        with pytest.raises(DataError, match=rf"{name}.npy: expected a .npy array, found"):
            array(tmp_path / f"{name}.npy")("train")
    with pytest.raises(DataError, match="found an archive"):
        array(tmp_path / "archive.npy")("train")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: "./no/such/path", "'./no/such/path': expected a path or a TFDS name"),
        (
            lambda root: str(root),
            "IDX files, pictures, WAV files or videos, found none",
        ),
        (lambda root: str(root / "a.txt"), "expected a .npy file or a folder"),
    ],
)
def test_open_source_errors(make, message, tmp_path):
    text = make(tmp_path)
    if text.endswith(".txt"):
        Path(text).write_text("hello")
    with pytest.raises(DataError, match=message):
        open_source(text)


def test_open_source_takes_other_names_as_tfds_sets():
    with pytest.raises(DataError, match="no_such_set: expected the name of a TFDS set"):
        open_source("no_such_set")("train")
    np.testing.assert_array_equal(open_source(sources.EMBEDDED)("test")[:5], embedded()("test")[:5])


def test_split_names_are_checked():
    with pytest.raises(DataError, match="expected split 'train' or 'test', found 'valid'"):
        embedded()("valid")
