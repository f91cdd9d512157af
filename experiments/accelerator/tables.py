"""Tables of tasks: a line for each, with what is expected and what was found."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.accelerator.tasks import Found, Task
from experiments.bench.bench_page import Table

MISSING, NOT_YET = "-", "not measured"
Column = Callable[[Task, Found], str]
"""From a task and its result, `{}` where there is none, to an entry."""


def task_table(
    title: str,
    tasks: Sequence[Task],
    found: Mapping[str, Found],
    columns: Mapping[str, Column],
    note: str = "",
) -> Table:
    """Returns a table with a line for each task.

    Args:
        title: line above the table.
        tasks: its lines.
        found: results by task.
        columns: entries by the title of the column.
        note: paragraph below.
    """
    rows = [
        [task.name, *(column(task, found.get(task.name, {})) for column in columns.values())]
        for task in tasks
    ]
    return Table(title, ["", *columns], rows, note)


def grouped_tables(
    tasks: Sequence[Task],
    found: Mapping[str, Found],
    columns: Mapping[str, Mapping[str, Column]],
    notes: Mapping[str, str] | None = None,
) -> list[Table]:
    """Returns a table for each group of tasks, with columns and notes by the group."""
    return [
        task_table(
            group,
            [task for task in tasks if task.group == group],
            found,
            of_group,
            (notes or {}).get(group, ""),
        )
        for group, of_group in columns.items()
    ]


def value(name: str, form: str = "{:.3g}", scale: float = 1.0) -> Column:
    """Returns a column of numbers in the results."""
    return lambda task, found: text(found.get(name), form, scale)


def inner(*names: str, form: str = "{:.3g}") -> Column:
    """Returns a column of numbers that lie in results within results, by the names on the way."""

    def column(task: Task, found: Found) -> str:
        *outer, last = names
        for name in outer:
            found = found.get(name, {})
        return text(found.get(last), form)

    return column


def expected(name: str, form: str = "{:.3g}", scale: float = 1.0) -> Column:
    """Returns a column of numbers that were expected."""
    return lambda task, found: text(task.expected.get(name), form, scale)


def verdict(task: Task, found: Found) -> str:
    """The column of verdicts."""
    if not found:
        return NOT_YET
    words = {True: "passed", False: "**FAILED**"}
    return "**error**" if "failure" in found else words.get(found.get("passed"), "done")


def met(yes: bool) -> str:
    """Returns the verdict on a bar."""
    return "met" if yes else "**missed**"


def text(number: Any, form: str = "{:.3g}", scale: float = 1.0) -> str:
    """Returns a number as text, and text as it is; `-` for None.

    Example:
        >>> text(0.00123, "{:.2f}", 1000), text(None)
        ('1.23', '-')
    """
    if isinstance(number, str):
        return number
    return MISSING if number is None else form.format(number if scale == 1 else scale * number)
