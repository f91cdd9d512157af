"""Figures of examples that are no pictures: what is drawn is what the model makes of them."""

import io
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vqvae_commands.data.padded import Padded
from vqvae_commands.pages import kind_figures, plots, run_report

RNG = np.random.default_rng(0)


class Output(NamedTuple):
    x: Any
    indices: Any


class Halved:
    """Stands for a model: it halves x; codes are 0, 1, 2, ..., and -1 where the mask is 0."""

    def __init__(self, *vocab: int):
        self.quantizer = SimpleNamespace(vocab=vocab)

    def apply(self, variables, x, mask=True):
        grid = x.shape[:-1]
        k = jnp.broadcast_to(jnp.arange(grid[-1]), grid)[..., None] % 4
        codes = jnp.where(jnp.broadcast_to(mask, grid)[..., None], k, -1)
        streams = jnp.repeat(codes, len(self.quantizer.vocab), axis=-1)
        return Output(x / 2, streams)


def drawn(kind, test, *vocab):
    """The one figure of the kind."""
    [(name, figure)] = kind_figures.figures_of(kind, Halved(*vocab or (4,)), {}, test).items()
    assert name in kind_figures.FIGURES
    png = Image.open(io.BytesIO(plots.png_bytes(figure)))
    assert png.mode == "RGBA" and png.getpixel((0, 0))[3] == 0  # on light and on dark pages
    return figure


def test_signals_are_above_what_the_model_makes_of_them_and_their_codes():
    x = RNG.normal(0, 1, (9, 6, 2)).astype(np.float32)
    lengths = np.full(9, 6)
    lengths[8] = 4
    figure = drawn("signals", Padded(x, lengths), 4, 4)
    assert len(figure.axes) == 4 * (2 + 2)
    original, model, *strips = figure.axes[-4:]  # of the last test signal, which is padded
    for axes, values in ((original, x[8]), (model, x[8] / 2)):
        lines = np.stack([line.get_ydata() for line in axes.lines], axis=1)
        np.testing.assert_allclose(lines[:4], values[:4], rtol=1e-6)
        assert np.isnan(lines[4:]).all()
    assert original.get_ylim() == model.get_ylim()
    assert [axes.get_ylabel() for axes in strips] == ["stream 0", "stream 1"]
    shown = strips[1].images[0].get_array()
    np.testing.assert_array_equal(shown, plots.in_colours(np.array([[0, 1, 2, 3, -1, -1]])))


def test_many_channels_are_a_map():
    x = RNG.normal(0, 1, (1, 7, 5)).astype(np.float32)
    axes = drawn("signals", x).axes[0]
    np.testing.assert_allclose(axes.images[0].get_array(), x[0].T[::-1], rtol=1e-6)


def test_videos_are_rows_of_frames():
    x = RNG.integers(0, 256, (2, 20, 4, 6, 3)).astype(np.uint8)
    figure = drawn("videos", Padded(x, np.array([20, 5])))
    shown = [axes.images[0].get_array() for axes in figure.axes]
    assert len(shown) == 2 * 2 * 8
    np.testing.assert_array_equal(shown[14], x[0, -1])
    np.testing.assert_array_equal(shown[30], x[1, 4])  # the last frame that is no padding
    np.testing.assert_allclose(shown[15], np.round((x[0, -1] - 127.5) / 2 + 127.5), atol=1)


@pytest.mark.parametrize(
    ("kind", "shape", "at"),
    [("fields", (3, 4, 6, 2), np.s_[..., 0]), ("volumes", (3, 5, 4, 6, 2), np.s_[:, 2, :, :, 0])],
)
def test_fields_and_volumes_are_slices(kind, shape, at):
    x = RNG.normal(0, 1, shape).astype(np.float32)
    images = [axes.images[0] for axes in drawn(kind, x).axes]
    np.testing.assert_allclose(np.stack([i.get_array() for i in images[:3]]), x[at], rtol=1e-6)
    np.testing.assert_allclose(np.stack([i.get_array() for i in images[3:]]), x[at] / 2, rtol=1e-6)
    assert images[0].get_clim() == images[3].get_clim()


def test_vectors_are_coordinates_and_components():
    x = RNG.normal(0, (5, 1, 0.1), (500, 3)).astype(np.float32)
    x -= x.mean(axis=0)
    x[7, 0] = np.nan
    shares, plane = drawn("vectors", x).axes
    explained = shares.lines[0].get_ydata()
    np.testing.assert_allclose(explained, 0.75, atol=0.01)  # 1 - 1/4
    original, model = (np.asarray(c.get_offsets()) for c in plane.collections)
    good = np.delete(x, 7, axis=0)
    assert len(original) == len(model) == 499
    np.testing.assert_allclose(np.var(original, axis=0), np.var(good, axis=0)[:2], rtol=0.01)
    np.testing.assert_allclose(model * 2, original, atol=0.1)
    drawn("vectors", x[:50, :1])  # a single coordinate has a single component


def test_the_report_of_each_kind_has_its_figure_first(tmp_path):
    x = RNG.normal(0, 1, (4, 8, 1)).astype(np.float32)
    made = run_report.make_figures(Halved(4), {}, x, {"": np.ones(4)}, [], "signals")
    assert list(made) == ["waveforms", "usage", "curves"]
    run_report.write_report(
        tmp_path, config={}, description="{}", results={}, metrics=[], figures=made
    )
    text = (tmp_path / "report.html").read_text()
    assert text.index("each above its reconstruction and its codes") < text.index("Use of the")
    assert kind_figures.figures_of("pictures", None, None, np.zeros((1, 8, 8, 1))) == {}
