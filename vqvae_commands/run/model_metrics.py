"""The evaluation of a trained model: its numbers over a whole test set, and their table."""

import math
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from vqvae_commands.data.kinds import BY_AXES, NOUNS, PIXELS, units
from vqvae_commands.data.padded import parts
from vqvae_commands.run import code_streams
from vqvae_commands.run.batchwise import each_batch, joined
from vqvae_commands.run.code_streams import (
    as_counts,
    as_levels,
    by_stream,
    quantizers,
    streams,
    tally,
)
from vqvae_commands.terminal.terminal_table import print_lines
from vqvae_jax.data.pipeline import Examples
from vqvae_jax.data.readers import DataError
from vqvae_jax.metrics import psnr, ssim, usage
from vqvae_jax.training.step import valid_examples

MEANING = {
    "psnr": "PSNR, dB, of the mean squared error",
    "ssim": "SSIM, mean over {pictures}",
    "explained_variance": "share of the variance explained",
    "mse": "mean squared error, {units}",
    "left_out": "examples left out: not finite, or out of range",
    "perplexity": "perplexity of the codes",
    "used": "share of the codebook used",
    "seen": "number of codes seen",
    "bits_uniform": "bits per {noun}, uniform prior",
    "bits_entropy": "bits per {noun}, entropy of the codes",
}


class Measured(NamedTuple):
    """The measurements of each example of a batch, of its real samples alone."""

    valid: Bool[Array, "B"]  # finite and in the domain of the model
    samples: Float[Array, "B"]  # number of those that are no padding
    error: Float[Array, "B"]
    ssim: Float[Array, "B"] | None
    mean: Float[Array, "B C"]  # of each channel
    variance: Float[Array, "B C"]  # around it


@partial(jax.jit, static_argnums=(0, 3))
def measure_examples(model, variables, batch, similarity: bool):
    """Each example measured, and its codes by stream."""
    x, weights, _ = valid_examples(batch, getattr(model, "domain", None))
    _, mask = parts(batch)
    rec = model.apply(variables, x, **mask)
    each, grid = tuple(range(1, x.ndim)), tuple(range(1, x.ndim - 1))
    real = jnp.expand_dims(weights > 0, each[weights.ndim - 1 :])  # [B, *spatial, 1]
    samples = jnp.sum(jnp.broadcast_to(real, (*x.shape[:-1], 1)), axis=each, dtype=jnp.float32)
    found = Measured(
        samples > 0,
        samples,
        jnp.mean(jnp.square(x - rec.x), axis=each, where=real),
        likeness(x, rec.x, real) if similarity else None,
        jnp.mean(x, axis=grid, where=real),
        jnp.var(x, axis=grid, where=real),
    )
    return found, by_stream(quantizers(model), as_levels(rec.indices))


def likeness(x, y, real) -> Float[Array, "B"]:
    """The SSIM of each picture, or of a video its mean over the real frames."""
    frames = tuple(range(1, x.ndim - 3))
    return jnp.mean(ssim(x, y), axis=frames, where=real[..., 0, 0, 0])


def evaluate(model, variables, test: Examples, batch_size: int = 100, kind: str | None = None):
    """(the table {name: number}, the counts of each stream by its prefix) over the test set.

    Args:
        model, variables: a VQ-VAE.
        test: the examples; of those that are padded, see `Padded`, only real samples count.
        batch_size: number of examples at a time.
        kind: a name of `kinds.NOUNS`; None for the usual kind of data of this shape.

    Raises:
        DataError: if no example is finite and in the domain of the model.
    """
    pixels = (kind or BY_AXES[len(test.shape)][0]) in PIXELS
    similarity = pixels and min(test.shape[-3:-1]) >= 11
    measured, sizes = [], streams(quantizers(model))
    seen: dict[str, Counter[int]] = {prefix: Counter() for prefix in sizes}
    look = partial(measure_examples, model, variables, similarity=similarity)
    for found, indices in each_batch(look, test, batch_size):
        measured.append(jax.tree.map(lambda array, valid=found.valid: array[valid], found))
        for prefix, k in indices.items():
            seen[prefix] += tally(k[found.valid])
    counts = {prefix: as_counts(seen[prefix], size) for prefix, size in sizes.items()}
    whole = joined(measured)
    if not len(whole.error):
        raise DataError("no test example is finite and in the range of the model's data")
    left_out = len(test) - len(whole.error)
    table = quality(whole, pixels) | ({"left_out": float(left_out)} if left_out else {})
    return table | code_table(counts, sizes, len(whole.error)), counts


