"""Samples of a run's model and priors, and what they are worth.

python -m experiments.sample runs/fashion                after train and train_prior
python -m experiments.sample --quick                     trains tiny ones itself, in runs/quick

Writes RUN/samples/report.html, whole in one file, and its pictures and numbers.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from experiments import train, train_prior
from experiments.generation.code_bits import COLUMNS
from experiments.generation.code_files import Codes
from experiments.generation.generate import (
    How,
    Maps,
    decode,
    draw,
    mixed_codes,
    mixed_vectors,
    nothing_given,
    upper_half,
)
from experiments.generation.priors import load_priors, read_json
from experiments.generation.sample_page import Shown, quality_lines, write_page
from experiments.generation.sample_quality import Images, measure
from experiments.run.command import run
from experiments.run.recipe import load_data
from experiments.tokenize import codes_of, open_run
from vqvae_jax import BundleError
from vqvae_jax.checks import check_size
from vqvae_jax.data.readers import DataError
from vqvae_jax.data.sources import EMBEDDED
from vqvae_jax.saving.bundle import Bundle

COLUMN = 10  # classes or samples beside each other
COMPLETED, COMPLETIONS = 8, 4  # test images, and of each
PAIRS, BETWEEN = 3, 9  # of test images, and pictures from one to the other


@dataclasses.dataclass(frozen=True)
class Config:
    """Draw samples of a run, look at them and measure them."""

    run: Annotated[Path | None, tyro.conf.Positional] = None
    """The run's folder."""
    prior: str = "prior"
    """The folder of the priors in it."""
    per_class: int = 100
    """Samples of each class; without classes, ten times as many in all."""
    temperature: float = 0.9
    """1: as the priors say; below, what is likely is favoured; 0 takes the likeliest."""
    top_k: int | None = None
    """Only so many of the likeliest codes are drawn."""
    top_p: float | None = None
    """Only the likeliest codes that have this probability together are drawn."""
    guidance: float = 0.5
    """w of classifier-free guidance, where there are classes: above 0, samples are more typical of
    theirs."""
    steps: int = 12
    """Of the decoding of a masked prior."""
    seed: int = 0
    """Of the samples."""
    classifier_steps: int = 2000
    """Length of the training of the classifier, which is kept beside the run."""
    quick: bool = False
    """A tiny model and prior are trained where they are missing, and few samples drawn."""
    data: str = EMBEDDED
    """What `--quick` trains with."""


def main(config: Config) -> dict[str, float]:
    """Loads all, draws, measures, writes; returns the numbers."""
    check_size(per_class=config.per_class, classifier_steps=config.classifier_steps)
    if config.quick:
        config = make_quick(config)
    if config.run is None:
        raise BundleError("expected the folder of a run, or --quick; found neither")
    bundle, _ = open_run(config.run)
    codes = codes_of(config.run, bundle)
    priors = load_priors(config.run, config.prior, bundle.sha256, len(codes.levels))
    train, test = load_pictures(codes)
    guidance = config.guidance if codes.classes else 0.0
    how = How(config.temperature, config.top_k, config.top_p, guidance, config.steps)
    key, key_complete = jax.random.split(jax.random.key(config.seed))
    label, maps = draw_classes(key, priors, codes, config.per_class, how)
    samples = decode(bundle, maps)
    first = tuple(k[: len(samples)] for k in codes.maps["test"])
    images = Images(train, test, samples, decode(bundle, first), codes, maps, label)
    numbers = measure(images, config.run.parent, config.classifier_steps)
    shown = Shown(
        classes=in_rows(samples, codes.classes, label),
        completions=complete(key_complete, bundle, priors, codes, test, how),
        interpolations=interpolate(bundle, codes, test, config.seed),
    )
    tables = [
        read_json(config.run / config.prior / f"level{level}" / "evaluation.json")
        for level in range(len(priors))
    ]
    numbers |= {name: sum(table[name] for table in tables) for name in COLUMNS}
    path = write_page(config, images, numbers, tables, shown)
    show(quality_lines(numbers), f"{config.run}, {len(samples):,} samples")
    print(path)
    return numbers


def show(lines: list[list[str]], title: str) -> None:
    """Prints a table."""
    view = Table(*lines[0], title=title, title_justify="left")
    for line in lines[1:]:
        view.add_row(*line)
    Console().print(view)


