"""A comparison as data: its options, arms and page; and how it is run."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from experiments.pages.study import Column, Study
from experiments.sweep.arm_metrics import SHOWN
from experiments.sweep.arms import Arm, Row
from experiments.sweep.launch import repeating, run_and_write
from experiments.sweep.options import Options
from experiments.sweep.training_budget import described, images, make_budget
from vqvae_jax.checks import check_size

QUICK = (
    "A quick run of {} steps with fast compilation: its numbers, ms/step included, say nothing "
    "about the comparison."
)


def budget_and_size(options) -> dict[str, Any]:
    """The settings of arms that share the budget, and the size of their networks."""
    return described(make_budget(options)) | {"width": options.width, "depth": options.depth}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One comparison of models under the same budget.

    Attributes:
        options: the class of its options; the docstring is the help text.
        title: the heading of the page.
        about: `(options, rows)` to the paragraph below it, with what was found.
        columns: the numbers in the tables.
        make_arms: `(options) -> arms`, a function of a module.
        quick: the largest value of each option that a quick run lowers.
        settings: `(options)` to what all arms share, by name.
        before: called with the options before arms are run in several processes.
        shown: the number of test images on the page.
        caption: the caption of the pictures.
    """

    options: type[Options]
    title: str
    about: Callable[[Any, Sequence[Row]], str]
    columns: tuple[Column, ...]
    make_arms: Callable[[Any], list[Arm]]
    quick: Mapping[str, int]
    settings: Callable[[Any], Mapping[str, Any]] = budget_and_size
    before: Callable[[Any], object] = lambda options: None
    shown: int = SHOWN
    caption: str = Study.caption


def shrunk(comparison: Comparison, options: Options) -> Options:
    """The options as they run: those of a quick run are lowered."""
    if not options.quick:
        return options
    lowered = {name: min(getattr(options, name), most) for name, most in comparison.quick.items()}
    return dataclasses.replace(options, **lowered)


def run_comparison(name: str, comparison: Comparison, options: Options) -> Path | None:
    """Runs what is missing, then writes the pages; returns as `run_and_write`."""
    sizes = ("batch_size", *comparison.quick)
    check_size(**{size: getattr(options, size) for size in sizes})
    command = repeating(options, "experiments.compare", name)
    options = shrunk(comparison, options)
    if not options.list:
        comparison.before(options)
    return run_and_write(
        options, comparison.make_arms, partial(make_study, comparison, command), name
    )


def make_study(
    comparison: Comparison, command: str, options: Options, rows: Sequence[Row]
) -> Study:
    """The page without its results."""
    return Study(
        title=comparison.title,
        about=comparison.about(options, rows),
        columns=comparison.columns,
        command=command,
        seeds=range(options.seeds),
        settings=comparison.settings(options),
        note=QUICK.format(options.steps) if options.quick else "",
        originals=images(options.data)[1][: comparison.shown],
        caption=comparison.caption,
    )


def in_words(settings) -> str:
    """The fields of a dataclass in one line: "steps 600, tokens 2048"."""
    return ", ".join(f"{name} {value}" for name, value in dataclasses.asdict(settings).items())
