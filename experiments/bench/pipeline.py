"""Benchmark `pipeline`: how many images a second are read, beside what a train step takes."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import optax

from experiments.bench import step
from experiments.bench.charts import marks
from experiments.bench.page import LEGEND, Part, Table, race_json, spread_text, time_text
from experiments.bench.plain_flax import Sizes
from experiments.bench.timing import Contestant, Race, Spread, race
from experiments.recipe import load_data
from vqvae_jax.data.background import record_batches
from vqvae_jax.data.pipeline import batches
from vqvae_jax.data.records import open_records
from vqvae_jax.data.sources import EMBEDDED
from vqvae_jax.data.writing import write_records

ROUNDS, QUICK_ROUNDS = 15, 5
STEP = "train step of the default model"

Reader = Callable[[np.ndarray, int], Iterator[np.ndarray]]
"""(images [N, H, W, C], batch size) -> batches without end."""


def in_memory(images: np.ndarray, batch: int) -> Iterator[np.ndarray]:
    """Shuffled batches of an array."""
    return batches(images, seed=0, batch_size=batch)


def from_records(images: np.ndarray, batch: int) -> Iterator[np.ndarray]:
    """Shuffled batches of PNG images in four ArrayRecord shards, decoded in the background."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "images")
        write_records(folder, {"train": images, "test": images[:4]}, shards=4)
        yield from record_batches(open_records(folder, "train"), seed=0, batch_size=batch)


READERS: list[tuple[str, Reader]] = [
    ("array in memory, `batches`", in_memory),
    ("shards of PNG images, `record_batches`", from_records),
]
"""A row of the table each: append (name, function) to add a reader."""

ABOUT = (
    "Images a second that each reader gives, in batches ready for the train step, while nothing "
    "else runs; and that the train step takes. A reader is fast enough where its ratio is well "
    "below 1: that is the share of a step's time for which it keeps a core busy."
)


def run(quick: bool) -> Part:
    """All readers beside the train step."""
    images = load_data(EMBEDDED, None)[0]
    races = [
        feed(images, b, QUICK_ROUNDS if quick else ROUNDS) for b in ((32,) if quick else (32, 128))
    ]
    panels = {r.title: {name: rate(r, name) for name in r.seconds} for r in races}
    tables, data = [*map(table, races)], {"races": [race_json(r) for r in races]}
    return Part("pipeline", ABOUT, tables, data, {"pipeline": marks(panels, "images/s")})


def feed(images: np.ndarray, batch: int, rounds: int) -> Race:
    """The train step, then each reader, for batches of one size."""
    x = images[:batch]
    program = step.our_step(Sizes(batch=batch), x, optax.adam(1e-3, b2=0.99))
    readers = [reader(name, function(images, batch)) for name, function in READERS]
    title = f"batch {batch}, {' x '.join(map(str, images.shape[1:]))}"
    entries = [step.jax_step(STEP, *program, x), *readers]
    return race(title, entries, rounds, STEP, sizes={"batch": batch})


def reader(name: str, order: Iterator[np.ndarray]) -> Contestant:
    """One call gives one batch."""
    return Contestant(name, lambda: next(order))


def rate(result: Race, name: str) -> Spread:
    """Images a second."""
    median, low, high = result.time(name)
    return Spread(*(result.sizes["batch"] / seconds for seconds in (median, high, low)))


def table(result: Race) -> Table:
    """Images a second, time of a batch, and that over the time of a step."""
    rows = [
        [
            name,
            spread_text(rate(result, name), "{:,.0f}"),
            time_text(result.time(name)),
            spread_text(result.ratio(name), "{:.4f}"),
        ]
        for name in result.seconds
    ]
    head = ["", "images/s", "ms a batch", "time / train step"]
    return Table(f"Images, {result.title}", head, rows, LEGEND)