def quality(found: Measured, pixels: bool) -> dict[str, float]:
    """Measures how close the reconstructions are: PSNR of pixels, else the explained variance.

    The latter is 1 - MSE / variance, the variance around the mean of each channel of the whole set.
    All are means over samples, so that a long signal counts more than a short one.
    """
    if pixels:
        return picture_quality(found.error, found.ssim, found.samples)
    average = partial(np.average, axis=0, weights=found.samples.astype(np.float64))
    mse, mean = float(average(found.error)), average(found.mean)
    # The law of total variance: within the examples, and between their means.
    variance = float(np.mean(average(found.variance) + average(np.square(found.mean - mean))))
    explained = 1 - mse / variance if variance else float("nan")
    return {"explained_variance": explained, "mse": mse}


def picture_quality(
    error: Float[np.ndarray, "N"],
    similarity: Float[np.ndarray, "N"] | None,
    weights: Float[np.ndarray, "N"] | None = None,
) -> dict[str, float]:
    """PSNR and mean squared error of pictures, and their SSIM where it was measured."""
    average = partial(np.average, weights=weights)
    mse = float(average(error.astype(np.float64)))
    table = {"psnr": float(psnr(mse)), "mse": mse}
    if similarity is None:
        return table
    return table | {"ssim": float(average(similarity.astype(np.float64)))}


def code_table(counts, sizes: Mapping[str, int], examples: int) -> dict[str, float]:
    """Usage of the codes and bits of one example, from counts and sizes by prefix."""
    table, uniform, entropy = {}, 0.0, 0.0
    for prefix, count in counts.items():
        found = usage(jnp.asarray(count, jnp.float32), sizes[prefix])
        use = {name: float(value) for name, value in found.items()}
        use["seen"] = float(count.sum())
        bits = use.pop("bits")
        use["perplexity"] = use["perplexity"] if use["seen"] else math.nan  # of no code
        uniform += count.sum() / examples * math.log2(sizes[prefix])
        entropy += count.sum() / examples * bits
        table |= {prefix + name: value for name, value in use.items()}
    return table | {"bits_uniform": float(uniform), "bits_entropy": float(entropy)}


def print_table(table: dict[str, float], title: str, kind: str = "pictures", dtype="uint8") -> None:
    """Prints the table, in the words of this kind of data."""
    pictures = "frames" if kind == "videos" else "images"
    words = {"noun": NOUNS[kind][0], "pictures": pictures, "units": units(kind, dtype)}
    lines = [["over the whole test set", ""]]
    for name, value in table.items():
        prefix, _, last = name.rpartition("/")
        meaning = MEANING[last].format(**words) + (
            f" ({code_streams.title(prefix)})" if prefix else ""
        )
        form = ",.0f" if last in ("seen", "left_out") else ".4g"
        lines.append([meaning, number_or_words(value, form)])
    print_lines(lines, title)


def number_or_words(value: float | None, form: str) -> str:
    """A number, or that there is none.

    >>> number_or_words(0.25, ".1%"), number_or_words(float("nan"), ".4g")
    ('25.0%', 'not a number')
    >>> number_or_words(float("inf"), ".4g")
    'infinite'
    """
    if value is None or math.isnan(value):
        return "not a number"
    return format(value, form) if math.isfinite(value) else "infinite"
