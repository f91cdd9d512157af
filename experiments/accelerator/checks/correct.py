"""Section `correct`: indices and products against float64, train steps against the CPU's."""

from collections.abc import Mapping, Sequence

from experiments.accelerator.checks import equal_steps, exact_indices, exact_products
from experiments.accelerator.tables import Column, grouped_tables, inner, text, value, verdict
from experiments.accelerator.tasks import Found, Section, Task
from experiments.bench.bench_page import Table

PARTS = {
    "Indices": exact_indices.search_tasks,
    "The search within transformations": exact_indices.way_tasks,
    "Train step": equal_steps.step_tasks,
    "Products": exact_products.product_tasks,
}


def tasks(quick: bool) -> list[Task]:
    """Returns all checks."""
    return [task._replace(group=g) for g, make in PARTS.items() for task in make(quick)]


def tables(tasks: Sequence[Task], found: Mapping[str, Found]) -> list[Table]:
    """Returns a table for each kind of check."""
    columns = {group: {"verdict": verdict, **of_group} for group, of_group in COLUMNS.items()}
    return grouped_tables(tasks, found, columns, NOTES)


def wrong_and_different(name: str) -> Column:
    """Returns a column of wrong indices of a search, and of all that differ in brackets."""

    def column(task: Task, found: Found) -> str:
        counts = found.get("searches", {}).get(name)
        return text(counts and f"{counts['wrong']} ({counts['different']})")

    return column


def rows_of_first(task: Task, found: Found) -> str:
    """The column of the number of rows that were searched."""
    return text(next((s["rows"] for s in found.get("searches", {}).values()), None), "{:,}")


COLUMNS = {
    "Indices": {
        "rows": rows_of_first,
        **{name: wrong_and_different(name) for name in exact_indices.NAMES},
    },
    "The search within transformations": {
        "rows": value("rows", "{:,}"),
        "different": value("different", "{:,}"),
    },
    "Train step": {
        "wrong codes": value("wrong codes", "{}"),
        "different codes": value("different codes", "{}"),
        **{
            f"{what}, {name}": inner("differences", name, what, form="{:.1e}")
            for name in equal_steps.BOUNDS
            for what in ("params", "collections", "loss")
        },
    },
    "Products": {
        "error": value("error", "{:.1e}"),
        **{n: inner("errors", n, form="{:.1e}") for n in ("default", "high", "highest")},
        "same again": value("the same again", "{}"),
    },
}
NOTES = {
    "Indices": "Wrong indices, none allowed: their distance exceeds the least one, in float64, by "
    "more than (D + 8) 2^-22 of it; in brackets, all that differ. Data: offsets 0, 10 and 1,000, "
    "axes of unequal scale, a codebook far away, 16 codes within 1e-6 of each other, rows and "
    "codes that are not finite.",
    "The search within transformations": "Indices that differ from those of a plain call.",
    "Train step": "From the same state as the CPU's. Differences are shares of what the step "
    f"changes; with products in full precision, {equal_steps.PROMISED:g} is allowed. A code that "
    "differs is wrong unless it is a near tie, farther by less than 1e-4 of the distance.",
    "Products": "Errors as shares of the largest value, where products are bfloat16 by default: "
    f"{exact_products.CLOSE:g} is allowed.",
}
SECTION = Section(
    "Correct",
    "The nearest code by the Pallas kernel, by blocks and by differences, against distances in "
    "float64; a train step against the CPU's; products that must be exact, where the device would "
    "round them.",
    90,
    tasks,
    tables,
)
