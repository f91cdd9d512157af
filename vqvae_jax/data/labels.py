"""Class labels of a source's examples, in their order, if the source has labels."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32

from vqvae_jax.data import embedded_images, readers, tfds_folders
from vqvae_jax.data.embedded_images import EMBEDDED
from vqvae_jax.data.picture_folders import PictureFolder
from vqvae_jax.data.readers import require
from vqvae_jax.data.sources import Source


class Labels(NamedTuple):
    """Labels of a source: names of the classes, and a reader of each split.

    Attributes:
        names: names of classes 0, 1, ...
        read: function from "train" or "test" to the class of each example, int32 `[N]`; raises a
            `DataError` as the source does.
    """

    names: tuple[str, ...]
    read: Callable[[str], Int32[np.ndarray, "N"]]


def open_labels(text: str, source: Source | None = None) -> Labels | None:
    """Returns the labels of `sources.open_source(text)`, or None if it has none.

    The embedded set, TFDS sets with a feature of classes, and folders of IDX files that hold
    `train-labels-idx1-ubyte` and `t10k-labels-idx1-ubyte`, plain or gzipped, have labels. So do
    folders of pictures that all lie in class folders, `cats/` and `dogs/` or `train/cats/`: the
    names of the folders are the classes, in the order of the alphabet, and all tiles of a picture
    have its class.

    Args:
        text: argument of `open_source`.
        source: source that was opened from the text; needed for a folder of pictures, whose sizes
            say how many items each picture has. A split that was read is not read again.

    Raises:
        DataError: as the source does.

    >>> labels = open_labels("fashion_mnist_10k")
    >>> labels.names[:2], np.bincount(labels.read("test"))
    (('T-shirt/top', 'Trouser'), array([200, 200, 200, 200, 200, 200, 200, 200, 200, 200]))
    >>> import tempfile
    >>> from PIL import Image
    >>> from vqvae_jax.data.sources import folder
    >>> root = Path(tempfile.mkdtemp())
    >>> for name in ("train/cats", "train/dogs", "test/cats"):
    ...     (root / name).mkdir(parents=True)
    ...     Image.new("L", (8, 4)).save(root / name / "a.png")
    >>> labels = open_labels(str(root), folder(root, size=4))
    >>> labels.names, labels.read("train")
    (('cats', 'dogs'), array([0, 0, 1, 1], dtype=int32))
    """
    path = Path(text)
    if isinstance(source, PictureFolder):
        classes = source.layout.classes
        return Labels(classes, source.labels) if classes else None
    if text == EMBEDDED:
        return Labels(embedded_images.class_names(), embedded_images.read_labels)
    if path.is_dir():
        return _of_idx(path)
    return None if path.exists() else _of_builder(tfds_folders.tfds_builder(text, None), text)


def _of_builder(builder: Any, name: str) -> Labels | None:
    kind = require("tensorflow_datasets").features.ClassLabel
    features = {k: f for k, f in builder.info.features.items() if isinstance(f, kind)}
    if not features:
        return None
    key = "label" if "label" in features else next(iter(features))
    names = tuple(features[key].names)
    return Labels(names, partial(tfds_folders.read_labels, builder, name, key))


def _of_idx(path: Path) -> Labels | None:
    if any(readers.idx_file(path, stem) is None for stem in readers.IDX_LABELS.values()):
        return None
    # IDX files hold no names, and one split may lack the last classes, so both are counted.
    known = [readers.read_idx_labels(path, split) for split in readers.IDX_LABELS]
    count = int(max(found.max(initial=0) for found in known)) + 1
    return Labels(tuple(map(str, range(count))), partial(readers.read_idx_labels, path))
