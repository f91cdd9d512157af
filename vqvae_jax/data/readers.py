"""Readers of image files, IDX files and .npy files, for `sources`.

Pillow is imported on first use, so that training on arrays does not need it.
"""

import gzip
import importlib
import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, Shaped, UInt8

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Pillow's mode for each number of channels."""
IDX_NAMES = {"train": "train-images-idx3-ubyte", "test": "t10k-images-idx3-ubyte"}
IDX_LABELS = {"train": "train-labels-idx1-ubyte", "test": "t10k-labels-idx1-ubyte"}
_UNIT = {"images": "pixels", "labels": "labels"}
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


def check_split(name: str | Path, split: str) -> None:
    """Raises a DataError unless the split is "train" or "test"."""
    if split not in ("train", "test"):
        raise DataError(f"{name}: expected split 'train' or 'test', found {split!r}")


def decode_image(encoded: bytes | Path, mode: str, name: str) -> UInt8[np.ndarray, "H W C"]:
    """Decodes one image in the given mode, turned as its EXIF says, transparency over white."""
    return as_pixels(open_image(encoded, mode, name))


def as_pixels(image: Any) -> UInt8[np.ndarray, "H W C"]:
    """Returns the pixels of a Pillow image, with an axis of channels."""
    values = np.asarray(image)
    return values.reshape(*values.shape[:2], -1)


def open_image(encoded: bytes | Path, mode: str, name: str, least: int = 0) -> Any:
    """Returns the Pillow image that `decode_image` takes the pixels of.

    Args:
        encoded: a file, or its bytes; of an animation the first frame is read.
        mode: "RGB", "L" or "RGBA".
        name: name for errors.
        least: a JPEG may be decoded at a fraction of its size, with sides of at least this; 0 for
            its full size.

    Raises:
        DataError: no image that Pillow can read, or one of more than 8 bits per channel.
    """
    pil, ops = require("PIL.Image"), require("PIL.ImageOps")
    try:
        data = encoded.read_bytes() if isinstance(encoded, Path) else encoded
        if not data:
            raise ValueError("an empty file")
        with pil.open(io.BytesIO(data)) as file:
            if least:
                file.draft(None, (least, least))
            # Cameras store a tag instead of rotating the pixels, so that portraits would lie
            # on their side.
            image, bits = ops.exif_transpose(file), _bits(file, data)
    except Exception as error:  # Pillow's decoders raise many types on broken files
        found = first_line(error).partition(" <")[0]  # without the address of an object
        raise DataError(f"{name}: expected a readable image, found: {found}") from error
    if bits > 8 or image.mode not in _EIGHT_BIT_MODES:
        found = f"{bits} bits" if bits > 8 else f"mode {image.mode}"
        raise DataError(f"{name}: expected 8 bits per channel, found {found}: convert the image")
    if image.has_transparency_data and mode != "RGBA":
        # Dropping alpha would show the colour under transparent pixels, which is often black.
        white = pil.new("RGBA", image.size, "white")
        image = pil.alpha_composite(white, image.convert("RGBA"))
    return image.convert(mode)


def _bits(file: Any, data: bytes) -> int:
    """Number of bits per channel of an open file; 8 in formats that have no more."""
    # Pillow silently drops the low byte of 16-bit colour.
    if file.format == "TIFF":
        bits_per_sample = 258
        return max(file.tag_v2.get(bits_per_sample, (8,)))
    return data[24] if file.format == "PNG" else 8


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


def load_npy(path: str | Path) -> Any:
    """Opens a .npy file, memory-mapped; an archive of arrays comes as NumPy opens it.

    Raises:
        DataError: if it is neither.
    """
    try:
        # Memory-mapped, since it may be larger than memory. No pickle, which could run code.
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        # NumPy takes all else for a pickle, and advises to trust it.
        found = "another file" if "pickle" in str(error) else first_line(error)
        raise DataError(f"{path}: expected a .npy array, found: {found}") from error


def read_array(
    path_or_array: str | Path | Shaped[np.ndarray, "..."], split: str
) -> Shaped[np.ndarray, "N ..."]:
    """Reads a split of an array in memory or in a .npy file."""
    rows = path_or_array if isinstance(path_or_array, np.ndarray) else load_npy(path_or_array)
    # bfloat16 has its own scalar type, but a .npy file returns it as raw void.
    if not isinstance(rows, np.ndarray) or rows.ndim < 2 or not _numeric(rows.dtype):
        found = f"{rows.dtype} {rows.shape}" if isinstance(rows, np.ndarray) else "an archive"
        raise DataError(f"expected numbers of shape [N, ..., C], found {found}")
    train = len(rows) - len(rows) // 10
    return rows[:train] if split == "train" else rows[train:]
