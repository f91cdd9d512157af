"""Builds the embedded Fashion-MNIST subset: `python -m vqvae_jax.data.make_fashion_mnist`.

The source is a folder of the original IDX files, by default where Debian's package
`dataset-fashion-mnist` installs them. The output is a prepared TFDS folder of array_record
files, which TFDS reads and writes without TensorFlow because the images are given as PNG.
"""

import gzip
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8

SOURCE_DIR = Path("/usr/share/datasets/fashion-mnist")
OUT = Path(__file__).parent / "fashion_mnist"
NAME = "fashion_mnist_10k"
NAMES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
# (split, prefix of the IDX files, images kept of each class)
SPLITS = (("train", "train", 800), ("test", "t10k", 200))
LICENSE = """\
The MIT License (MIT)

Copyright 2017 Zalando SE, https://tech.zalando.com

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction,
including without limitation the rights to use, copy, modify, merge, publish, distribute,
sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or
substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM,
DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT
OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


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
) -> tuple[UInt8[np.ndarray, "K H W"], UInt8[np.ndarray, "K"]]:
    """Images `[10 * count, 28, 28]` and labels `[10 * count]` of one split, both uint8."""
    raw_images = gzip.decompress((source / f"{prefix}-images-idx3-ubyte.gz").read_bytes())
    raw_labels = gzip.decompress((source / f"{prefix}-labels-idx1-ubyte.gz").read_bytes())
    labels = np.frombuffer(raw_labels, np.uint8, offset=8)
    images = np.frombuffer(raw_images, np.uint8, offset=16).reshape(len(labels), 28, 28)
    kept = first_of_each_class(labels, count)
    return images[kept], labels[kept]


def _png(pixels: UInt8[np.ndarray, "H W"]) -> io.BytesIO:
    from PIL import Image

    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG", optimize=True)
    encoded.seek(0)
    return encoded


def _features() -> Any:
    import tensorflow_datasets as tfds

    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(28, 28, 1), encoding_format="png"),
            "label": tfds.features.ClassLabel(names=NAMES),
        }
    )


def _records(images: UInt8[np.ndarray, "K H W"], labels: UInt8[np.ndarray, "K"]) -> Iterator[bytes]:
    from tensorflow_datasets.proto import tf_example_pb2

    features = _features()
    for image, label in zip(images, labels, strict=True):
        record = features.serialize_example({"image": _png(image), "label": int(label)})
        # TFDS leaves the order of the fields to chance; the same input shall give the same bytes.
        yield tf_example_pb2.Example.FromString(record).SerializeToString(deterministic=True)


def _write_split(source: Path, out: Path, split: str, prefix: str, count: int) -> Any:
    import tensorflow_datasets as tfds
    from array_record.python import array_record_module

    template = tfds.core.ShardedFileTemplate(
        data_dir=out, dataset_name=NAME, split=split, filetype_suffix="array_record"
    )
    records = list(_records(*read_subset(source, prefix, count)))
    # TFDS reads examples one by one: a group of several would be decoded for each of them.
    # PNG does not compress further, and the compressor's headers cost more than it saves.
    writer = array_record_module.ArrayRecordWriter(
        str(template.sharded_filepath(shard_index=0, num_shards=1)), "group_size:1,uncompressed"
    )
    for record in records:
        writer.write(record)
    writer.close()
    return tfds.core.SplitInfo(
        name=split,
        shard_lengths=[len(records)],
        num_bytes=sum(map(len, records)),
        filename_template=template,
    )


def build(source: Path, out: Path) -> None:
    """Writes the prepared TFDS folder `out` from the IDX files in `source`.

    The same source gives the same bytes, with the same versions of Pillow and array_record.

    Raises:
        FileNotFoundError: `source` lacks one of the four IDX files.
    """
    import tensorflow_datasets as tfds

    out.mkdir(parents=True, exist_ok=True)
    tfds.folder_dataset.write_metadata(
        data_dir=out,
        features=_features(),
        split_infos=[_write_split(source, out, *split) for split in SPLITS],
        version="1.0.0",
        check_data=False,  # the check reads through TensorFlow
        description="The first 800 train and 200 test images of each Fashion-MNIST class.",
        homepage="https://github.com/zalandoresearch/fashion-mnist",
        license="MIT, Copyright 2017 Zalando SE",
    )
    (out / "LICENSE").write_text(LICENSE)


def main(source: str = str(SOURCE_DIR), out: str = str(OUT)) -> None:
    """Command line: `[SOURCE_DIR] [OUT]`."""
    build(Path(source), Path(out))


if __name__ == "__main__":
    main(*sys.argv[1:])
