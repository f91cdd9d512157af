import io
import json
import sys
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from PIL import Image

from vqvae_jax.data import tfds_folders as prepared_sets
from vqvae_jax.data.labels import open_labels
from vqvae_jax.data.records import open_records
from vqvae_jax.data.sources import DataError, embedded, tfds_name
from vqvae_jax.data.tfds_folders import stream_tfds
from vqvae_jax.data.writing import write_records


def noise(height, width, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, channels), np.uint8)


NAMES = ("boot", "bag", "coat")


def records(root, name, split, features, examples):
    """The file of a split of a TFDS set, and what TFDS must know about it."""
    template = tfds.core.ShardedFileTemplate(
        data_dir=root, dataset_name=name, split=split, filetype_suffix="array_record"
    )
    path = template.sharded_filepath(shard_index=0, num_shards=1)
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for example in examples:
        writer.write(features.serialize_example(example))
    writer.close()
    return tfds.core.SplitInfo(
        name=split, shard_lengths=[len(examples)], num_bytes=1, filename_template=template
    )


def png(image):
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, "PNG")
    encoded.seek(0)
    return encoded


def expected(split):
    """The images and labels of `prepared`."""
    images = embedded()(split)[: {"train": 40, "test": 20}[split]]
    return images, np.arange(len(images)) ** 2 % 3


def prepared(root, **changes):
    """A TFDS set of two splits with labels, with fields of its JSON changed."""
    out = root / "clothes/1.0.0"
    out.mkdir(parents=True)
    image = tfds.features.Image(shape=(28, 28, 1), encoding_format="png")
    label = tfds.features.ClassLabel(names=NAMES)
    features = tfds.features.FeaturesDict({"image": image, "label": label})
    infos = []
    for split in ("train", "test"):
        pairs = zip(*expected(split), strict=True)
        examples = [{"image": png(x[..., 0]), "label": int(k)} for x, k in pairs]
        infos.append(records(out, "clothes", split, features, examples))
    tfds.folder_dataset.write_metadata(
        data_dir=out, features=features, split_infos=infos, check_data=False
    )
    info = json.loads((out / "dataset_info.json").read_text())
    (out / "dataset_info.json").write_text(json.dumps(info | changes))
    return out


def small_set(root, images, image_feature):
    """A TFDS set of the given images, written as PNG."""
    out = root / "my_set/1.0.0"
    out.mkdir(parents=True)
    features = tfds.features.FeaturesDict({"image": image_feature})
    info = records(out, "my_set", "train", features, [{"image": png(image)} for image in images])
    tfds.folder_dataset.write_metadata(
        data_dir=out, features=features, split_infos=[info], check_data=False
    )


@pytest.mark.parametrize("module", ["tensorflow_datasets", "array_record", "PIL.Image"])
def test_a_missing_package_names_the_extra(module, monkeypatch, tmp_path):
    prepared(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DataError, match=rf"{module}.*pip install 'vqvae_jax\[data\]'"):
        tfds_name("clothes", tmp_path)("test")


def test_tfds_name_reads_a_prepared_set(tmp_path):
    prepared(tmp_path)
    for name in ("clothes", "clothes:1.0.0"):
        for split in ("train", "test"):
            images = tfds_name(name, tmp_path)(split)
            np.testing.assert_array_equal(images, expected(split)[0])


def test_labels_of_a_prepared_set(tmp_path, monkeypatch):
    prepared(tmp_path)
    small_set(tmp_path, [noise(4, 4)], tfds.features.Image())
    builder = prepared_sets.tfds_builder
    monkeypatch.setattr(prepared_sets, "tfds_builder", lambda name, _: builder(name, tmp_path))
    labels = open_labels("clothes")
    assert labels.names == NAMES and open_labels("my_set") is None
    for split in ("train", "test"):
        found = labels.read(split)
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, expected(split)[1])
    with pytest.raises(DataError, match=r"in split 'validation', found splits"):
        labels.read("validation")


def test_tfds_sets_become_records_with_their_files_as_they_are(tmp_path):
    prepared(tmp_path)
    mode, count, encoded = stream_tfds("clothes", tmp_path, "test")
    write_records(tmp_path / "set", {"test": encoded}, mode=mode)
    rows = open_records(tmp_path / "set", "test")
    assert (mode, count, len(rows)) == ("L", 20, 20)
    np.testing.assert_array_equal(rows[:], expected("test")[0])


def test_tfds_sets_with_missing_files_raise(tmp_path):
    next(prepared(tmp_path).glob("*-test.array_record-*")).unlink()
    with pytest.raises(
        DataError, match=r"clothes test: expected complete records, found: .*No such"
    ):
        tfds_name("clothes", tmp_path)("test")


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
        tfds_name("clothes", tmp_path)("train")


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
