"""Train a VQ-VAE and a prior, sample, interpret the codes, and show all of it on one page.

python -m experiments.demo             the embedded images, about a quarter of an hour on two cores
python -m experiments.demo --quick     a few minutes, to see that it works

Each part is a command of its own. A demo that was stopped goes on where it stopped.
"""

import dataclasses
from collections.abc import Mapping
from html import escape
from pathlib import Path

from experiments.code_meaning import interpretation
from experiments.generation import prior_training, sample_run
from experiments.pages.html import document, save
from experiments.run import autoencoder
from experiments.run.command import run
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
    """Steps of training the VQ-VAE."""
    prior_steps: int = 2000
    """Steps of training the prior."""
    vae_steps: int = 1000
    """Steps of training the VAE with which the codes are compared."""
    quick: bool = False
    """Tiny models, as `sample --quick` trains them: says nothing about quality."""


def main(config: Config) -> Path:
    """Runs one command after the other, and returns the page."""
    folder = config.runs / (f"{config.name}-quick" if config.quick else config.name)
    if config.quick:
        sample_run.sample(sample_run.Config(folder, data=config.data, quick=True))
        few = {"images": 100, "probe_images": 200, "most": 8}
        interpretation.interpret(
            interpretation.Config(folder, vae_steps=min(config.vae_steps, 20), **few)
        )
    else:
        autoencoder.train_autoencoder(
            autoencoder.Config(folder.name, config.runs, config.data, steps=config.steps)
        )
        prior_training.train_priors(prior_training.Config(folder, steps=config.prior_steps))
        sample_run.sample(sample_run.Config(folder))
        interpretation.interpret(interpretation.Config(folder, vae_steps=config.vae_steps))
    parts = {"Training": "", "Samples": "samples", "What the codes mean": "interpretation"}
    pages = {name: (folder / part / "report.html").read_text() for name, part in parts.items()}
    save(folder / "demo.html", together(folder.name, pages).encode())
    print(folder / "demo.html")
    return folder / "demo.html"


def together(title: str, pages: Mapping[str, str]) -> str:
    """Joins several pages into one, each below its name, with links to them at the top."""
    names = [escape(name) for name in pages]
    links = "".join(f'<li><a href="#part{i}">{name}</a></li>' for i, name in enumerate(names))
    body = [f"<section><ol>{links}</ol></section>"]
    for i, (name, page) in enumerate(zip(names, pages.values(), strict=True)):
        inner = page.split("<main>", 1)[1].rsplit("</main>", 1)[0]
        own_title, rest = inner.split("</h1>", 1)
        body.append(f'{own_title.split("<h1>")[0]}<h1 id="part{i}">{name}</h1>{rest}')
    lead = "From pixels to codes, from codes to new pictures, and what the codes stand for."
    return document(title, lead, "\n".join(body))


if __name__ == "__main__":
    run(main, Config)
