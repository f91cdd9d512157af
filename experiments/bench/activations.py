"""Benchmark `activations`: memory and time of a train step with parts, remat and bfloat16.

python -m experiments.bench.activations JSON, where JSON is a list of sizes and a way, takes two
steps and prints one line of JSON. The benchmark calls it to measure the memory of a new process.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import optax

from experiments.bench import memory, step
from experiments.bench.bench_page import (
    LEGEND,
    Part,
    Table,
    compile_text,
    race_json,
    race_table,
    spread_text,
    time_text,
)
from experiments.bench.plain_flax import Sizes
from experiments.bench.race_charts import marks
from experiments.bench.timing import Contestant, Race, race


class Way(NamedTuple):
    """Options of vqvae_commands.train that save memory."""

    parts: int | None = None
    dtype: str = "float32"

    def __str__(self) -> str:
        words = [] if self.parts is None else [f"--parts {self.parts}"]
        words += [] if self.dtype == "float32" else [f"--dtype {self.dtype}"]
        return " ".join(words) or "no option"


WAYS = [*map(Way, (None, 1, 2, 4, 8)), Way(None, "bfloat16"), Way(4, "bfloat16")]
QUICK_WAYS = [Way(), Way(4), Way(None, "bfloat16")]
MODELS = {
    "default model, 28 x 28, batch 128": Sizes(batch=128),
    "32 x 32 x 3, width 128, batch 128": step.CIFAR._replace(width=128),
}
QUICK = {"default model, 28 x 28, batch 32": Sizes(batch=32)}
ROUNDS, QUICK_ROUNDS = 9, 3
AXIS = f"time / {Way()}"

ABOUT = (
    "One train step of the model that `vqvae train` makes, with its options that save memory. "
    "--parts n: encoder and decoder work on n parts of the batch in turn, and compute activations "
    "again for the gradient; 1 is the latter alone, remat. Losses and gradients are those of the "
    "whole batch. --dtype bfloat16: activations in half the bytes."
)


def run(quick: bool) -> Part:
    """Measures time, memory as XLA plans it and, unless `quick`, memory of a process."""
    ways, rounds = (QUICK_WAYS, QUICK_ROUNDS) if quick else (WAYS, ROUNDS)
    races, planned, grown = [], [], []
    for title, sizes in (QUICK if quick else MODELS).items():
        entries, plan = contestants(sizes, ways)
        races.append(race(title, entries, rounds, sizes=sizes._asdict()))
        planned.append(plan)
        grown.append({} if quick else {str(way): growth(sizes, way) for way in ways})
    found = list(zip(races, planned, grown, strict=True))
    return Part(
        "activations",
        ABOUT,
        [table(*each) for each in found],
        {"steps": [race_json(r) | {"planned": p, "grown": g} for r, p, g in found]},
        {"activations": marks({r.title: {n: r.ratio(n) for n in r.seconds} for r in races}, AXIS)},
    )


def contestants(sizes: Sizes, ways: Sequence[Way]) -> tuple[list[Contestant], dict[str, int]]:
    """Returns the step in each way, and the bytes that XLA plans for its temporary arrays."""
    entries = [contestant(sizes, way) for way in ways]
    plans = {e.name: e.call.step.memory_analysis() for e in entries}
    return entries, {name: plan.temp_size_in_bytes for name, plan in plans.items()}


def contestant(sizes: Sizes, way: Way) -> Contestant:
    """Returns the compiled step in one way."""
    x = step.pixels(sizes)
    return step.jax_step(str(way), *step.our_step(sizes, x, optax.adam(1e-3, b2=0.99), *way), x)


def growth(sizes: Sizes, way: Way) -> int | None:
    """Returns the bytes by which a new process grows in two steps; None where it isn't known."""
    return memory.alone("experiments.bench.activations", json.dumps([sizes, way]))["grown"]


def grown(sizes: Sizes, way: Way) -> dict[str, int | None]:
    """Takes two steps, and returns the bytes by which this process grew."""
    call = contestant(sizes, way).call  # compiled before: the growth is that of the steps alone
    before, can_reset = memory.now(), memory.reset_peak()
    call()
    call()
    return {"grown": memory.peak() - before if can_reset else None}


def table(result: Race, planned: Mapping[str, int], grown: Mapping[str, int | None]) -> Table:
    """Returns the table of time and memory of each way."""
    columns = {
        "ms": lambda name: time_text(result.time(name)),
        AXIS: lambda name: spread_text(result.ratio(name)),
        "MB planned": lambda name: size_text(planned.get(name)),
        "MB grown": lambda name: size_text(grown.get(name)),
        "compile s": lambda name: compile_text(result, name),
    }
    note = (
        "MB planned: of XLA, for all that a step computes in between. MB grown: of a process that "
        f"takes two steps (not measured by --quick). {LEGEND}"
    )
    return race_table(result, f"Time and memory of a step, {result.title}", columns, note)


def size_text(size: int | None) -> str:
    """Returns the size in MB, or - where there is none."""
    return "-" if size is None else f"{size / 1e6:,.0f}"


if __name__ == "__main__":
    sizes, way = json.loads(sys.argv[1])
    print(json.dumps(grown(Sizes(*sizes), Way(*way))))
