"""Tables and the figure of section `search`."""

import dataclasses
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from experiments.accelerator.tables import MISSING, Column, expected, met, task_table, text
from experiments.accelerator.tasks import Found, Task
from experiments.accelerator.times import card_rates
from experiments.accelerator.times.search_floors import FLOOR
from experiments.accelerator.times.searches import (
    BLOCKS,
    COMPILED,
    LOW,
    OURS,
    PRODUCT,
    TORCH_ARGMIN,
    XLA_PRODUCT,
)
from experiments.bench.bench_page import LEGEND, Table, race_table, spread_text, time_text
from experiments.bench.race_charts import marks
from experiments.bench.search import gigaflops
from experiments.bench.timing import Race, Spread

OVER_PRODUCT, FASTER = 1.25, 3.0  # the bars
DRAWN = (OURS, BLOCKS, LOW, *PRODUCT.values(), TORCH_ARGMIN["float32"], *COMPILED.values())
PANELS = 6


def tables(tasks: Sequence[Task], found: Mapping[str, Found]) -> list[Table]:
    """Returns the card's rates, all problems in one table, and one for each that was measured."""
    problems = tasks[1:]
    measured = [(task, found[task.name]) for task in problems if "race" in found.get(task.name, {})]
    return [
        card_rates.table(tasks, found),
        task_table("All problems, in ms", problems, found, COLUMNS, NOTE),
        *(problem_table(task, result) for task, result in measured),
    ]


def ms(name: str) -> Column:
    """Returns the column of a contestant's milliseconds."""
    return lambda task, found: text(medians(found).get(name), "{:.3g}", 1000)


def expected_ms(name: str) -> Column:
    """Returns the column of milliseconds that were expected."""
    return expected(name, "{:.3g}", 1000)


def medians(found: Found) -> Mapping[str, float]:
    """Returns the median seconds of a result by contestant; none where it has no race."""
    return found.get("race", {}).get("median_seconds", {})


def ratio(found: Found, *names: str) -> float | None:
    """Returns the time over ours of the first of these contestants that took part."""
    ratios = found.get("race", {}).get("ratio_to_baseline", {})
    return next((ratios[name]["median"] for name in names if name in ratios), None)


def over_product(task: Task, found: Found) -> str:
    """The column of our time over that of the product alone in float32."""
    other = ratio(found, PRODUCT["float32"], XLA_PRODUCT["float32"])
    return MISSING if other is None else f"{1 / other:.2f}, {met(1 / other <= OVER_PRODUCT)}"


def faster(task: Task, found: Found) -> str:
    """The column of the time of torch.compile over ours."""
    other = ratio(found, COMPILED["float32"])
    return MISSING if other is None else f"{other:.2f}, {met(other >= FASTER)}"


COLUMNS: Mapping[str, Column] = {
    "floor in float32": expected_ms(FLOOR),
    "ours, expected": expected_ms(OURS),
    "ours": ms(OURS),
    "product float32, expected": expected_ms(PRODUCT["float32"]),
    "product float32": ms(PRODUCT["float32"]),
    "torch.compile float32, expected": expected_ms(COMPILED["float32"]),
    "torch.compile float32": ms(COMPILED["float32"]),
    "torch.compile TF32": ms(COMPILED["tf32"]),
    "nearest_in_bfloat16": ms(LOW),
    f"ours / product float32, bar {OVER_PRODUCT}": over_product,
    f"torch.compile float32 / ours, bar {FASTER:g}": faster,
}
NOTE = (
    "The bars are meant for the first problem. Without PyTorch the product is XLA's. Expected of "
    "distances and argmin: the product and two passes over the matrix."
)


def problem_table(task: Task, found: Found) -> Table:
    """Returns the table of all contestants on one problem."""
    race = race_of(found)
    columns = {
        "GF/s": lambda name: f"{gigaflops(race, name).median:,.0f}",
        "expected ms": lambda name: expected_ms(name)(task, found),
        "ms": lambda name: time_text(race.time(name)),
        "time / ours": lambda name: spread_text(race.ratio(name)),
        "rows at a time": lambda name: text(found["rows"].get(name), "{:,.0f}"),
        "different": lambda name: text(found["different"].get(name), "{:,.0f}"),
    }
    absent = "".join(f" {name} left out: {why}." for name, why in found["skipped"].items())
    note = (
        "Different: rows whose code isn't ours, some of them equally near in float32. Tried once, "
        f"in ms: {trials(found)}. {LEGEND}{absent}"
    )
    return race_table(race, task.name, columns, note)


def trials(found: Found) -> str:
    """Returns the times of those that were tried with several numbers of rows."""
    several = {name: times for name, times in found["trials"].items() if len(times) > 1}
    lines = [
        f"{name}: " + ", ".join(f"{1000 * t:.3g} ({int(rows):,} rows)" for rows, t in times.items())
        for name, times in several.items()
    ]
    return "; ".join(lines) or "none"


def race_of(found: Found) -> Race:
    """Returns the race that a result holds."""
    names = [field.name for field in dataclasses.fields(Race)]
    return Race(**{name: found["race"][name] for name in names})


def figures(tasks: Sequence[Task], found: Mapping[str, Found]) -> dict[str, Figure]:
    """Returns the picture of rates on the first problems."""
    races = [race_of(found[t.name]) for t in tasks[1:] if "race" in found.get(t.name, {})]
    panels = {
        race.title: {name: teraflops(race, name) for name in DRAWN if name in race.seconds}
        for race in races[:PANELS]
    }
    return {"search": marks(panels, "TF/s")} if panels else {}


def teraflops(race: Race, name: str) -> Spread:
    """Returns 10^12 operations a second, of the 2 N K D."""
    return Spread(*(x / 1000 for x in gigaflops(race, name)))
