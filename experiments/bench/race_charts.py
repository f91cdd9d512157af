"""Plots of races: marks with quartiles, and lines over sizes."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from experiments.bench.timing import Spread
from vqvae_commands.pages.plots import INK, LINES, new_figure, plain_axes


def marks(panels: Mapping[str, Mapping[str, Spread]], unit: str) -> Figure:
    """Draws a panel for each problem, with median and quartiles of each contestant on a line."""
    labels = list(dict.fromkeys(label for panel in panels.values() for label in panel))
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = new_figure(rows * (0.75 + 0.2 * len(labels)))
    cells = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes in cells.flat[len(panels) :]:
        axes.set_axis_off()
    for axes, (title, panel) in zip(cells.flat, panels.items(), strict=False):
        plain_axes(axes, textwrap.fill(title.replace(" = ", "\xa0=\xa0"), 18))
        for label, (median, low, high) in panel.items():
            at, error = labels.index(label), [[median - low], [high - median]]
            axes.errorbar(median, at, xerr=error, fmt="o", ms=3.5, lw=1.2, color=LINES[0])
        axes.set_xlim(left=0)
        axes.set_xlabel(unit, color=INK, fontsize=8)
    cells[0, 0].set_yticks(range(len(labels)), labels)
    cells[0, 0].set_ylim(len(labels) - 0.5, -0.5)
    return figure


def growth_figure(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]],
    unit: str,
    linear: bool = False,
) -> Figure:
    """Draws log-log lines in a panel for each size that varies, and linear growth dashed.

    Args:
        panels: {name of the size: {label: [(size, value)]}}.
        unit: unit of the values.
        linear: draws the growth that is linear up to the last value.
    """
    figure = new_figure(2.4)
    cells = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (size, lines) in zip(cells, panels.items(), strict=True):
        plain_axes(axes, f"{unit} over {size}")
        sizes = {x for line in lines.values() for x, _ in line}
        for i, (label, line) in enumerate((k, v) for k, v in lines.items() if v):
            x, y = np.array(sorted(line)).T
            axes.loglog(x, y, "o-", color=LINES[i], label=label, lw=1.2, ms=3)
            if linear:
                axes.loglog(x, y[-1] * x / x[-1], "--", color=INK, lw=0.8, label="linear")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_locator(FixedLocator(sorted(sizes)))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.legend(frameon=False, labelcolor=INK, fontsize=7)
    return figure
