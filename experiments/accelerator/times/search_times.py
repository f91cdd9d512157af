"""Section `search`: times of the nearest code beside other libraries and products alone."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from experiments.accelerator.tasks import Found, Section, Task
from experiments.accelerator.times import card_rates, search_tables, searches, torch_searches
from experiments.accelerator.times.queued import (
    LineUp,
    Ways,
    Work,
    built,
    let_go,
    line_up,
    race_queued,
)
from experiments.accelerator.times.search_floors import expected_seconds
from experiments.accelerator.times.searches import (
    BLOCKS,
    COMPILED,
    LOW,
    OURS,
    PRODUCT,
    XLA_PRODUCT,
    make_inputs,
)
from experiments.bench.bench_page import race_json
from experiments.bench.search import Problem

N, SMALL_N = 262_144, 16_384
PROBLEMS = [
    Problem(N, 64, 8192),  # that of the bars
    Problem(SMALL_N, 64, 512),
    Problem(SMALL_N, 64, 8192),
    Problem(N, 64, 512),
    Problem(SMALL_N, 64, 65_536),
    Problem(N, 256, 8192),
    Problem(N, 8, 8192),
    Problem(SMALL_N, 256, 8192),
    Problem(SMALL_N, 8, 65_536),
    Problem(N, 64, 65_536),
    Problem(SMALL_N, 64, 2**20),
    Problem(N, 8, 512),
    Problem(SMALL_N, 256, 65_536),
]
QUICK = [Problem(1024, 16, 128)]
# `torch.compile` takes half a minute on two cores.
QUICK_MAKERS = {n: m for n, m in torch_searches.MAKERS.items() if n not in COMPILED.values()}
QUICK_CARD = Problem(128, 128, 128)
ROUNDS, QUICK_ROUNDS = 5, 2
COMPILED_TWICE = 3  # problems for which `torch.compile` compiles in TF32 too

ABOUT = (
    "The nearest code of each of N rows among K codes of width D. Calls are queued on the card for "
    "20 ms and waited for once; rows change from call to call, and exceed the card's caches. "
    "Distance matrices of other contestants are made whole or for some rows at a time, whichever "
    "is fastest. *Product alone* writes the N x K products and finds no code. TF32 has 10 bits of "
    "each factor: it is faster, and finds other codes. The floor is that of 2 N K D operations in "
    "float32, or of the bytes that any search reads and writes; ours is expected below it, as it "
    "multiplies parts of 11 bits on tensor cores."
)


def tasks(quick: bool) -> list[Task]:
    """Returns the measurement of the card, and then one for each problem."""
    rounds = QUICK_ROUNDS if quick else ROUNDS
    first = card_rates.task(QUICK_CARD, 2**20, rounds) if quick else card_rates.task()
    problems = QUICK if quick else PROBLEMS
    others = [QUICK_MAKERS if quick else makers(i) for i in range(len(problems))]
    return [first] + [
        Task(str(p), partial(prepare, p, rounds, more), expected_seconds(p))
        for p, more in zip(problems, others, strict=True)
    ]


def makers(i: int) -> dict[str, Any]:
    """Returns PyTorch's makers for the i-th problem."""
    return torch_searches.MAKERS | (torch_searches.MORE if i < COMPILED_TWICE else {})


def prepare(problem: Problem, rounds: int, makers: Mapping):
    """Compiles all contestants; returns the function that measures."""
    inputs = make_inputs(problem)
    ours = [make(inputs) for make in searches.OF_THIS_LIBRARY]
    others, skipped = built(searches.OTHERS, inputs)
    more, missing = torch_searches.with_torch(makers, inputs)
    contestants = [*ours, *others, *more]

    def measure() -> Found:
        with let_go(contestants):
            found = timed(problem, contestants, rounds)
        return {**found, "skipped": {**skipped, **missing, **found["skipped"]}}

    return measure


def timed(problem: Problem, contestants: Sequence[Ways], rounds: int) -> dict[str, Any]:
    """Races the contestants, and counts indices that differ."""
    line = line_up(contestants)
    race = race_queued(str(problem), line, rounds, problem._asdict())
    # Others may run out of memory, or have no compiler; ours may only be too slow to take part.
    wrong = [n for n in (OURS, BLOCKS, LOW) if "Error" in line.skipped.get(n, "")]
    return {"race": race_json(race), **chosen(line), "skipped": line.skipped, "passed": not wrong}


def chosen(line: LineUp) -> dict:
    """Returns the numbers of rows at a time, and of indices that differ from ours, by name."""
    k = indices(line.works[0])
    products = {*PRODUCT.values(), *XLA_PRODUCT.values()}
    different = {w.name: int(np.sum(indices(w) != k)) for w in line.works if w.name not in products}
    rows = {work.name: work.rows for work in line.works if work.rows is not None}
    return {"rows": rows, "trials": line.trials, "different": different}


def indices(work: Work) -> np.ndarray:
    """Returns the indices of the first set of rows."""
    with work.within():
        found = work.start(0)
    return np.asarray(found.cpu() if hasattr(found, "cpu") else found)  # PyTorch's may be a GPU's


SECTION = Section(
    "Nearest code, timed",
    ABOUT,
    75.0,
    tasks,
    search_tables.tables,
    search_tables.figures,
    together=2,  # first the card itself, and the problem of the bars
)
