"""Train a VQ-VAE and a prior, sample, interpret the codes, and show all of it on one page.

python -m experiments.demo             the embedded images, about a quarter of an hour on two cores
python -m experiments.demo --quick     a few minutes, to check that it works

Each part is also a command of its own. The same command continues a demo that was stopped.
"""

import dataclasses
from pathlib import Path

from vqvae_commands.code_meaning import interpretation
from vqvae_commands.generation import prior_training, sample_run
from vqvae_commands.pages.html import Page, together
from vqvae_commands.run import autoencoder
from vqvae_commands.terminal.command import run
from vqvae_jax.data.sources import EMBEDDED


@dataclasses.dataclass(frozen=True)
class Config:
    """Train a VQ-VAE and a prior over its codes, sample, interpret, and show all on one page."""

    name: str = "demo"
    """The run's name, and its folder in `runs`."""
    runs: Path = Path("runs")
    """Folder of all runs."""
    data: str = EMBEDDED
    """Labelled images: the embedded set, a TFDS name, or a folder of IDX files."""
    steps: int = 4000
    """Number of training steps of the VQ-VAE."""
    prior_steps: int = 2000
    """Number of training steps of the prior."""
    vae_steps: int = 1000
    """Number of training steps of the VAE that the codes are compared with."""
    quick: bool = False
    """Use tiny models, like `sample --quick`; the results say nothing about quality."""


def main(config: Config) -> Path:
    """Runs one command after the other, and returns the page."""
    folder = config.runs / (f"{config.name}-quick" if config.quick else config.name)
    make = quick_options if config.quick else usual_options
    model, prior, samples, meaning = make(config, folder)
    _, training = autoencoder.train_autoencoder(model)
    prior_training.train_priors(prior)
    pages = {
        "Training": training,
        "Samples": sample_run.sample(samples)[1],
        "What the codes mean": interpretation.interpret(meaning)[1],
    }
    lead = "From pixels to codes, from codes to new pictures, and what the codes stand for."
    Page(folder.name, lead, together(pages)).save(folder / "demo.html")
    print(folder / "demo.html")
    return folder / "demo.html"


def usual_options(config: Config, folder: Path):
    """Returns the options of each part."""
    return (
        autoencoder.Config(folder.name, config.runs, config.data, steps=config.steps),
        prior_training.Config(folder, steps=config.prior_steps),
        sample_run.Config(folder),
        interpretation.Config(folder, vae_steps=config.vae_steps),
    )


def quick_options(config: Config, folder: Path):
    """Returns the options of each part of a quick run."""
    samples = sample_run.Config(folder, data=config.data, quick=True)
    few = {"images": 100, "probe_images": 200, "most": 8, "vae_steps": min(config.vae_steps, 20)}
    trainings = sample_run.tiny(folder, config.data, samples.prior)
    return *trainings, samples, interpretation.Config(folder, **few)


if __name__ == "__main__":
    run(main, Config)
