"""Pictures of a run's report: training beside test pictures, the worst ones, patches of codes."""

from collections.abc import Mapping, Sequence
from functools import partial

import jax
import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8
from matplotlib.figure import Figure

from vqvae_commands.data.kinds import spread
from vqvae_commands.pages import plots
from vqvae_commands.pages.mosaic import Rows, rows_figure, strip
from vqvae_commands.run import code_streams
from vqvae_commands.run.batchwise import in_batches
from vqvae_commands.run.model_metrics import measure_examples
from vqvae_jax.data.pipeline import Examples
from vqvae_jax.data.scaling import preprocess, to_pixels
from vqvae_jax.metrics import psnr

SHOWN = 16  # pictures in a figure; in all of them as many, so that the model is compiled once
ROWS, PATCHES = 8, 12  # codes whose patches are shown, and how many of each
POSITIONS = 25_000  # codes among which the patches are looked for


def picture_figures(model, variables, train: Examples | None, test: Examples) -> dict[str, Figure]:
    """Returns the figures of a run whose data are pictures, by their names."""
    x = np.asarray(test[:SHOWN])
    images, rec = as_uint8(x), reconstruct(model, variables, x)
    made = {"reconstructions": plots.reconstructions(images, as_uint8(rec.x))}
    if train is not None:
        made["beside"] = beside(model, variables, train, test)
    made["worst"] = worst(model, variables, test)
    maps = code_streams.as_levels(rec.indices)
    if all(k.ndim == 4 for k in maps):
        each = code_streams.by_stream(code_streams.quantizers(model), maps)
        titled = {code_streams.title(prefix): np.asarray(k) for prefix, k in each.items()}
        made["code_maps"] = plots.code_maps(images, titled)
        made |= patches(model, variables, test)
    return made


@partial(jax.jit, static_argnums=0)
def reconstruct(model, variables, x: Shaped[np.ndarray, "n H W C"]):
    """Returns what a model gives for a few pictures."""
    return model.apply(variables, preprocess(x))


def as_uint8(x: Shaped[Examples, "n H W C"]) -> UInt8[np.ndarray, "n H W C"]:
    """Returns examples or reconstructions as pictures."""
    return np.asarray(to_pixels(preprocess(np.asarray(x))))


def strip_of(model, variables, test: Examples) -> UInt8[np.ndarray, "h w C"]:
    """Returns the first pictures of the test set above their reconstructions, as one picture."""
    x = np.asarray(test[:SHOWN])
    pair = as_uint8(x), as_uint8(reconstruct(model, variables, x).x)
    return np.concatenate([strip(images[: SHOWN // 2]) for images in pair])


def beside(model, variables, train: Examples, test: Examples) -> Figure:
    """Draws pictures of the training set and of the test set, above their reconstructions."""
    some = [np.asarray(data[spread(len(data), SHOWN // 2)]) for data in (train, test)]
    x = np.concatenate(some)
    made = as_uint8(reconstruct(model, variables, x).x)
    pairs = as_uint8(x), made
    (a, b), (c, d) = (np.split(images, [len(some[0])]) for images in pairs)
    return rows_figure({"training": a, "training, model": c, "test": b, "test, model": d})


def worst(model, variables, test: Examples) -> Figure:
    """Draws the pictures of the test set with the lowest PSNR, above their reconstructions."""
    errors = in_batches(partial(errors_of, model, variables), test)
    found = np.argsort(-errors, kind="stable")[:SHOWN]
    x = np.asarray(test[found])
    titles = [f"{float(psnr(error)):.2f} dB" for error in errors[found]]
    made = reconstruct(model, variables, x).x
    return plots.reconstructions(as_uint8(x), as_uint8(made), titles)


def errors_of(model, variables, batch: Shaped[np.ndarray, "B H W C"]) -> Float[np.ndarray, "B"]:
    """Returns the error of each example of a batch, 0 where it is not valid."""
    found, _ = measure_examples(model, variables, batch, min(batch.shape[1:3]) >= 11)
    return np.where(found.valid, found.error, 0)


def patches(model, variables, test: Examples) -> dict[str, Figure]:
    """Draws, for codes from frequent to rare, the places of pictures nearest to their vectors.

    The codes are those of the first stream of the finest level; no figure if none is frequent.
    """
    _, k = look(model, variables, np.asarray(test[:SHOWN]))
    x = np.asarray(test[spread(len(test), max(SHOWN, POSITIONS // k[0, ..., 0].size))])
    z, k = in_batches(partial(look, model, variables), x, SHOWN)
    codes = frequent(k[..., 0], PATCHES)
    if not codes:
        return {}
    indices = np.full((len(codes), k.shape[-1]), -1, np.int32)
    indices[:, 0] = codes
    level = len(code_streams.quantizers(model)) - 1
    vectors = np.asarray(code_streams.vectors(model, level, variables, indices))
    nearest = patch_rows(as_uint8(x), k[..., 0], z, dict(zip(codes, vectors, strict=True)))
    return {"patches": rows_figure(nearest)}


def look(model, variables, x: Shaped[np.ndarray, "n H W C"]):
    """Returns the encoder's output and the codes of a batch, at the finest level."""
    found = reconstruct(model, variables, x)
    return code_streams.as_levels(found.z_e)[-1], code_streams.as_levels(found.indices)[-1]


def frequent(k: Int[np.ndarray, "n h w"], least: int) -> list[int]:
    """Returns some of the codes that occur often enough, from the most frequent on.

    Example:
        >>> frequent(np.array([[[3, 3, 3, 1, 1, 0]]]), 2)
        [3, 1]
    """
    ranked = [code for code, times in code_streams.tally(k).most_common() if times >= least]
    return [ranked[i] for i in spread(len(ranked), ROWS)] if ranked else []


def patch_rows(
    images: UInt8[np.ndarray, "n H W C"],
    k: Int[np.ndarray, "n h w"],
    z: Float[np.ndarray, "n h w D"],
    vectors: Mapping[int, Float[np.ndarray, "D"]],
) -> Rows:
    """Returns the patches of each code: its places nearest to its vector, the nearest first."""
    rows = {}
    for code, vector in vectors.items():
        places = np.argwhere(k == code)
        distance = np.square(z[tuple(places.T)] - vector).sum(axis=-1)
        nearest = places[np.argsort(distance, kind="stable")[:PATCHES]]
        title = f"code {code}, {len(places) / k.size:.1%}"
        rows[title] = np.stack([patch(images[i], cell, k.shape[1:]) for i, *cell in nearest])
    return rows


def patch(
    image: UInt8[np.ndarray, "H W C"], cell: Sequence[int], grid: Sequence[int]
) -> UInt8[np.ndarray, "h w C"]:
    """Returns the pixels of a cell and of its eight neighbours; at the edge the edge goes on.

    Example:
        >>> patch(np.arange(8, dtype=np.uint8).reshape(1, 8, 1), (0, 3), (1, 4))[1].ravel()
        array([4, 5, 6, 7, 7, 7], dtype=uint8)
    """
    h, w = sides = [-(-n // m) for n, m in zip(image.shape, grid, strict=False)]
    # Pictures whose sides do not divide end within their last cells.
    after = [side * (m + 1) - n for side, m, n in zip(sides, grid, image.shape, strict=False)]
    padded = np.pad(image, [*zip(sides, after, strict=True), (0, 0)], mode="edge")
    y, x = cell[0] * h, cell[1] * w
    return padded[y : y + 3 * h, x : x + 3 * w]
