"""How each kind of data becomes one array: the readers behind `sources`.

TFDS and Pillow are imported on first use, so that training on arrays needs neither.
"""

import gzip
import hashlib
import importlib
import io
import itertools
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8

EMBEDDED = "fashion_mnist_10k"
IDX_NAMES = {"train": "train-images-idx3-ubyte", "test": "t10k-images-idx3-ubyte"}
_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}
_EIGHT_BIT_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK"}
_EMBEDDED_DIR = Path(__file__).parent / "fashion_mnist"


class DataError(ValueError):
    """Data that cannot be used: one line with what was expected, found, and what to run."""


def _require(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DataError(
            f"expected {module} to read images, found {_line(error)}; "
            "run `pip install 'vqvae_jax[data]'`"
        ) from error


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _prepare(name: str) -> str:
    return f"run `tfds build {name} --file_format=array_record`, which needs tensorflow"


def read_embedded(split: str) -> UInt8[np.ndarray, "N H W C"]:
    """The split of the images inside the package."""
    tfds = _require("tensorflow_datasets")
    return _read_builder(tfds.builder_from_directory(str(_EMBEDDED_DIR)), EMBEDDED, split)


def read_tfds(name: str, data_dir: str | Path | None, split: str) -> UInt8[np.ndarray, "N H W C"]:
    """The split of a prepared TFDS set."""
    tfds = _require("tensorflow_datasets")
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except Exception as error:  # each set's own code runs here and may raise anything
        raise DataError(
            f"{name}: expected the name of a TFDS set, found: {_line(error)}; {_prepare(name)}"
        ) from error
    return _read_builder(builder, name, split)


def _read_builder(builder: Any, name: str, split: str) -> UInt8[np.ndarray, "N H W C"]:
    splits, found = sorted(builder.info.splits), builder.info.file_format
    if not splits or found.value != "array_record":
        state = f"{found.value} files" if splits else "nothing prepared"
        raise DataError(
            f"{name}: expected array_record files in {builder.data_dir}, found {state}; "
            f"{_prepare(name)}"
        )
    if split not in splits or not builder.info.splits[split].num_examples:
        raise DataError(f"{name}: expected examples in split {split!r}, found splits {splits}")
    _require("array_record")
    key, mode = _image_feature(builder, name)
    # Decoding here and not in TFDS converts the odd greyscale or CMYK image to the set's mode.
    skip = {key: _require("tensorflow_datasets").decode.SkipDecoding()}
    records = builder.as_data_source(split=split, decoders=skip)
    encoded = enumerate(_encoded(records, key, f"{name} {split}"))
    return _fill((pixels(e, mode, f"{name} {split} {i}") for i, e in encoded), len(records), name)


def _encoded(records: Any, key: str, name: str) -> Iterator[bytes]:
    try:
        yield from (record[key] for record in records)
    except Exception as error:  # array_record and the feature decoders share no error type
        raise DataError(f"{name}: expected complete records, found: {_line(error)}") from error


def _image_feature(builder: Any, name: str) -> tuple[str, str]:
    image = _require("tensorflow_datasets").features.Image
    features = {k: f for k, f in builder.info.features.items() if isinstance(f, image)}
    if not features:
        raise DataError(f"{name}: expected an image feature, found {sorted(builder.info.features)}")
    key = "image" if "image" in features else next(iter(features))
    mode = {1: "L", 3: "RGB", 4: "RGBA"}.get(features[key].shape[-1])
    if features[key].np_dtype != np.uint8 or mode is None:
        found = f"{np.dtype(features[key].np_dtype)} {features[key].shape}"
        raise DataError(f"{name}: expected uint8 images of 1, 3 or 4 channels, found {found}")
    return key, mode


def _fill(
    images: Iterator[UInt8[np.ndarray, "_ _ _"]], count: int, name: str
) -> UInt8[np.ndarray, "N H W C"]:
    """One array of exactly the needed size: a list and a stack would hold the set twice."""
    first = next(images)
    out = np.empty((count, *first.shape), np.uint8)
    for i, image in enumerate(itertools.chain([first], images)):
        if image.shape != first.shape:
            raise DataError(
                f"{name}: expected images of one size, found {first.shape} and {image.shape}"
            )
        out[i] = image
    return out


def pixels(encoded: bytes | Path, mode: str, name: str) -> UInt8[np.ndarray, "H W C"]:
    """One image, turned as its EXIF says, in the mode "RGB" or "L"; transparency over white."""
    pil, ops = _require("PIL.Image"), _require("PIL.ImageOps")
    try:
        data = encoded.read_bytes() if isinstance(encoded, Path) else encoded
        with pil.open(io.BytesIO(data)) as file:
            image = ops.exif_transpose(file)
    except Exception as error:  # Pillow's decoders raise many types on broken files
        raise DataError(f"{name}: expected a readable image, found: {_line(error)}") from error
    # Pillow silently drops the low byte of 16-bit colour; the bit depth is byte 24 of a PNG.
    deep = file.format == "PNG" and data[24] == 16
    if deep or image.mode not in _EIGHT_BIT_MODES:
        found = "16 bits" if deep else f"mode {image.mode}"
        raise DataError(f"{name}: expected 8 bits per channel, found {found}; convert the image")
    if image.has_transparency_data and mode != "RGBA":
        white = pil.new("RGBA", image.size, "white")
        image = pil.alpha_composite(white, image.convert("RGBA"))
    values = np.asarray(image.convert(mode))
    return values.reshape(*values.shape[:2], -1)


def image_files(root: Path) -> Iterator[Path]:
    """The files under `root` whose suffix is that of an image, in no order."""
    return (p for p in root.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())


def _in_test(relative: str) -> bool:
    return int.from_bytes(hashlib.sha256(relative.encode()).digest()) % 10 == 0


def _split_files(root: Path, split: str) -> list[Path]:
    names = sorted(p.relative_to(root).as_posix() for p in image_files(root))
    if (root / "train").is_dir() and (root / "test").is_dir():
        return [root / n for n in names if n.startswith(f"{split}/")]
    return [root / n for n in names if _in_test(n) == (split == "test")]


def _grid(image: UInt8[np.ndarray, "H W C"], size: int) -> UInt8[np.ndarray, "K S S C"]:
    height, width, channels = image.shape
    rows, columns = height // size, width // size
    top, left = (height - rows * size) // 2, (width - columns * size) // 2
    image = image[top : top + rows * size, left : left + columns * size]
    crops = image.reshape(rows, size, columns, size, channels).swapaxes(1, 2)
    return crops.reshape(rows * columns, size, size, channels)


def read_folder(root: Path, size: int, mode: str, split: str) -> UInt8[np.ndarray, "N S S C"]:
    """The split's crops, of all images in the order of their relative names."""
    files = _split_files(root, split)
    if not files:
        raise DataError(
            f"{root}: expected images for split {split!r}, found none among "
            f"{sum(1 for _ in image_files(root))}; put them into sub-folders train and test"
        )
    crops = [_grid(pixels(file, mode, str(file)), size) for file in files]
    small = sum(len(c) == 0 for c in crops)
    if small == len(crops):
        raise DataError(
            f"{root}: expected images of at least {size} x {size} for split {split!r}, "
            f"found {small} smaller ones; give a smaller size"
        )
    if small:
        warnings.warn(f"{root}: skipped {small} images under {size} x {size}", stacklevel=3)
    return np.concatenate(crops)


def read_idx(root: Path, split: str) -> UInt8[np.ndarray, "N H W 1"]:
    """The split's file of a folder of IDX files."""
    stem = IDX_NAMES[split]
    file = next((f for f in (root / stem, root / f"{stem}.gz") if f.is_file()), None)
    if file is None:
        raise DataError(f"{root}: expected {stem}(.gz), found no such file")
    try:
        raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file}: expected a gzip file, found: {_line(error)}") from error
    if len(raw) < 16 or raw[:4] != b"\0\0\x08\x03":
        raise DataError(f"{file}: expected the header of uint8 images, found {raw[:4]!r}")
    shape = tuple(int.from_bytes(raw[i : i + 4]) for i in (4, 8, 12))
    if len(raw) != 16 + np.prod(shape):
        raise DataError(f"{file}: expected {shape} pixels, found {len(raw) - 16} bytes")
    return np.frombuffer(raw, np.uint8, offset=16).reshape(*shape, 1)


def _numeric(dtype: np.dtype) -> bool:
    return dtype.kind not in "OSUmM" and dtype.type is not np.void


def read_array(
    path_or_array: str | Path | Shaped[np.ndarray, "..."], split: str
) -> Shaped[np.ndarray, "N ..."]:
    """The split of an array in memory or in a .npy file."""
    try:
        rows = (
            path_or_array
            if isinstance(path_or_array, np.ndarray)
            else np.load(path_or_array, mmap_mode="r", allow_pickle=False)
        )
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path_or_array}: expected a .npy array, found: {_line(error)}") from error
    # bfloat16 has its own scalar type, but comes back from a .npy file as raw void.
    if not isinstance(rows, np.ndarray) or rows.ndim < 2 or not _numeric(rows.dtype):
        found = f"{rows.dtype} {rows.shape}" if isinstance(rows, np.ndarray) else "an archive"
        raise DataError(f"expected numbers of shape [N, ..., C], found {found}")
    train = len(rows) - len(rows) // 10
    return rows[:train] if split == "train" else rows[train:]
