"""Sampling of a run: the options, the samples of its priors, and their quality."""

import dataclasses
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro

from vqvae_commands.data.data_options import load_data
from vqvae_commands.generation import prior_training
from vqvae_commands.generation.bits_table import COLUMNS
from vqvae_commands.generation.code_files import Codes
from vqvae_commands.generation.codes_of_data import codes_of
from vqvae_commands.generation.generate import How, Maps, decode_codes, draw_codes, nothing_given
from vqvae_commands.generation.prior_recipe import load_priors, read_json
from vqvae_commands.generation.sample_page import Shown, quality_lines, write_sample_page
from vqvae_commands.generation.sample_rows import COLUMN, complete, in_rows, interpolate
from vqvae_commands.pages import html
from vqvae_commands.quality.sample_quality import Images, measure_samples
from vqvae_commands.run import autoencoder
from vqvae_commands.run.run_folder import open_run
from vqvae_commands.terminal.terminal_table import print_lines
from vqvae_jax import BundleError
from vqvae_jax.checks import check_size
from vqvae_jax.data.readers import DataError
from vqvae_jax.data.sources import EMBEDDED
from vqvae_jax.saving.bundle import Bundle


@dataclasses.dataclass(frozen=True)
class Config:
    """Draw samples from the priors of a run, show them and measure them."""

    run: Annotated[Path | None, tyro.conf.Positional] = None
    """The run's folder, or that of a saved model."""
    prior: str = "prior"
    """Folder of the priors, inside the run's folder."""
    per_class: int = 100
    """Number of samples of each class; without classes, ten times as many in all."""
    temperature: float = 0.9
    """Sampling temperature: values below 1 favour likely codes, 0 takes the likeliest."""
    top_k: int | None = None
    """Sample only from this many of the likeliest codes; by default from all."""
    top_p: float | None = None
    """Sample only from the likeliest codes with this total probability; by default from all."""
    guidance: float = 0.5
    """Weight w of classifier-free guidance if there are classes; values above 0 make samples more
    typical of their class."""
    steps: int = 12
    """Number of decoding steps of a masked prior."""
    seed: int = 0
    """Seed of the samples."""
    classifier_steps: int = 2000
    """Number of training steps of the classifier, which is saved beside the run."""
    quick: bool = False
    """Train a tiny model and prior if they are missing, and draw few samples."""
    data: str | None = None
    """Source of the data; by default the run's own, with `--quick` the embedded set."""


def sample(config: Config) -> tuple[dict[str, float], html.Page]:
    """Draws and measures samples and writes the page; returns the numbers and the page."""
    check_size(per_class=config.per_class, classifier_steps=config.classifier_steps)
    if config.quick:
        config = make_quick(config)
    if config.run is None:
        raise BundleError("expected the folder of a run, or --quick; found neither")
    bundle, _ = open_run(config.run)
    codes = codes_of(config.run, bundle, data=config.data)
    priors = load_priors(config.run, config.prior, bundle.sha256, len(codes.levels))
    train, test = load_pictures(codes)
    guidance = config.guidance if codes.classes else 0.0
    how = How(config.temperature, config.top_k, config.top_p, guidance, config.steps)
    key, key_complete = jax.random.split(jax.random.key(config.seed))
    label, maps = draw_classes(key, priors, codes, config.per_class, how)
    samples = decode_codes(bundle, maps)
    first = tuple(k[: len(samples)] for k in codes.maps["test"])
    images = Images(train, test, samples, decode_codes(bundle, first), codes, maps, label)
    numbers = measure_samples(images, config.run.parent, config.classifier_steps)
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
    page = write_sample_page(config, images, numbers, tables, shown)
    print_lines(quality_lines(numbers), f"{config.run}, {len(samples):,} samples")
    print(config.run / "samples" / "report.html")
    return numbers, page


def load_pictures(codes: Codes) -> tuple[np.ndarray, np.ndarray]:
    """Returns the pictures (train, test) of the codes.

    Raises:
        DataError: if the data are not pictures, or not those of the codes.
    """
    found = load_data(codes.data)
    for split, data in zip(codes.maps, found, strict=True):
        if len(data.shape) != 4 or data.shape[-1] not in (1, 3) or data.dtype != np.uint8:
            raise DataError(
                f"{codes.source}: samples are shown and measured as pictures, uint8 "
                f"[N, H, W, 1 or 3], found {data.dtype} {list(data.shape)}"
            )
        if len(data) != (n := len(codes.maps[split][0])):
            raise DataError(
                f"{codes.source}: expected {n} pictures, as codes, found {len(data)} in {split}"
            )
    train, test = found
    return train[:], test[:]


def draw_classes(
    key, priors: list[Bundle], codes: Codes, per_class: int, how: How
) -> tuple[np.ndarray | None, Maps]:
    """Returns (label of each sample, its codes): per_class of each class, in order."""
    n = per_class * (len(codes.classes) or COLUMN)
    label = np.repeat(np.arange(n // per_class), per_class) if codes.classes else None
    return label, draw_codes(key, priors, nothing_given(priors, n), label, how)


def make_quick(config: Config) -> Config:
    """Trains a tiny model and prior if missing; returns options for few samples."""
    folder = config.run or Path("runs/quick")
    model, prior = tiny(folder, config.data or EMBEDDED, config.prior)
    if not (folder / "config.json").exists():
        autoencoder.train_autoencoder(model)
    if not (folder / config.prior).exists():
        prior_training.train_priors(prior)
    few = min(config.per_class, 10)
    return dataclasses.replace(config, run=folder, per_class=few, classifier_steps=200)


def tiny(folder: Path, data: str, prior: str) -> tuple[autoencoder.Config, prior_training.Config]:
    """The trainings of a quick run: of the model, and of its prior."""
    often = {"log_every": 50, "eval_every": 200, "save_every": 200, "steps": 200, "warmup": 20}
    size = {"codes": (64,), "dim": 16, "width": 16, "depth": 1}
    of_prior = {"width": 32, "depth": 1, "heads": 2, "views": 0, "name": prior}
    return (
        autoencoder.Config(folder.name, folder.parent, data, **size, **often),
        prior_training.Config(folder, **of_prior, **often),
    )
