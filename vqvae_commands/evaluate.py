"""Evaluate a trained model on a whole test set.

vqvae evaluate runs/fashion
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from vqvae_commands.data.data_checks import check_effect
from vqvae_commands.data.data_options import (
    GivenData,
    data_options,
    given_data,
    load_data,
    open_data,
)
from vqvae_commands.data.kinds import BY_AXES, NOUNS, kind_of_run
from vqvae_commands.data.picture_counts import print_pictures
from vqvae_commands.run.model_metrics import evaluate, print_table
from vqvae_commands.run.run_folder import open_run


@dataclasses.dataclass(frozen=True)
class Config(GivenData):
    """Evaluate a run on its whole test set."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder, or that of a saved model."""
    batch_size: int = 100
    """Examples per batch."""


def main(config: Config) -> dict[str, float]:
    """Loads the model of a run and prints its table."""
    bundle, options = open_run(config.run)
    data = data_options(options, **given_data(config))
    source = open_data(data)
    check_effect(given_data(config), data.data, source)
    _, test = load_data(data, source)
    print_pictures(source)
    kind = kind_of_run(config.run) or BY_AXES[len(test.shape)][0]
    table, _ = evaluate(bundle.model, bundle.variables, test, config.batch_size, kind)
    counted = f"{len(test):,} test {NOUNS[kind][1]} of {data.data}"
    title = f"{config.run}, model {bundle.sha256[:16]}, {counted}"
    print_table(table, title, kind, str(test.dtype))
    return table
