"""Section `correct`: indices and products against float64, train steps against the CPU's."""

from collections.abc import Mapping, Sequence

from experiments.accelerator.checks import equal_steps, exact_indices, exact_products
from experiments.accelerator.tables import Column, task_table, text, value, verdict
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
    searches = {name: within("searches", name) for name in exact_indices.NAMES}
    columns = {
        "Indices": {"rows": rows_of_first} | searches,
        "The search within transformations": {
            "rows": value("rows", "{:,}"), "different": value("different", "{:,}"),
        },
        "Train step": STEP_COLUMNS,
        "Products": {
            "error": value("error", "{:.1e}"), "default": within("errors", "default", "{:.1e}"),
            "high": within("errors", "high", "{:.1e}"),
            "highest": within("errors", "highest", "{:.1e}"),
            "same again": value("the same again", "{}"),
        },
    }  # fmt: skip
    return [
        task_table(
            group,
            [task for task in tasks if task.group == group],
            found,
            {"verdict": verdict, **columns[group]},
            NOTES[group],
        )
        for group in PARTS
    ]


def within(group: str, name: str, form: str = "") -> Column:
    """Returns a column of one entry of a group of results."""

    def column(task: Task, found: Found) -> str:
        entry = found.get(group, {}).get(name)
        if isinstance(entry, Mapping):
            return f"{entry['wrong']} ({entry['different']})"
        return text(entry, form or "{}")

    return column


def rows_of_first(task: Task, found: Found) -> str:
    """The column of the number of rows that were searched."""
    return text(next((s["rows"] for s in found.get("searches", {}).values()), None), "{:,}")


def step_column(precision: str, what: str) -> Column:
    """Returns a column of differences from the CPU's step."""

    def column(task: Task, found: Found) -> str:
        return text(found.get("differences", {}).get(precision, {}).get(what), "{:.1e}")

    return column


STEP_COLUMNS = {
    "wrong codes": value("wrong codes", "{}"),
    "different codes": value("different codes", "{}"),
    **{
        f"{what}, {name}": step_column(name, what)
        for name in equal_steps.BOUNDS
        for what in ("params", "collections", "loss")
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
