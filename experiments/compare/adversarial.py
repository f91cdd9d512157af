"""The same autoencoder, trained for pixels, for features, and against a discriminator.

python -m experiments.compare.adversarial --quick     a minute, to see that it works
python -m experiments.compare.adversarial             all arms; the same command continues

Writes a table with intervals over seeds and pictures to runs/adversarial/report.html (and .md).
"""

import dataclasses
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import vqvae_jax as vj
from experiments.judging.classifier import digest
from experiments.judging.ways import (
    JUDGE,
    TEACHER,
    against,
    classifier,
    classifier_steps,
    images_and_labels,
    make_models,
    plain,
    trainer,
)
from experiments.pages.study import Column, Study
from experiments.run.command import run
from experiments.sweep.arms import Arm, Row
from experiments.sweep.comparison import choose, command_line, compare
from experiments.sweep.measuring import SHOWN
from experiments.sweep.trial import make_budget
from vqvae_jax.checks import check_size
from vqvae_jax.data.sources import EMBEDDED

COLUMNS = (
    Column("psnr", "PSNR", "{:.2f}", "dB, of the mean squared error of all test images", max, True),
    Column("ssim", "SSIM", "{:.4f}", "mean over test images", max, True),
    Column("sharpness", "sharpness", "{:.3f}", "mean absolute Laplacian, over that of the test "
           "images: 1 is as sharp as these", None, True),
    Column("frechet", "Frechet", "{:.2f}", "distance of reconstructions and test images in the "
           "features of a classifier that no arm was trained with; no FID", min, True),
    Column("recognised", "recognised", "{:.4f}", "share of the reconstructions that this "
           "classifier takes for what the test image is", max, True),
    Column("used", "used", "{:.3f}", "share of the codes that occur in the test set"),
    Column("ms_per_step", "ms/step", "{:.1f}", "median over chunks of training steps"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
    """Train the same autoencoder with and without a feature loss and a discriminator."""

    only: tuple[str, ...] = ()
    """Arms, as --list names them."""
    list: bool = False
    """Name the arms and stop."""
    quick: bool = False
    """1 seed, 60 steps, 200 test images, classifiers of 60 steps: says nothing about quality."""
    output: Path | None = None
    """Folder of results and pages; runs/adversarial, or runs/adversarial-quick."""
    classifiers: Path = Path("runs")
    """Folder in which the two classifiers are kept."""
    seeds: int = 3
    """How many for each arm."""
    steps: int = 1500
    """Of training; the discriminator plays in the second half."""
    batch_size: int = 32
    """Images a step."""
    learning_rate: float = 4e-3
    """Of Adam, after a warm-up and before a cosine to 0."""
    discriminator_rate: float = 1e-3
    """Of the discriminator's Adam."""
    generator_weight: float = 0.3
    """What lambda is multiplied with."""
    r1: float = 1.0
    """Weight of the discriminator's gradient penalty."""
    features_weight: float = 0.01
    """Of the feature loss."""
    width: int = 32
    """Channels of encoder and decoder."""
    discriminator_width: int = 16
    """Channels after the discriminator's first convolution."""
    data: str = EMBEDDED
    """Labelled images: the embedded set, a TFDS name, or a folder of IDX files."""
    processes: int | None = None
    """How many arms at a time; without it, one for each core."""


def make_arms(config: Config) -> list[Arm]:
    """Pixels alone; with features; against a discriminator; with both."""
    ways = {
        "mse": (plain, False),
        "features": (plain, True),
        "adversarial": (against, False),
        "both": (against, True),
    }
    labels = ("MSE", "MSE + features", "MSE + adversarial", "MSE + both")
    arms = []
    for (name, (train, seen)), label in zip(ways.items(), labels, strict=True):
        definition = {"way": name, **define(config)}
        arms.append(Arm(name, label, definition, partial(trainer, config, train, seen)))
    return choose(arms, config.only)


def define(config: Config) -> dict[str, Any]:
    """All on which the results depend, as JSON."""
    free = ("only", "list", "quick", "output", "classifiers", "seeds", "processes")
    options = {k: v for k, v in dataclasses.asdict(config).items() if k not in free}
    model, discriminator = (json.loads(vj.to_json(m)) for m in make_models(config))
    classifiers = digest(*images_and_labels(config)[0], classifier_steps(config))
    budget = dataclasses.asdict(make_budget(config))
    return options | budget | {
        "model": model, "discriminator": discriminator, "classifiers": classifiers
    }  # fmt: skip


def main(config: Config) -> Path | None:
    """Runs what is missing, then writes the pages."""
    check_size(seeds=config.seeds, steps=config.steps, batch_size=config.batch_size)
    command = command_line(config, "experiments.compare.adversarial")
    if config.quick:
        config = dataclasses.replace(config, seeds=1, steps=min(config.steps, 60))
    if not config.list:
        print("two classifiers: trained in a minute, or kept", flush=True)
        for seed in (TEACHER, JUDGE):  # before several processes would
            classifier(config, seed)
    return compare(config, make_arms, partial(study, command), "adversarial")


def study(command: str, config: Config, rows: Sequence[Row]) -> Study:
    """The page without its results."""
    _, (test, labels) = images_and_labels(config)
    real = classifier(config, JUDGE).accuracy(test, labels)
    quick = f"A quick run, {config.steps} steps: its numbers say nothing."
    return Study(
        title="Trained for pixels, for features, and against a discriminator",
        about="The same VQ-VAE, the same budget, data and seeds. MSE is the mean squared error; "
        "features adds the distance of the feature maps of a small classifier of these images; "
        "adversarial adds, in the second half, a patch discriminator with the adaptive weight of "
        "VQGAN. The classifier of the feature loss and the one that measures are of different "
        f"seeds; the latter recognises {real:.4f} of the test images themselves.",
        columns=COLUMNS,
        command=command,
        seeds=range(config.seeds),
        settings={k: v for k, v in define(config).items() if not isinstance(v, dict)},
        note=quick if config.quick else "",
        originals=test[:SHOWN],
    )


if __name__ == "__main__":
    run(main, Config)
