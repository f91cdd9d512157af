"""Benchmark `search`: speed and exactness of the nearest code, and of its use in training."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments.bench import exactness, peers
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
from experiments.bench.race_charts import marks
from experiments.bench.timing import Race, Spread, compiled, race
from vqvae_jax import lookup, nearest
from vqvae_jax.reductions import sum_by_code


class Problem(NamedTuple):
    """Sizes of a search: N rows of width D, and K codes."""

    n: int
    d: int
    k: int

    def __str__(self) -> str:
        return f"N = {self.n:,}, D = {self.d}, K = {self.k:,}"


LARGE = [Problem(16384, 64, k) for k in (512, 1000, 1024, 8192)]
SMALL = [Problem(n, 64, k) for k in (512, 8192) for n in (1, 49, 512)]
NARROW = [Problem(1024, d, 65536) for d in (4, 16)]
PROBLEMS = [*LARGE, *SMALL, *NARROW]
QUICK = [Problem(16384, 64, 512), Problem(4096, 64, 8192), Problem(49, 64, 512)]
TRAINING = [Problem(16384, 64, 512), Problem(16384, 64, 8192)]
QUICK_TRAINING = [Problem(16384, 64, 512)]
ROUNDS, QUICK_ROUNDS = 15, 5

ABOUT = (
    "The nearest code of each of N rows among K codes of width D, all float32. The baseline is the "
    "product of rows and codes and its minimum over the codes in one compiled function. It gives "
    "no index and stores all N K products, so a search in blocks may be faster where they outgrow "
    "the caches. GF/s counts 2 N K D operations a call."
)


def run(quick: bool) -> Part:
    """Measures speed, exactness, and the operations that follow in training."""
    rounds = QUICK_ROUNDS if quick else ROUNDS
    makers, skipped = contestants()
    races = [speed(problem, makers, rounds) for problem in (QUICK if quick else PROBLEMS)]
    paths = [training_path(p, rounds) for p in (QUICK_TRAINING if quick else TRAINING)]
    errors = exactness.count(makers, quick)
    panels = {r.title: {name: gigaflops(r, name) for name in r.seconds} for r in races}
    return Part(
        "search",
        ABOUT,
        [*map(speed_table, races), *exactness.tables(errors), *map(path_table, paths)],
        {
            "speed": [race_json(r) for r in races],
            "exactness": errors,
            "training_path": [race_json(r) for r in paths],
        },
        {"search": marks(panels, "GF/s")},
        skipped,
    )


def contestants() -> tuple[list[Callable], list[str]]:
    """Returns the searches that can run here, and a line for each library that is missing."""
    found, skipped = peers.importable(peers.PEERS)
    others = [make for name in found for make in peers.PEERS[name]]
    low = peers.in_bfloat16, peers.one_in_bfloat16
    return [peers.bound, peers.ours, *low, peers.argmin_of_all, *others], skipped


def arrays(problem: Problem, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns normal rows and codes."""
    random = np.random.default_rng(seed)
    shapes = (problem.n, problem.d), (problem.k, problem.d)
    z, e = (random.standard_normal(shape, np.float32) for shape in shapes)
    return z, e


def speed(problem: Problem, makers: Sequence[Callable], rounds: int) -> Race:
    """Times all contestants on one problem."""
    z, e = arrays(problem)
    entries = [make(z, e).contestant for make in makers]
    return race(str(problem), entries, rounds, peers.BOUND, sizes=problem._asdict())


def gigaflops(result: Race, name: str) -> Spread:
    """Returns the GF/s of a contestant."""
    work = 2e-9 * np.prod([float(size) for size in result.sizes.values()])
    median, low, high = result.time(name)
    return Spread(work / median, work / high, work / low)


def speed_table(result: Race) -> Table:
    """Returns rates, times, and times over those of the baseline."""
    columns = {
        "GF/s": lambda name: spread_text(gigaflops(result, name), "{:.3g}"),
        "ms": lambda name: time_text(result.time(name)),
        "time / baseline": lambda name: spread_text(result.ratio(name)),
        "compile s": lambda name: compile_text(result, name),
    }
    note = f"{LEGEND} Baseline: {result.baseline}."
    return race_table(result, f"Nearest code, {result.title}", columns, note)


def training_path(problem: Problem, rounds: int) -> Race:
    """Times what a training step with moving averages does with the indices, and the search."""
    z, e = map(jnp.asarray, arrays(problem))
    k = nearest(z, e)

    def sums(z, k):
        return sum_by_code(z, k, problem.k), sum_by_code(jnp.ones(k.shape), k, problem.k)

    def all_three(z, e, k):
        return lookup(e, k), *sums(z, k)

    entries = [
        compiled(peers.OURS, nearest, z, e),
        compiled("z_q = lookup(e, k)", lookup, e, k),
        compiled("sums and counts by code", sums, z, k),
        compiled("lookup, sums and counts", all_three, z, e, k),
    ]
    return race(str(problem), entries, rounds, sizes=problem._asdict())


def path_table(result: Race) -> Table:
    """Returns the times, and their ratios to that of the search."""
    columns = {
        "ms": lambda name: time_text(result.time(name)),
        "time / search": lambda name: spread_text(result.ratio(name), "{:.3f}"),
    }
    note = f"{LEGEND} Baseline: {result.baseline}."
    return race_table(result, f"After the search, {result.title}", columns, note)
