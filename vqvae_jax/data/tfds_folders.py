"""Readers of data sets prepared by TFDS, which is imported on first use."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, UInt8

from vqvae_jax.data.readers import MODES, DataError, decode_image, first_line, require


def _prepare(name: str) -> str:
    return f"run `tfds build {name} --file_format=array_record`, which needs tensorflow"


def read_tfds(name: str, data_dir: str | Path | None, split: str) -> UInt8[np.ndarray, "N H W C"]:
    """Reads a split of a prepared TFDS set."""
    mode, count, encoded = _read_builder(tfds_builder(name, data_dir), name, split)
    # Decoded here instead of in TFDS, to convert the odd greyscale or CMYK image to the set's mode.
    images = (decode_image(e, mode, f"{name} {split} {i}") for i, e in enumerate(encoded))
    return _fill(images, count, name)


def stream_tfds(
    name: str, data_dir: str | Path | None, split: str
) -> tuple[str, int, Iterator[bytes]]:
    """Opens a split of a prepared TFDS set: mode, count, and its encoded images one by one."""
    return _read_builder(tfds_builder(name, data_dir), name, split)


def read_labels(builder: Any, name: str, key: str, split: str) -> Int32[np.ndarray, "N"]:
    """Reads the feature `key`, a class, of all examples of a split."""
    image, _ = _image_feature(builder, name)
    check_split(builder, name, split)
    # Only labels are read, so the images need not be decoded.
    skip = {image: require("tensorflow_datasets").decode.SkipDecoding()}
    records = builder.as_data_source(split=split, decoders=skip)
    return np.fromiter(_each(records, key, f"{name} {split}"), np.int32, len(records))


def tfds_builder(name: str, data_dir: str | Path | None) -> Any:
    """Returns the builder of a TFDS set."""
    tfds = require("tensorflow_datasets")
    try:
        return tfds.builder(name, data_dir=data_dir)
    except Exception as error:  # each set's own code runs here and may raise anything
        raise DataError(
            f"{name}: expected the name of a TFDS set, found: {first_line(error)}; {_prepare(name)}"
        ) from error


def _read_builder(builder: Any, name: str, split: str) -> tuple[str, int, Iterator[bytes]]:
    check_split(builder, name, split)
    require("array_record")
    key, mode = _image_feature(builder, name)
    skip = {key: require("tensorflow_datasets").decode.SkipDecoding()}
    records = builder.as_data_source(split=split, decoders=skip)
    return mode, len(records), _each(records, key, f"{name} {split}")


def check_split(builder: Any, name: str, split: str) -> None:
    """Raises a DataError unless the split exists in files that need no TensorFlow to read."""
    splits, found = sorted(builder.info.splits), builder.info.file_format
    if not splits or found.value != "array_record":
        state = f"{found.value} files" if splits else "nothing prepared"
        raise DataError(
            f"{name}: expected array_record files in {builder.data_dir}, found {state}; "
            f"{_prepare(name)}"
        )
    if split not in splits or not builder.info.splits[split].num_examples:
        raise DataError(f"{name}: expected examples in split {split!r}, found splits {splits}")


def _each(records: Any, key: str, name: str) -> Iterator[Any]:
    try:
        yield from (record[key] for record in records)
    except Exception as error:  # array_record and the feature decoders share no error type
        raise DataError(f"{name}: expected complete records, found: {first_line(error)}") from error


def _image_feature(builder: Any, name: str) -> tuple[str, str]:
    image = require("tensorflow_datasets").features.Image
    features = {k: f for k, f in builder.info.features.items() if isinstance(f, image)}
    if not features:
        raise DataError(f"{name}: expected an image feature, found {sorted(builder.info.features)}")
    key = "image" if "image" in features else next(iter(features))
    mode = MODES.get(features[key].shape[-1])
    if features[key].np_dtype != np.uint8 or mode is None:
        found = f"{np.dtype(features[key].np_dtype)} {features[key].shape}"
        raise DataError(f"{name}: expected uint8 images of 1, 3 or 4 channels, found {found}")
    return key, mode


def _fill(
    images: Iterator[UInt8[np.ndarray, "_ _ _"]], count: int, name: str
) -> UInt8[np.ndarray, "N H W C"]:
    """Collects images in one array."""
    # Allocated once in full size, since a list and a stack would hold the set twice.
    first = next(images)
    out = np.empty((count, *first.shape), np.uint8)
    for i, image in enumerate(itertools.chain([first], images)):
        if image.shape != first.shape:
            raise DataError(
                f"{name}: expected images of one size, found {first.shape} and {image.shape}"
            )
        out[i] = image
    return out
