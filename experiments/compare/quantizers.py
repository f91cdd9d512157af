"""The same autoencoder under the same budget with every quantizer.

python -m experiments.compare.quantizers --quick          a few minutes, to see that it works
python -m experiments.compare.quantizers                  all arms; the same command continues
python -m experiments.compare.quantizers --only vq ema_vq
python -m experiments.compare.quantizers --list

Writes tables with intervals over seeds, a plot and pictures to runs/compare/report.html (and .md).
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import vqvae_jax as vj
from experiments.pages.study import Column, Study
from experiments.run.command import run
from experiments.sweep.arms import Arm, Row
from experiments.sweep.comparison import choose, command_line, compare
from experiments.sweep.measuring import SHOWN
from experiments.sweep.trial import images, make_arm, make_budget
from vqvae_jax import VQVAE, Decoder, Encoder, Quantizer
from vqvae_jax.checks import check_size
from vqvae_jax.data.sources import EMBEDDED

DIM = 64  # of quantizers that look codes up; the others have their own


def quantizers(codes: int) -> dict[str, Quantizer]:
    """All that are compared at about 512 or about 4,096 codes, by the label in the tables."""
    bits = codes.bit_length() - 1
    levels = (8,) * (bits // 3)
    large, small = 2 ** (bits - bits // 2), 2 ** (bits // 2)  # two streams
    fitted = {"init": vj.kmeans(10), "revive": vj.underused(0.1)}
    return {
        "vq": vj.vq(codes, DIM),
        "vq, k-means": vj.vq(codes, DIM, init=vj.kmeans(10)),
        "vq, k-means, revive": vj.vq(codes, DIM, **fitted),
        "ema_vq": vj.ema_vq(codes, DIM),
        "ema_vq, k-means": vj.ema_vq(codes, DIM, init=vj.kmeans(10)),
        "ema_vq, k-means, revive": vj.ema_vq(codes, DIM, **fitted),
        "vq, rotation trick": vj.vq(codes, DIM, **fitted, estimator=vj.rotation_trick),
        "cosine_vq": vj.cosine_vq(codes, DIM),
        "cosine_vq in 8 dimensions": vj.project(vj.cosine_vq(codes, 8, **fitted), DIM),
        "cosine_ema_vq": vj.cosine_ema_vq(codes, DIM, **fitted),
        "affine_vq": vj.affine_vq(codes, DIM),
        "simvq": vj.simvq(codes, DIM, init=vj.normal(0.05)),
        "stochastic_vq": vj.stochastic_vq(codes, DIM, temperature=0.05, **fitted),
        "sinkhorn_vq": vj.sinkhorn_vq(codes, DIM, init=vj.kmeans(10)),
        "gumbel_vq": vj.gumbel_vq(codes, DIM, init=vj.normal(0.1)),
        "nsvq": vj.nsvq(codes, DIM, **fitted),
        "diveq": vj.diveq(codes, DIM, **fitted),
        "sqvae": vj.sqvae(codes, DIM, init=vj.normal(0.1), variance=0.1, weight=0.01),
        "fsq": vj.fsq(levels),
        "fsp": vj.fsp(levels),
        "latent_vq": vj.latent_vq(levels),
        "lfq": vj.lfq(bits, entropy=0.003, temperature=4.0, beta=0.01),
        "bsq": vj.bsq(bits),
        "residual, 2 vq": vj.residual(vj.vq(large, DIM, **fitted), vj.vq(small, DIM, **fitted)),
        "grouped, 2 vq": vj.grouped(
            vj.vq(large, DIM // 2, **fitted), vj.vq(small, DIM // 2, **fitted)
        ),
    }


COLUMNS = (
    Column("codes", "codes", "{:,.0f}", "of one place: the product over streams", constant=True),
    Column("psnr", "PSNR", "{:.2f}", "dB, of the mean squared error of all test images", max, True),
    Column("ssim", "SSIM", "{:.4f}", "mean over test images", max),
    Column("used", "used", "{:.3f}", "share of the codes that occur in the test set, mean over "
           "streams", max, True),
    Column("perplexity", "perplexity", "{:,.1f}", "of the codes, mean over streams", max, True),
    Column("bits_uniform", "bits", "{:,.0f}", "of one image, log2 K for each code", constant=True),
    Column("bits_entropy", "bits, entropy", "{:,.1f}", "of one image, at the entropy of the codes"),
    Column("quantization_error", "error", "{:.3g}", "mean of (z_e - z_q)^2 over elements; depends "
           "on the scale of z_e"),
    Column("quantization_share", "error / variance", "{:.3g}", "that error over the variance of "
           "z_e around the mean of each channel; may exceed 1 where the quantizer bounds or "
           "projects z_e first"),
    Column("ms_per_step", "ms/step", "{:.1f}", "median over chunks of training steps"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
    """Train the same autoencoder with every quantizer, and compare them."""

    only: tuple[str, ...] = ()
    """Arms, as --list names them, or all of one quantizer by the part before the size."""
    list: bool = False
    """Name the arms and stop."""
    quick: bool = False
    """The first of --codes, 1 seed, 100 steps, 500 test images: says nothing about quality."""
    output: Path | None = None
    """Folder of results and pages; runs/compare, or runs/compare-quick."""
    codes: tuple[int, ...] = (512, 4096)
    """Sizes of the codebooks."""
    seeds: int = 3
    """How many for each arm."""
    steps: int = 1000
    """Of training."""
    batch_size: int = 32
    """Images a step."""
    learning_rate: float = 4e-3
    """Of Adam, after a warm-up and before a cosine to 0."""
    width: int = 32
    """Channels of encoder and decoder."""
    depth: int = 1
    """Residual blocks in each."""
    data: str = EMBEDDED
    """Images: the embedded set, a TFDS name, a folder of IDX files, or a .npy file."""
    processes: int | None = None
    """How many arms at a time; without it, one for each core."""


def make_arms(config: Config) -> list[Arm]:
    """An arm for each quantizer at each size, or those of `only`."""
    budget = make_budget(config, quick_images=500)
    channels = images(config.data)[0].shape[-1]
    inner = {"width": config.width, "depth": config.depth}
    arms = []
    for codes in config.codes:
        for label, q in quantizers(codes).items():
            model = VQVAE(Encoder(channels, q.dim, **inner), q, Decoder(channels, q.dim, **inner))
            name = f"{label.replace(',', '').replace(' ', '-')}-{codes}"
            arms.append(make_arm(name, label, f"About {codes:,} codes", model, budget))
    return choose(arms, config.only)


def main(config: Config) -> Path | None:
    """Runs what is missing, then writes the pages."""
    check_size(seeds=config.seeds, steps=config.steps, batch_size=config.batch_size)
    command = command_line(config, "experiments.compare.quantizers")
    if config.quick:
        steps = min(config.steps, 100)
        config = dataclasses.replace(config, codes=config.codes[:1], seeds=1, steps=steps)
    return compare(config, make_arms, partial(study, command), "compare")


def study(command: str, config: Config, rows: Sequence[Row]) -> Study:
    """The page without its results."""
    budget = dataclasses.asdict(make_budget(config, quick_images=500))
    quick = (
        f"A quick run, {config.steps} steps in code compiled in haste: its numbers, ms/step "
        "included, say nothing about the quantizers."
    )
    return Study(
        title="Quantizers compared",
        about="The same encoder and decoder, the same budget, the same data and seeds; only the "
        "quantizer differs. The number of steps is small, so this shows how quickly each learns "
        "as much as how good it becomes. Settings are the defaults, but for scales that don't fit "
        "here: init, variance, temperature and weights of simvq, lfq, stochastic_vq, gumbel_vq and "
        "sqvae were each the best of two to six values in runs of 400 steps with one seed at 512 "
        "codes: simvq and lfq on 2,000 training images left out, the other three on test images, "
        "which favours these three a little.",
        columns=COLUMNS,
        command=command,
        seeds=range(config.seeds),
        settings={**budget, "width": config.width, "depth": config.depth},
        note=quick if config.quick else "",
        originals=images(config.data)[1][:SHOWN],
    )


if __name__ == "__main__":
    run(main, Config)
