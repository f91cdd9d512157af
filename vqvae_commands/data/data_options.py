"""The options that say which data a command reads, and how; a run and its codes keep them."""

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

from vqvae_commands.data.padded import with_lengths
from vqvae_jax.data.picture_folders import SkippedPictures
from vqvae_jax.data.pipeline import Examples
from vqvae_jax.data.sources import DataError, Source, open_source

SIZES = {"crop", "resize"}
PREPROCESSED = ("uint8", "float16", "float32")


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """Options of the data, under the names that they have in config.json and codes.json.

    Attributes:
        data: source, see `open_source`.
        crop: side of tiles in pixels, for a folder of pictures or videos.
        resize: length of the shorter side that pictures and frames are scaled to.
        grey: whether pictures and frames are read as one channel.
        window: number of samples of a window, for a folder of WAV files.
        frames: number of frames of a clip, for a folder of videos.
        lengths: .npy file of the length of each example, where they are padded to one length.
    """

    data: str
    crop: int | None = None
    resize: int | None = None
    grey: bool = False
    window: int | None = None
    frames: int | None = None
    lengths: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class GivenData:
    """Options of data that take the place of a run's own: the base of options of commands."""

    data: str | None = None
    """Source of the data; by default the run's own."""
    crop: int | None = None
    """Side of tiles in pixels, for a folder of pictures or videos; by default the run's."""
    resize: int | None = None
    """Length that shorter sides are scaled to, for a folder of pictures or videos; by default the
    run's."""
    grey: bool = False
    """Read a folder of pictures or videos as one channel, as the run did if it says so."""
    window: int | None = None
    """Number of samples of a window, for a folder of WAV files; by default the run's."""
    frames: int | None = None
    """Number of frames of a clip, for a folder of videos; by default the run's."""
    lengths: str | None = None
    """A .npy file of the lengths of padded examples; by default the run's, for its own data."""


def data_options(options: Mapping[str, Any], **given: Any) -> DataOptions:
    """Returns the options of a run's data, with those that are given in their place.

    Args:
        options: options of a run, or the description of codes; others than those of data and
            missing ones are left out.
        given: options by name; None for the run's own. `crop` and `resize` are one choice: where
            one of them is given, the run's other one does not hold.

    Raises:
        DataError: if neither names the data.

    Example:
        >>> data_options({"data": "mnist", "steps": 3}, crop=32)
        DataOptions(data='mnist', crop=32, ...)
    """
    names = [field.name for field in dataclasses.fields(DataOptions)]
    known = {name: options[name] for name in names if name in options}
    new = {name: value for name, value in given.items() if value is not None}
    if SIZES & new.keys():
        known = {name: value for name, value in known.items() if name not in SIZES}
    if "data" in new:
        known.pop("lengths", None)  # lengths belong to the examples of one source
    known |= new
    if known.get("data") is None:
        raise DataError("expected the source of the data, found a model alone; pass --data")
    return DataOptions(**known)


def given_data(config: GivenData) -> dict[str, Any]:
    """Returns the options of the data that a command was given in place of the run's own."""
    given = {field.name: getattr(config, field.name) for field in dataclasses.fields(DataOptions)}
    return given | {"grey": given["grey"] or None}  # a flag can't be turned off


def open_data(options: DataOptions) -> Source:
    """Returns the source that the options describe."""
    return open_source(
        options.data,
        size=options.crop,
        resize=options.resize,
        mode="L" if options.grey else "RGB",
        window=options.window,
        frames=options.frames,
    )


def load_data(options: DataOptions, source: Source | None = None) -> tuple[Examples, Examples]:
    """Returns (train, test), of the source if it is open.

    Raises:
        DataError: for data that can't be read, or a dtype that `preprocess` doesn't take.
    """
    source = source or open_data(options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkippedPictures)  # `picture_counts` says it better
        train, test = source("train"), source("test")
    if train.dtype not in PREPROCESSED:
        raise DataError(
            f"{options.data}: expected {' or '.join(PREPROCESSED)}, found {train.dtype}"
        )
    if options.lengths is None:
        return train, test
    return with_lengths(options.lengths, train, test)
