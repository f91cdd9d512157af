"""Charts and maps of the meaning of codes, in the style of `pages.figures`."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Float64
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from vqvae_commands.code_meaning.code_pictures import rgba
from vqvae_commands.code_meaning.interventions import Reach
from vqvae_commands.code_meaning.probes import Score
from vqvae_commands.pages.plots import INK, LINES, WIDTH, new_figure, plain_axes


def reach_figure(found: Mapping[str, Reach], sides: Mapping[str, int]) -> Figure:
    """Draws mean change over distance from the cell, and share within it, for each level."""
    figure = new_figure(2.5)
    mean, share = figure.subplots(1, 2)
    plain_axes(mean, "mean |change| of a pixel")
    plain_axes(share, "share of the whole change")
    for i, (title, reach) in enumerate(found.items()):
        options = {"color": LINES[i % len(LINES)], "lw": 1.4, "ms": 3, "marker": "o"}
        x = np.arange(len(reach.mean))
        seen = np.nan_to_num(reach.mean) > 0
        mean.plot(x[seen], reach.mean[seen], label=title, **options)
        share.plot(x[seen], reach.share[seen], label=title, **options)
        for axes in (mean, share):
            axes.axvline(sides[title], color=options["color"], ls=":", lw=1)
    if any((np.nan_to_num(reach.mean) > 0).any() for reach in found.values()):
        mean.set_yscale("log")
    share.set_ylim(0, 1.03)
    share.sharex(mean)
    share.yaxis.set_major_formatter(PercentFormatter(1))
    for axes in (mean, share):
        axes.set_xlim(left=-0.4)
        axes.set_xlabel("pixels from the cell; 0 is inside", color=INK, fontsize=8)
    if len(found) > 1:
        share.legend(frameon=False, labelcolor=INK, fontsize=7.5)
    return figure


def accuracies(found: Mapping[str, Mapping[str, Score]]) -> Figure:
    """Draws the test accuracy of each representation by each probe, with its interval."""
    figure = new_figure(0.75 + 0.28 * len(found))
    axes = figure.subplots()
    plain_axes(axes, "test accuracy, with 95 % intervals")
    for p, probe in enumerate(next(iter(found.values()))):
        scores = [probes[probe] for probes in found.values()]
        middle = np.array([s.accuracy for s in scores])
        ends = np.abs(np.array([(s.low, s.high) for s in scores]).T - middle)
        y = np.arange(len(found)) + (-0.13, 0.13)[p % 2]
        axes.errorbar(
            middle, y, xerr=ends, fmt="o", ms=4, lw=1.3, color=LINES[p % len(LINES)], label=probe
        )
    axes.set_yticks(range(len(found)), list(found))
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.legend(
        loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, labelcolor=INK,
        fontsize=7.5, borderaxespad=0.1,
    )  # fmt: skip
    return figure


def entropy_grids(found: Mapping[str, tuple[Float64[np.ndarray, "h w"], int]]) -> Figure:
    """Draws bits at each place, from 0 to log2 K, of each stream.

    Args:
        found: (bits, K) of each stream, by its title.
    """
    columns = min(len(found), 4)
    lines = -(-len(found) // columns)
    figure = new_figure(2.6 * lines, min(WIDTH, 2.9 * columns + 0.3))
    grid = figure.subplots(lines, columns, squeeze=False).flat
    for axes in grid[len(found) :]:
        axes.set_axis_off()
    for axes, (title, (bits, size)) in zip(grid, found.items(), strict=False):
        top = np.log2(size)
        picture = axes.imshow(bits, cmap="viridis", vmin=0, vmax=max(top, 1e-9))
        axes.set_title(title or "bits at each place", color=INK, fontsize=8.5, pad=4)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        if bits.size <= 81:
            for (i, j), value in np.ndenumerate(bits):
                colour = "black" if value > 0.6 * top else "white"
                axes.text(
                    j, i, f"{value:.1f}", color=colour, fontsize=6.5, ha="center", va="center"
                )
        bar = figure.colorbar(picture, ax=axes, shrink=0.85, pad=0.03)
        bar.ax.tick_params(colors=INK, labelsize=7)
        bar.outline.set_visible(False)
    return figure


def codebook_map(
    places: Float[np.ndarray, "m 2"],
    shares: Float[np.ndarray, "m"],
    cells: Float[np.ndarray, "n P R C"],
    explained: Sequence[float],
) -> Figure:
    """Draws codes in the plane of their two main directions, as dots and as decoded cells.

    Args:
        places: places of all codes, the most frequent first.
        shares: shares of the codes; a code of share 0 is a ring.
        cells: decoded cells of the first n codes.
        explained: share of the variance along each axis.
    """
    figure, small = new_figure(3.7), {"color": INK, "fontsize": 8}
    dots, pictures = figure.subplots(1, 2, sharex=True, sharey=True)
    plain_axes(dots, "area: share; grey: mean of what it decodes to")
    plain_axes(pictures, "what the most frequent ones decode to")
    area = 2 + 9000 * shares  # square points
    used, n = shares > 0, len(cells)
    dots.scatter(*places[~used].T, s=6, facecolors="none", edgecolors=INK, lw=0.5)
    grey = np.full(len(places), 0.5)
    grey[:n] = np.clip(np.nanmean(cells, axis=(1, 2, 3)), 0, 1)
    dots.scatter(
        *places[used].T, s=area[used], c=grey[used], cmap="gray", vmin=0, vmax=1, lw=0.4,
        edgecolors=INK,
    )  # fmt: skip
    ends = np.stack([places.min(axis=0), places.max(axis=0)])
    spread = np.maximum(ends[1] - ends[0], 1e-9)
    side, limits = 0.035 * spread, ends + [[-0.05], [0.05]] * spread
    # In reverse, so that the most frequent ones lie on top.
    for (x, y), pixels in list(zip(places[:n], cells, strict=False))[::-1]:
        box = (x - side[0] / 2, x + side[0] / 2, y - side[1] / 2, y + side[1] / 2)
        pictures.imshow(rgba(pixels), extent=box, interpolation="nearest", aspect="auto", zorder=3)
    for axes in (dots, pictures):
        axes.set(xlim=limits[:, 0], ylim=limits[:, 1])
        axes.set_xlabel(f"first direction, {explained[0]:.0%} of the variance", **small)
    dots.set_ylabel(f"second direction, {explained[1]:.0%}", **small)
    return figure
