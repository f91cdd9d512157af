"""Rows of images as one picture."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vqvae_commands.pages.plots import WIDTH, new_figure, plain_axes

Rows = Mapping[str, UInt8[np.ndarray, "n H W C"]]
GAP = 2  # pixels between the images


def rows_figure(rows: Rows) -> Figure:
    """Draws labelled rows of pictures."""
    labels = 0.1 + 0.055 * max(map(len, rows))  # inches
    widest = max(strip(images).shape[1] for images in rows.values())
    height = sum(strip(images).shape[0] for images in rows.values())
    scale = min((WIDTH - labels) / widest, 0.025)  # inches a pixel
    figure = new_figure(scale * height + 0.05, scale * widest + labels)
    figure.set_layout_engine("none")  # it would cut off labels beside axes of a fixed aspect
    place = (labels, 0, scale * widest, scale * height)
    axes = figure.add_axes(np.divide(place, np.tile(figure.get_size_inches(), 2)))
    padded = {
        name: np.pad(
            images,
            ((0, max(map(len, rows.values())) - len(images)), (0, 0), (0, 0), (0, 0)),
            constant_values=255,
        )
        for name, images in rows.items()
    }
    draw_mosaic(axes, "", padded)
    return figure


def draw_mosaic(axes: Axes, title: str, rows: Rows) -> None:
    """Draws labelled rows of images as one picture."""
    plain_axes(axes, title)
    axes.grid(False)
    strips = [strip(images) for images in rows.values()]
    pixels = np.concatenate(strips)
    grey = pixels.shape[-1] == 1
    axes.imshow(np.repeat(pixels, 3, axis=-1) if grey else pixels, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([len(strips[0]) * (i + 0.5) for i in range(len(strips))], list(rows))
    axes.tick_params(length=0, labelsize=6.5)
    axes.spines[:].set_visible(False)


def strip(images: UInt8[np.ndarray, "n H W C"]) -> UInt8[np.ndarray, "h w C"]:
    """Returns images side by side, with white between and below them."""
    framed = np.pad(images, ((0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=255)
    return np.concatenate(list(framed), axis=1)
