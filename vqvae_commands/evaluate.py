"""Evaluate a trained model on a whole test set.

vqvae evaluate runs/fashion
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from vqvae_commands.run.data_options import data_options, given, load_data
from vqvae_commands.run.kinds import BY_AXES, NOUNS, kind_of_run
from vqvae_commands.run.model_metrics import evaluate, print_table
from vqvae_commands.run.run_folder import open_run


@dataclasses.dataclass(frozen=True)
class Config:
    """Evaluate a run on its whole test set."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder."""
    data: str | None = None
    """Source of the test examples; by default the run's own data."""
    crop: int | None = None
    """Crop size in pixels, for a folder of images; by default that of the run."""
    window: int | None = None
    """Number of samples of a window, for a folder of WAV files; by default that of the run."""
    frames: int | None = None
    """Number of frames of a clip, for a folder of videos; by default that of the run."""
    lengths: str | None = None
    """A .npy file of the lengths of padded examples; by default the run's, for its own data."""
    batch_size: int = 100
    """Examples per batch."""


def main(config: Config) -> dict[str, float]:
    """Loads the model of a run and prints its table."""
    bundle, options = open_run(config.run)
    data = data_options(options, **given(config))
    _, test = load_data(data)
    kind = kind_of_run(config.run) or BY_AXES[len(test.shape)][0]
    table, _ = evaluate(bundle.model, bundle.variables, test, config.batch_size, kind)
    counted = f"{len(test):,} test {NOUNS[kind][1]} of {data.data}"
    title = f"{config.run}, model {bundle.sha256[:16]}, {counted}"
    print_table(table, title, kind, str(test.dtype))
    return table
