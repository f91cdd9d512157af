"""Figures of test examples that are no pictures: each above what the model makes of it.

The functions take examples as the model does, in the scale of `preprocess`, and as many
reconstructions; NaN is padding. They share the look of `plots`.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from vqvae_commands.data.kinds import spread
from vqvae_commands.data.padded import parts
from vqvae_commands.pages import plots as draw
from vqvae_commands.run import code_streams
from vqvae_jax.data.pipeline import Examples
from vqvae_jax.data.scaling import preprocess, to_pixels
from vqvae_jax.models.masks import hidden, of_samples

Maps = Mapping[str, Int[np.ndarray, "n *grid"]]
HEADING = "Originals and reconstructions"
FEW = 4  # channels: more are drawn as the rows of a map
STRIPS = 3  # streams of codes below a signal
MAP = "viridis"

# Name of the figure: heading, and caption; as in `run_report`.
FIGURES = {
    "waveforms": (
        HEADING,
        "Signals of the test set, evenly spaced, each above its reconstruction and its codes. A "
        "code has one colour wherever it occurs; grey is padding.",
    ),
    "frames": (
        HEADING,
        "Frames of videos of the test set, both evenly spaced, each above its reconstruction from "
        "the codes.",
    ),
    "slices": (
        HEADING,
        "The first channel of examples of the test set, evenly spaced, of volumes in the middle "
        "of their first axis, each above its reconstruction. Both have one scale of colours.",
    ),
    "coordinates": (
        HEADING,
        "Left: the share of each coordinate's variance that the reconstructions explain. "
        "Right: test vectors and their reconstructions along the first two principal components "
        "of the former.",
    ),
}


class Drawing(NamedTuple):
    """The figure of a kind: its name, the number of test examples it needs, and its function."""

    name: str
    examples: int
    make: Callable[[np.ndarray, np.ndarray, Maps], Figure]


def figures_of(kind: str, model, variables, test: Examples) -> dict[str, Figure]:
    """Returns the figure of some test examples of a kind of data, evenly spaced, by its name.

    Args:
        kind: name of `kinds.NOUNS`; for pictures there is none here.
        model, variables: a VQ-VAE.
        test: the test set.
    """
    if kind not in DRAWINGS:
        return {}
    name, examples, make = DRAWINGS[kind]
    # Neighbours are often pieces of one file.
    given, mask = parts(test[spread(len(test), examples)])
    x = preprocess(given)
    rec = jax.jit(lambda v, x: model.apply(v, x, **mask))(variables, x)
    samples = of_samples(mask.get("mask"), x)
    maps = code_streams.by_stream(
        code_streams.quantizers(model), code_streams.as_levels(rec.indices)
    )
    titled = {code_streams.title(prefix): np.asarray(k) for prefix, k in maps.items()}
    return {name: make(*(np.asarray(hidden(array, samples)) for array in (x, rec.x)), titled)}


def waveforms(x: Float[np.ndarray, "n T C"], y: Float[np.ndarray, "n T C"], maps: Maps) -> Figure:
    """Draws each signal above its reconstruction and the codes of its first streams."""
    strips = dict(list(maps.items())[:STRIPS])
    draw_signal, tall = (draw_lines, 1.0) if x.shape[-1] <= FEW else (draw_map, 2.0)
    heights = [tall, tall, *[0.2] * len(strips), 0.25]
    figure = draw.new_figure(0.66 * sum(heights) * len(x))
    grid = figure.add_gridspec(len(heights) * len(x), 1, height_ratios=heights * len(x))
    for i in range(len(x)):
        rows = [figure.add_subplot(grid[len(heights) * i + j]) for j in range(len(heights) - 1)]
        for axes, label, signal in zip(rows, ("original", "model"), (x[i], y[i]), strict=False):
            draw.plain_axes(axes, "")
            draw_signal(axes, signal, limits(x[i], y[i]))
            axes.set_ylabel(label, color=draw.INK, fontsize=8)
        for axes, (title, k) in zip(rows[2:], strips.items(), strict=True):
            draw_strip(axes, k[i], title or "codes", x.shape[1])
        for axes in rows[:-1]:
            axes.tick_params(labelbottom=False, bottom=False)
    rows[-1].set_xlabel("sample", color=draw.INK, fontsize=8)
    return figure


def limits(*arrays: Float[np.ndarray, "..."]) -> tuple[float, float]:
    """Returns the least and the largest finite value, and some space beyond them."""
    values = np.concatenate([array[np.isfinite(array)] for array in arrays])
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    space = 0.05 * (high - low) or 1.0
    return low - space, high + space


def draw_lines(axes: Axes, signal: Float[np.ndarray, "T C"], limits: tuple[float, float]) -> None:
    """Draws a line for each channel."""
    for channel, values in enumerate(signal.T):
        axes.plot(np.arange(len(signal)) + 0.5, values, color=draw.LINES[channel], lw=0.9)
    axes.set(xlim=(0, len(signal)), ylim=limits)
    axes.locator_params(axis="y", nbins=3)


def draw_map(axes: Axes, signal: Float[np.ndarray, "T C"], limits: tuple[float, float]) -> None:
    """Draws a map whose rows are the channels, the first one lowest."""
    low, high = limits
    axes.grid(False)
    axes.imshow(
        np.ma.masked_invalid(signal.T[::-1]),
        MAP,
        vmin=low,
        vmax=high,
        aspect="auto",
        extent=(0, signal.shape[0], 0, signal.shape[1]),
        interpolation="nearest",
    )


def draw_strip(axes: Axes, k: Int[np.ndarray, "t"], title: str, length: int) -> None:
    """Draws the codes of a signal as a strip of colours."""
    draw.plain_axes(axes, "")
    axes.grid(False)
    colours = draw.in_colours(k[None])
    axes.imshow(colours, aspect="auto", extent=(0, length, 0, 1), interpolation="nearest")
    axes.set_yticks([])
    axes.set_ylabel(title, color=draw.INK, fontsize=8, rotation=0, ha="right", va="center")


def frames(
    x: Float[np.ndarray, "n T H W C"], y: Float[np.ndarray, "n T H W C"], maps: Maps
) -> Figure:
    """Draws frames of each video, evenly spaced, above their reconstructions."""
    shown = min(x.shape[1], 8 if max(x.shape[2:4]) <= 96 else 4)
    rows = [
        (i, round(t))
        for i in range(len(x))
        for t in np.linspace(0, max(real_frames(x[i]) - 1, 0), shown)
    ]
    original, made = (np.asarray(to_pixels(np.stack([a[at] for at in rows]))) for a in (x, y))
    return draw.reconstructions(original, made, columns=shown)


def real_frames(video: Float[np.ndarray, "T H W C"]) -> int:
    """Returns the number of frames that are no padding."""
    return int(np.count_nonzero(np.isfinite(video).all(axis=(1, 2, 3))))


def slices(x: Float[np.ndarray, "n ... C"], y: Float[np.ndarray, "n ... C"], maps: Maps) -> Figure:
    """Draws a slice of the first channel of each example above that of its reconstruction."""
    sides = [middle(array[..., 0]) for array in (x, y)]
    n, height, width = sides[0].shape
    size = min((draw.WIDTH - 0.3) / n, 1.6)
    figure = draw.new_figure(2 * size * height / width + 0.1, size * n + 0.3)
    grid = figure.subplots(2, n, squeeze=False)
    for row, label, images in zip(grid, ("original", "model"), sides, strict=True):
        for i, axes in enumerate(row):
            low, high = limits(*(side[i] for side in sides))
            axes.imshow(images[i], MAP, vmin=low, vmax=high, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(color=draw.INK, lw=0.4)
        row[0].set_ylabel(label, color=draw.INK, fontsize=8)
    return figure


def middle(x: Float[np.ndarray, "n ..."]) -> Float[np.ndarray, "n h w"]:
    """Returns fields, and the slice of volumes in the middle of their first axis."""
    return x if x.ndim == 3 else x[:, x.shape[1] // 2]


def coordinates(x: Float[np.ndarray, "n C"], y: Float[np.ndarray, "n C"], maps: Maps) -> Figure:
    """Draws the explained variance of each coordinate, and the vectors along two components."""
    finite = np.isfinite(x).all(axis=1) & np.isfinite(y).all(axis=1)
    x, y = x[finite], y[finite]
    figure = draw.new_figure(2.9)
    shares, plane = figure.subplots(1, 2)
    draw.plain_axes(shares, "explained variance of each coordinate")
    explained = np.sort(explained_variance(x, y))[::-1]
    shares.plot(np.arange(1, len(explained) + 1), explained, "o-", color=draw.LINES[0], ms=2, lw=1)
    # A coordinate that hardly varies may be at -10,000 %, and would flatten the others.
    shares.set_ylim(max(-1.0, float(explained.min(initial=0.0))) - 0.02, 1.02)
    shares.yaxis.set_major_formatter(PercentFormatter(1))
    shares.set_xlabel("coordinates, the best explained first", color=draw.INK, fontsize=8)
    draw.plain_axes(plane, "first two principal components")
    for points, label, colour in zip(
        components(x, y), ("original", "model"), draw.LINES, strict=False
    ):
        plane.scatter(*points.T, s=5, color=colour, alpha=0.5, lw=0, label=label)
    plane.legend(frameon=False, labelcolor=draw.INK, fontsize=7.5, markerscale=2)
    return figure


def explained_variance(
    x: Float[np.ndarray, "n C"], y: Float[np.ndarray, "n C"]
) -> Float[np.ndarray, "C"]:
    """Returns 1 - MSE / variance of each coordinate that varies.

    >>> explained_variance(np.array([[0.0, 1], [2, 1]]), np.array([[0.0, 1], [1, 1]]))
    array([0.5])
    """
    variance, error = np.var(x, axis=0), np.mean(np.square(x - y), axis=0)
    return 1 - error[variance > 0] / variance[variance > 0]


def components(
    x: Float[np.ndarray, "n C"], y: Float[np.ndarray, "n C"]
) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "n 2"]]:
    """Returns x and y along the first two principal components of x."""
    mean = x.mean(axis=0)
    axes = np.linalg.svd(x - mean, full_matrices=False)[2][:2]
    axes = np.pad(axes, ((0, 2 - len(axes)), (0, 0)))  # of a single coordinate, or example
    return (x - mean) @ axes.T, (y - mean) @ axes.T


DRAWINGS = {
    "signals": Drawing("waveforms", 4, waveforms),
    "videos": Drawing("frames", 3, frames),
    "fields": Drawing("slices", 8, slices),
    "volumes": Drawing("slices", 8, slices),
    "vectors": Drawing("coordinates", 2000, coordinates),
}
