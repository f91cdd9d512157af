"""VAEs: discrete codes against continuous ones, VQ-VAE, VAE, beta-VAE and a plain autoencoder.

The same encoder, decoder, grid and budget, three learning rates, three seeds: 36 runs.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import vqvae_jax as vj
from experiments.compare.comparison import Comparison, in_words
from experiments.compare.vae_findings import findings
from experiments.compare.vae_training import SHOWN, Judging, trainer
from experiments.generation.small_prior import Prior, quick_prior
from experiments.sweep.arms import Arm, Row
from experiments.sweep.launch import choose
from experiments.sweep.metric_names import columns
from experiments.sweep.options import Options
from experiments.sweep.training_budget import described, images, labelled, make_arm, make_budget
from vqvae_commands.quality.classifier import Classifier, kept_classifier
from vqvae_commands.quality.image_quality import frechet
from vqvae_jax import VAE, VQVAE, Autoencoder, Decoder, Encoder

LATENT = 16  # numbers at each place of z
VARIANCE = 0.0035  # of p(x|z): with it the VAE's rate is about that of 49 codes of 512
RATES = (5e-4, 2e-3, 8e-3)  # learning rates; a quick run takes the middle one


@dataclasses.dataclass(frozen=True)
class Config(Options):
    """Train autoencoders with codes and with continuous z, and compare them and their samples.

    The data must have labels. Learning rates are 0.0005, 0.002 and 0.008.
    """

    classifiers: Path = Path("runs")
    """Folder in which the classifier is saved."""
    prior_steps: int = 1000
    """Number of training steps of the prior over codes."""
    samples: int = 2000
    """Number of samples to measure."""


def models(channels: int, **inner) -> dict[str, VQVAE | VAE | Autoencoder]:
    """Returns the models by label; they differ only between encoder and decoder."""
    codebook = vj.ema_vq(512, 64, init=vj.inits.kmeans(10), reset=vj.codebooks.underused(0.1))
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
    arms = [rate_arm(config, label, found[label], rate) for rate in rates for label in found]
    return choose(arms, config.only)


def rate_arm(config: Config, label: str, model, rate: float) -> Arm:
    """The arm of a model at a learning rate; samples are drawn at the middle one only."""
    budget = make_budget(config, rate)
    drawn = make_prior(config) if rate == RATES[1] else None
    return make_arm(
        f"{label.lower()}-{rate:g}",
        label,
        f"Learning rate {rate:g}",
        model,
        budget,
        partial(trainer, model, budget, partial(judging, config) if drawn else None),
        samples=config.samples if drawn else 0,
        prior=dataclasses.asdict(drawn) if drawn else None,
    )


def make_prior(config: Config) -> Prior:
    """The prior of the codes."""
    found = Prior(config.prior_steps, warmup=config.prior_steps // 10)
    return quick_prior(found) if config.quick else found


def judging(config: Config) -> Judging:
    """Returns the options of judging samples."""
    steps = classifier_steps(config)
    return Judging(config.samples, make_prior(config), make_classifier(config), steps)


def make_classifier(config: Config) -> Classifier:
    """Returns the classifier of real training images, loaded if it was saved before."""
    train, _ = labelled(config.data)
    return kept_classifier(*train, classifier_steps(config), folder=config.classifiers)


def classifier_steps(config: Config) -> int:
    """Training steps of every classifier."""
    return 20 if config.quick else 600


def settings(config: Config) -> dict[str, Any]:
    """The settings that all arms share, but for the learning rate."""
    return described(make_budget(config, RATES[1])) | {
        "prior": in_words(make_prior(config)),
        "samples": config.samples,
        "width": config.width,
        "depth": config.depth,
    }


def about(config: Config, rows: Sequence[Row]) -> str:
    """The paragraph below the title."""
    return (
        "All arms share encoder, decoder, 7 x 7 grid, budget and squared error, and differ in what "
        f"is between: 512 codes of 64 dimensions, or {LATENT} numbers at each place, with Gaussian "
        f"noise and KL term in the VAEs. The VAE is the bound with variance {VARIANCE} of p(x|z), "
        "for which its rate is about that of the codes; the beta-VAE weighs the KL term 4 times as "
        "much. A grid of independent Gaussians does not know which places fit together; VAEs with "
        f"one z for the whole image were not tried. {yardstick(config)}\n\n{findings(rows)}"
    )


def yardstick(config: Config) -> str:
    """The numbers of real test images, in words."""
    judge = make_classifier(config)
    test, labels = labelled(config.data)[1]
    half = len(test) // 2
    return (
        f"The classifier of real images is right for {judge.accuracy(test, labels):.1%} of test "
        f"images; one half of these has a Frechet distance of "
        f"{frechet(judge, test[:half], test[half:]):.1f} to the other."
    )


VAES = Comparison(
    options=Config,
    title="Discrete or continuous",
    about=about,
    columns=columns(
        "psnr", "ssim", "bits", "frechet", "frechet_independent", "trained_on", "ms_per_step",
        drawn=("psnr", "frechet"),
    ),
    make_arms=make_arms,
    settings=settings,
    quick={"seeds": 1, "steps": 20, "prior_steps": 20, "samples": 100},
    before=make_classifier,
    shown=SHOWN,
    caption="The first test images, and samples from each model with its first seed",
)  # fmt: skip
