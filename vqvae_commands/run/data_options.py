"""The options that say which data a command reads, and how; a run and its codes keep them."""

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

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
        crop: side of tiles in pixels, for a folder of pictures.
        resize: length of the shorter side that pictures of a folder are scaled to.
        grey: whether pictures of a folder are read as one channel.
    """

    data: str
    crop: int | None = None
    resize: int | None = None
    grey: bool = False


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
        DataOptions(data='mnist', crop=32, resize=None, grey=False)
    """
    names = [field.name for field in dataclasses.fields(DataOptions)]
    known = {name: options[name] for name in names if name in options}
    new = {name: value for name, value in given.items() if value is not None}
    if SIZES & new.keys():
        known = {name: value for name, value in known.items() if name not in SIZES}
    known |= new
    if known.get("data") is None:
        raise DataError("expected the source of the data, found a model alone; pass --data")
    return DataOptions(**known)


def given_data(config: Any) -> dict[str, Any]:
    """Returns the options of the data that a command was given in place of the run's own.

    Args:
        config: options of the command, with the names of `DataOptions`.
    """
    given = {field.name: getattr(config, field.name) for field in dataclasses.fields(DataOptions)}
    return given | {"grey": given["grey"] or None}  # a flag can't be turned off


def open_data(options: DataOptions) -> Source:
    """Returns the source that the options describe."""
    mode = "L" if options.grey else "RGB"
    return open_source(options.data, size=options.crop, resize=options.resize, mode=mode)


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
    return train, test
