"""Readers of videos: files that PyAV decodes, and folders whose pictures are frames.

PyAV and Pillow are imported on first use.
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from vqvae_jax.data.cut_files import Recording
from vqvae_jax.data.picture_files import image_files
from vqvae_jax.data.readers import DataError, decode_image, first_line, require
from vqvae_jax.data.splitting import names_in, visible_files

SUFFIXES = {".mp4", ".m4v", ".avi", ".mov", ".webm", ".mkv"}
FORMATS = {"RGB": "rgb24", "L": "gray"}
"""PyAV's format for each of Pillow's modes."""


def video_files(root: Path) -> list[str]:
    """Returns the relative names of the video files under `root`, in order."""
    return names_in(root, visible_files(root, SUFFIXES))


def frame_folders(root: Path) -> list[str]:
    """Returns the relative names of the folders under `root` that hold pictures, in order."""
    folders = {p.parent for p in image_files(root)} - {root}
    return names_in(root, folders)


def read_video(path: Path, mode: str, crop: int | None, resize: int | None) -> Recording:
    """Reads the frames of a video file, or of a folder of pictures, as uint8 `[T, H, W, C]`.

    Args:
        path: file or folder.
        mode: "RGB" or "L".
        crop: height and width of the square in the middle that is kept; None for whole frames.
        resize: length of a frame's shorter side, to which it is scaled first; None for its own.
            Without a crop, the middle square of this length is kept.

    Raises:
        DataError: if a frame can't be read, is smaller than the crop, or differs in size.
    """
    read = read_folder if path.is_dir() else decode_video
    shape = partial(shaped, crop=crop, resize=resize)
    frames = [shape(frame, str(path)) for frame in read(path, mode)]
    sizes = sorted({frame.shape[:2] for frame in frames})
    if len(sizes) != 1:
        found = " and ".join(f"{w} x {h}" for h, w in sizes[:2]) or "none"
        raise DataError(f"{path}: expected frames of one size, found {found}; give a crop size")
    height, width = sizes[0]
    return Recording(np.stack(frames), f"frames of {width} x {height}")


def read_folder(folder: Path, mode: str) -> Iterator[UInt8[np.ndarray, "H W C"]]:
    """Yields the pictures of a folder in order of name, numbers by their value."""
    files = (p for p in image_files(folder) if p.parent == folder)
    for path in sorted(files, key=lambda path: by_number(path.name)):
        yield decode_image(path, mode, str(path))


def by_number(name: str) -> list[str | int]:
    """Returns the parts of a name, so that frame 9 comes before frame 10.

    >>> sorted(["10.png", "9.png", "a2.png"], key=by_number)
    ['9.png', '10.png', 'a2.png']
    """
    # `split` begins with text, perhaps an empty one, so that text meets text and numbers numbers.
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def decode_video(path: Path, mode: str) -> Iterator[UInt8[np.ndarray, "H W C"]]:
    """Yields the frames of the first video stream of a file."""
    av = require("av", "video")
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                pixels = frame.to_ndarray(format=FORMATS[mode])
                yield pixels.reshape(*pixels.shape[:2], -1)
    except Exception as error:  # PyAV raises many types on broken files
        raise DataError(f"{path}: expected a video, found: {first_line(error)}") from error


def shaped(
    frame: UInt8[np.ndarray, "H W C"], name: str, *, crop: int | None, resize: int | None
) -> UInt8[np.ndarray, "h w C"]:
    """Returns a frame scaled and cropped as `read_video` says."""
    if resize is not None:
        frame, crop = scaled(frame, resize / min(frame.shape[:2])), crop or resize
    if crop is None:
        return frame
    height, width = frame.shape[:2]
    if min(height, width) < crop:
        raise DataError(
            f"{name}: expected frames of at least {crop} x {crop}, found {width} x {height}"
        )
    top, left = (height - crop) // 2, (width - crop) // 2
    return frame[top : top + crop, left : left + crop]


def scaled(frame: UInt8[np.ndarray, "H W C"], factor: float) -> UInt8[np.ndarray, "h w C"]:
    """Returns a frame with its sides multiplied by a factor."""
    pil = require("PIL.Image")
    height, width = (max(1, round(side * factor)) for side in frame.shape[:2])
    image = pil.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame)
    # Pillow's bicubic filter widens with the reduction, so that small frames have no aliases.
    pixels = np.asarray(image.resize((width, height), pil.Resampling.BICUBIC))
    return pixels.reshape(height, width, -1)
