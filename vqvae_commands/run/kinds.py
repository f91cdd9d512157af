"""Kinds of data that a run may have: their names, their range, and checks before training.

    [N, C] vectors   [N, T, C] signals   [N, D, H, W, C] volumes
    [N, H, W, C] pictures, of 1, 3 or 4 channels, uint8 or floats from -0.5 to 0.5; else fields

Only pictures have pixels, a PSNR and an SSIM; for other data the explained variance is reported.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from vqvae_commands.run.picture_counts import PictureCounts
from vqvae_jax import pixels, values
from vqvae_jax.data import Domain
from vqvae_jax.data.pipeline import Examples
from vqvae_jax.data.readers import DataError
from vqvae_jax.data.value_range import scale_of_pixels

Kind = Literal["pictures", "fields", "vectors", "signals", "volumes"]
NOUNS = {
    "pictures": ("image", "images"),
    "fields": ("field", "fields"),
    "vectors": ("vector", "vectors"),
    "signals": ("signal", "signals"),
    "volumes": ("volume", "volumes"),
}
BY_AXES: dict[int, tuple[Kind, ...]] = {
    2: ("vectors",),
    3: ("signals",),
    4: ("pictures", "fields"),
    5: ("volumes",),
}
FEW = 4  # channels: more than these may as well be the columns of a picture
ELEMENTS = 2**24  # looked at together
SAMPLE = 1000  # records that are decoded to look at them


@dataclasses.dataclass(frozen=True)
class Facts:
    """Facts about data, printed before training and kept in the run as data.json.

    Attributes:
        kind: a name of `NOUNS`.
        shape, dtype: shape and dtype of one example.
        low, high: the smallest and the largest finite value.
        train, test: the numbers of examples.
        invalid_train, invalid_test: the numbers of inspected examples that are not finite.
        pictures: counts of a folder of pictures; None for other data.
    """

    kind: str
    shape: tuple[int, ...]
    dtype: str
    low: float
    high: float
    train: int
    test: int
    invalid_train: int
    invalid_test: int
    pictures: PictureCounts | None = None

    def __str__(self) -> str:
        shape, many = " x ".join(map(str, self.shape)), NOUNS[self.kind][1]
        return (
            f"{self.train:,} {many} to train on and {self.test:,} to test, {shape}, "
            f"{self.dtype} from {self.low:.4g} to {self.high:.4g}"
        )

    def origin(self) -> list[str]:
        """Returns sentences on the files that the examples came from, where they are counted."""
        return self.pictures.lines() if self.pictures else []

    def domain(self) -> Domain:
        """The domain of a model of the data: pixels, or their range and half of it on each side."""
        if self.kind == "pictures" or self.dtype == "uint8":
            return pixels()
        slack = (self.high - self.low) / 2 or abs(self.high) or 1.0
        return values(self.low - slack, self.high + slack)

    def remarks(self) -> list[str]:
        """Returns remarks on odd data."""
        found = []
        splits = {
            "training": (self.invalid_train, self.train),
            "test": (self.invalid_test, self.test),
        }
        for split, (invalid, total) in splits.items():
            if invalid:
                found.append(
                    f"{invalid:,} of {total:,} {split} examples are not finite and are ignored."
                )
        if self.low == self.high:
            found.append(f"All values are {self.low:.4g}: there is nothing to learn.")
        elif self.dtype == "uint8" and self.high < 32:
            found.append(
                f"No value exceeds {self.high:.0f}, and uint8 data are read as 0 to 255: "
                "rescale labels or levels to that range."
            )
        return found + (self.pictures.remarks() if self.pictures else [])


def kind_of(name: str, shape: Sequence[int], kind: str | None = None) -> str:
    """Returns the kind of data of this shape `[N, ..., C]`, or `kind` if it fits the shape.

    Raises:
        DataError: if the shape fits no kind, or not the given one, or is ambiguous.
    """
    kinds: tuple[str, ...] = BY_AXES.get(len(shape), ())
    found = " x ".join(map(str, shape))
    if not kinds:
        raise DataError(f"{name}: expected an array of 2 to 5 axes, [N, ..., C], found {found}")
    if kind is None and len(shape) == 3 and shape[-1] > FEW:
        raise DataError(
            f"{name}: {found} may be pictures without an axis of channels, or signals of "
            f"{shape[-1]} channels: save pictures as x[..., None], or pass --kind signals"
        )
    if kind == "pictures" and len(shape) == 3:
        raise DataError(f"{name}: pictures are [N, H, W, C], found {found}: save x[..., None]")
    if kind is not None and kind not in kinds:
        raise DataError(f"{name}: {found} can't be {kind}, but {' or '.join(kinds)}")
    if len(shape) == 4 and kind is None:
        return "pictures" if shape[-1] in (1, 3, 4) else "fields"
    return kind or kinds[0]


def kind_of_run(folder: Path) -> str | None:
    """Returns the kind in a run's data.json; None without such a file."""
    path = folder / "data.json"
    return json.loads(path.read_text())["kind"] if path.exists() else None


def units(kind: str, dtype: str) -> str:
    """The units of the mean squared error."""
    if kind == "pictures":
        return "pixels in [0, 1]"
    return "bytes in [0, 1]" if dtype == "uint8" else "in the data's units, squared"


def look_at_data(name: str, train: Examples, test: Examples, kind: str | None = None) -> Facts:
    """Returns the facts of the data, from all of an array, or from a sample of records.

    Raises:
        DataError: if the data can't be trained on as they are; the message names what was detected.
    """
    kind = kind_of(name, train.shape, kind)
    (low, high, bad), (test_low, test_high, bad_test) = scan(train), scan(test)
    for split, least in (("training", low), ("test", test_low)):
        if not np.isfinite(least):
            raise DataError(f"{name}: expected finite numbers, found none in the {split} examples")
    facts = Facts(
        kind,
        tuple(train.shape[1:]),
        str(train.dtype),
        min(low, test_low),
        max(high, test_high),
        len(train),
        len(test),
        bad,
        bad_test,
    )
    check_scale(name, facts)
    return facts


def scan(x: Examples) -> tuple[float, float, int]:
    """(least, largest) value of the finite examples, and the number of the others."""
    if not isinstance(x, np.ndarray):
        x = x[np.unique(np.linspace(0, len(x) - 1, SAMPLE).astype(np.int64))]
    least, largest, invalid = np.inf, -np.inf, 0
    step = max(1, ELEMENTS // max(1, int(np.prod(x.shape[1:]))))
    for first in range(0, len(x), step):
        part = x[first : first + step]
        if part.dtype != np.uint8:
            finite = np.isfinite(part).all(axis=tuple(range(1, part.ndim)))
            invalid += int(np.count_nonzero(~finite))
            part = part[finite]
        if part.size:
            least, largest = min(least, float(part.min())), max(largest, float(part.max()))
    return least, largest, invalid


def check_scale(name: str, facts: Facts) -> None:
    """Raises a DataError for pixels in a scale that models don't take."""
    found = f"{name}: {facts.dtype} from {facts.low:.4g} to {facts.high:.4g}"
    if facts.dtype == "uint8":
        if facts.high == 1:
            raise DataError(
                f"{found} are nearly black, since uint8 pixels are 0 to 255: "
                "save masks of 0 and 1 as x * 255"
            )
    elif facts.kind == "pictures":
        domain = facts.domain()
        if facts.low < domain.low or facts.high > domain.high:
            raise DataError(
                f"{found} can't be pictures, which are {domain.words}: "
                f"{scale_of_pixels(facts.low, facts.high)}; data that are not pixels need "
                "--kind fields"
            )
