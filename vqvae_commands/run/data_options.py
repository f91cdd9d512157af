"""The options that say which data a command reads, and how; a run and its codes keep them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vqvae_commands.run.padded import with_lengths
from vqvae_jax.data.pipeline import Examples
from vqvae_jax.data.sources import DataError, open_source

PREPROCESSED = ("uint8", "float16", "float32")


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """Options of the data, under the names that they have in config.json and codes.json.

    Attributes:
        data: source, see `open_source`.
        crop: crop size in pixels, for a folder of images or videos.
        window: number of samples of a window, for a folder of WAV files.
        frames: number of frames of a clip, for a folder of videos.
        lengths: .npy file of the length of each example, where they are padded to one length.
    """

    data: str
    crop: int | None = None
    window: int | None = None
    frames: int | None = None
    lengths: str | None = None


def data_options(options: Mapping[str, Any], **given: Any) -> DataOptions:
    """Returns the options of a run's data, with those that are given in their place.

    Args:
        options: options of a run, or the description of codes; others than those of data and
            missing ones are left out.
        given: options by name; None for the run's own.

    Raises:
        DataError: if neither names the data.

    Example:
        >>> data_options({"data": "mnist", "steps": 3}, crop=32)
        DataOptions(data='mnist', crop=32, ...)
    """
    names = [field.name for field in dataclasses.fields(DataOptions)]
    known = {name: options[name] for name in names if name in options}
    if given.get("data") is not None:
        known.pop("lengths", None)  # lengths belong to the examples of one source
    known |= {name: value for name, value in given.items() if value is not None}
    if known.get("data") is None:
        raise DataError("expected the source of the data, found a model alone; pass --data")
    return DataOptions(**known)


def given(config) -> dict[str, Any]:
    """Returns the options of data among those of a command, for `data_options`."""
    names = [field.name for field in dataclasses.fields(DataOptions)]
    return {name: getattr(config, name, None) for name in names}


def load_data(options: DataOptions) -> tuple[Examples, Examples]:
    """Returns (train, test); raises a DataError for a dtype that `preprocess` doesn't take."""
    sizes = {"size": options.crop, "window": options.window, "frames": options.frames}
    source = open_source(options.data, **sizes)
    train, test = source("train"), source("test")
    if train.dtype not in PREPROCESSED:
        raise DataError(
            f"{options.data}: expected {' or '.join(PREPROCESSED)}, found {train.dtype}"
        )
    if options.lengths is None:
        return train, test
    return with_lengths(options.lengths, train, test)
