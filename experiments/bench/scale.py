"""Benchmark `scale`: time and memory of the search as N, K or D grows."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.bench import memory, peers
from experiments.bench.bench_page import LEGEND, Part, Table, race_json, spread_text, time_text
from experiments.bench.race_charts import growth_figure
from experiments.bench.search import Problem, arrays
from experiments.bench.timing import Race, race

BASE = Problem(4096, 64, 4096)
SIZES: Mapping[str, Sequence[int]] = {
    "n": (1024, 4096, 16384, 65536),
    "k": (512, 2048, 8192, 32768, 131072),
    "d": (8, 32, 128, 512),
}
QUICK_SIZES = {"n": (1024, 4096, 16384), "k": (512, 2048, 8192), "d": (8, 32, 128)}
MEMORY = [Problem(65536, 32, 2**p) for p in (10, 12, 14, 16, 18, 20)]
QUICK_MEMORY = [Problem(8192, 32, 2**p) for p in (10, 13, 16)]
PLAIN_LIMIT = 2**31  # bytes: no distance matrix is made beyond it
ROUNDS, QUICK_ROUNDS = 9, 5

ABOUT = (
    "vqvae_jax.nearest, one size varied at a time and the others as in the titles. Where cost is "
    "linear, the ratio of times equals that of sizes, and the last column of the first tables is "
    "1; it is below 1 where a cost that doesn't grow with the size, such as that of the minimum "
    "with D, outweighs. Memory is that of a process of its own, less its inputs: the peak, Python, "
    "JAX and the compiler included, and what it grew by while the compiled search ran."
)


def run(quick: bool) -> Part:
    """Measures time over each size, and memory over K."""
    rounds = QUICK_ROUNDS if quick else ROUNDS
    sizes = QUICK_SIZES if quick else SIZES
    races = {name: times_of_size(name, values, rounds) for name, values in sizes.items()}
    points = memory_points(QUICK_MEMORY if quick else MEMORY)
    return Part(
        "scale",
        ABOUT,
        [*(time_table(name, r) for name, r in races.items()), memory_table(points)],
        {"times": {name: race_json(r) for name, r in races.items()}, "memory": points},
        {
            "time": growth_figure(time_lines(races), "ms", linear=True),
            "memory": growth_figure(memory_lines(points), "MB"),
        },
    )


def times_of_size(name: str, values: Sequence[int], rounds: int) -> Race:
    """Times the search at each value of one size; the baseline is the first."""
    entries = []
    for value in values:
        search = peers.ours(*arrays(BASE._replace(**{name: value})))
        entries.append(search.contestant._replace(name=str(value)))
    rest = ", ".join(f"{k.upper()} = {v:,}" for k, v in BASE._asdict().items() if k != name)
    return race(rest, entries, rounds, sizes=BASE._asdict() | {name: list(values)})


def time_table(name: str, result: Race) -> Table:
    """Returns the times, their ratios, and these over the ratios of the size."""
    rows = []
    for value in result.seconds:
        grown, ratio = int(value) / int(result.baseline), result.ratio(value)
        per = type(ratio)(*(x / grown for x in ratio))
        cells = time_text(result.time(value)), spread_text(ratio), spread_text(per)
        rows.append([f"{int(value):,}", *cells])
    first = f"{name.upper()} = {int(result.baseline):,}"
    head = [name.upper(), "ms", f"time / that of {first}", f"the same over {name.upper()}'s ratio"]
    return Table(f"Time over {name.upper()}, {result.title}", head, rows, LEGEND)


def memory_points(problems: Sequence[Problem]) -> list[dict[str, Any]]:
    """Measures both modes on each problem; None where the matrix is too large."""
    points = []
    for problem in problems:
        small = 4 * problem.n * problem.k <= PLAIN_LIMIT
        plain = memory.measure_search(*problem, "plain") if small else None
        points.append(
            {**problem._asdict(), "ours": memory.measure_search(*problem), "plain": plain}
        )
    return points


def memory_table(points: Sequence[Mapping[str, Any]]) -> Table:
    """Returns the MB of the process and of the search alone."""
    rows = []
    for p in points:
        cells = [megabytes(p[mode], what) for what in ("peak", "search") for mode in memory.MODES]
        rows.append([f"{p['k']:,}", *cells, f"{p['ours']['seconds']:.3g}"])
    head = ["K", *(f"{what}, {m}" for what in ("peak", "search") for m in memory.MODES), "s, ours"]
    title = f"Memory over K in MB, N = {points[0]['n']:,}, D = {points[0]['d']}"
    note = (
        "Peak memory of the process less z and the codebook, and growth while the search runs; "
        "plain: distance matrix and argmin, not run where the matrix exceeds "
        f"{PLAIN_LIMIT / 2**30:g} GiB. One run each."
    )
    return Table(title, head, rows, note)


def megabytes(found: Mapping[str, float] | None, what: str) -> str:
    """Returns one number of a point in MB, or - where there is none."""
    return "-" if found is None or what not in found else f"{found[what] / 1e6:,.0f}"


def time_lines(races: Mapping[str, Race]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Returns the lines of the plot of milliseconds over each size."""
    return {
        name.upper(): {peers.OURS: [(int(v), 1000 * r.time(v).median) for v in r.seconds]}
        for name, r in races.items()
    }


def memory_lines(points: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list]]:
    """Returns the lines of the plot of megabytes over K."""
    lines = {}
    for mode in memory.MODES:
        for what in ("peak", "search"):
            known = [p for p in points if p[mode] and p[mode].get(what, 0) > 0]
            lines[f"{mode}, {what}"] = [(p["k"], p[mode][what] / 1e6) for p in known]
    return {"K": lines}
