"""Adversaries: one autoencoder trained for pixels, for features, and against a discriminator."""

import dataclasses
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import vqvae_jax as vj
from experiments.compare.adversarial_training import (
    JUDGE,
    TEACHER,
    classifier_steps,
    images_and_labels,
    make_classifier,
    make_networks,
    trainer,
    with_discriminator,
    without_discriminator,
)
from experiments.compare.comparison import Comparison
from experiments.sweep.arms import Arm, Row
from experiments.sweep.launch import choose
from experiments.sweep.metric_names import RECONSTRUCTED, columns
from experiments.sweep.options import RateOptions
from experiments.sweep.training_budget import described, make_budget
from vqvae_commands.quality.classifier import digest


@dataclasses.dataclass(frozen=True)
class Config(RateOptions):
    """Train the same autoencoder with and without a feature loss and a discriminator.

    The data must have labels. The discriminator plays in the second half of the steps.
    """

    steps: int = 1500
    """Number of training steps."""
    classifiers: Path = Path("runs")
    """Folder in which the two classifiers are saved."""
    discriminator_rate: float = 1e-3
    """Learning rate of the discriminator's Adam."""
    generator_weight: float = 0.3
    """Factor of the adaptive weight lambda."""
    r1: float = 1.0
    """Weight of the discriminator's gradient penalty."""
    features_weight: float = 0.01
    """Weight of the feature loss."""
    discriminator_width: int = 16
    """Number of channels after the discriminator's first convolution."""


def make_arms(config: Config) -> list[Arm]:
    """Pixels alone; with features; against a discriminator; with both."""
    ways = {
        "mse": (without_discriminator, False),
        "features": (without_discriminator, True),
        "adversarial": (with_discriminator, False),
        "both": (with_discriminator, True),
    }
    labels = ("MSE", "MSE + features", "MSE + adversarial", "MSE + both")
    arms = []
    for (name, (train, seen)), label in zip(ways.items(), labels, strict=True):
        definition = {"way": name, **define(config)}
        arms.append(Arm(name, label, definition, partial(trainer, config, train, seen)))
    return choose(arms, config.only)


def define(config: Config) -> dict[str, Any]:
    """Everything on which the results depend, as JSON; the depth is that of the model."""
    free = ("only", "list", "quick", "output", "classifiers", "seeds", "processes", "depth")
    options = {k: v for k, v in dataclasses.asdict(config).items() if k not in free}
    model, discriminator = (json.loads(vj.to_json(m)) for m in make_networks(config))
    classifiers = digest(*images_and_labels(config)[0], classifier_steps(config))
    budget = described(make_budget(config))
    return options | budget | {
        "model": model, "discriminator": discriminator, "classifiers": classifiers
    }  # fmt: skip


def both_classifiers(config: Config) -> None:
    """Trains the two classifiers, unless they were saved before."""
    print("two classifiers: loaded, or trained in a minute", flush=True)
    for seed in (TEACHER, JUDGE):
        make_classifier(config, seed)


def settings(config: Config) -> dict[str, Any]:
    """The settings that all arms share."""
    return {k: v for k, v in define(config).items() if not isinstance(v, dict)}


def about(config: Config, rows: Sequence[Row]) -> str:
    """The paragraph below the title."""
    _, (test, labels) = images_and_labels(config)
    real = make_classifier(config, JUDGE).accuracy(test, labels)
    return (
        "All arms share VQ-VAE, budget, data and seeds. MSE is the mean squared error; "
        "features adds the distance of the feature maps of a small classifier of these images; "
        "adversarial adds, in the second half, a patch discriminator with the adaptive weight of "
        "VQGAN. The classifier of the feature loss and the one that measures are of different "
        f"seeds; the latter recognises {real:.4f} of the test images themselves."
    )


ADVERSARIAL = Comparison(
    options=Config,
    title="Trained for pixels, for features, and against a discriminator",
    about=about,
    columns=columns(
        "psnr", "ssim", "sharpness", RECONSTRUCTED, "recognised", "used", "ms_per_step",
        drawn=("psnr", "ssim", "sharpness", "frechet", "recognised"),
    ),
    make_arms=make_arms,
    settings=settings,
    quick={"seeds": 1, "steps": 60},
    before=both_classifiers,
)  # fmt: skip
