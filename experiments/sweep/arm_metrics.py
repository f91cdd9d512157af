"""Measures a trained autoencoder on the test set: its reconstructions, its codes."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vqvae_commands.run.batchwise import in_batches
from vqvae_commands.run.code_streams import as_counts, as_levels, by_stream, streams, tally
from vqvae_commands.run.model_metrics import code_table, picture_quality
from vqvae_jax.data.scaling import preprocess, to_pixels
from vqvae_jax.metrics import psnr, ssim
from vqvae_jax.training.step import squared_error

SHOWN = 8  # test images in the pictures


def measure_arm(model, variables, x) -> dict[str, jax.Array]:
    """Measures one batch of the test set."""
    x = preprocess(x)
    rec = model.apply(variables, x)
    return {
        "error": squared_error(x, rec.x)["reconstruction"],
        "ssim": ssim(x, rec.x),
        "pictures": to_pixels(rec.x),
        "indices": as_levels(rec.indices),
        "z_e": as_levels(rec.z_e),
        "z_q": as_levels(rec.z_q),
    }


def arm_numbers(found: Mapping[str, Any], levels) -> dict[str, float]:
    """The numbers over the test set, from what `measure_arm` found in it."""
    quality = picture_quality(found["error"], found["ssim"])
    return {
        "psnr": quality["psnr"],
        "ssim": quality["ssim"],
        **code_numbers(levels, found["indices"]),
        **quantization_error(found["z_e"], found["z_q"]),
    }


def psnr_of_parts(model, variables, test: np.ndarray, parts: Callable[[Any], list]) -> list[float]:
    """The PSNR, over the test set, of what parts of the codes decode to.

    Args:
        model, variables: with `tokenize` and `detokenize`.
        test: images.
        parts: from the codes of a batch to those that are decoded, each for one number.
    """

    @jax.jit
    def errors(x):
        x = preprocess(x)
        chosen = parts(model.apply(variables, x, method="tokenize"))
        decoded = [model.apply(variables, codes, method="detokenize") for codes in chosen]
        return [squared_error(x, y)["reconstruction"] for y in decoded]

    return [float(psnr(np.mean(e, dtype=np.float64))) for e in in_batches(errors, test)]


def code_numbers(levels, maps: Sequence[np.ndarray]) -> dict[str, float]:
    """The use of the codes of all images: means over streams, bits of one image.

    Args:
        levels: the quantizer of each level.
        maps: the indices `[N, ..., Q]` of each level.
    """
    sizes = streams(levels)
    counts = {
        prefix: as_counts(tally(k), sizes[prefix]) for prefix, k in by_stream(levels, maps).items()
    }
    table = code_table(counts, sizes, len(maps[0]))

    def mean(kind: str) -> float:
        return statistics.fmean(v for name, v in table.items() if name.split("/")[-1] == kind)

    return {
        "codes": float(np.prod([float(size) for size in sizes.values()])),
        "used": mean("used"),
        "perplexity": mean("perplexity"),
        "bits_uniform": table["bits_uniform"],
        "bits_entropy": table["bits_entropy"],
    }


def quantization_error(z_e: Sequence[np.ndarray], z_q: Sequence[np.ndarray]) -> dict[str, float]:
    """The mean of (z_e - z_q)^2 over elements, and its share of the variance of z_e.

    Means over levels. The variance is around the mean of each channel, averaged over channels: a
    single code at the mean has a share of 1.
    """
    errors, shares = [], []
    for z, q in zip(z_e, z_q, strict=True):
        error = float(np.mean((z.astype(np.float64) - q) ** 2))
        variance = float(np.mean(np.var(z, axis=tuple(range(z.ndim - 1)), dtype=np.float64)))
        errors.append(error)
        shares.append(error / variance if variance else float("nan"))
    return {
        "quantization_error": statistics.fmean(errors),
        "quantization_share": statistics.fmean(shares),
    }
