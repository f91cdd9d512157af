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
from vqvae_commands.run.kinds import BY_AXES, NOUNS, units
from vqvae_commands.run.terminal_table import print_lines
from vqvae_jax.data.pipeline import Examples
from vqvae_jax.data.readers import DataError
from vqvae_jax.metrics import psnr, ssim, usage
from vqvae_jax.training.step import squared_error, valid_examples

MEANING = {
    "psnr": "PSNR, dB, of the mean squared error",
    "ssim": "SSIM, mean over images",
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
    """The measurements of each example of a batch."""

    valid: Bool[Array, "B"]  # finite and in the domain of the model
    error: Float[Array, "B"]
    ssim: Float[Array, "B"] | None
    mean: Float[Array, "B C"]  # of each channel
    variance: Float[Array, "B C"]  # around it


@partial(jax.jit, static_argnums=(0, 3))
def measure_examples(model, variables, batch, similarity: bool):
    """Each example measured, and its codes by stream."""
    x, weights, _ = valid_examples(batch, getattr(model, "domain", None))
    rec = model.apply(variables, x)
    grid = tuple(range(1, x.ndim - 1))
    found = Measured(
        weights > 0,
        squared_error(x, rec.x)["reconstruction"],
        ssim(x, rec.x) if similarity else None,
        jnp.mean(x, axis=grid),
        jnp.var(x, axis=grid),
    )
    return found, by_stream(quantizers(model), as_levels(rec.indices))


def evaluate(model, variables, test: Examples, batch_size: int = 100, kind: str | None = None):
    """(the table {name: number}, the counts of each stream by its prefix) over the test set.

    Args:
        model, variables: a VQ-VAE.
        test: the examples.
        batch_size: number of examples at a time.
        kind: a name of `kinds.NOUNS`; None for the usual kind of data of this shape.

    Raises:
        DataError: if no example is finite and in the domain of the model.
    """
    pictures = (kind or BY_AXES[len(test.shape)][0]) == "pictures"
    similarity = pictures and min(test.shape[1:3]) >= 11
    parts, sizes = [], streams(quantizers(model))
    seen: dict[str, Counter[int]] = {prefix: Counter() for prefix in sizes}
    look = partial(measure_examples, model, variables, similarity=similarity)
    for found, indices in each_batch(look, test, batch_size):
        parts.append(jax.tree.map(lambda array, valid=found.valid: array[valid], found))
        for prefix, k in indices.items():
            seen[prefix] += tally(k[found.valid])
    counts = {prefix: as_counts(seen[prefix], size) for prefix, size in sizes.items()}
    whole = joined(parts)
    if not len(whole.error):
        raise DataError("no test example is finite and in the range of the model's data")
    left_out = len(test) - len(whole.error)
    table = quality(whole, pictures) | ({"left_out": float(left_out)} if left_out else {})
    return table | code_table(counts, sizes, len(whole.error)), counts


def quality(found: Measured, pictures: bool) -> dict[str, float]:
    """Measures how close the reconstructions are: PSNR of pictures, else the explained variance.

    The latter is 1 - MSE / variance, the variance around the mean of each channel of the whole set.
    """
    if pictures:
        return picture_quality(found.error, found.ssim)
    mse = float(np.mean(found.error, dtype=np.float64))
    within = np.mean(found.variance, axis=0, dtype=np.float64)
    variance = float(np.mean(within + np.var(found.mean, axis=0, dtype=np.float64)))
    explained = 1 - mse / variance if variance else float("nan")
    return {"explained_variance": explained, "mse": mse}


def picture_quality(
    error: Float[np.ndarray, "N"], similarity: Float[np.ndarray, "N"] | None
) -> dict[str, float]:
    """PSNR and mean squared error of pictures, and their SSIM where it was measured."""
    mse = float(np.mean(error, dtype=np.float64))
    table = {"psnr": float(psnr(mse)), "mse": mse}
    return (
        table if similarity is None else table | {"ssim": float(np.mean(similarity, dtype=float))}
    )


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
    words = {"noun": NOUNS[kind][0], "units": units(kind, dtype)}
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
