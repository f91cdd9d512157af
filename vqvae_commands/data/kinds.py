"""Kinds of data that a run may have: their names, their range, and checks before training.

    [N, C] vectors   [N, T, C] signals   [N, T, H, W, C] videos, uint8 of 1 or 3 channels; else
    [N, D, H, W, C] volumes
    [N, H, W, C] pictures, of 1, 3 or 4 channels, uint8 or floats from -0.5 to 0.5; else fields

Only pictures and videos have pixels, a PSNR and an SSIM; for other data the explained variance is
reported.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int

from vqvae_commands.data.padded import Padded, parts
from vqvae_commands.data.picture_counts import PictureCounts
from vqvae_jax import pixels, values
from vqvae_jax.data import Domain
from vqvae_jax.data.pipeline import Examples
from vqvae_jax.data.readers import DataError
from vqvae_jax.data.value_range import scale_of_pixels

Kind = Literal["pictures", "fields", "vectors", "signals", "volumes", "videos"]
NOUNS = {
    "pictures": ("image", "images"),
    "fields": ("field", "fields"),
    "vectors": ("vector", "vectors"),
    "signals": ("signal", "signals"),
    "volumes": ("volume", "volumes"),
    "videos": ("video", "videos"),
}
PIXELS = ("pictures", "videos")
BY_AXES: dict[int, tuple[Kind, ...]] = {
    2: ("vectors",),
    3: ("signals",),
    4: ("pictures", "fields"),
    5: ("volumes", "videos"),
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
        lengths: the least and the largest length of examples that are padded.
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
    lengths: tuple[int, int] | None = None

    def __str__(self) -> str:
        shape, many = " x ".join(map(str, self.shape)), NOUNS[self.kind][1]
        if self.lengths is not None:
            shape += " padded from lengths of {:,} to {:,}".format(*self.lengths)
        return (
            f"{self.train:,} {many} to train on and {self.test:,} to test, {shape}, "
            f"{self.dtype} from {self.low:.4g} to {self.high:.4g}"
        )

    def origin(self) -> list[str]:
        """Returns sentences on the files that the examples came from, where they are counted."""
        return self.pictures.lines() if self.pictures else []

    def domain(self) -> Domain:
        """The domain of a model of the data: pixels, or their range and half of it on each side."""
        if self.kind in PIXELS or self.dtype == "uint8":
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
        if self.lengths is not None and self.lengths[0] == 0:
            found.append("Some examples have length 0 and are ignored.")
        if self.low == self.high:
            found.append(f"All values are {self.low:.4g}: there is nothing to learn.")
        elif self.dtype == "uint8" and self.high < 32:
            found.append(
                f"No value exceeds {self.high:.0f}, and uint8 data are read as 0 to 255: "
                "rescale labels or levels to that range."
            )
        return found + (self.pictures.remarks() if self.pictures else [])


def kind_of(name: str, shape: Sequence[int], kind: str | None = None, dtype: str = "") -> str:
    """Returns the kind of data of this shape `[N, ..., C]`, or `kind` if it fits the shape.

    Bytes of 1 or 3 channels with three spatial axes are videos, other dtypes are volumes.

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
    if len(shape) == 5 and kind is None:
        return "videos" if dtype == "uint8" and shape[-1] in (1, 3) else "volumes"
    return kind or kinds[0]


def kind_of_run(folder: Path) -> str | None:
    """Returns the kind in a run's data.json; None without such a file."""
    path = folder / "data.json"
    return json.loads(path.read_text())["kind"] if path.exists() else None


def units(kind: str, dtype: str) -> str:
    """The units of the mean squared error."""
    if kind in PIXELS:
        return "pixels in [0, 1]"
    return "bytes in [0, 1]" if dtype == "uint8" else "in the data's units, squared"


def look_at_data(name: str, train: Examples, test: Examples, kind: str | None = None) -> Facts:
    """Returns the facts of the data, from all of an array, or from a sample of records.

    Raises:
        DataError: if the data can't be trained on as they are; the message names what was detected.
    """
    padded = isinstance(train, Padded)
    if padded and len(train.shape) == 3:
        kind = kind or "signals"  # pictures have no lengths
    kind = kind_of(name, train.shape, kind, str(train.dtype))
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
        lengths=range_of_lengths(train, test) if padded else None,
    )
    check_scale(name, facts)
    return facts


def range_of_lengths(*splits: Padded) -> tuple[int, int]:
    """Returns the least and the largest length."""
    lengths = np.concatenate([split.lengths for split in splits])
    return int(lengths.min()), int(lengths.max())


def spread(n: int, count: int) -> Int[np.ndarray, "m"]:
    """Returns up to `count` of n indices, evenly spread, since data may be sorted.

    Example:
        >>> spread(9, 3)
        array([0, 4, 8])
    """
    return np.unique(np.linspace(0, n - 1, min(n, count)).astype(np.int64))


def scan(x: Examples) -> tuple[float, float, int]:
    """(least, largest) value of the finite examples, and the number of the others.

    Padding is not looked at.
    """
    if not isinstance(x, np.ndarray | Padded):
        x = x[spread(len(x), SAMPLE)]
    least, largest, invalid = np.inf, -np.inf, 0
    step = max(1, ELEMENTS // max(1, int(np.prod(x.shape[1:]))))
    for first in range(0, len(x), step):
        part, mask = parts(x[first : first + step])
        real = np.broadcast_to(mask["mask"], part.shape[:-1]) if mask else None
        if part.dtype != np.uint8:
            good = np.isfinite(part).all(axis=-1)
            good = good if real is None else good | ~real
            finite = good.all(axis=tuple(range(1, good.ndim)))
            invalid += int(np.count_nonzero(~finite))
            part, real = part[finite], None if real is None else real[finite]
        part = part if real is None else part[real]
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
    elif facts.kind in PIXELS:
        domain = facts.domain()
        if facts.low < domain.low or facts.high > domain.high:
            raise DataError(
                f"{found} can't be {facts.kind}, which are {domain.words}: "
                f"{scale_of_pixels(facts.low, facts.high)}; data that are not pixels need "
                f"--kind {'fields' if facts.kind == 'pictures' else 'volumes'}"
            )
