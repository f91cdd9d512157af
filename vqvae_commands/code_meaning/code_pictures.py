"""Figures of the meaning of codes, in the style of `pages.figures`.

Pictures are float `[..., H, W, 1 or 3]` in [0, 1]; NaN, outside of an image, is a faint blue.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vqvae_commands.code_meaning.interventions import Erased, Swap
from vqvae_commands.code_meaning.statistics import CONTEXT, Meaning
from vqvae_commands.pages.plots import INK, LINES, WIDTH, new_figure

BRIGHTER, DARKER = LINES[1], LINES[0]
OUTSIDE = LINES[0]
FULL = 0.3  # change of a pixel that has the full colour
GAP = 0.12  # space between pictures, as a share of the side of one


def codes_table(meaning: Meaning) -> Figure:
    """Draws a line for each code, in two columns: places where it occurs, and decoded pictures."""
    n = len(meaning.codes)
    lines = -(-n // 2)
    usual = meaning.context.mean(axis=0)
    titles = ["mean", "examples", *[""] * (meaning.examples.shape[1] - 1)]
    titles += ["filled", "alone", "placed", "change"]
    figure = new_figure((lines + 0.5) * WIDTH / 2 / (len(titles) + 1.3))
    for half, axes in enumerate(figure.subplots(1, 2, squeeze=False)[0]):
        stage(axes, len(titles) + 1.3, lines + 0.5)
        for i in range(half * lines, min(n, (half + 1) * lines)):
            y = i - half * lines + 0.5
            pictures = [
                rgba(meaning.average[i]),
                *map(rgba, meaning.examples[i]),
                rgba(meaning.filled[i]),
                rgba(meaning.alone[i]),
                rgba(meaning.context[i]),
                signed(meaning.context[i] - usual),
            ]
            axes.text(
                1.1, y + 0.3, str(meaning.codes[i]), **text_options(7.5, "right", weight="bold")
            )
            axes.text(1.1, y + 0.72, f"{meaning.shares[i]:.1%}", **text_options(6, "right"))
            for x, pixels in enumerate(pictures):
                put(axes, pixels, x + 1.3, y)
            cell = (1 - GAP) / CONTEXT
            frame(axes, 1.3 + cell, y + cell, cell, cell, line=0.6)
        if half * lines < n:
            for x, title in enumerate(titles):
                centre = x + 1.3 + 0.5 * (1 - GAP)
                if title == "examples":
                    centre += (meaning.examples.shape[1] - 1) / 2
                axes.text(centre, 0.3, title, **text_options(6.5, "center"))
    return figure


def swap_figure(swap: Swap) -> Figure:
    """Draws a line for each pair: both, halves in codes and in pixels, one cell, its change."""
    columns = {
        "A, decoded": rgba(swap.upper),
        "B, decoded": rgba(swap.lower),
        "codes: A above B": rgba(swap.codes),
        "pixels: A above B": rgba(swap.pixels),
        "A, one cell of B": rgba(swap.one),
        "its change": signed(swap.one - swap.upper),
    }
    n = len(swap.one)
    size = WIDTH / len(columns)
    figure = new_figure((n + 0.25) * size * swap.one.shape[1] / swap.one.shape[2])
    axes = figure.subplots()
    stage(axes, len(columns), n + 0.2)
    side, first = swap.side / swap.one.shape[1:3], swap.place / swap.one.shape[1:3]
    for x, (title, pictures) in enumerate(columns.items()):
        axes.text(x + (1 - GAP) / 2, 0.12, title, **text_options(8, "center"))
        for i, pixels in enumerate(pictures):
            put(axes, pixels, x, i + 0.2)
            if x >= 4:
                y, left = np.array([i + 0.2, x]) + first * (1 - GAP)
                frame(axes, left, y, *(side[::-1] * (1 - GAP)))
    return figure


def erasures(found: Sequence[Erased]) -> Figure:
    """Draws a line for each code: its places, the picture with it and without it, the changes."""
    titles = ("its places", "with it", "its second", "change", "erased", "change")
    size = (WIDTH - 0.5) / len(titles)
    figure = new_figure((len(found) + 0.25) * size)
    axes = figure.subplots()
    stage(axes, len(titles) + 0.45, len(found) + 0.2)
    for x, title in enumerate(titles):
        axes.text(x + 0.45 + (1 - GAP) / 2, 0.12, title, **text_options(8, "center"))
    for i, erased in enumerate(found):
        y = i + 0.2
        axes.text(0.38, y + 0.4, str(erased.code), **text_options(9, "right", weight="bold"))
        axes.text(0.38, y + 0.56, f"to {erased.second}", **text_options(6.5, "right"))
        pictures = [marked(erased.before, erased.places), rgba(erased.before)]
        for after in (erased.replaced, erased.erased):
            pictures += [rgba(after), signed(after - erased.before)]
        for x, pixels in enumerate(pictures):
            put(axes, pixels, x + 0.45, y)
        before = max(erased.errors["before"], 1e-12)
        for x, name in ((3, "replaced"), (5, "erased")):
            factor = f"x {erased.errors[name] / before:.2f}"
            axes.text(x + 0.45 + 0.04, y + 0.08, factor, **text_options(7, "left"))
    return figure


def rgba(pixels: Float[np.ndarray, "*b H W C"]) -> Float[np.ndarray, "*b H W 4"]:
    """Returns colours with an alpha: NaN is a faint blue, on a light page and on a dark one."""
    colours = np.broadcast_to(pixels, (*pixels.shape[:-1], 3))
    there = ~np.isnan(pixels).any(axis=-1, keepdims=True)
    solid = np.concatenate([colours, np.ones_like(pixels[..., :1])], axis=-1).clip(0, 1)
    return np.where(there, solid, (*to_rgb(OUTSIDE), 0.25))


def signed(change: Float[np.ndarray, "*b H W C"]) -> Float[np.ndarray, "*b H W 4"]:
    """Returns orange where it is brighter, blue where darker, transparent where unchanged."""
    mean = np.nan_to_num(change).mean(axis=-1, keepdims=True)
    colours = np.where(mean > 0, to_rgb(BRIGHTER), to_rgb(DARKER))
    return np.concatenate([colours, np.clip(np.abs(mean) / FULL, 0, 1)], axis=-1)


def marked(
    pixels: Float[np.ndarray, "H W C"], places: Int[np.ndarray, "h w"]
) -> Float[np.ndarray, "H W 4"]:
    """Returns the picture, orange where places are 1 and dim elsewhere."""
    sides = [n // m for n, m in zip(pixels.shape, places.shape, strict=False)]
    there = np.kron(places, np.ones(sides))[..., None]
    found = rgba(pixels)
    glow = 0.5 + 0.5 * found[..., :3]  # brighter, or black cells would stay black
    orange = np.multiply(glow, to_rgb(BRIGHTER))
    found[..., :3] = np.where(there > 0, orange, 0.55 * found[..., :3])
    return found


def stage(axes: Axes, width: float, height: float) -> None:
    """Sets the axes up for pictures of size 1 - GAP, downwards from (0, 0)."""
    axes.set_axis_off()
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    axes.autoscale(False)


def put(axes: Axes, pixels: Float[np.ndarray, "H W 4"], x: float, y: float) -> None:
    """Draws a picture with its upper left corner at (x, y)."""
    end = (x + 1 - GAP, y + 1 - GAP)
    axes.imshow(pixels, extent=(x, end[0], end[1], y), interpolation="nearest", aspect="equal")
    frame(axes, x, y, 1 - GAP, 1 - GAP, INK, 0.3)


def frame(
    axes: Axes, x: float, y: float, width: float, height: float, colour: str = BRIGHTER,
    line: float = 1.0,
) -> None:  # fmt: skip
    """Draws a rectangle with its upper left corner at (x, y)."""
    axes.add_patch(Rectangle((x, y), width, height, fill=False, ec=colour, lw=line))


def text_options(size: float, align: str, **options) -> dict[str, Any]:
    """Returns the options of text."""
    return {"color": INK, "fontsize": size, "ha": align, "va": "center"} | options
