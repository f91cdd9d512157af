"""Readers of image files, IDX files and .npy files, for `sources`.

Pillow is imported on first use, so that training on arrays does not need it.
"""

import gzip
import hashlib
import importlib
import io
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, Shaped, UInt8

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Pillow's mode for each number of channels."""
IDX_NAMES = {"train": "train-images-idx3-ubyte", "test": "t10k-images-idx3-ubyte"}
IDX_LABELS = {"train": "train-labels-idx1-ubyte", "test": "t10k-labels-idx1-ubyte"}
_UNIT = {"images": "pixels", "labels": "labels"}
_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}
_EIGHT_BIT_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK"}


class DataError(ValueError):
    """Error about unusable data: one line with what was expected and found, and what to run."""


def require(module: str, extra: str = "data") -> Any:
    """Imports a module on first use; a DataError names the extra that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DataError(
            f"expected {module} to read data, found {first_line(error)}; "
            f"run `pip install 'vqvae_jax[{extra}]'`"
        ) from error


def first_line(error: Exception) -> str:
    """Returns the first line of the error's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def decode_image(encoded: bytes | Path, mode: str, name: str) -> UInt8[np.ndarray, "H W C"]:
    """Decodes one image in the given mode, turned as its EXIF says, transparency over white."""
    pil, ops = require("PIL.Image"), require("PIL.ImageOps")
    try:
        data = encoded.read_bytes() if isinstance(encoded, Path) else encoded
        with pil.open(io.BytesIO(data)) as file:
            # Cameras store a tag instead of rotating the pixels, so that portraits would lie
            # on their side.
            image = ops.exif_transpose(file)
    except Exception as error:  # Pillow's decoders raise many types on broken files
        raise DataError(f"{name}: expected a readable image, found: {first_line(error)}") from error
    # Pillow silently drops the low byte of 16-bit colour; the bit depth is byte 24 of a PNG.
    deep = file.format == "PNG" and data[24] == 16
    if deep or image.mode not in _EIGHT_BIT_MODES:
        found = "16 bits" if deep else f"mode {image.mode}"
        raise DataError(f"{name}: expected 8 bits per channel, found {found}; convert the image")
    if image.has_transparency_data and mode != "RGBA":
        # Dropping alpha would show the colour under transparent pixels, which is often black.
        white = pil.new("RGBA", image.size, "white")
        image = pil.alpha_composite(white, image.convert("RGBA"))
    values = np.asarray(image.convert(mode))
    return values.reshape(*values.shape[:2], -1)


def image_files(root: Path) -> Iterator[Path]:
    """Yields the files under `root` with the suffix of an image, in no order."""
    return (p for p in root.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())


def _in_test(relative: str) -> bool:
    # Chosen by a hash of the name, so that an image stays in its split when others come or go.
    # Python's `hash()` differs between processes.
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
    """Reads the crops of a split, of all images in the order of their relative names."""
    return np.concatenate([crops for _, crops in _cropped(root, size, mode, split)])


def stream_folder(
    root: Path, size: int, mode: str, split: str
) -> Iterator[bytes | UInt8[np.ndarray, "S S C"]]:
    """Yields the crops of a split one by one; an image of one crop as its file's bytes."""
    for file, crops in _cropped(root, size, mode, split):
        yield from crops if file is None else [file.read_bytes()]


def _cropped(
    root: Path, size: int, mode: str, split: str
) -> Iterator[tuple[Path | None, UInt8[np.ndarray, "K S S C"]]]:
    """Yields (file, crops) for each image, with None for the file unless it is exactly one crop."""
    files = _split_files(root, split)
    if not files:
        raise DataError(
            f"{root}: expected images for split {split!r}, found none among "
            f"{sum(1 for _ in image_files(root))}; put them into sub-folders train and test"
        )
    small = 0
    for file in files:
        image = decode_image(file, mode, str(file))
        crops = _grid(image, size)
        small += len(crops) == 0
        yield file if image.shape[:2] == (size, size) else None, crops
    if small == len(files):
        raise DataError(
            f"{root}: expected images of at least {size} x {size} for split {split!r}, "
            f"found {small} smaller ones; give a smaller size"
        )
    if small:
        warnings.warn(f"{root}: skipped {small} images under {size} x {size}", stacklevel=5)


def read_idx(root: Path, split: str) -> UInt8[np.ndarray, "N H W 1"]:
    """Reads the images of a split from a folder of IDX files."""
    return _idx_array(root, IDX_NAMES[split], "images", axes=3)[..., None]


def read_idx_labels(root: Path, split: str) -> Int32[np.ndarray, "N"]:
    """Reads the labels of a split from a folder of IDX files."""
    return _idx_array(root, IDX_LABELS[split], "labels", axes=1).astype(np.int32)


def idx_file(root: Path, stem: str) -> Path | None:
    """Returns the file of that name in the folder, plain or gzipped; None if there is none."""
    return next((f for f in (root / stem, root / f"{stem}.gz") if f.is_file()), None)


def _idx_array(root: Path, stem: str, what: str, axes: int) -> UInt8[np.ndarray, "N ..."]:
    file = idx_file(root, stem)
    if file is None:
        raise DataError(f"{root}: expected {stem}(.gz), found no such file")
    try:
        raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file}: expected a gzip file, found: {first_line(error)}") from error
    start = 4 + 4 * axes
    if len(raw) < start or raw[:4] != bytes([0, 0, 8, axes]):
        raise DataError(f"{file}: expected the header of uint8 {what}, found {raw[:4]!r}")
    shape = tuple(int.from_bytes(raw[i : i + 4]) for i in range(4, start, 4))
    # The header is checked: a truncated download is an error, not a shorter set.
    if len(raw) != start + np.prod(shape):
        found = len(raw) - start
        raise DataError(f"{file}: expected {shape} {_UNIT[what]}, found {found} bytes")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def _numeric(dtype: np.dtype) -> bool:
    return dtype.kind not in "OSUmM" and dtype.type is not np.void


def read_array(
    path_or_array: str | Path | Shaped[np.ndarray, "..."], split: str
) -> Shaped[np.ndarray, "N ..."]:
    """Reads a split of an array in memory or in a .npy file."""
    try:
        rows = (
            path_or_array
            if isinstance(path_or_array, np.ndarray)
            # Memory-mapped, since it may be larger than memory. No pickle, which could run code.
            else np.load(path_or_array, mmap_mode="r", allow_pickle=False)
        )
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"{path_or_array}: expected a .npy array, found: {first_line(error)}"
        ) from error
    # bfloat16 has its own scalar type, but a .npy file returns it as raw void.
    if not isinstance(rows, np.ndarray) or rows.ndim < 2 or not _numeric(rows.dtype):
        found = f"{rows.dtype} {rows.shape}" if isinstance(rows, np.ndarray) else "an archive"
        raise DataError(f"expected numbers of shape [N, ..., C], found {found}")
    train = len(rows) - len(rows) // 10
    return rows[:train] if split == "train" else rows[train:]
