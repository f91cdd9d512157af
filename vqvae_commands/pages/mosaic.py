"""Rows of images as one picture."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes

from vqvae_commands.pages.plots import plain_axes

GAP = 2  # pixels between the images


def draw_mosaic(axes: Axes, title: str, rows: Mapping[str, UInt8[np.ndarray, "n H W C"]]) -> None:
    """Draws labelled rows of images as one picture."""
    plain_axes(axes, title)
    axes.grid(False)
    strips = [strip(images) for images in rows.values()]
    pixels = np.concatenate(strips)
    axes.imshow(np.repeat(pixels, 3 // pixels.shape[-1], axis=-1), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([len(strips[0]) * (i + 0.5) for i in range(len(strips))], list(rows))
    axes.tick_params(length=0, labelsize=6.5)
    axes.spines[:].set_visible(False)


def strip(images: UInt8[np.ndarray, "n H W C"]) -> UInt8[np.ndarray, "h w C"]:
    """Returns images side by side, with white between and below them."""
    framed = np.pad(images, ((0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=255)
    return np.concatenate(list(framed), axis=1)
