"""Figures of a run: pure functions from numbers to a matplotlib `Figure`.

The background is transparent, and text and lines have colours that show on white as well as on
black, so that one picture serves light and dark pages. Figures are made without pyplot,
which would keep them all.
"""

import colorsys
import io
import math
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, Shaped, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import PercentFormatter

from vqvae_commands.run import code_streams
from vqvae_jax.metrics import usage

WIDTH = 7.0  # inches; with text of 8.5 pt readable on a page of 400 to 900 pixels
GAP = 4  # pixels between the two pictures of `side_by_side`
INK = "#7a808a"
LINES = ("#2f86d6", "#e0702b", "#2f9e62", "#b458c4", "#c9a227", "#d64560")
BATCH = "train, of one batch"
LOSSES = ("loss", "reconstruction", "codebook", "commitment", "entropy")


def curve_figure(metrics: Sequence[dict[str, float]]) -> Figure:
    """Draws losses, PSNR or error, perplexity and the share of codes used, over the steps.

    Args:
        metrics: lines of metrics.jsonl; a line may lack any of the values.
    """
    figure = new_figure(4.9)
    (losses, quality), (perplexity, used) = figure.subplots(2, 2)
    terms = select(metrics, "train", *LOSSES).items()  # the axis has no place for negative ones
    terms = {label: [(step, value) for step, value in line if value > 0] for label, line in terms}
    draw_curves(losses, "loss and its terms", terms)
    losses.set_yscale("log")
    mse = points(metrics, "train/mse")
    if any("test/explained_variance" in line for line in metrics):
        draw_curves(
            quality, "mean squared error", {BATCH: mse, "test": points(metrics, "test/mse")}
        )
        quality.set_yscale("log")
    else:
        train = {BATCH: [(step, -10 * math.log10(value)) for step, value in mse if value > 0]}
        draw_curves(quality, "PSNR (dB)", train | {"test": points(metrics, "test/psnr")})
    spread = select(metrics, "train", "perplexity_batch") | select(metrics, "test", "perplexity")
    draw_curves(perplexity, "perplexity", spread)
    draw_curves(used, "share of codes used", select(metrics, "test", "used"), first=1)
    used.set_ylim(0, 1.05)
    used.yaxis.set_major_formatter(PercentFormatter(1))
    return figure


def points(metrics: Sequence[dict[str, float]], name: str) -> list[tuple[float, float]]:
    """Returns the finite (step, value) of one name."""
    found = [(line["step"], line[name]) for line in metrics if line.get(name) is not None]
    return [(step, value) for step, value in found if math.isfinite(value)]


def select(
    metrics: Sequence[dict[str, float]], split: str, *kinds: str
) -> dict[str, list[tuple[float, float]]]:
    """Returns the curves `split/kind` and, with several streams, `split/0/kind` etc., by label."""
    names = dict.fromkeys(name for line in metrics for name in line if name.startswith(f"{split}/"))
    chosen = [name for kind in kinds for name in names if name.split("/")[-1] == kind]
    return {label(name, kinds): points(metrics, name) for name in chosen}


def label(name: str, kinds: Sequence[str]) -> str:
    """Returns the label of a curve in its panel: its kind or split, and its stream."""
    split, *stream, kind = name.split("/")
    words = [kind] if len(kinds) > 1 else [BATCH if split == "train" else split]
    return ", ".join(words + ([code_streams.title("/".join(stream))] if stream else []))


def draw_curves(
    axes: Axes, title: str, lines: dict[str, list[tuple[float, float]]], first: int = 0
) -> None:
    """Draws a panel: a line for each label, with marks where there are only few points."""
    plain_axes(axes, title)
    lines = {label: line for label, line in lines.items() if line}
    for i, (text, line) in enumerate(lines.items(), first):
        steps, values = zip(*line, strict=True)
        mark = "o" if len(line) <= 20 else ""
        axes.plot(steps, values, mark + "-", color=LINES[i % len(LINES)], label=text, lw=1.2, ms=3)
    if lines:
        axes.legend(frameon=False, labelcolor=INK, fontsize=7.5)
        axes.set_xlabel("step", color=INK, fontsize=8)
        axes.set_xlim(left=0)
    else:
        axes.text(0.1, 0.5, "nothing recorded", color=INK, fontsize=8, transform=axes.transAxes)


def reconstructions(
    originals: UInt8[np.ndarray, "n H W C"],
    reconstructed: UInt8[np.ndarray, "n H W C"],
    titles: Sequence[str] = (),
    columns: int | None = None,
) -> Figure:
    """Draws rows of originals, each above a row of their reconstructions.

    Args:
        originals, reconstructed: equally many.
        titles: titles of the originals, or none.
        columns: number of images in a row; None for as many as are readable.
    """
    originals, reconstructed = np.asarray(originals), np.asarray(reconstructed)
    n, height, width, _ = originals.shape
    columns = columns or min(n, 8 if max(height, width) <= 96 else 4)
    bands = math.ceil(n / columns)
    size = min((WIDTH - 0.3) / columns, 1.6)
    between = (0.3 if titles else 0.12) * bands
    figure = new_figure(2 * bands * size * height / width + between, size * columns + 0.3)
    # A narrow empty row sets the bands apart, so that originals and their pictures look paired.
    grid = figure.add_gridspec(3 * bands - 1, columns, height_ratios=([1, 1, 0.08] * bands)[:-1])
    for i in range(n):
        band, column = divmod(i, columns)
        for below, (label, images) in enumerate(
            (("original", originals), ("model", reconstructed))
        ):
            axes = figure.add_subplot(grid[3 * band + below, column])
            show_image(axes, images[i], titles[i] if titles and not below else "")
            if column == 0:
                axes.set_ylabel(label, color=INK, fontsize=8)
    return figure


