"""Interpretation of a run: the options, and the analysis of its codes."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console
from rich.progress import Progress

from vqvae_commands.code_meaning import sections
from vqvae_commands.code_meaning.coder import Coder
from vqvae_commands.code_meaning.meaning_page import write_page
from vqvae_commands.code_meaning.probes import Score, linear_probe, neighbour_probe
from vqvae_commands.code_meaning.representations import (
    MEANING,
    Pair,
    representations,
    train_vae,
    vae_of,
)
from vqvae_commands.code_meaning.sections import Found, Section
from vqvae_commands.data.data_checks import check_effect
from vqvae_commands.data.data_options import (
    GivenData,
    data_options,
    given_data,
    load_data,
    open_data,
)
from vqvae_commands.pages import html
from vqvae_commands.run import autoencoder, code_streams
from vqvae_commands.run.progress import make_progress
from vqvae_commands.run.run_folder import open_run
from vqvae_commands.terminal.terminal_table import print_lines
from vqvae_jax import VQVAE, VQVAE2, BundleError
from vqvae_jax.checks import check_size
from vqvae_jax.data.labels import Labels, open_labels
from vqvae_jax.data.pipeline import Examples
from vqvae_jax.data.sources import DataError

LIKE_THE_RUN = ("batch_size", "learning_rate", "warmup", "seed")  # options of the VAE


@dataclasses.dataclass(frozen=True)
class Config(GivenData):
    """Analyse what the codes of a run mean, and write RUN/interpretation/report.html."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run's folder, or that of a saved model."""
    most: int = 48
    """Number of the most frequent codes to show, over all streams together."""
    images: int = 2000
    """Maximum number of test images to analyse."""
    probe_images: int = 10_000
    """Maximum number of training images, and of test images, for the probes."""
    vae_steps: int = 1000
    """Number of training steps of the VAE that the probes compare with; 0 for no VAE."""
    seed: int = 0
    """Seed of the random choices: images, changes, untrained weights, held-out part."""


def interpret(config: Config) -> tuple[dict[str, Any], html.Page]:
    """Analyses a run and writes the page; returns the numbers and the page."""
    check_size(most=config.most, images=config.images, probe_images=config.probe_images)
    if config.vae_steps < 0:
        raise ValueError(f"vae_steps must be at least 0, got {config.vae_steps}")
    coder, options = load_coder(config.run)
    data = data_options(options, **given_data(config))
    options |= dataclasses.asdict(data)
    source = open_data(data)
    check_effect(given_data(config), data.data, source)
    sets = Pair(*load_data(data, source))
    check_pictures(data.data, sets.test)
    images = np.asarray(sets.test[: config.images])
    maps = coder.tokenize(images)
    check_grids(maps, images)
    with make_progress(Console()) as bar:
        results, found = make_parts(config, coder, images, maps, bar)
        known = open_labels(data.data, source)
        probes = probe(config, coder, options, sets, known, bar) if known else {}
    if probes:
        results["probes"], more = sections.probe_part(probes)
        found += more
    folder = config.run / "interpretation"
    name = options.get("name", config.run.name)
    page = write_page(folder, name, options["data"], results, found, probes)
    if probes:
        print_lines(probe_lines(probes), "test accuracy, 95 % intervals")
    print(folder / "report.html")
    return results, page


def load_coder(folder: Path) -> tuple[Coder, dict[str, Any]]:
    """The model of a run and the run's options.

    Raises:
        BundleError: no run, or a model without codes.
    """
    bundle, options = open_run(folder)
    if not isinstance(bundle.model, VQVAE | VQVAE2):
        raise BundleError(f"{folder}: a {type(bundle.model).__name__} has no codes to interpret")
    return Coder(bundle.model, bundle.variables), options


def check_pictures(name: str, test: Examples) -> None:
    """Raises a DataError unless the data are pictures."""
    if len(test.shape) != 4 or test.shape[-1] not in (1, 3) or test.dtype != np.uint8:
        raise DataError(
            f"{name}: expected pictures, uint8 [N, H, W, 1 or 3], found {test.dtype} "
            f"{list(test.shape)}"
        )


def check_grids(maps: code_streams.Maps, images: np.ndarray) -> None:
    """Raises a ValueError unless each level is a grid of cells of whole pixels."""
    for level, k in enumerate(maps):
        if k.ndim != 4 or any(n % m for n, m in zip(images.shape[1:3], k.shape[1:3], strict=True)):
            raise ValueError(
                f"expected maps [N, h, w, Q] whose h and w divide the sides of {images.shape}, "
                f"found {k.shape} in level {level}"
            )


def make_parts(
    config: Config, coder: Coder, images, maps: code_streams.Maps, bar: Progress
) -> Found:
    """Makes all parts but the probes."""
    shown = coder.streams[: sections.SHOWN]
    most = max(config.most // len(shown), min(config.most, 8))
    size = images.shape[1:3]
    jobs: dict[str, Callable[[], Found]] = {
        "code maps": lambda: sections.maps_part(coder, images, maps),
        **{
            f"codes {code_streams.title(s.prefix)}".strip(): lambda s=s: sections.stream_part(
                coder, s, images, maps, most
            )
            for s in shown
        },
        "exchanging codes": lambda: sections.swap_part(coder, maps, config.seed),
        "reach": lambda: sections.reach_part(coder, maps, size, config.seed),
        "information": lambda: sections.information_part(coder, maps),
    }
    task, done, found = bar.add_task("", total=len(jobs), now=""), {}, list[Section]()
    for name, job in jobs.items():
        bar.update(task, now=name)
        done[name], more = job()
        found += more
        bar.advance(task)
    streams = {s.prefix: done["information"][s.prefix] for s in coder.streams}
    for s in shown:
        streams[s.prefix] |= done[f"codes {code_streams.title(s.prefix)}".strip()]
    return {"images": len(images), "streams": streams, "reach": done["reach"]}, found


def probe(
    config: Config,
    coder: Coder,
    options: Mapping[str, Any],
    sets: Pair,
    known: Labels,
    bar: Progress,
) -> dict[str, tuple[int, dict[str, Score]]]:
    """Dimension and scores of each representation."""
    most = config.probe_images
    images = Pair(*(np.asarray(x[:most]) for x in sets))
    labels = Pair(*(known.read(split)[:most] for split in ("train", "test")))
    model = vae_of(coder.model) if config.vae_steps else None
    given = {name: options[name] for name in LIKE_THE_RUN if name in options}
    settings = autoencoder.Config(steps=config.vae_steps, **given) if model else None
    task = bar.add_task("", total=len(MEANING) - (model is None), now="probes")

    def vae() -> Coder:
        under = bar.add_task("", total=config.vae_steps, now="training the VAE")
        return train_vae(model, images.train, settings, lambda i: bar.update(under, completed=i))

    found = {}
    for name, x in representations(coder, images, vae if model else None, config.seed):
        bar.update(task, now=f"probing {name}")
        args = (x.train, labels.train, x.test, labels.test, config.seed)
        scores = {"linear": linear_probe(*args), "nearest neighbours": neighbour_probe(*args)}
        found[name] = (x.train.shape[1], scores)
        bar.advance(task)
    return found


def probe_lines(probes: Mapping[str, tuple[int, dict[str, Score]]]) -> list[list[str]]:
    """The table of the probes for the terminal."""
    lines = [["representation", "dimension", "linear probe", "nearest neighbours"]]
    for name, (dim, scores) in probes.items():
        each = [f"{s.accuracy:.1%} ({s.low:.1%} to {s.high:.1%})" for s in scores.values()]
        lines.append([name, f"{dim:,}", *each])
    return lines
