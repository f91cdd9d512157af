"""The task that measures the card: what copies and large products of random numbers reach on it."""

from collections.abc import Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp

from experiments.accelerator import card
from experiments.accelerator.tables import text
from experiments.accelerator.tasks import Found, Task
from experiments.accelerator.times import torch_searches
from experiments.accelerator.times.queued import (
    Ways,
    Work,
    built,
    let_go,
    line_up,
    race_queued,
)
from experiments.accelerator.times.search_floors import BANDWIDTH, REACHED, operations
from experiments.accelerator.times.searches import (
    PRODUCT,
    TITLES,
    XLA_PRODUCT,
    make_inputs,
    xla_product,
)
from experiments.bench.bench_page import Table, race_json
from experiments.bench.search import Problem
from experiments.bench.timing import Race

NAME = "the card itself"
COPY = "copy"
BYTES = 2**31  # of the array that is copied, far more than caches hold
SIZE = Problem(8192, 8192, 8192)


def task(size: Problem = SIZE, copied: int = BYTES, rounds: int = 5) -> Task:
    """Returns the task. Its results: bytes a second as `memory`, operations by precision."""
    rates = card.rates()
    expected = {p: share * getattr(rates, p) for p, share in REACHED.items()}
    expected["memory"] = BANDWIDTH * rates.memory
    return Task(NAME, lambda: prepare(size, copied, rounds), expected)


def prepare(size: Problem, copied: int, rounds: int):
    """Compiles; returns the function that measures."""
    inputs = make_inputs(size)
    makers = {name: partial(xla_product, p) for p, name in XLA_PRODUCT.items()}
    contestants, skipped = built(makers, inputs)
    more, missing = torch_searches.with_torch(torch_searches.PRODUCTS, inputs)
    contestants = [copying(copied), *contestants, *more]

    def measure() -> Found:
        with let_go(contestants):
            line = line_up(contestants)
            race = race_queued(NAME, line, rounds)
        rates = rates_of(race, size, copied)
        return {**rates, "race": race_json(race), "skipped": {**skipped, **missing, **line.skipped}}

    return measure


class InPlace:
    """Calls that read an array and write it, in its own memory."""

    def __init__(self, size: int):
        self.x = jnp.ones(size // 4, jnp.float32)
        # Not a copy, which XLA would leave out.
        self.program = jax.jit(jnp.negative, donate_argnums=0).lower(self.x).compile()

    def __call__(self, i: int) -> jax.Array:
        self.x = self.program(self.x)
        return self.x


def copying(size: int) -> Ways:
    """Reads an array of so many bytes, and writes as many."""
    return [Work(COPY, InPlace(size), jax.block_until_ready)]


def rates_of(race: Race, size: Problem, copied: int) -> dict[str, float]:
    """Returns bytes a second, and operations a second by precision: those of the faster library."""
    found = {"memory": 2 * copied / race.time(COPY).median}
    for precision in card.PRECISIONS:
        names = (PRODUCT[precision], XLA_PRODUCT[precision])
        times = [race.time(name).median for name in names if name in race.seconds]
        if times:
            found[precision] = operations(size) / min(times)
    return found


def table(tasks: Sequence[Task], found: Mapping[str, Found]) -> Table:
    """Returns the rates beside the datasheet's."""
    result, expected = found.get(NAME, {}), tasks[0].expected
    titles = {"memory": "copy, TB/s read and written"}
    titles |= {p: f"products in {TITLES[p]}, TF/s" for p in card.PRECISIONS}
    rows = []
    for name, title in titles.items():
        sheet, measured = getattr(card.rates(), name), result.get(name)
        share = None if measured is None else measured / sheet
        numbers = (expected[name], measured, sheet)
        rows.append([title, *(text(x, "{:.3g}", 1e-12) for x in numbers), text(share, "{:.0%}")])
    head = ["", "expected", "measured", "datasheet", "share"]
    return Table("The card itself", head, rows, NOTE)


NOTE = (
    f"Copy: {BYTES / 2**30:g} GiB. Products: of 8,192 x 8,192 normal numbers, by the faster of XLA "
    "and PyTorch. --quick: far less of both."
)
