"""Class labels of a source's examples, in their order, if the source has labels."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32

from vqvae_jax.data import embedded_images, readers, tfds_folders
from vqvae_jax.data.embedded_images import EMBEDDED
from vqvae_jax.data.readers import require


class Labels(NamedTuple):
    """Labels of a source: names of the classes, and a reader of each split.

    Attributes:
        names: names of classes 0, 1, ...
        read: function from "train" or "test" to the class of each example, int32 `[N]`; raises a
            `DataError` as the source does.
    """

    names: tuple[str, ...]
    read: Callable[[str], Int32[np.ndarray, "N"]]


def open_labels(text: str) -> Labels | None:
    """Returns the labels of `sources.open_source(text)`, or None if it has none.

    The embedded set, TFDS sets with a feature of classes, and folders of IDX files that hold
    `train-labels-idx1-ubyte` and `t10k-labels-idx1-ubyte`, plain or gzipped, have labels.

    Raises:
        DataError: as the source does.

    >>> labels = open_labels("fashion_mnist_10k")
    >>> labels.names[:2], np.bincount(labels.read("test"))
    (('T-shirt/top', 'Trouser'), array([200, 200, 200, 200, 200, 200, 200, 200, 200, 200]))
    """
    path = Path(text)
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
