import hashlib
import io
import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from PIL import Image

from vqvae_jax.data import make_fashion_mnist, readers
from vqvae_jax.data.prepared import stream_tfds
from vqvae_jax.data.records import open_records
from vqvae_jax.data.sources import DataError, embedded, tfds_name
from vqvae_jax.data.writing import write_records

SHA256 = {
    "train": "dcda5d31d243feac2ab8288403fb2d43b54ca240d7c12197455f1e39d833ad86",
    "test": "96315b1732ab731e68b8def3c284f34b605f7deb7a61e683c7d786265c827c83",
}
FOLDER = Path(readers.__file__).parent / "fashion_mnist"
needs_idx = pytest.mark.skipif(
    not make_fashion_mnist.SOURCE_DIR.is_dir(), reason="needs the package dataset-fashion-mnist"
)


def noise(height, width, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, channels), np.uint8)


def prepared(root, **changes):
    """A copy of the embedded folder where TFDS looks for it, with fields of its JSON changed."""
    out = root / "fashion_mnist_10k/1.0.0"
    shutil.copytree(FOLDER, out)
    info = json.loads((out / "dataset_info.json").read_text())
    (out / "dataset_info.json").write_text(json.dumps(info | changes))
    return out


def small_set(root, images, image_feature):
    """A TFDS set of the given images, written as PNG."""
    out = root / "my_set/1.0.0"
    out.mkdir(parents=True)
    features = tfds.features.FeaturesDict({"image": image_feature})
    template = tfds.core.ShardedFileTemplate(
        data_dir=out, dataset_name="my_set", split="train", filetype_suffix="array_record"
    )
    path = template.sharded_filepath(shard_index=0, num_shards=1)
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for image in images:
        png = io.BytesIO()
        Image.fromarray(image).save(png, "PNG")
        png.seek(0)
        writer.write(features.serialize_example({"image": png}))
    writer.close()
    info = tfds.core.SplitInfo(
        name="train", shard_lengths=[len(images)], num_bytes=1, filename_template=template
    )
    tfds.folder_dataset.write_metadata(
        data_dir=out, features=features, split_infos=[info], check_data=False
    )


@pytest.mark.parametrize(("split", "count"), [("train", 8000), ("test", 2000)])
def test_embedded_images_are_the_known_ones(split, count):
    images = embedded()(split)
    assert (images.shape, images.dtype) == ((count, 28, 28, 1), np.uint8)
    assert hashlib.sha256(images.tobytes()).hexdigest() == SHA256[split]


@pytest.mark.parametrize(("split", "count"), [("train", 800), ("test", 200)])
def test_embedded_classes_are_balanced(split, count):
    builder = tfds.builder_from_directory(str(FOLDER))
    skip = {"image": tfds.decode.SkipDecoding()}
    records = builder.as_data_source(split=split, decoders=skip)
    np.testing.assert_array_equal(np.bincount([r["label"] for r in records]), [count] * 10)
    assert builder.info.features["label"].names == list(make_fashion_mnist.NAMES)


@needs_idx
@pytest.mark.parametrize(("split", "prefix", "count"), make_fashion_mnist.SPLITS)
def test_embedded_images_equal_the_originals(split, prefix, count):
    images, _ = make_fashion_mnist.read_subset(make_fashion_mnist.SOURCE_DIR, prefix, count)
    np.testing.assert_array_equal(embedded()(split)[..., 0], images)


def test_building_twice_gives_the_same_bytes(tmp_path):
    images = noise(100, 28 * 28).reshape(-1, 28, 28)[:200]
    labels = np.arange(200, dtype=np.uint8) % 10
    runs = [list(make_fashion_mnist._records(images, labels)) for _ in range(2)]
    assert runs[0] == runs[1]


def test_too_few_images_of_a_class_raise():
    with pytest.raises(ValueError, match="expected 2 examples of each class, found 1 of one"):
        make_fashion_mnist.first_of_each_class(np.array([0, 0, 1]), 2)


