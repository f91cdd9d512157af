"""Runs the arms of a command that are missing, and writes their pages."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from experiments.pages.arm_pages import write_arm_pages
from experiments.pages.study import Study
from experiments.sweep.arms import Arm, collect
from experiments.sweep.options import Running
from experiments.sweep.processes import default_processes, run_all
from vqvae_commands.terminal.command_line import command_line


def run_and_write(
    config: Running,
    make_arms: Callable[..., list[Arm]],
    make_study: Callable[..., Study],
    name: str,
) -> Path | None:
    """The page of the comparison, or None where `config.list` only names the arms.

    Args:
        config: the options; quick ones already as small as they run.
        make_arms: `(config) -> arms`, a function of a module.
        make_study: `(config, rows) -> Study`.
        name: the name of the folder in runs.

    Raises:
        SystemExit: after the pages are written, if an arm failed.
    """
    arms = make_arms(config)
    if config.list:
        print("\n".join(arm.name for arm in arms))
        return None
    folder = config.output or Path(f"runs/{name}-quick" if config.quick else f"runs/{name}")
    seeds = range(config.seeds)
    run_all(partial(make_arms, config), folder, seeds, config.processes or default_processes())
    rows = collect(arms, folder, seeds)
    page = write_arm_pages(folder, make_study(config, rows), rows)
    print(page)
    failed = [row.arm.name for row in rows if row.count("failed")]
    if failed:
        raise SystemExit(f"error: {', '.join(failed)} failed; the reasons are in results.json")
    return page


def choose(arms: Sequence[Arm], only: Sequence[str]) -> list[Arm]:
    """The arms that are named, by their names or what is before the last "-"; all without names.

    Raises:
        ValueError: a name that no arm has.
    """
    known = {name for arm in arms for name in names(arm)}
    unknown = [name for name in only if name not in known]
    if unknown:
        raise ValueError(f"no arm {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    return [arm for arm in arms if not only or names(arm) & set(only)]


def names(arm: Arm) -> set[str]:
    """The names that `--only` may call an arm: vq-512, or vq for all sizes."""
    return {arm.name, arm.name.rpartition("-")[0] or arm.name}


def repeating(config: Running, *words: str) -> str:
    """Returns the command with the options that differ from their defaults and change the results.

    Args:
        config: the options.
        words: the module, and the words that follow it.
    """
    return command_line(config, ["python", "-m", *words], ("output", "processes", "list"))
