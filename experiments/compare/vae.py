"""Discrete codes against continuous ones: VQ-VAE, VAE, beta-VAE and a plain autoencoder.

python -m experiments.compare.vae --quick          a minute, to see that it works
python -m experiments.compare.vae                  all arms; the same command continues
python -m experiments.compare.vae --list

The same encoder, decoder, grid and budget, three learning rates, three seeds: 36 runs. Writes
tables with intervals, a plot and pictures of samples to runs/vae/report.html (and .md).
"""

import dataclasses
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import vqvae_jax as vj
from experiments.generation.code_prior import Prior
from experiments.judging.classifier import Classifier, kept_classifier
from experiments.judging.latents import SHOWN, Judging, trainer
from experiments.judging.quality import frechet
from experiments.judging.stability import findings
from experiments.pages.study import Column, Study
from experiments.run.command import run
from experiments.sweep.arms import Arm, Row
from experiments.sweep.comparison import choose, command_line, compare
from experiments.sweep.trial import images, labelled, make_budget
from vqvae_jax import VAE, VQVAE, Autoencoder, Decoder, Encoder
from vqvae_jax.checks import check_size
from vqvae_jax.data.sources import EMBEDDED

LATENT = 16  # numbers at each place of z
VARIANCE = 0.0035  # of p(x|z): with it the VAE's rate is about that of 49 codes of 512
RATES = (5e-4, 2e-3, 8e-3)  # learning rates

