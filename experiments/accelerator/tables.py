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


def value(name: str, form: str = "{:.3g}", scale: float = 1.0) -> Column:
    """Returns a column of numbers in the results."""
    return lambda task, found: text(found.get(name), form, scale)


def expected(name: str, form: str = "{:.3g}", scale: float = 1.0) -> Column:
    """Returns a column of numbers that were expected."""
    return lambda task, found: text(task.expected.get(name), form, scale)


def verdict(task: Task, found: Found) -> str:
    """The column of verdicts."""
    if not found:
        return NOT_YET
    words = {True: "passed", False: "**FAILED**"}
    return "**error**" if "failure" in found else words.get(found.get("passed"), "done")


def text(number: Any, form: str = "{:.3g}", scale: float = 1.0) -> str:
    """Returns a number as text, and text as it is; `-` for None.

    Example:
        >>> text(0.00123, "{:.2f}", 1000), text(None)
        ('1.23', '-')
    """
    if isinstance(number, str):
        return number
    return MISSING if number is None else form.format(number if scale == 1 else scale * number)
