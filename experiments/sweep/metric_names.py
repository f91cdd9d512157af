"""Every number that comparisons and ablations show: its title, format, better direction, meaning.

Numbers of a step, or of the first n stages, share one entry: "mse@200" is the entry "mse@" with 200
in place of {n}.
"""

import dataclasses
import re
from collections.abc import Sequence

from experiments.pages.study import Column

CODES = "share of the codes that occur in the test set, mean over levels and streams"
BEFORE = "mean over the 20 steps before step {n}"
FEATURES = "in the features of a small classifier"

METRICS: dict[str, Column] = {
    column.name: column
    for column in (
        # reconstructions
        Column("psnr", "PSNR", "{:.2f}", "dB, from the mean squared error of all test images", max),
        Column("ssim", "SSIM", "{:.4f}", "mean over all test images", max),
        Column("top_psnr", "PSNR, top only", "{:.2f}", "dB, decoded from the codes of the top "
               "level, with zeros for those below"),
        Column("psnr_", "PSNR, first {n}", "{:.2f}", "dB, decoded from the first {n} stages"),
        Column("sharpness", "sharpness", "{:.3f}", "mean absolute Laplacian, relative to that of "
               "the test images"),
        Column("recognised", "recognised", "{:.4f}", "share of the reconstructions that this "
               "classifier assigns to the class of the test image", max),
        # codes
        Column("codes", "codes", "{:,.0f}", "codes at one place: the product over streams",
               constant=True),
        Column("used", "used", "{:.3f}", CODES, max),
        Column("perplexity", "perplexity", "{:,.1f}", "perplexity of the codes, mean over streams",
               max),
        Column("quantization_error", "error", "{:.3g}", "mean of (z_e - z_q)^2 over elements; "
               "depends on the scale of z_e"),
        Column("quantization_share", "error / variance", "{:.3g}", "error over the variance of "
               "z_e around the mean of each channel; may exceed 1 where the quantizer bounds or "
               "projects z_e first"),
        Column("variance", "variance", "{:.3f}", "s^2 of SQ-VAE at the end, relative to the start"),
        # bits of an image
        Column("bits_uniform", "bits", "{:,.0f}", "bits of one image, log2 K for each code",
               constant=True),
        Column("bits_entropy", "bits, entropy", "{:,.1f}", "bits of one image, at the entropy of "
               "the codes"),
        Column("bits", "bits", "{:,.0f}", "bits of one test image: log2 K for each code; "
               "KL(q | p) of a VAE; none for the autoencoder, whose z is not limited"),
        # bits an element
        Column("distortion", "distortion", "{:.3f}", "-log2 p(x|z)"),
        Column("rate_uniform", "rate, uniform", "{:.3f}", "log2 K for each code", constant=True),
        Column("rate_static", "rate, static", "{:.3f}", "bits of the codes under the histogram of "
               "those of the training images, + 1"),
        Column("rate", "rate", "{:.3f}", "bits of the codes under a Transformer fitted to those of "
               "the training images; for the VAE KL(q | p)"),
        Column("rate_train", "rate, train", "{:.3f}", "rate of training images"),
        Column("total_uniform", "total, uniform", "{:.3f}", "distortion + rate, uniform", min),
        Column("total_static", "total, static", "{:.3f}", "distortion + rate, static", min),
        Column("total", "total", "{:.3f}", "distortion + rate: an upper bound of -log2 p(x)", min),
        # samples
        Column("frechet", "Frechet, prior", "{:.1f}", "distance between samples from a learnt "
               f"prior and test images {FEATURES}; no FID", min),
        Column("frechet_independent", "Frechet, independent", "{:.1f}", "the same distance for "
               "samples with codes drawn independently of each other, z from N(0, 1), or from the "
               "Gaussian of each of its elements for the autoencoder", min),
        Column("trained_on", "classifier", "{:.3f}", "accuracy on real test images of a classifier "
               "of the samples of the learnt prior, or else of the independent ones, each labelled "
               "by a classifier of real images", max),
        # training
        Column("parameters", "parameters", "{:,.0f}", "number of weights in encoders and decoders",
               constant=True),
        Column("ms_per_step", "ms/step", "{:.1f}", "median over chunks of training steps"),
        Column("mse@", "error at {n}", "{:.4f}", f"squared error of training batches, {BEFORE}",
               min),
        Column("nmse@", "error at {n}", "{:.3f}", "squared error of training batches over the "
               f"variance of the pixels, {BEFORE}"),
        Column("perplexity_batch@", "perplexity at {n}", "{:.1f}", "perplexity of one batch, "
               f"{BEFORE}"),
    )
}  # fmt: skip

RECONSTRUCTED = Column(
    "frechet", "Frechet", "{:.2f}", f"distance between reconstructions and test images {FEATURES} "
    "that no arm was trained with; no FID", min
)  # fmt: skip
"""The Frechet distance of reconstructions, recorded under the same name as that of samples."""


def columns(*names: str | Column, drawn: Sequence[str] = ()) -> tuple[Column, ...]:
    """Returns the columns of a table by the names of the numbers; `drawn` are also plotted."""
    found = [metric(name) if isinstance(name, str) else name for name in names]
    return tuple(dataclasses.replace(column, drawn=column.name in drawn) for column in found)


def metric(name: str) -> Column:
    """Returns the entry of a number.

    Raises:
        KeyError: if no entry has that name.

    Example:
        >>> metric("mse@200").title
        'error at 200'
    """
    numbered = re.fullmatch(r"(\w+[@_])(\d+)", name)
    if numbered is None:
        return METRICS[name]
    stem, n = numbered.groups()
    entry = METRICS[stem]
    title, meaning = (text.replace("{n}", n) for text in (entry.title, entry.meaning))
    return dataclasses.replace(entry, name=name, title=title, meaning=meaning)