@pytest.mark.parametrize("module", ["tensorflow_datasets", "array_record", "PIL.Image"])
def test_a_missing_package_names_the_extra(module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DataError, match=rf"{module}.*pip install 'vqvae_jax\[data\]'"):
        embedded()("test")


def test_tfds_name_reads_a_prepared_set(tmp_path):
    prepared(tmp_path)
    expected = embedded()("test")
    for name in ("fashion_mnist_10k", "fashion_mnist_10k:1.0.0"):
        np.testing.assert_array_equal(tfds_name(name, tmp_path)("test"), expected)


def test_tfds_sets_become_records_with_their_files_as_they_are(tmp_path):
    prepared(tmp_path)
    mode, count, encoded = stream_tfds("fashion_mnist_10k", tmp_path, "test")
    write_records(tmp_path / "set", {"test": encoded}, mode=mode)
    rows = open_records(tmp_path / "set", "test")
    assert (mode, count, len(rows)) == ("L", 2000, 2000)
    np.testing.assert_array_equal(rows[:], embedded()("test"))


def test_tfds_sets_with_missing_files_raise(tmp_path):
    next(prepared(tmp_path).glob("*-test.array_record-*")).unlink()
    with pytest.raises(DataError, match=r"10k test: expected complete records, found: .*No such"):
        tfds_name("fashion_mnist_10k", tmp_path)("test")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("no_such_set", "Dataset no_such_set not found"),
        ("mnist", "found nothing prepared"),
        ("mnist/no_such_config", "BuilderConfig no_such_config not found"),
        ("coco", "No module named 'tensorflow'|found nothing prepared"),
    ],
)
def test_tfds_names_that_are_not_prepared_fail_fast(name, found, tmp_path):
    start = time.monotonic()
    with pytest.raises(DataError, match=rf"{name}.*({found}).*run `tfds build {name} ") as error:
        tfds_name(name, tmp_path)("train")
    assert time.monotonic() - start < 5
    assert "\n" not in str(error.value)


def test_tfds_sets_in_another_format_raise(tmp_path):
    prepared(tmp_path, fileFormat="tfrecord")
    with pytest.raises(DataError, match=r"expected array_record files in .*, found tfrecord files"):
        tfds_name("fashion_mnist_10k", tmp_path)("train")


def test_tfds_splits_that_are_missing_raise(tmp_path):
    small_set(tmp_path, [noise(4, 4)], tfds.features.Image())
    assert tfds_name("my_set", tmp_path)("train").shape == (1, 4, 4, 3)
    with pytest.raises(DataError, match=r"in split 'test', found splits \['train'\]"):
        tfds_name("my_set", tmp_path)("test")


def test_tfds_images_of_different_sizes_raise(tmp_path):
    small_set(tmp_path, [noise(4, 4), noise(4, 5)], tfds.features.Image())
    with pytest.raises(DataError, match=r"of one size, found \(4, 4, 3\) and \(4, 5, 3\)"):
        tfds_name("my_set", tmp_path)("train")


def test_tfds_converts_the_odd_grey_image(tmp_path):
    grey = noise(4, 4, 1)[..., 0]
    small_set(tmp_path, [noise(4, 4), grey], tfds.features.Image())
    images = tfds_name("my_set", tmp_path)("train")
    np.testing.assert_array_equal(images[1], np.repeat(grey[..., None], 3, -1))


@pytest.mark.parametrize(
    ("feature", "found"),
    [
        (
            tfds.features.Image(shape=(None, None, 1), dtype=np.uint16),
            "uint8 images .*found uint16",
        ),
        (tfds.features.Text(), "an image feature, found"),
    ],
)
def test_tfds_features_other_than_uint8_images_raise(feature, found, tmp_path, monkeypatch):
    small_set(tmp_path, [noise(4, 4)], tfds.features.Image())
    builder = tfds.builder("my_set", data_dir=tmp_path)
    features = tfds.features.FeaturesDict({"image": feature})
    monkeypatch.setattr(type(builder.info), "features", features)
    with pytest.raises(DataError, match=f"my_set: expected {found}"):
        tfds_name("my_set", tmp_path)("train")
