"""Sources of signals and videos that come as files of any length, cut into pieces of one length."""

import dataclasses
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from vqvae_jax.data.cut_files import read_pieces
from vqvae_jax.data.picture_files import image_files
from vqvae_jax.data.readers import DataError, check_split, require
from vqvae_jax.data.video_frames import frame_folders, read_video, video_files
from vqvae_jax.data.wav_files import read_wave, wave_names

Source = Callable[[str], Shaped[np.ndarray, "N ..."]]


def waves(path: str | Path, window: int) -> Source:
    """Source of windows of the WAV files under `path`, in order of relative names.

    Integers of 8 to 32 bits are scaled to [-1, 1), floats stay as they are. Files are cut into
    windows one after another; what is left at their ends is dropped with a warning, and so are
    files that can't be read. All windows of a file are in one split: those of `split_names`, with
    at least one file to test.

    Args:
        path: folder, searched recursively.
        window: number of samples in a window.

    Returns:
        A source of float32 `[N, window, channels]`. It raises `DataError` for files that differ in
        sampling rate or channels, and for fewer than two files with a window.

    Raises:
        DataError: if `window` is below 1.

    >>> waves("sounds", window=0)
    Traceback (most recent call last):
    vqvae_jax.data.readers.DataError: sounds: expected a window of at least 1 sample, found 0
    """
    if window < 1:
        raise DataError(f"{path}: expected a window of at least 1 sample, found {window}")
    root = Path(path)

    def read():
        require("scipy.io.wavfile")  # here, or each file would be skipped without it
        return read_pieces(root, wave_names(root), read_wave, window, "samples")

    return CutFolder(root, cache(read), "window")


def videos(
    path: str | Path,
    frames: int,
    crop: int | None = None,
    resize: int | None = None,
    mode: str = "RGB",
) -> Source:
    """Source of clips of the videos under `path`, in order of relative names.

    A video is a file that PyAV reads, or a folder whose pictures are its frames in order of name.
    Videos are cut into clips as `waves` cuts files into windows, and split as it splits files.

    Args:
        path: folder, searched recursively.
        frames: number of frames in a clip.
        crop: height and width of the square in the middle of each frame that is kept.
        resize: length of a frame's shorter side, to which it is scaled before it is cropped, by
            default to the middle square.
        mode: "RGB" or "L".

    Returns:
        A source of uint8 `[N, frames, H, W, C]`. It raises `DataError` for frames of different
        sizes, for fewer than two videos with a clip, and for files without PyAV.

    Raises:
        DataError: if a size is below 1 or `mode` is neither "RGB" nor "L".

    >>> videos("clips", frames=16, crop=0)
    Traceback (most recent call last):
    vqvae_jax.data.readers.DataError: clips: expected a crop of at least 1, found 0
    """
    for name, size in (("clip", frames), ("crop", crop), ("resize", resize)):
        if size is not None and size < 1:
            raise DataError(f"{path}: expected a {name} of at least 1, found {size}")
    if mode not in ("RGB", "L"):
        raise DataError(f"{path}: expected mode 'RGB' or 'L', found {mode!r}")
    root = Path(path)

    def read():
        files = video_files(root)
        if files:
            require("av", "video")  # here, or each file would be skipped without it
        names = sorted([*files, *frame_folders(root)])
        decode = partial(read_video, mode=mode, crop=crop, resize=resize)
        return read_pieces(root, names, decode, frames, "frames")

    return CutFolder(root, cache(read), "clip")


def open_sequences(
    path: Path, *, window: int | None, frames: int | None, **shape: Any
) -> Source | None:
    """Returns the source of a folder of signals or videos; None for one of pictures.

    Args:
        path: folder.
        window, frames: lengths of pieces, where they are given.
        shape: `crop`, `resize` and `mode` of the frames, see `videos`.

    Raises:
        DataError: if the folder has nothing but WAV files or videos, and their length is not given.
    """
    if frames is not None and (video_files(path) or frame_folders(path)):
        return videos(path, frames, **shape)
    if window is not None and wave_names(path):
        return waves(path, window)
    # A film among one's photographs does not make them a set of videos.
    if next(image_files(path), None) is not None:
        return None
    if wave_names(path):
        raise DataError(f"{path}: a folder of WAV files needs a window (--window) in samples")
    if video_files(path):
        raise DataError(f"{path}: a folder of videos needs a number of frames (--frames)")
    return None


@dataclasses.dataclass(frozen=True, eq=False)
class CutFolder:
    """Source of pieces of files.

    Attributes:
        root: folder.
        read: reads both splits; files are read once for both.
        unit: what a piece is, "window" or "clip".
    """

    root: Path
    read: Callable[[], dict[str, np.ndarray]]
    unit: str

    def __call__(self, split: str) -> Shaped[np.ndarray, "N ..."]:
        """Returns the pieces of a split."""
        check_split(self.root, split)
        return self.read()[split]
