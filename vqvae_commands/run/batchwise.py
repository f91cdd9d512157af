"""A function of a batch, applied to any number of examples with a single compiled shape."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from vqvae_jax.data.pipeline import Examples, take_batches


def each_batch(look: Callable[[Any], Any], data: Examples, batch_size: int) -> Iterator[Any]:
    """Yields `look(batch)` of one batch after another, on the host, without padding's results.

    Args:
        look: from a batch to an array, or a tree of them, with a row for each example.
        data: examples `[N, ...]`; the data need not fit in memory.
        batch_size: number of examples at a time; if there are fewer, all of them.
    """
    for batch, mask in take_batches(data, min(batch_size, len(data))):
        found = jax.device_get(look(batch))
        yield jax.tree.map(lambda array, real=mask > 0: array[real], found)


def in_batches(look: Callable[[Any], Any], data: Examples, batch_size: int = 100) -> Any:
    """Returns what `look` gives for all examples; see `each_batch`.

    Example:
        >>> in_batches(lambda x: {"double": 2 * x}, np.arange(3), 2)
        {'double': array([0, 2, 4])}
    """
    return joined(each_batch(look, data, batch_size))


def joined(parts: Iterable[Any]) -> Any:
    """Joins trees of arrays along their rows."""
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