def load_pictures(codes: Codes) -> tuple[np.ndarray, np.ndarray]:
    """(train, test) of the codes.

    Raises:
        DataError: if they are no pictures, or not those that the codes are of.
    """
    found = load_data(codes.source, codes.crop)
    for split, data in zip(codes.maps, found, strict=True):
        picture = len(data.shape) == 4 and data.shape[-1] in (1, 3) and data.dtype == np.uint8
        if not picture or len(data) != len(codes.maps[split][0]):
            expected = f"{len(codes.maps[split][0])} pictures, as codes"
            raise DataError(
                f"{codes.source}: expected {expected}, found {data.shape} {data.dtype} in {split}"
            )
    train, test = found
    return train[:], test[:]


def draw_classes(
    key, priors: list[Bundle], codes: Codes, per_class: int, how: How
) -> tuple[np.ndarray | None, Maps]:
    """(label of each sample, its codes): per_class of each class, in their order."""
    n = per_class * (len(codes.classes) or COLUMN)
    label = np.repeat(np.arange(n // per_class), per_class) if codes.classes else None
    return label, draw(key, priors, nothing_given(priors, n), label, how)


def in_rows(samples: np.ndarray, classes, label: np.ndarray | None) -> dict[str, np.ndarray]:
    """The first samples of each class, or of all."""
    if label is None:
        rows = samples[: COLUMN * COLUMN]
        return {str(i): rows[i : i + COLUMN] for i in range(0, len(rows), COLUMN)}
    return {name: samples[label == c][:COLUMN] for c, name in enumerate(classes)}


def complete(
    key, bundle: Bundle, priors: list[Bundle], codes: Codes, test: np.ndarray, how: How
) -> dict[str, np.ndarray]:
    """Test images, what is given of them, and what the priors make of that."""
    rows = spread(codes, COMPLETED)
    maps, label = (tuple(k[rows] for k in codes.maps["test"]), codes.label("test"))
    given = upper_half(maps)
    many = tuple(np.tile(k, (COMPLETIONS, *[1] * (k.ndim - 1))) for k in given)
    told = None if label is None else np.tile(label[rows], COMPLETIONS)
    made = np.split(decode(bundle, draw(key, priors, many, told, how)), COMPLETIONS)
    reconstructions = decode(bundle, maps)
    seen = reconstructions.copy()
    height = seen.shape[1] * (given[-1].shape[1] // 2) // given[-1].shape[1]
    seen[:, height:] = 128
    return {
        "original": test[rows],
        "reconstruction": reconstructions,
        "given": seen,
        **{f"completion {i + 1}": images for i, images in enumerate(made)},
    }


def spread(codes: Codes, n: int) -> np.ndarray:
    """Test items of n classes, or the first n."""
    label = codes.label("test")
    if label is None:
        return np.arange(min(n, len(codes.maps["test"][0])))
    return np.sort(np.unique(label, return_index=True)[1][:n])


def interpolate(bundle: Bundle, codes: Codes, test: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """From one test image to another, both ways; at the ends the images themselves."""
    a, b = np.random.default_rng(seed).permutation(len(test))[: 2 * PAIRS].reshape(2, -1)
    ends = [tuple(k[rows] for k in codes.maps["test"]) for rows in (a, b)]
    ways = {
        "vectors": list(mixed_vectors(bundle, test[a], test[b], BETWEEN)),
        "codes": [decode(bundle, maps) for maps in mixed_codes(*ends, BETWEEN, seed)],
    }
    return {
        f"{i + 1}, {way}": np.stack([test[a[i]], *(step[i] for step in steps), test[b[i]]])
        for i in range(len(a))
        for way, steps in ways.items()
    }


def make_quick(config: Config) -> Config:
    """Trains what is missing, tiny, and asks for few samples."""
    folder = config.run or Path("runs/quick")
    often = {"log_every": 50, "eval_every": 200, "save_every": 200, "steps": 200, "warmup": 20}
    if not (folder / "config.json").exists():
        tiny = {"codes": (64,), "dim": 16, "width": 16, "depth": 1}
        train.main(train.Config(folder.name, folder.parent, config.data, **tiny, **often))
    if not (folder / config.prior).exists():
        tiny = {"width": 32, "depth": 1, "heads": 2, "views": 0, "name": config.prior}
        train_prior.main(train_prior.Config(folder, **tiny, **often))
    few = min(config.per_class, 10)
    return dataclasses.replace(config, run=folder, per_class=few, classifier_steps=200)


if __name__ == "__main__":
    run(main, Config)
