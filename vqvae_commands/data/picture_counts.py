"""Counts of a folder of pictures: files, tiles and splits, and the files that were skipped."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vqvae_jax.data.picture_folders import PictureFolder, some


@dataclasses.dataclass(frozen=True)
class PictureCounts:
    """Counts of a folder of pictures, printed before training and kept in data.json.

    Attributes:
        side: height and width of the items.
        files: number of pictures that gave items, in "train" and "test".
        items: number of items in "train" and "test".
        rule: how the splits were made.
        classes: names of the class folders.
        skipped: name and fault of each picture that gave no items.
        unused: number of pictures in each folder that belongs to no split.
        others: number of files of each suffix that is not one of a picture.
    """

    side: int
    files: Mapping[str, int]
    items: Mapping[str, int]
    rule: str
    classes: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    unused: Mapping[str, int] = dataclasses.field(default_factory=dict)
    others: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def lines(self) -> list[str]:
        """Returns sentences for the terminal and for the report.

        Example:
            >>> n = {"train": 54, "test": 6}
            >>> print(*PictureCounts(64, n, n, "by hash", others={".txt": 2}).lines(), sep="\\n")
            Files: 54 to train on and 6 to test, split by hash.
            Not pictures, and not read: 2 .txt.
        """
        cut = self.items != self.files
        train, test = (
            f"{self.files[s]:,}" + (f" (cut into {self.items[s]:,} tiles)" if cut else "")
            for s in ("train", "test")
        )
        found = [f"Files: {train} to train on and {test} to test, split {self.rule}."]
        if self.classes:
            found.append(f"{len(self.classes):,} classes, by folder: {some(self.classes)}.")
        if self.skipped:
            found.append(f"Skipped {counted(len(self.skipped), 'file')}: {some(self.skipped)}.")
        if self.unused:
            found.append(f"In neither split: {in_words(self.unused, 'in {}')}.")
        if self.others:
            found.append(f"Not pictures, and not read: {in_words(self.others, '{}')}.")
        return found

    def remarks(self) -> list[str]:
        """Returns a remark where items of the test set come from one file."""
        files, items = self.files["test"], self.items["test"]
        if items == files:
            return []
        return [
            f"The {items:,} test items are tiles of {counted(files, 'file')}, and tiles of one "
            "picture resemble each other: the test numbers are less certain than so many items "
            "suggest. --resize makes one item of each file."
        ]


def count_pictures(source: Any) -> PictureCounts | None:
    """Returns the counts of a folder of pictures, which is read if need be; None for others."""
    if not isinstance(source, PictureFolder):
        return None
    surveys, layout = {s: source.survey(s) for s in ("train", "test")}, source.layout
    return PictureCounts(
        source.side,
        {split: len(survey.tiles) for split, survey in surveys.items()},
        {split: sum(survey.tiles.values()) for split, survey in surveys.items()},
        layout.rule,
        layout.classes,
        tuple(fault for survey in surveys.values() for fault in survey.skipped)
        + tuple(f"{name}: hidden" for name in layout.hidden),
        layout.unused,
        layout.others,
    )


def print_pictures(source: Any) -> None:
    """Prints the counts of a folder of pictures; nothing for other sources."""
    counts = count_pictures(source)
    print(*(f"{line}\n" for line in counts.lines()) if counts else "", sep="", end="")


def counted(number: int, noun: str) -> str:
    """Returns the number and its noun.

    >>> counted(1, "file"), counted(2000, "file")
    ('1 file', '2,000 files')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def in_words(counts: Mapping[str, int], form: str) -> str:
    """Returns counts by name as text, the first few of them.

    >>> in_words({"val": 20, "raw": 3}, "in {}")
    '20 in val; 3 in raw'
    """
    return some([f"{number:,} {form.format(name)}" for name, number in counts.items()])
