"""Folders of pictures as sources: each picture is resized to one item, or cut into tiles."""

import dataclasses
import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8

from vqvae_jax.data.picture_files import Layout, class_of, lay_out
from vqvae_jax.data.readers import DataError, as_pixels, check_split, open_image, require

NAMED = 3  # skipped files that a message names


class SkippedPictures(UserWarning):
    """Warning that some files of a folder of pictures gave no items."""


class Survey(NamedTuple):
    """What a split of a folder held when it was read.

    Attributes:
        tiles: number of items of each file, by its relative name, in the order of the items.
        skipped: name and fault of each other file.
    """

    tiles: dict[str, int]
    skipped: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class PictureFolder:
    """Source of the pictures of a folder, see `sources.folder`.

    Attributes:
        root: folder.
        size: side of the tiles, None for one item per picture.
        resize: length of the shorter side that pictures are scaled to, None for their own.
        mode: "RGB" or "L".
    """

    root: Path
    size: int | None
    resize: int | None
    mode: str
    _surveys: dict[str, Survey] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def layout(self) -> Layout:
        """The files of the folder; listed once, so that both splits are of one moment."""
        return lay_out(self.root)

    @property
    def side(self) -> int:
        """Height and width of the items."""
        return self.size or self.resize or 0

    def __call__(self, split: str) -> UInt8[np.ndarray, "N S S C"]:
        """Reads the items of all pictures of a split, in the order of their relative names."""
        return np.concatenate([tiles for _, tiles in self._read(split)])

    def stream(self, split: str) -> Iterator[bytes | UInt8[np.ndarray, "S S C"]]:
        """Yields the items one by one; a picture that needs no change as its file's bytes."""
        for name, tiles in self._read(split):
            yield from tiles if name is None else [(self.root / name).read_bytes()]

    def survey(self, split: str) -> Survey:
        """Returns what the last read of the split found; reads it if it was not read yet."""
        if split not in self._surveys:
            for _ in self._read(split):
                pass
        return self._surveys[split]

    def labels(self, split: str) -> Int32[np.ndarray, "N"]:
        """Returns the class of each item: the number of its file's folder in `layout.classes`."""
        tiles, number = self.survey(split).tiles, self.layout.classes.index
        each = [number(class_of(name) or "") for name in tiles]
        return np.repeat(np.array(each, np.int32), list(tiles.values()))

    def _read(self, split: str) -> Iterator[tuple[str | None, UInt8[np.ndarray, "K S S C"]]]:
        """Yields (name, tiles) of each good file, with None for the name of a changed picture.

        The survey is complete after the last one.
        """
        tiles, skipped = dict[str, int](), list[str]()
        for name in self._names(split):
            try:
                own, found = self._tiles(name)
            except DataError as error:
                skipped.append(str(error))
                continue
            tiles[name] = len(found)
            yield own, found
        self._surveys[split] = self._checked(split, Survey(tiles, tuple(skipped)))

    def _checked(self, split: str, survey: Survey) -> Survey:
        """Returns the survey; warns of skipped files, and raises a `DataError` without others."""
        tiles, skipped = survey
        among = len(tiles) + len(skipped)
        if not tiles:
            raise DataError(
                f"{self.root}: expected pictures for split {split!r}, found none that can be used "
                f"among {among:,}: {some(skipped)}"
            )
        if skipped:
            text = f"{self.root}: skipped {len(skipped):,} of {among:,} files for {split}"
            warnings.warn(f"{text}: {some(skipped)}", SkippedPictures, stacklevel=4)
        return survey

    def _names(self, split: str) -> tuple[str, ...]:
        check_split(self.root, split)
        names = self.layout.splits[split]
        if not names:
            every = sum(map(len, self.layout.splits.values()))
            raise DataError(
                f"{self.root}: expected images for split {split!r}, found none among {every}; "
                "put them into sub-folders train and test"
            )
        return names

    def _tiles(self, name: str) -> tuple[str | None, UInt8[np.ndarray, "K S S C"]]:
        # A JPEG is decoded at a fraction of its size: 21 ms instead of 87 for 3,008 x 2,000 pixels.
        image = open_image(self.root / name, self.mode, name, 2 * (self.resize or 0))
        original = image.size
        if self.resize:
            ops, bicubic = require("PIL.ImageOps"), require("PIL.Image").Resampling.BICUBIC
            scale = ops.cover if self.size else ops.fit  # all of the picture, or its middle
            image = scale(image, (self.resize, self.resize), bicubic)
        if min(image.size) < self.side:
            least, (width, height) = f"{self.side} x {self.side}", image.size
            raise DataError(f"{name}: expected at least {least} pixels, found {width} x {height}")
        unchanged = original == image.size == (self.side, self.side)
        return name if unchanged else None, grid(as_pixels(image), self.side)


def grid(image: UInt8[np.ndarray, "H W C"], size: int) -> UInt8[np.ndarray, "K S S C"]:
    """Returns the tiles of the centred grid of an image, row by row."""
    height, width, channels = image.shape
    rows, columns = height // size, width // size
    top, left = (height - rows * size) // 2, (width - columns * size) // 2
    image = image[top : top + rows * size, left : left + columns * size]
    tiles = image.reshape(rows, size, columns, size, channels).swapaxes(1, 2)
    return tiles.reshape(rows * columns, size, size, channels)


def some(texts: Sequence[str]) -> str:
    """Returns the first of these texts, and the number of the others.

    >>> some(["a: broken", "b: broken"]), some(["a", "b", "c", "d", "e"])
    ('a: broken; b: broken', 'a; b; c; and 2 more')
    """
    more = [f"and {len(texts) - NAMED:,} more"] if len(texts) > NAMED else []
    return "; ".join([*texts[:NAMED], *more])
