"""Figures that compare arms, in the style of `figures`: a plot of intervals, and pictures."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vqvae_commands.pages.mosaic import draw_mosaic, strip
from vqvae_commands.pages.plots import INK, LINES, WIDTH, new_figure, plain_axes

Panel = Mapping[str, Mapping[str, tuple[float, float]]]
"""Means and half-widths of one number: {group: {label: (mean, half-width)}}."""


def interval_figure(panels: Mapping[str, Panel]) -> Figure:
    """Draws a panel for each number, with a line for each label and a colour for each group.

    Args:
        panels: panels by title; a half-width of NaN gives a dot alone, a mean of NaN nothing.
    """
    labels = list(dict.fromkeys(x for p in panels.values() for group in p.values() for x in group))
    figure = new_figure(0.9 + 0.24 * len(labels))
    cells = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, panel) in zip(cells, panels.items(), strict=True):
        draw_panel(axes, title, panel, labels)
    cells[0].set_yticks(range(len(labels)), labels)
    cells[0].set_ylim(len(labels) - 0.5, -0.5)
    marks, names = cells[0].get_legend_handles_labels()
    if any(names):
        figure.legend(
            marks, names, loc="outside lower right", ncols=4, frameon=False, labelcolor=INK,
            fontsize=7.5,
        )  # fmt: skip
    return figure


def draw_panel(axes: Axes, title: str, panel: Panel, labels: list[str]) -> None:
    """Draws the groups of one number, the marks of a label a little below one another."""
    plain_axes(axes, title)
    for i, (group, values) in enumerate(panel.items()):
        shift = 0.3 * ((i + 0.5) / len(panel) - 0.5)
        y = [labels.index(label) + shift for label in values]
        mean, half = np.reshape(list(values.values()), (-1, 2)).T
        axes.errorbar(
            mean, y, xerr=half, fmt="o", ms=3.5, lw=1.2, color=LINES[i % len(LINES)], label=group
        )


def mosaics(
    originals: UInt8[np.ndarray, "n H W C"],
    groups: Mapping[str, Mapping[str, UInt8[np.ndarray, "n H W C"]]],
) -> Figure:
    """Draws for each group the originals, and below them a row of pictures for each label.

    Two groups stand side by side, more below one another; groups without pictures are left out.
    """
    wholes = [(group, {"original": originals, **rows}) for group, rows in groups.items() if rows]
    letters = max(len(label) for _, whole in wholes for label in whole)
    labels = 0.1 + 0.055 * letters  # inches
    columns = len(wholes) if len(wholes) <= 2 else 1
    width = min(WIDTH / columns - labels - 0.05, 4.0)
    row = width * strip(originals).shape[0] / strip(originals).shape[1]
    bands = [wholes[i : i + columns] for i in range(0, len(wholes), columns)]
    heights = [0.3 + row * max(len(whole) for _, whole in band) for band in bands]
    figure = new_figure(sum(heights), columns * (labels + width + 0.05))
    figure.set_layout_engine("none")  # it would cut off labels beside axes of a fixed aspect
    for i, band in enumerate(bands):
        top = sum(heights[i:]) - 0.3
        for j, (group, whole) in enumerate(band):
            height = row * len(whole)
            place = (j * (labels + width + 0.05) + labels, top - height, width, height)
            axes = figure.add_axes(np.divide(place, np.tile(figure.get_size_inches(), 2)))
            draw_mosaic(axes, group, whole)
    return figure
