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
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped

from vqvae_jax.data import readers, sequences, tfds_folders
from vqvae_jax.data.embedded_images import EMBEDDED, read_images
from vqvae_jax.data.picture_files import image_files
from vqvae_jax.data.picture_folders import PictureFolder
from vqvae_jax.data.pipeline import Examples
from vqvae_jax.data.readers import DataError, check_split
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


def folder(
    path: str | Path, size: int | None = None, mode: str = "RGB", *, resize: int | None = None
) -> PictureFolder:
    """Source of the pictures under `path`, in all formats of Pillow, in order of relative names.

    With `resize` alone, the shorter side of each picture is scaled to it, and the middle square is
    one item. With `size`, a picture of `h x w` pixels gives the centred grid of
    `(h // size) * (w // size)` tiles, after it is scaled if `resize` is given too. Pictures are
    scaled with antialiasing (bicubic), small ones are enlarged.

    The splits are the sub-folders `train` and `test`, or `train` and `val`, in any capitalisation;
    otherwise a hash of the relative name sends about 1 picture in 10 to the test split. All tiles
    of a picture are in one split. Files that can't be read, have more than 8 bits per channel, are
    hidden, or are smaller than `size` are skipped, with a warning that names them.

    Args:
        path: folder, searched recursively.
        size: height and width of tiles.
        mode: "RGB" or "L"; other 8-bit modes are converted, transparency over white.
        resize: length of the shorter side in pixels.

    Returns:
        A source of uint8 `[N, S, S, C]`, where S is `size`, or else `resize`, and C is 3 for "RGB"
        and 1 for "L". Its `layout` has the names of the files, and `survey(split)` has the number
        of tiles of each file and the faults of those that were skipped. It raises `DataError` for
        a split without items.

    Raises:
        DataError: if neither size is given, one is below 1, `size` exceeds `resize`, or `mode` is
            neither "RGB" nor "L".

    >>> import tempfile
    >>> from PIL import Image
    >>> root = Path(tempfile.mkdtemp())
    >>> for name in ("train", "Val"):
    ...     (root / name).mkdir()
    ...     Image.new("RGB", (300, 200)).save(root / name / "a.jpg")
    >>> folder(root, resize=64)("train").shape, folder(root, 50, "L", resize=100)("test").shape
    ((1, 64, 64, 3), (6, 50, 50, 1))
    >>> folder(root, 64).survey("test"), folder(root, 64).layout.rule
    (Survey(tiles={'Val/a.jpg': 12}, skipped=()), 'by the folders train and Val')
    >>> folder(root)
    Traceback (most recent call last):
    vqvae_jax.data.readers.DataError: ...: a folder of pictures needs a size, found none; ...
    """
    if size is None and resize is None:
        raise DataError(
            f"{path}: a folder of pictures needs a size, found none; resize scales each picture to "
            "that size, crop cuts tiles of it"
        )
    for name, side in (("crop", size), ("resize", resize)):
        if side is not None and side < 1:
            raise DataError(f"{path}: expected a {name} size of at least 1, found {side}")
    if size and resize and size > resize:
        raise DataError(
            f"{path}: expected tiles that fit into pictures of {resize} x {resize}, found a crop "
            f"size of {size}"
        )
    if mode not in ("RGB", "L"):
        raise DataError(f"{path}: expected mode 'RGB' or 'L', found {mode!r}")
    return PictureFolder(Path(path), size, resize, mode)


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
    resize: int | None = None,
    mode: str = "RGB",
    window: int | None = None,
    frames: int | None = None,
) -> Source:
    """Returns the source that a command-line argument names.

    It is, in this order: `EMBEDDED`, an existing .npy file, an existing folder with records, with
    IDX files, with videos or WAV files, or with pictures, or the name of a prepared TFDS set.

    Args:
        text: the argument.
        size, resize, mode: as in `folder`, for a folder of pictures or videos; others have their
            own.
        window: number of samples of a window, needed for a folder of WAV files.
        frames: number of frames of a clip, needed for a folder of videos; with it, each folder of
            pictures is a video.

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
        shape = {"resize": resize, "mode": mode}
        return _open_folder(path, size, window, frames, **shape)
    if path.is_file():
        if path.suffix != ".npy":
            raise DataError(f"{text}: expected a .npy file or a folder, found another file")
        return array(path)
    if path.suffix == ".npy" or not _TFDS_NAME.fullmatch(text):
        raise DataError(f"{text!r}: expected a path or a TFDS name, found no such path")
    return tfds_name(text)


class Stream(NamedTuple):
    """The examples of a split one after another, for `writing.write_records`."""

    examples: Iterator[bytes | Shaped[np.ndarray, "..."]]
    total: int | None  # number of examples, if known before reading them
    mode: str = "RGB"  # mode in which to decode encoded images


def stream(text: str, split: str, source: Source | None = None) -> Stream:
    """Streams the examples of a split of a source without holding them in memory.

    Images that need no change are passed on as their files' bytes, so that JPEG stays small.

    Args:
        text: argument of `open_source`.
        split: "train" or "test".
        source: source that was opened from the text, needed for a folder of pictures.

    >>> next(stream("fashion_mnist_10k", "test").examples).shape
    (28, 28, 1)
    """
    path, source = Path(text), source or open_source(text)
    if isinstance(source, PictureFolder):
        return Stream(source.stream(split), None, source.mode)
    if text != EMBEDDED and not path.exists():
        mode, count, encoded = tfds_folders.stream_tfds(text, None, split)
        return Stream(encoded, count, mode)
    rows = source(split)
    return Stream((rows[i : i + 1][0] for i in range(len(rows))), len(rows))


def _source(name: str, read: Source) -> Source:
    def source(split: str) -> Shaped[Examples, "N ..."]:
        check_split(name, split)
        examples = read(split)
        if 0 in examples.shape:
            raise DataError(f"{name}: split {split!r} is empty, found shape {examples.shape}")
        return examples

    return source


def _open_folder(
    path: Path, size: int | None, window: int | None, frames: int | None, **shape: Any
) -> Source:
    if _is_records(path):
        return of_records(path)
    if _is_idx(path):
        return idx(path)
    found = sequences.open_sequences(path, window=window, frames=frames, crop=size, **shape)
    if found is not None:
        return found
    if next(image_files(path), None) is None:
        expected = "expected records, IDX files, pictures, WAV files or videos"
        raise DataError(f"{path}: {expected}, found none")
    return folder(path, size, shape["mode"], resize=shape["resize"])


def _is_records(path: Path) -> bool:
    return (path / DESCRIPTION).is_file()


def _is_idx(path: Path) -> bool:
    names = [f"{stem}{gz}" for stem in readers.IDX_NAMES.values() for gz in ("", ".gz")]
    return any((path / name).is_file() for name in names)