COLUMNS = (
    Column("psnr", "PSNR", "{:.2f}", "dB, of the mean squared error of all test images", max, True),
    Column("ssim", "SSIM", "{:.4f}", "mean over test images", max),
    Column("bits", "bits", "{:,.0f}", "of one test image: log2 K for each code; KL(q | p) of a "
           "VAE; none for the autoencoder, whose z is not limited"),
    Column("frechet", "Frechet, prior", "{:.1f}", "distance of samples from a learnt prior and of "
           "test images in the features of a small classifier; no FID", min, True),
    Column("frechet_independent", "Frechet, independent", "{:.1f}", "the same, with codes drawn "
           "independently of each other, z from N(0, 1), or from the Gaussian of each of its "
           "elements for the autoencoder", min),
    Column("trained_on", "classifier", "{:.3f}", "accuracy on real test images of a classifier of "
           "the samples of the learnt prior, or else of the independent ones, each labelled by a "
           "classifier of real images", max),
    Column("ms_per_step", "ms/step", "{:.1f}", "median over chunks of training steps"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
    """Train autoencoders with codes and with continuous z, and compare what they are worth."""

    only: tuple[str, ...] = ()
    """Arms, as --list names them, or all of one model."""
    list: bool = False
    """Name the arms and stop."""
    quick: bool = False
    """One learning rate, 1 seed, 20 steps: says nothing about quality."""
    output: Path | None = None
    """Folder of results and pages; runs/vae, or runs/vae-quick."""
    classifiers: Path = Path("runs")
    """Folder in which the classifier is kept."""
    seeds: int = 3
    """How many for each arm."""
    steps: int = 1000
    """Of training."""
    batch_size: int = 32
    """Images a step."""
    prior_steps: int = 1000
    """Of the prior over codes."""
    samples: int = 2000
    """How many to measure."""
    width: int = 32
    """Channels of encoder and decoder."""
    depth: int = 1
    """Residual blocks in each."""
    data: str = EMBEDDED
    """Labelled images: the embedded set, a TFDS name, or a folder of IDX files."""
    processes: int | None = None
    """How many arms at a time; without it, one for each core."""


def models(channels: int, **inner) -> dict[str, VQVAE | VAE | Autoencoder]:
    """What is compared, by label: only what is between encoder and decoder differs."""
    codebook = vj.ema_vq(512, 64, init=vj.kmeans(10), revive=vj.underused(0.1))
    continuous = Encoder(channels, 2 * LATENT, **inner), Decoder(channels, LATENT, **inner)
    return {
        "VQ-VAE": VQVAE(Encoder(channels, 64, **inner), codebook, Decoder(channels, 64, **inner)),
        # With the squared error as loss, beta = 2 s^2 is the bound with variance s^2.
        "VAE": VAE(*continuous, beta=2 * VARIANCE),
        "beta-VAE": VAE(*continuous, beta=4 * 2 * VARIANCE),
        "autoencoder": Autoencoder(Encoder(channels, LATENT, **inner), continuous[1]),
    }


def make_arms(config: Config) -> list[Arm]:
    """An arm for each model and learning rate, or those of `only`."""
    channels = images(config.data)[0].shape[-1]
    found = models(channels, width=config.width, depth=config.depth)
    rates = RATES[1:2] if config.quick else RATES
    arms = [make_arm(config, label, found[label], rate) for rate in rates for label in found]
    return choose(arms, config.only)


def make_arm(config: Config, label: str, model, rate: float) -> Arm:
    """Samples are drawn at the middle learning rate only."""
    budget = make_budget(config, rate)
    drawn = make_prior(config) if rate == RATES[1] else None
    definition = {
        "model": json.loads(vj.to_json(model)),
        "budget": dataclasses.asdict(budget),
        "samples": config.samples if drawn else 0,
        "prior": dataclasses.asdict(drawn) if drawn else None,
    }
    prepare = partial(trainer, model, budget, partial(judging, config) if drawn else None)
    name = f"{label.lower()}-{rate:g}"
    return Arm(name, label, definition, prepare, f"Learning rate {rate:g}")


def make_prior(config: Config) -> Prior:
    """That of the codes."""
    tokens = 512 if config.quick else 2048
    return Prior(config.prior_steps, tokens, warmup=config.prior_steps // 10)


def judging(config: Config) -> Judging:
    """How samples are judged."""
    steps = classifier_steps(config)
    return Judging(config.samples, make_prior(config), classifier(config), steps)


def classifier(config: Config) -> Classifier:
    """Of real training images; as it was kept, if it was."""
    train, _ = labelled(config.data)
    return kept_classifier(*train, classifier_steps(config), folder=config.classifiers)


def classifier_steps(config: Config) -> int:
    """Of every classifier."""
    return 20 if config.quick else 600


def shrunk(config: Config) -> Config:
    """The options of a quick run."""
    return dataclasses.replace(
        config,
        seeds=1,
        steps=min(config.steps, 20),
        prior_steps=min(config.prior_steps, 20),
        samples=min(config.samples, 100),
    )


def main(config: Config) -> Path | None:
    """Runs what is missing, then writes the pages."""
    sizes = ("seeds", "steps", "batch_size", "prior_steps", "samples")
    check_size(**{name: getattr(config, name) for name in sizes})
    command = command_line(config, "experiments.compare.vae")
    config = shrunk(config) if config.quick else config
    if not config.list:
        classifier(config)  # before several processes would train it
    return compare(config, make_arms, partial(study, command), "vae")


def study(command: str, config: Config, rows: Sequence[Row]) -> Study:
    """The page without its results."""
    quick = f"A quick run of {config.steps} steps: its numbers say nothing about the models."
    judge = classifier(config)
    test, labels = labelled(config.data)[1]
    half = len(test) // 2
    yardstick = (
        f"The classifier of real images is right for {judge.accuracy(test, labels):.1%} of test "
        f"images; one half of these has a Frechet distance of "
        f"{frechet(judge, test[:half], test[half:]):.1f} to the other."
    )
    return Study(
        title="Discrete or continuous",
        about="The same encoder, decoder, 7 x 7 grid, budget and squared error; what differs is "
        f"between: 512 codes of 64 dimensions, or {LATENT} numbers at each place, with Gaussian "
        f"noise and KL term in the VAEs. The VAE is the bound with variance {VARIANCE} of p(x|z), "
        "for which its rate is about that of the codes; the beta-VAE weighs the KL term 4 times as "
        "much. A grid of independent Gaussians does not know which places fit together; VAEs with "
        f"one z for the whole image were not tried. {yardstick}\n\n{findings(rows)}",
        columns=COLUMNS,
        command=command,
        seeds=range(config.seeds),
        settings={
            **dataclasses.asdict(make_budget(config, RATES[1])),
            "prior": ", ".join(f"{k} {v}" for k, v in make_prior(config).__dict__.items()),
            "samples": config.samples,
            "width": config.width,
            "depth": config.depth,
        },
        note=quick if config.quick else "",
        originals=test[:SHOWN],
        caption="The first test images, and samples from each model with its first seed",
    )


if __name__ == "__main__":
    run(main, Config)
