"""Compare models under one budget, with intervals over seeds.

python -m experiments.compare list                  lists the comparisons
python -m experiments.compare levels                runs all arms of one; the same command continues
python -m experiments.compare levels --quick        a few minutes at most, to check that it works
python -m experiments.compare levels --list         lists its arms
python -m experiments.compare levels --only 784-1b  runs some of its arms

Writes tables with intervals over seeds, a plot and pictures to runs/NAME/report.html (and .md,
JSON, CSV, LaTeX, PDF).
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Union

import tyro

from experiments.compare import COMPARISONS
from experiments.compare.comparison import run_comparison
from experiments.sweep.options import Options
from vqvae_commands.terminal.command import run
from vqvae_commands.terminal.terminal_table import print_lines


@dataclasses.dataclass(frozen=True)
class List:
    """Print the names of the comparisons and stop."""


OPTIONS: dict[str, type] = {"list": List} | {name: c.options for name, c in COMPARISONS.items()}
Command: Any = Union[  # noqa: UP007, as its members are not known before
    tuple(Annotated[kind, tyro.conf.subcommand(name)] for name, kind in OPTIONS.items())
]


def main(options: List | Options) -> Path | None:
    """Runs the comparison whose options these are; returns the path of its page."""
    if isinstance(options, List):
        print_comparisons()
        return None
    (name,) = [name for name, kind in OPTIONS.items() if kind is type(options)]
    return run_comparison(name, COMPARISONS[name], options)


def print_comparisons() -> None:
    """Prints the names and titles of the comparisons."""
    lines = [[name, comparison.title] for name, comparison in COMPARISONS.items()]
    print_lines([["name", "title"], *lines], justify="left")


if __name__ == "__main__":
    run(main, Command)
