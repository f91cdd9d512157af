"""Examples of different lengths, padded to one: `x[rows]` is a batch with a mask of its samples."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from vqvae_jax.data.pipeline import Examples
from vqvae_jax.data.readers import DataError, load_npy
from vqvae_jax.training.step import Batch


@dataclasses.dataclass(frozen=True, eq=False)
class Padded:
    """Examples `[N, T, ..., C]` of which the first `length` places along T are real.

    Attributes:
        x: the examples, padded with anything.
        lengths: the length of each, from 0 to T.
    """

    x: Examples
    lengths: Int[np.ndarray, "N"]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all examples."""
        return self.x.shape

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the examples."""
        return self.x.dtype

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: Any) -> Batch:
        # `sequence_mask` on the host: batches are made while the accelerator is busy.
        mask = np.arange(self.shape[1]) < self.lengths[rows][:, None]
        return Batch(self.x[rows], mask.reshape(*mask.shape, *(1,) * (len(self.shape) - 3)))


def chosen(data: Examples, rows: Int[np.ndarray, "n"]) -> Examples:
    """Returns some of the examples, with their lengths where they have some, in memory."""
    if isinstance(data, Padded):
        return Padded(data.x[rows], data.lengths[rows])
    return data[rows]


def parts(batch) -> tuple[Any, dict[str, Any]]:
    """Returns x, and its mask as an option of a model's methods, where the batch has one."""
    x, mask = batch if isinstance(batch, Batch) else (batch, None)
    return x, {} if mask is None else {"mask": mask}


def with_lengths(path: str, train: Examples, test: Examples) -> tuple[Padded, Padded]:
    """Returns both splits with the lengths in a .npy file: of train's examples, then of test's.

    Raises:
        DataError: if the file is no array `[N]` of ints from 0 to T, or the data have no axis of
            time.
    """
    if len(train.shape) not in (3, 5):
        found = " x ".join(map(str, train.shape))
        raise DataError(
            f"{path}: expected lengths of signals [N, T, C] or videos [N, T, H, W, C], found "
            f"data of {found}"
        )
    lengths = read_lengths(path, len(train) + len(test), train.shape[1])
    return Padded(train, lengths[: len(train)]), Padded(test, lengths[len(train) :])


def read_lengths(path: str, count: int, most: int) -> Int[np.ndarray, "N"]:
    """Reads `count` lengths from 0 to `most`."""
    if not Path(path).is_file():
        raise DataError(f"{path}: expected a .npy file of lengths, found no such file")
    lengths = load_npy(path)
    if not isinstance(lengths, np.ndarray):
        raise DataError(f"{path}: expected an array of lengths, found an archive")
    if lengths.dtype.kind not in "iu" or lengths.shape != (count,):
        raise DataError(
            f"{path}: expected {count:,} integers, a length for each example, found "
            f"{lengths.dtype} {lengths.shape}"
        )
    if lengths.min() < 0 or lengths.max() > most:
        raise DataError(
            f"{path}: expected lengths from 0 to {most}, found {lengths.min()} to {lengths.max()}"
        )
    return lengths.astype(np.int64)
