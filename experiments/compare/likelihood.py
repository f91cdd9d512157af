"""Bits an element of VAE, VQ-VAE and VQ-VAE-2 under the same budget, with every term.

python -m experiments.compare.likelihood --quick          under a minute, to see that it works
python -m experiments.compare.likelihood                  all arms; the same command continues
python -m experiments.compare.likelihood --only vae vqvae2
python -m experiments.compare.likelihood --list

Writes a table with intervals over seeds, a plot and pictures to runs/likelihood/report.html (and
.md).
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import vqvae_jax as vj
from experiments.generation.code_prior import Prior
from experiments.judging.code_lengths import Budget, make_arm
from experiments.pages.study import Column, Study
from experiments.run.command import run
from experiments.run.recipe import hierarchy
from experiments.sweep import trial
from experiments.sweep.arms import Arm, Row
from experiments.sweep.comparison import choose, command_line, compare
from experiments.sweep.measuring import SHOWN
from experiments.sweep.trial import images
from vqvae_jax import VAE, VQVAE, Decoder, Encoder, Likelihood, Quantizer
from vqvae_jax.checks import check_size
from vqvae_jax.data.sources import EMBEDDED

DIM = 64  # of the codes
LATENT = 16  # of the VAE, at each place
GROUPS = 10

COLUMNS = (
    Column("distortion", "distortion", "{:.3f}", "-log2 p(x|z)", None, True),
    Column("rate_uniform", "rate, uniform", "{:.3f}", "log2 K for each code", constant=True),
    Column("rate_static", "rate, static", "{:.3f}", "of the codes under the histogram of those of "
           "the training images, + 1"),
    Column("rate", "rate", "{:.3f}", "of the codes under a Transformer fitted to those of the "
           "training images; for the VAE KL(q | p)", None, True),
    Column("rate_train", "rate, train", "{:.3f}", "the same for training images"),
    Column("total_uniform", "total, uniform", "{:.3f}", "distortion + rate, uniform", min),
    Column("total_static", "total, static", "{:.3f}", "distortion + rate, static", min),
    Column("total", "total", "{:.3f}", "distortion + rate: an upper bound of -log2 p(x)", min,
           True),
    Column("psnr", "PSNR", "{:.2f}", "dB, of the mean of p(x|z), over all test images", max),
    Column("ms_per_step", "ms/step", "{:.1f}", "median over chunks of training steps"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
    """Measure how many bits an image takes with each kind of autoencoder."""

    only: tuple[str, ...] = ()
    """Arms, as --list names them."""
    list: bool = False
    """Name the arms and stop."""
    quick: bool = False
    """1 seed, 20 steps, few images: says nothing about the models."""
    output: Path | None = None
    """Folder of results and pages; runs/likelihood, or runs/likelihood-quick."""
    seeds: int = 3
    """How many for each arm."""
    steps: int = 1000
    """Of training."""
    batch_size: int = 32
    """Images a step."""
    learning_rate: float = 4e-3
    """Of Adam, after a warm-up and before a cosine to 0."""
    prior_steps: int = 600
    """Of each learned prior."""
    width: int = 32
    """Channels of encoders and decoders."""
    depth: int = 1
    """Residual blocks in each."""
    data: str = EMBEDDED
    """Images: the embedded set, a TFDS name, a folder of IDX files, or a .npy file."""
    processes: int | None = None
    """How many arms at a time; without it, one for each core."""


def models(channels: int, width: int, depth: int) -> dict[str, tuple[object, Likelihood]]:
    """What is compared, by name: a model, and the likelihood of its decoder's outputs."""
    inner = {"width": width, "depth": depth}
    logistic, categorical = vj.logistic(), vj.categorical()
    fitted = {"init": vj.kmeans(10), "revive": vj.underused(0.1)}

    def flat(q: Quantizer, likelihood: Likelihood):
        outputs = channels * likelihood.outputs
        encoder, decoder = Encoder(channels, q.dim, **inner), Decoder(outputs, q.dim, **inner)
        return VQVAE(encoder, q, decoder), likelihood

    one = vj.ema_vq(512, DIM, **fitted)
    ten = vj.grouped(*[vj.ema_vq(8, DIM // 8, **fitted)] * GROUPS)
    outputs = channels * logistic.outputs
    vae = VAE(Encoder(channels, 2 * LATENT, **inner), Decoder(outputs, LATENT, **inner))
    vqvae2 = hierarchy(channels, (one, vj.ema_vq(32, DIM, **fitted)), 2, **inner)
    top, bottom = vqvae2.decoders
    vqvae2 = vqvae2.clone(decoders=(top, bottom.clone(channels=outputs)))
    return {
        "vae": (vae, logistic),
        "vqvae-categorical": flat(one, categorical),
        "vqvae": flat(one, logistic),
        "vqvae-grouped": flat(ten, logistic),
        "vqvae-grouped-categorical": flat(ten, categorical),
        "vqvae2": (vqvae2, logistic),
    }


LABELS = {
    "vae": f"VAE, {LATENT} numbers a place",
    "vqvae": "VQ-VAE, 512 codes",
    "vqvae-categorical": "VQ-VAE, 512 codes, softmax",
    "vqvae-grouped": f"VQ-VAE, {GROUPS} x 8 codes",
    "vqvae-grouped-categorical": f"VQ-VAE, {GROUPS} x 8 codes, softmax",
    "vqvae2": "VQ-VAE-2, 512 and 32 codes",
}


def make_arms(config: Config) -> list[Arm]:
    """An arm for each model, or those of `only`."""
    channels = images(config.data)[0].shape[-1]
    found = models(channels, config.width, config.depth)
    settings = make_budget(config), make_prior(config)
    arms = [make_arm(name, LABELS[name], *found[name], *settings) for name in found]
    return choose(arms, config.only)


def make_budget(config: Config) -> Budget:
    """What each model gets."""
    shared = dataclasses.asdict(trial.make_budget(config))
    return Budget(**shared, coded_images=500 if config.quick else 8000)


def make_prior(config: Config) -> Prior:
    """That of each level of codes."""
    return Prior(
        steps=config.prior_steps,
        tokens=512 if config.quick else 2048,
        warmup=config.prior_steps // 10,
        fast_compile=config.quick,
    )


def shrunk(config: Config) -> Config:
    """The options of a quick run."""
    steps = {name: min(getattr(config, name), 20) for name in ("steps", "prior_steps")}
    return dataclasses.replace(config, seeds=1, **steps)


def main(config: Config) -> Path | None:
    """Runs what is missing, then writes the pages."""
    sizes = ("seeds", "steps", "batch_size", "prior_steps")
    check_size(**{name: getattr(config, name) for name in sizes})
    command = command_line(config, "experiments.compare.likelihood")
    config = shrunk(config) if config.quick else config
    return compare(config, make_arms, partial(study, command), "likelihood")


def study(command: str, config: Config, rows: Sequence[Row]) -> Study:
    """The page without its results."""
    budget, prior = make_budget(config), make_prior(config)
    quick = (
        f"A quick run, {config.steps} steps in code compiled in haste: its numbers say nothing "
        "about the models."
    )
    return Study(
        title="Bits of an image",
        about="How many bits a test image takes if its codes are sent and then the image given "
        "them, in bits an element (a pixel of one channel). The law of a pixel is a discretised "
        "logistic whose scale the decoder gives, or a softmax over the 256 levels. Models are "
        "trained by the same number of steps, few; rates count all codes of an image, on all "
        "levels. The VAE's total is its evidence bound, a mean over draws of z. With ten "
        "codebooks of 8 codes at each of 7 x 7 places codes take 1.875 bits an element, as many "
        "as 8 x 8 x 10 codes of 512 take on 32 x 32 x 3 pixels (arXiv:1711.00937); with one of "
        "512 they take 0.5625.",
        columns=COLUMNS,
        command=command,
        seeds=range(config.seeds),
        settings={
            **dataclasses.asdict(budget),
            "width": config.width,
            "depth": config.depth,
            "prior": ", ".join(f"{k} {v}" for k, v in dataclasses.asdict(prior).items()),
        },
        note=quick if config.quick else "",
        originals=images(config.data)[1][:SHOWN],
    )


if __name__ == "__main__":
    run(main, Config)
