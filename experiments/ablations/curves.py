"""Figures of ablations over a number: a line for each group, a point for each arm."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.sweep.arms import Row
from experiments.sweep.intervals import interval
from experiments.sweep.metric_names import metric
from vqvae_commands.pages.plots import INK, LINES, new_figure, plain_axes

Figures = Mapping[str, Figure]  # by caption
Points = Mapping[float, tuple[float, float]]  # by x: mean and half-width


def over(what: str, x: Mapping[str, float], *numbers: str) -> Callable[[Sequence[Row]], Figures]:
    """Makes a function from rows to a figure with one panel for each of the numbers.

    Args:
        what: the horizontal axis, logarithmic.
        x: by the label of an arm.
        numbers: by name.
    """

    def draw(rows: Sequence[Row]) -> Figures:
        figure = new_figure(2.6)
        cells = figure.subplots(1, len(numbers), squeeze=False)[0]
        for axes, name in zip(cells, numbers, strict=True):
            panel(axes, metric(name).title, what, by_group(rows, x, name))
        legend(cells[0])
        return {f"Over {what}": figure}

    return draw


def by_group(rows: Sequence[Row], x: Mapping[str, float], name: str) -> dict[str, Points]:
    """One number of the rows that have it."""
    lines: dict[str, dict[float, tuple[float, float]]] = {}
    for row in rows:
        if row.values(name):
            points = lines.setdefault(row.arm.group, {})
            points[x[row.arm.label]] = interval(row.values(name))
    return lines


def panel(axes: Axes, name: str, what: str, lines: Mapping[str, Points]) -> None:
    """One number over x, with its intervals."""
    plain_axes(axes, name)
    for colour, (label, points) in zip(LINES, lines.items(), strict=False):
        mean, half = np.transpose(list(points.values()))
        axes.errorbar(
            list(points), mean, half, fmt="o-", ms=3, lw=1.2, color=colour, label=label
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel(what, color=INK, fontsize=8)


def legend(axes: Axes) -> None:
    """Adds a legend of the lines, where there are any."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, labelcolor=INK, fontsize=7.5)