def code_maps(
    images: UInt8[np.ndarray, "n H W C"], maps: Mapping[str, Int[np.ndarray, "n _ _"]]
) -> Figure:
    """Draws each image beside the maps of its codes, one for each stream, by its title.

    A code has the same colour everywhere; the colours have no other meaning.
    """
    images, n, streams = np.asarray(images), len(images), len(maps)
    groups = min(n, max(1, (8 if max(images.shape[1:3]) <= 96 else 4) // (1 + streams)))
    rows, columns = math.ceil(n / groups), groups * (1 + streams)
    size = min(WIDTH / columns, 1.6)
    height = size * images.shape[1] / images.shape[2]
    figure = new_figure(rows * height + 0.25, size * columns)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for i in range(n):
        row, group = divmod(i, groups)
        cells = grid[row, group * (1 + streams) :]
        show_image(cells[0], images[i], "image" if row == 0 else "")
        for axes, (title, indices) in zip(cells[1:], maps.items(), strict=False):
            show_image(axes, in_colours(indices[i]), (title or "codes") if row == 0 else "")
    return figure


def in_colours(codes: Int[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Returns a colour for each code, the same in every picture; -1, no code, is grey."""
    distinct, where = np.unique(codes, return_inverse=True)
    return np.array([colour(int(k)) for k in distinct], np.uint8)[where.reshape(codes.shape)]


def colour(code: int) -> tuple[int, int, int]:
    """Returns the red, green and blue of a code."""
    if code < 0:
        return (128, 128, 128)
    # Steps of the golden ratio spread the hues of any first few codes around the circle.
    lightness, saturation = (0.5, 0.35, 0.68)[code % 3], (0.75, 0.45)[code // 3 % 2]
    red, green, blue = colorsys.hls_to_rgb(code * 0.6180339887 % 1, lightness, saturation)
    return round(255 * red), round(255 * green), round(255 * blue)


def codebook_usage(counts: Mapping[str, tuple[Shaped[np.ndarray, "_"], int]]) -> Figure:
    """Draws the shares of codes, the most frequent first, against a uniform use.

    Args:
        counts: (counts, K) of each stream, by its title: counts of all codes in the evaluation set,
            or of those that occur.
    """
    columns = min(len(counts), 2)
    rows = math.ceil(len(counts) / columns)
    figure = new_figure(2.6 * rows)
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes in grid[len(counts) :]:
        axes.set_axis_off()
    for axes, (title, (of_stream, size)) in zip(grid, counts.items(), strict=False):
        draw_usage(axes, np.asarray(of_stream, np.float64), size, f"{title}: " if title else "")
    return figure


def draw_usage(axes: Axes, counts: np.ndarray, size: int, prefix: str) -> None:
    """Draws the panel of one stream."""
    found = {name: float(v) for name, v in usage(jnp.asarray(counts, jnp.float32), size).items()}
    shares, ranks = np.sort(counts)[::-1] / max(found["seen"], 1), np.arange(len(counts) + 1)
    title = f"{prefix}perplexity {found['perplexity']:,.1f} of {size:,}"
    apart = "\n" if prefix else ", "  # two panels stand side by side
    plain_axes(axes, f"{title}{apart}{found['used']:.1%} used, {found['seen']:,.0f} codes seen")
    axes.stairs(shares, ranks, fill=True, color=LINES[0], label="share of the codes seen")
    axes.axhline(1 / size, color=LINES[1], ls="--", lw=1.2, label="uniform")
    axes.set_xlim(0, max(len(counts), 1))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("codes, the most frequent first", color=INK, fontsize=8)
    axes.legend(frameon=False, labelcolor=INK, fontsize=7.5)


def side_by_side(
    original: UInt8[np.ndarray, "H W C"], reconstruction: UInt8[np.ndarray, "H W C"]
) -> UInt8[np.ndarray, "H W2 C"]:
    """Returns original, `GAP` white columns and reconstruction as one image, pixels unchanged."""
    gap = np.full((original.shape[0], GAP, original.shape[2]), 255, np.uint8)
    return np.concatenate([original, gap, reconstruction], axis=1)


def png_bytes(figure: Figure) -> bytes:
    """Returns the figure as a PNG file without the program's name: equal figures, equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=200, metadata={"Software": None})
    return buffer.getvalue()


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """Returns an empty figure of the common look; sizes are in inches."""
    layout = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)
    figure = Figure((width, height), layout=layout, facecolor="none")
    FigureCanvasAgg(figure)
    return figure


def plain_axes(axes: Axes, title: str) -> None:
    """Sets the common look of charts."""
    axes.set_title(title, loc="left", color=INK, fontsize=8.5, fontweight="bold")
    axes.set_facecolor("none")
    axes.tick_params(colors=INK, labelsize=7.5, which="both")
    axes.grid(color=INK, alpha=0.2, lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)


def show_image(axes: Axes, image: UInt8[np.ndarray, "H W C"], title: str = "") -> None:
    """Shows an image without interpolation, grey where it has one channel."""
    pixels = np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image
    axes.imshow(pixels, interpolation="nearest")
    axes.set_axis_on()
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(color=INK, lw=0.4)
    if title:
        axes.set_title(title, color=INK, fontsize=8, pad=3)
