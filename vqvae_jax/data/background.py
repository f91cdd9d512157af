"""Background loading: Grain threads decode batches while earlier steps run."""

import sys
from collections.abc import Iterator

import numpy as np
from jaxtyping import Shaped

from vqvae_jax.data.pipeline import Examples, batch_indices, batch_of
from vqvae_jax.data.readers import require


def record_batches(
    data: Shaped[Examples, "N ..."],
    seed: int,
    batch_size: int,
    start: int = 0,
    *,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 2,
) -> Iterator[Shaped[np.ndarray, "B ..."]]:
    """Yields the batches of `pipeline.batches`, bit for bit, prepared ahead in the background.

    Each worker makes a whole batch, and up to `2 * workers` batches are in progress or waiting.
    These and the order of `batch_indices` take memory.

    Args:
        data: `[N, ...]`, usually `Records`.
        seed, batch_size, start, process_index, process_count: as in `pipeline.batches`.
        workers: number of threads, at least 1.

    Returns:
        A Grain iterator of arrays `[batch_size / process_count, ...]`. Its `get_state` and
        `set_state` work too, though a run needs only its step to resume.

    Raises:
        ValueError: as `pipeline.batches` does. Iteration raises whatever indexing the data raises.

    >>> next(record_batches(np.arange(6) * 10, seed=0, batch_size=3, start=1))
    array([40,  0, 10])
    """
    if workers < 1:
        raise ValueError(f"expected at least 1 worker, found {workers}")
    load = batch_of(data, seed, batch_size, process_index, process_count)
    batch_indices(seed, start, batch_size, len(data))  # caches the order once for all threads
    grain = require("grain")
    # A data set of step numbers: Grain keeps their order, and none of its own state decides which
    # examples a batch has.
    steps = grain.MapDataset.range(start, sys.maxsize).map(load)
    return iter(steps.to_iter_dataset(grain.ReadOptions(workers, 2 * workers)))
