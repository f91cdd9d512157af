"""Run the papers' ablations: equal network and budget for all arms, a verdict on each claim.

python -m experiments.ablate list               lists them
python -m experiments.ablate beta               one of them; the same command continues
python -m experiments.ablate beta --quick       a minute or two, to check that it works
python -m experiments.ablate all                all of them
python -m experiments.ablate beta --scale paper the paper's data, width, steps and batch
python -m experiments.ablate check beta         reruns two recorded arms with a new seed

Writes tables, plots, and the findings to runs/ablations/NAME/report.html (and .md, CSV, LaTeX,
PDF), and a table of all findings to runs/ablations/README.md.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.ablations import ABLATIONS
from experiments.ablations.checking import check_recorded
from experiments.ablations.findings import study_of, write_summary
from experiments.ablations.settings import Ablation, Setting, quick
from experiments.pages.study import Study
from experiments.sweep.arms import Arm, Row, collect
from experiments.sweep.launch import choose, repeating, run_and_write
from experiments.sweep.options import Running
from vqvae_commands.terminal.command import run
from vqvae_commands.terminal.terminal_table import print_lines
from vqvae_jax.checks import check_size


@dataclasses.dataclass(frozen=True)
class Config(Running):
    """Run the papers' ablations and judge their claims."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Names of ablations, or `all`, or `list`, or `check` and a name."""
    output: Path | None = None
    """Folder for the ablations; by default runs/ablations, runs/ablations-quick or
    runs/ablations-paper."""
    seeds: int = 5
    """Number of seeds for each arm."""
    scale: Literal["default", "paper"] = "default"
    """Scale of the runs: `default` for two cores, or `paper` for an accelerator."""
    data: str | None = None
    """Source of the images, by default that of the scale: a TFDS name, a folder of records or IDX
    files, or a .npy file."""
    steps: int | None = None
    """Number of training steps; by default that of the scale."""
    recorded: Path = Path("docs/ablations")
    """Folder of the recorded results that `check` reads."""


def setting(config: Config, ablation: Ablation) -> Setting:
    """The scale of an ablation with the changes that the options ask for."""
    chosen = ablation.paper if config.scale == "paper" else ablation.default
    given = {"data": config.data, "steps": config.steps}
    chosen = dataclasses.replace(chosen, **{k: v for k, v in given.items() if v is not None})
    return quick(chosen) if config.quick else chosen


def make_arms(config: Config) -> list[Arm]:
    """The arms of the one ablation that is named, or those of `only`."""
    ablation = ABLATIONS[config.names[0]]
    return choose(ablation.make_arms(setting(config, ablation)), config.only)


def make_study(config: Config, rows: Sequence[Row]) -> Study:
    """The page of the one ablation that is named, without its results."""
    name, ablation = config.names[0], ABLATIONS[config.names[0]]
    plain = dataclasses.replace(config, names=(), only=())
    command = repeating(plain, "experiments.ablate", name)
    return study_of(name, ablation, setting(config, ablation), command, config.seeds, rows)


def main(config: Config) -> None:
    """Runs the missing parts of each ablation, then writes its page and the summary."""
    check_size(seeds=config.seeds)
    config = dataclasses.replace(config, seeds=1) if config.quick else config
    first, *rest = config.names or ("list",)
    if first == "list":
        print_ablations()
    elif first == "check":
        check_one(config, *known(rest or ("beta",))[:1])
    else:
        names = tuple(ABLATIONS) if config.names == ("all",) else config.names
        run_each(config, known(names))


def known(names: Sequence[str]) -> Sequence[str]:
    """Returns the names if each is that of an ablation.

    Raises:
        ValueError: names that no ablation has.
    """
    wrong = [name for name in names if name not in ABLATIONS]
    if wrong:
        raise ValueError(f"no ablation {', '.join(wrong)}; there are {', '.join(ABLATIONS)}")
    return names


def run_each(config: Config, names: Sequence[str]) -> None:
    """Runs the ablations one by one; names those that failed at the end."""
    suffix = "-quick" if config.quick else "-paper" if config.scale == "paper" else ""
    base, failed = config.output or Path(f"runs/ablations{suffix}"), []
    for i, name in enumerate(names):
        print(f"{name} ({i + 1} of {len(names)}): {ABLATIONS[name].question}", flush=True)
        one = dataclasses.replace(config, names=(name,), output=base / name)
        try:
            run_and_write(one, make_arms, make_study, name)
        except SystemExit as error:
            failed.append(f"{name}: {error}")
    if config.list:
        return
    there = [name for name in ABLATIONS if (base / name / "results").exists()]
    print(write_summary(base, {name: rows_of(config, base, name) for name in there}))
    if failed:
        raise SystemExit("\n".join(failed))


def check_one(config: Config, name: str) -> None:
    """Runs two recorded arms of an ablation with a new seed."""
    make = partial(make_arms, dataclasses.replace(config, names=(name,), only=()))
    output = (config.output or Path("runs/ablations-check")) / name
    check_recorded(name, config.recorded / name / "results.json", make, output, config.processes)


def rows_of(config: Config, base: Path, name: str) -> list[Row]:
    """The results of an ablation that are there, run now or earlier."""
    one = dataclasses.replace(config, names=(name,), only=())
    return collect(make_arms(one), base / name, range(config.seeds))


def print_ablations() -> None:
    """Prints the ablations by name."""
    lines = [["name", "question", "papers", "claims"]]
    for name, ablation in ABLATIONS.items():
        papers = ", ".join(ablation.papers)
        lines.append([name, ablation.question, papers, str(len(ablation.claims))])
    print_lines(lines, justify="left")


if __name__ == "__main__":
    run(main, Config)
