"""Contents of a page of results apart from the results, and the entries of its tables."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure

from experiments.pages.arm_figures import Panel
from experiments.sweep.arms import Row
from experiments.sweep.intervals import interval


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of the tables, and a number of the results.

    Attributes:
        name: name of the number in each result.
        title: title of the column.
        form: format of the number, as in `str.format`.
        meaning: line below the tables.
        best: `max` or `min`, where one is better; the best mean of a table is in bold.
        drawn: the plot shows the number.
        constant: the number is equal for all seeds, so that there is no interval.
    """

    name: str
    title: str
    form: str
    meaning: str
    best: Callable[[Iterable[float]], float] | None = None
    drawn: bool = False
    constant: bool = False


@dataclasses.dataclass(frozen=True)
class Study:
    """Contents of a page that are not results.

    Attributes:
        title, about: heading, and a paragraph of plain text.
        columns: columns of the tables.
        command: command that makes the page.
        seeds: seeds of each arm.
        settings: settings that all arms share, by name.
        note: warning at the top, such as that the run was a quick one.
        originals: images whose reconstructions the arms' pictures are.
        caption: caption of these pictures.
        findings: table of the conclusions: its head, then its lines.
        figures: further figures, by their captions.
        cite: line for citations of the results.
    """

    title: str
    about: str
    columns: Sequence[Column]
    command: str
    seeds: Sequence[int]
    settings: Mapping[str, Any]
    note: str = ""
    originals: UInt8[np.ndarray, "n H W C"] | None = None
    caption: str = (
        "The first test images, and their reconstructions by each arm with its first seed"
    )
    findings: Sequence[Sequence[str]] = ()
    figures: Mapping[str, Figure] = dataclasses.field(default_factory=dict)
    cite: str = ""


def means(column: Column, rows: Sequence[Row]) -> Panel:
    """Returns mean and half-width of one number: {group: {label: (mean, half)}}."""
    return {
        group: {row.arm.label: interval(row.values(column.name)) for row in members}
        for group, members in groups(rows).items()
    }


def groups(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Returns the rows of each table, by group."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.arm.group, []).append(row)
    return found


def cell(column: Column, row: Row) -> str:
    """Returns mean ± half-width, or the reason for its absence."""
    mean, half = interval(row.values(column.name))
    if math.isnan(mean):
        status = row.records[0]["status"] if row.records else "not run"
        return "-" if status == "done" else status  # done, but it has no such number
    text = column.form.format(mean)
    return text if column.constant or math.isnan(half) else f"{text} ± {column.form.format(half)}"


def label(row: Row, seeds: int) -> str:
    """Returns the label of a row, with the status of seeds that are not in its means."""
    counts = {status: row.count(status) for status in ("diverged", "failed")}
    counts["not run"] = seeds - len(row.records)
    lost = [f"{n} {status}" for status, n in counts.items() if n]
    return f"{row.arm.label} ({', '.join(lost)} of {seeds})" if lost else row.arm.label


def entries(study: Study, rows: Sequence[Row], bold: Callable[[str], str]) -> list[list[str]]:
    """Returns the head and the lines of a table, with `bold` around the best means."""
    lines = [["", *(column.title for column in study.columns)]]
    lines += [[label(row, len(study.seeds))] for row in rows]
    for column in study.columns:
        values = [interval(row.values(column.name))[0] for row in rows]
        known = [value for value in values if not math.isnan(value)]
        best = column.best(known) if column.best and len(known) > 1 else math.nan
        for line, row, value in zip(lines[1:], rows, values, strict=True):
            text = cell(column, row)
            line.append(bold(text) if value == best else text)
    return lines


def legend_text(study: Study) -> str:
    """Returns the explanation of the entries of the tables."""
    n = len(study.seeds)
    if n == 1:
        return "One seed gives no intervals. Bold marks the best value of each table."
    return (
        f"Entries are mean ± half-width of the 95 % t-interval over {n} seeds. Bold marks the best "
        "mean of each table; if intervals overlap, the order is not established."
    )
