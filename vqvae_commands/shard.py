"""Write data of any size as ArrayRecord shards, which training reads without loading all of them.

vqvae shard ~/photos -o photos --size 64 --shards 16
vqvae train --name photos --data photos
"""

import dataclasses
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import Progress

from vqvae_commands.data.data_checks import check_effect
from vqvae_commands.data.data_options import DataOptions, open_data
from vqvae_commands.data.picture_counts import print_pictures
from vqvae_commands.run.progress import make_progress
from vqvae_jax.data.picture_folders import SkippedPictures
from vqvae_jax.data.records import check_records, open_records
from vqvae_jax.data.sources import stream
from vqvae_jax.data.writing import write_records


@dataclasses.dataclass(frozen=True)
class Config:
    """Write the train and test split of any data as shards of records."""

    data: Annotated[str, tyro.conf.Positional]
    """The embedded set, a TFDS name, a folder of pictures, WAV files, videos or IDX files, or a
    .npy file."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """New folder for the shards."""
    size: Annotated[int | None, tyro.conf.arg(aliases=["--crop"])] = None
    """Side of tiles in pixels, for a folder of pictures: each is cut into a grid of them."""
    resize: int | None = None
    """Length that shorter sides are scaled to, for a folder of pictures; without tiles the middle
    square is one item."""
    grey: bool = False
    """Read a folder of pictures or videos as one channel."""
    window: int | None = None
    """Number of samples of a window; required for a folder of WAV files."""
    frames: int | None = None
    """Number of frames of a clip; required for a folder of videos, or of folders of frames."""
    shards: int = 4
    """Number of files for each split."""


def main(config: Config) -> Path:
    """Writes both splits, reads the files back, and prints a summary."""
    options = DataOptions(
        config.data, config.size, config.resize, config.grey, config.window, config.frames
    )
    source = open_data(options)
    check_effect(vars(options), config.data, source)
    streams = {split: stream(config.data, split, source) for split in ("train", "test")}
    with make_progress(Console()) as progress:
        splits = {
            split: with_progress(progress, split, part.examples, part.total)
            for split, part in streams.items()
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SkippedPictures)
            write_records(config.output, splits, config.shards, streams["train"].mode)
    print_pictures(source)
    check_records(config.output)
    for split in streams:
        rows = open_records(config.output, split)
        print(f"{config.output} {split}: {len(rows):,} of {rows.dtype} {rows.shape[1:]}")
    return config.output


def with_progress(progress: Progress, name: str, examples: Iterable, count: int | None) -> Iterator:
    """Yields the examples, and moves the bar by one for each."""
    task = progress.add_task("", total=count, now=name)
    for example in examples:
        yield example
        progress.advance(task)
