"""Benchmark `pipeline`: images a second of each reader, beside those of a train step."""

import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from experiments.bench import step
from experiments.bench.bench_page import (
    LEGEND,
    Part,
    Table,
    race_json,
    race_table,
    rate,
    spread_text,
    time_text,
)
from experiments.bench.plain_flax import Sizes
from experiments.bench.race_charts import marks
from experiments.bench.timing import Contestant, Race, race
from vqvae_commands.data.data_options import DataOptions, load_data
from vqvae_jax.data.background import record_batches
from vqvae_jax.data.pipeline import batches
from vqvae_jax.data.records import open_records
from vqvae_jax.data.sources import EMBEDDED
from vqvae_jax.data.writing import write_records
from vqvae_jax.training import parallel

ROUNDS, QUICK_ROUNDS = 15, 5
STEP = "train step of the default model"
ONE = "one batch that is in place"
STEPS = 20  # more than batches wait in a reader

Reader = Callable[[np.ndarray, int], Iterator[np.ndarray]]
"""Function (images [N, H, W, C], batch size) -> batches without end."""


def in_memory(images: np.ndarray, batch: int) -> Iterator[np.ndarray]:
    """Yields shuffled batches of an array."""
    return batches(images, seed=0, batch_size=batch)


def from_records(images: np.ndarray, batch: int) -> Iterator[np.ndarray]:
    """Yields shuffled batches of PNG images in four ArrayRecord shards, decoded in background."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "images")
        write_records(folder, {"train": images, "test": images[:4]}, shards=4)
        yield from record_batches(open_records(folder, "train"), seed=0, batch_size=batch)


READERS: list[tuple[str, Reader]] = [
    ("array in memory, `batches`", in_memory),
    ("shards of PNG images, `record_batches`", from_records),
]
"""Readers by name, each a row of the table: append (name, function) to add one."""

ABOUT = (
    "Images a second that each reader gives, in batches ready for the train step, while nothing "
    "else runs, over those that the train step takes. Then training itself, the next batches on "
    "their way to the device while a step runs: each reader beside the step on one batch that is "
    "there already."
)


def run(quick: bool) -> Part:
    """Times all readers beside the train step, and training with each reader."""
    images = load_data(DataOptions(EMBEDDED))[0]
    rounds, sizes = (QUICK_ROUNDS, (32,)) if quick else (ROUNDS, (32, 128))
    races = [feed(images, batch, rounds) for batch in sizes]
    fed = [time_training(images, batch, QUICK_ROUNDS) for batch in sizes]
    panels = {r.title: {name: rate(r, name) for name in r.seconds} for r in races}
    tables = [*map(table, races), *map(train_table, fed)]
    data = {"races": list(map(race_json, races)), "training": list(map(race_json, fed))}
    return Part("pipeline", ABOUT, tables, data, {"pipeline": marks(panels, "images/s")})


def feed(images: np.ndarray, batch: int, rounds: int) -> Race:
    """Times the train step and each reader, for batches of one size."""
    x = images[:batch]
    readers = [reader(name, function(images, batch)) for name, function in READERS]
    entries = [step.jax_step(STEP, *default_step(x), x), *readers]
    return race(describe(x), entries, rounds, STEP, sizes={"batch": batch})


def default_step(x: np.ndarray) -> tuple[Callable, Any]:
    """Returns the train step of the default model for batches like x, and its first state."""
    return step.our_step(Sizes(batch=len(x)), x, optax.adam(1e-3, b2=0.99))


def describe(x: np.ndarray) -> str:
    """Returns the sizes of a batch in words."""
    return f"batch {len(x)}, {' x '.join(map(str, x.shape[1:]))}"


def reader(name: str, order: Iterator[np.ndarray]) -> Contestant:
    """Returns a contestant whose call gives one batch."""
    return Contestant(name, lambda: next(order))


def time_training(images: np.ndarray, batch: int, rounds: int) -> Race:
    """Times STEPS steps on one batch, and on the batches of each reader."""
    x = images[:batch]
    function, state = default_step(x)
    compiled = parallel.jit_step(function, parallel.data_mesh())
    orders = {ONE: itertools.repeat(compiled.place(x))}
    for name, make in READERS:
        orders[name] = parallel.prefetch(make(images, batch), compiled.place)
    entries = [Contestant(name, Steps(compiled, state, order)) for name, order in orders.items()]
    return race(describe(x), entries, rounds, ONE, sizes={"batch": batch * STEPS})


class Steps:
    """Takes STEPS steps of training on the next batches, and waits for the last one only."""

    def __init__(self, compiled: parallel.Step, state, order: Iterator):
        self.compiled, self.order = compiled, order
        # A copy: the step donates its state, and all contestants start from the same one.
        self.state = jax.tree.map(jax.numpy.array, state)

    def __call__(self) -> None:
        for batch in itertools.islice(self.order, STEPS):
            self.state, metrics = self.compiled.run(self.state, batch)
        jax.block_until_ready((self.state, metrics))


def table(result: Race) -> Table:
    """Returns images a second, the time of a batch, and the rate over that of the step."""
    columns = {
        "images/s": lambda name: spread_text(rate(result, name), "{:,.0f}"),
        "ms a batch": lambda name: time_text(result.time(name)),
        "images/s over those of the step": lambda name: spread_text(result.faster(name), "{:.3g}"),
    }
    return race_table(result, f"Images, {result.title}", columns, LEGEND)


def train_table(result: Race) -> Table:
    """Returns the steps a second, data included."""
    columns = {
        "steps/s": lambda name: f"{STEPS / result.time(name).median:.1f}",
        "images/s": lambda name: f"{rate(result, name).median:,.0f}",
        f"time / {ONE}": lambda name: spread_text(result.ratio(name), "{:.3f}"),
    }
    note = f"{STEPS} steps at a time. {LEGEND}"
    return race_table(result, f"Training, {result.title}", columns, note)
