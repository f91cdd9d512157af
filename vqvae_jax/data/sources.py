"""Sources of examples: functions from a split to one array in memory.

    source(split) -> [N, H, W, C] uint8 for images, [N, ..., C] of any dtype for arrays

with split "train" or "test". A folder of records gives `Records`, which decode when indexed. The
scale is not changed here, see `scaling.preprocess`. Any fault of the data raises a `DataError` of
one line. TFDS and Pillow are imported on first use, so that training on arrays or on the embedded
images needs neither.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

from vqvae_jax.data import readers, sequences, tfds_folders
from vqvae_jax.data.embedded_images import EMBEDDED, read_images
from vqvae_jax.data.pipeline import Examples
from vqvae_jax.data.readers import DataError
from vqvae_jax.data.records import DESCRIPTION, open_records

Source = Callable[[str], Shaped[Examples, "N ..."]]

_TFDS_NAME = re.compile(r"\w+(/[\w.-]+)?(:\d+\.\d+\.\d+)?")


def embedded() -> Source:
    """Source of 10,000 Fashion-MNIST images in the package, 8,000 train and 2,000 test, balanced.

    Returns:
        A source of uint8 `[N, 28, 28, 1]`, which needs only NumPy.

    >>> embedded()("test").shape
    (2000, 28, 28, 1)
    """
    return _source(EMBEDDED, read_images)


def tfds_name(name: str, data_dir: str | Path | None = None) -> Source:
    """Source of a TFDS image set that is prepared on this machine as array_record.

    Args:
        name: `set[/config][:version]`; nothing is downloaded.
        data_dir: folder of prepared sets; None is TFDS's own default.

    Returns:
        A source of uint8 `[N, H, W, C]`. It raises `DataError` for a set that is unknown or not
        prepared, a missing split or image feature, and images of different sizes.

    >>> tfds_name("mnist", data_dir="nowhere")("train")
    Traceback (most recent call last):
    vqvae_jax.data.readers.DataError: mnist: ...run `tfds build mnist --file_format=array_record`...
    """
    return _source(name, partial(tfds_folders.read_tfds, name, data_dir))


def folder(path: str | Path, size: int, mode: str = "RGB") -> Source:
    """Source of crops of the PNG, JPEG and WebP files under `path`, in order of relative names.

    An image of `h x w` pixels gives a centred grid of `(h // size) * (w // size)` crops; smaller
    images are skipped with a warning. The splits are the sub-folders `train` and `test` if both
    exist; otherwise a hash of the relative name sends about 1 image in 10 to the test split.

    Args:
        path: folder, searched recursively.
        size: height and width of the crops.
        mode: "RGB" or "L"; other 8-bit modes are converted, transparency over white.

    Returns:
        A source of uint8 `[N, size, size, C]`, C = 3 for "RGB" and 1 for "L". It raises
        `DataError` for unreadable files, 16-bit and float images, and a split without crops.

    Raises:
        DataError: if `size` is below 1 or `mode` is neither "RGB" nor "L".

    >>> folder("photos", size=0)
    Traceback (most recent call last):
    vqvae_jax.data.readers.DataError: photos: expected a crop size of at least 1, found 0
    """
    if size < 1:
        raise DataError(f"{path}: expected a crop size of at least 1, found {size}")
    if mode not in ("RGB", "L"):
        raise DataError(f"{path}: expected mode 'RGB' or 'L', found {mode!r}")
    return _source(str(path), partial(readers.read_folder, Path(path), size, mode))


def idx(path: str | Path) -> Source:
    """Source of the images in a folder of MNIST-style IDX files, each plain or gzipped.

    Returns:
        A source of uint8 `[N, H, W, 1]`. It raises `DataError` if the split's file is missing,
        truncated, or not an IDX file of uint8 images.

    >>> idx("nowhere")("train")
    Traceback (most recent call last):
    vqvae_jax.data.readers.DataError: nowhere: expected train-images-idx3-ubyte(.gz), ...
    """
    return _source(str(path), partial(readers.read_idx, Path(path)))


def array(path_or_array: str | Path | Shaped[np.ndarray, "..."]) -> Source:
    """Source of the rows of an array `[N, ..., C]` or a .npy file, which is memory-mapped.

    The test split is the last `N // 10` rows, the train split the rows before.

    Returns:
        A source of the array's own dtype. It raises `DataError` for files that are not .npy,
        object dtype, fewer than two axes, and an empty split.

    >>> embeddings = np.zeros([50, 8], np.float32)
    >>> array(embeddings)("train").shape, array(embeddings)("test").shape
    ((45, 8), (5, 8))
    """
    name = "array" if isinstance(path_or_array, np.ndarray) else str(path_or_array)
    return _source(name, partial(readers.read_array, path_or_array))


def of_records(path: str | Path) -> Source:
    """Source of a folder written by `writing.write_records`, decoded when indexed.

    Returns:
        A source of `Records`. It raises `DataError` as `open_records` does.

    >>> of_records("nowhere")("train")
    Traceback (most recent call last):
    vqvae_jax.data.readers.DataError: nowhere/records.json: expected a description of records, ...
    """
    return _source(str(path), partial(open_records, path))


def open_source(
    text: str,
    *,
    size: int | None = None,
    window: int | None = None,
    frames: int | None = None,
) -> Source:
    """Returns the source that a command-line argument names.

    It is, in this order: `EMBEDDED`, an existing .npy file, an existing folder with records, with
    IDX files, with videos or WAV files, or with images, or the name of a prepared TFDS set.

    Args:
        text: the argument.
        size: crop size, needed for a folder of images, and used for one of videos; other sources
            have their own size.
        window: number of samples of a window, needed for a folder of WAV files.
        frames: number of frames of a clip, needed for a folder of videos; with it, each folder of
            images is a video.

    Raises:
        DataError: if a path is none of these, a folder has no size, window or frames where it
            needs them, or the text is neither an existing path nor a possible TFDS name.

    >>> open_source("fashion_mnist_10k")("test").dtype
    dtype('uint8')
    """
    path = Path(text)
    # The name goes first, so that a folder of the same name does not take its place.
    if text == EMBEDDED:
        return embedded()
    if path.is_dir():
        return _open_folder(path, size, window, frames)
    if path.is_file():
        if path.suffix != ".npy":
            raise DataError(f"{text}: expected a .npy file or a folder, found another file")
        return array(path)
    if not _TFDS_NAME.fullmatch(text):
        raise DataError(f"{text!r}: expected a path or a TFDS name, found no such path")
    return tfds_name(text)


class Stream(NamedTuple):
    """The examples of a split one after another, for `writing.write_records`."""

    examples: Iterator[bytes | Shaped[np.ndarray, "..."]]
    total: int | None  # number of examples, if known before reading them
    mode: str = "RGB"  # mode in which to decode encoded images


def stream(text: str, split: str, *, size: int | None = None) -> Stream:
    """Streams the examples of `open_source(text, size=size)(split)` without holding them in memory.

    Images that need no cropping are passed on as their files' bytes, so that JPEG stays small.

    >>> next(stream("fashion_mnist_10k", "test").examples).shape
    (28, 28, 1)
    """
    path, source = Path(text), open_source(text, size=size)
    own_format = text == EMBEDDED or _is_idx(path) or _is_records(path)
    if path.is_dir() and size is not None and not own_format:
        return Stream(readers.stream_folder(path, size, "RGB", split), None)
    if not own_format and not path.exists():
        mode, count, encoded = tfds_folders.stream_tfds(text, None, split)
        return Stream(encoded, count, mode)
    rows = source(split)
    return Stream((rows[i : i + 1][0] for i in range(len(rows))), len(rows))


def _source(name: str, read: Source) -> Source:
    def source(split: str) -> Shaped[Examples, "N ..."]:
        if split not in ("train", "test"):
            raise DataError(f"{name}: expected split 'train' or 'test', found {split!r}")
        examples = read(split)
        if 0 in examples.shape:
            raise DataError(f"{name}: split {split!r} is empty, found shape {examples.shape}")
        return examples

    return source


def _open_folder(path: Path, size: int | None, window: int | None, frames: int | None) -> Source:
    if _is_records(path):
        return of_records(path)
    if _is_idx(path):
        return idx(path)
    found = sequences.open_sequences(path, window=window, frames=frames, crop=size)
    if found is not None:
        return found
    if next(readers.image_files(path), None) is None:
        raise DataError(f"{path}: expected IDX, PNG, JPEG, WebP, WAV or video files, found none")
    if size is None:
        raise DataError(f"{path}: a folder of images needs a crop size, found none; give the size")
    return folder(path, size)


def _is_records(path: Path) -> bool:
    return (path / DESCRIPTION).is_file()


def _is_idx(path: Path) -> bool:
    names = [f"{stem}{gz}" for stem in readers.IDX_NAMES.values() for gz in ("", ".gz")]
    return any((path / name).is_file() for name in names)
