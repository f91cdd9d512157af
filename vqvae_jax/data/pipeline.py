"""Batches from arrays, in an order that depends on (seed, step) alone.

A run that stops at step s and resumes there sees the same batches as an uninterrupted one, and
nothing about the order needs to be saved.
"""

import itertools
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Float32, Int64, Shaped

from vqvae_jax.data.shuffling import shuffled

TABLED = 2**24  # largest number of examples for which an epoch's order is a table


@runtime_checkable
class Examples(Protocol):
    """Protocol of data sets: a NumPy array, or `records.Records`, which decode when indexed."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Any: ...


def batch_indices(seed: int, step: int, batch_size: int, n: int) -> Int64[np.ndarray, "B"]:
    """Returns the indices of the examples in the batch of step `step`.

        position = step * batch_size + [0, ..., batch_size - 1]
        index    = permutation(seed, position // n)[position % n]

    Every epoch of n positions visits each example once. Batches run across the end of an epoch, so
    all have `batch_size` examples, even if n is smaller than that. Memory holds at most four
    permutations of 2^24 examples, 128 MB each; beyond that size none is stored, see `shuffled`.

    Args:
        seed: seed, not negative.
        step: number of the batch, from 0.
        batch_size: at least 1.
        n: number of examples, at least 1.

    Returns:
        int64 `[batch_size]`, each in [0, n).

    Raises:
        ValueError: an argument out of these ranges.

    >>> batch_indices(seed=0, step=0, batch_size=3, n=6)
    array([3, 2, 5])
    >>> batch_indices(seed=0, step=1, batch_size=3, n=6)
    array([4, 0, 1])
    """
    _check(seed, step, batch_size, n)
    positions = step * batch_size + np.arange(batch_size, dtype=np.int64)
    # Positions instead of a cursor: any batch is known without those before it, so a run resumes
    # from its step alone, and a batch that spans epochs has its full size.
    epochs, offsets = np.divmod(positions, n)
    parts = [
        _in_epoch(seed, epoch, n, offsets[epochs == epoch])
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1)
    ]
    return np.concatenate(parts)


def batches(
    data: Shaped[Examples, "N ..."],
    seed: int,
    batch_size: int,
    start: int = 0,
    *,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Shaped[np.ndarray, "B ..."]]:
    """Yields the batches of steps `start`, `start + 1`, ... without end.

    Args:
        data: `[N, ...]` of any dtype.
        seed, batch_size: as in `batch_indices`.
        start: first step; a resumed run passes the step at which it stopped.
        process_index, process_count: as in `batch_of`.

    Returns:
        An iterator of arrays `[batch_size / process_count, ...]` of data's dtype.

    Raises:
        ValueError: empty data, or arguments outside the ranges of `batch_of`.

    >>> next(batches(np.arange(6) * 10, seed=0, batch_size=3, start=1))
    array([40,  0, 10])
    """
    load = batch_of(data, seed, batch_size, process_index, process_count)
    _check(seed, start, batch_size, len(data))
    return map(load, itertools.count(start))


def batch_of(
    data: Shaped[Examples, "N ..."],
    seed: int,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Callable[[int], Shaped[np.ndarray, "B ..."]]:
    """Returns the function from a step to this process's share of its batch.

    The concatenated shares of processes 0, 1, ... are the batch, as `parallel` places them.

    Args:
        data: `[N, ...]` of any dtype.
        seed, batch_size: as in `batch_indices`; `batch_size` counts all processes.
        process_index: in [0, process_count).
        process_count: a divisor of `batch_size`.

    Raises:
        ValueError: empty data, or arguments outside these ranges or those of `batch_indices`.

    >>> batch_of(np.arange(6) * 10, 0, 2)(0), batch_of(np.arange(6) * 10, 0, 2, 1, 2)(0)
    (array([30, 20]), array([20]))
    """
    _check(seed, 0, batch_size, len(data))
    if process_count < 1 or batch_size % process_count or process_index not in range(process_count):
        raise ValueError(
            f"expected a process whose number is below a divisor of the batch size {batch_size}, "
            f"found process {process_index} of {process_count}"
        )
    # The batch is that of one process and is then split, so the number of processes changes no
    # batch.
    share = batch_size // process_count
    mine = slice(share * process_index, share * (process_index + 1))
    return lambda step: data[batch_indices(seed, step, batch_size, len(data))[mine]]


def take_batches(
    data: Shaped[Examples, "N ..."], batch_size: int
) -> Iterator[tuple[Shaped[np.ndarray, "B ..."], Float32[np.ndarray, "B"]]]:
    """Yields every example once and in order, for evaluation with a single compiled shape.

    Args:
        data: `[N, ...]` of any dtype; its rows may be a tree of arrays.
        batch_size: at least 1.

    Returns:
        An iterator of `ceil(N / batch_size)` pairs: a batch `[batch_size, ...]`, the last one
        padded with zeros, and a float32 mask `[batch_size]`, 1 for examples and 0 for padding.

    Raises:
        ValueError: empty data or `batch_size` below 1.

    >>> [(b.tolist(), m.tolist()) for b, m in take_batches(np.array([7, 8, 9]), 2)]
    [([7, 8], [1.0, 1.0]), ([9, 0], [1.0, 0.0])]
    """
    _check(0, 0, batch_size, len(data))
    return (
        _padded(data[first : first + batch_size], batch_size)
        for first in range(0, len(data), batch_size)
    )


def _padded(rows: Any, batch_size: int) -> tuple[Any, Float32[np.ndarray, "B"]]:
    # Padded, since a shorter last batch would have another shape and compile again.
    def pad(array: np.ndarray) -> np.ndarray:
        padded = np.zeros((batch_size, *array.shape[1:]), array.dtype)
        padded[: len(array)] = array
        return padded

    count = len(jax.tree.leaves(rows)[0])
    return jax.tree.map(pad, rows), (np.arange(batch_size) < count).astype(np.float32)


def _check(seed: int, step: int, batch_size: int, n: int) -> None:
    for name, value, least in (
        ("seed", seed, 0),
        ("step", step, 0),
        ("batch_size", batch_size, 1),
        ("number of examples", n, 1),
    ):
        if value < least:
            raise ValueError(f"expected {name} of at least {least}, found {value}")


def _in_epoch(seed: int, epoch: int, n: int, places: Int64[np.ndarray, "B"]):
    """Returns the indices at these places of an epoch's order."""
    # A table is fast, but for 10^10 examples it would take 80 GB, and minutes at the start of each
    # epoch. Small sets keep the table, so that older runs resume in the order they started with.
    if n > TABLED:
        return shuffled(seed, epoch, n, places)
    return _permutation(seed, epoch, n)[places]


# A batch needs the order of its epoch and perhaps of the next; 4 leave room for several data sets.
@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, n: int) -> Int64[np.ndarray, "N"]:
    return np.random.default_rng([seed, epoch]).permutation(n)
