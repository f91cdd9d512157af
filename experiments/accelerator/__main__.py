"""Prove and measure everything on one accelerator within minutes.

python -m experiments.accelerator                           all sections, in five minutes
python -m experiments.accelerator --sections correct laws   some of them
python -m experiments.accelerator --resume runs/accelerator what is missing there, and what failed
python -m experiments.accelerator --quick                   tiny sizes on any device, to try it
python -m experiments.accelerator --plan                    the page with expectations alone

Results are written as they come, so that a call that is cut off keeps what it has. A folder that
holds results is written to by --resume only. Time is looked at before each group of tasks, and a
group that is begun is finished. The exit code is 1 if a check fails, a task ends in an error, or a
table can't be made.
"""

import argparse
import os
import shlex
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax

from experiments.accelerator import card
from experiments.accelerator.all_sections import SECTIONS
from experiments.accelerator.page import write_page
from experiments.accelerator.record import FILE, Record, file_of, read
from experiments.accelerator.tasks import Task, deadlines, failed, run_tasks
from vqvae_commands.run.environment import cores
from vqvae_commands.terminal.command import guarded
from vqvae_jax.checks import check_positive

GO_ON = "What is missing, and then what failed, is run by --resume"


class Parser(argparse.ArgumentParser):
    """A parser of the command line that reports an error in one line."""

    def error(self, message: str):
        """Ends the process with exit code 2."""
        self.exit(2, f"error: {message}\n")


def options(args: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line. argparse, since images for accelerators lack tyro."""
    parser = Parser(
        "python -m experiments.accelerator",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    names = list(SECTIONS)
    add(
        "--sections", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names)
    )
    add("--minutes", type=float, default=5.0, help="time for all sections (default: 5)")
    add(
        "--resume", type=Path, metavar="PATH", help="folder of an earlier call, or its results.json"
    )
    add("--quick", action="store_true", help="tiny sizes, whose times mean nothing")
    add("--plan", action="store_true", help="write the page of expectations and measure nothing")
    where = "folder for results.json, report.md and plots (default: runs/accelerator)"
    add("-o", "--output", type=Path, default=Path("runs/accelerator"), metavar="DIR", help=where)
    return parser.parse_args(args)


def main(config: argparse.Namespace) -> int:
    """Runs the sections, and returns the exit code.

    Raises:
        ValueError: no time, no accelerator, a file that can't be gone on from, or results that
            would be lost.
    """
    check_positive(minutes=config.minutes)
    check_device(config)
    facts = card.facts(command_of(config), config.quick)
    record = Record(facts, read(config.resume, facts) if config.resume else None)
    check_folder(config)
    config.output.mkdir(parents=True, exist_ok=True)
    plans = {name: SECTIONS[name].tasks(config.quick) for name in SECTIONS}
    if not config.plan:
        run_sections(config, record, plans)
    shown = show_page(config, record, plans)
    bad = [
        f"{name}: {task.name}"
        for name, tasks in plans.items()
        for task in tasks
        if failed(record.of(name).get(task.name, {}))
    ]
    for name in bad:
        print(f"FAILED {name}", file=sys.stderr)
    return 1 if bad or not shown else 0


def check_device(config: argparse.Namespace) -> None:
    """Raises a ValueError if there is no accelerator for what would take hours without one."""
    try:
        backend = jax.default_backend()
    except RuntimeError as error:  # JAX_PLATFORMS names one that isn't here
        raise ValueError(str(error)) from error
    if backend == "cpu" and not (config.quick or config.plan):
        raise ValueError(
            "expected an accelerator, but JAX finds a CPU only (pip install 'jax[cuda13]'); "
            "--quick tries the command on it"
        )


def check_folder(config: argparse.Namespace) -> None:
    """Raises a ValueError if the folder has results that this call does not go on from."""
    path = config.output / FILE
    if path.is_file() and (not config.resume or file_of(config.resume).resolve() != path.resolve()):
        raise ValueError(
            f"{path} holds results: go on from them with --resume {config.output}, or choose "
            "another folder with -o"
        )


def run_sections(
    config: argparse.Namespace, record: Record, plans: Mapping[str, Sequence[Task]]
) -> None:
    """Runs what is missing of the chosen sections; the record is written after each task.

    Ends early if the card answers no more: all tasks would fail, and none of them by itself.
    """
    record.write(config.output)  # before any time is spent: the folder may not be writable
    print(in_one_line(record.calls[-1]), flush=True)
    begun = time.monotonic()
    ends = deadlines([SECTIONS[name].share for name in config.sections], 60 * config.minutes)
    for name, end in zip(config.sections, ends, strict=True):
        tasks = record.missing(name, plans[name])
        together = min(workers(), SECTIONS[name].together)
        print(f"{name}: {len(tasks)} tasks, until {end:.0f} s", flush=True)
        for task, found in run_tasks(tasks, begun + end, together):
            record.add(name, task, found)
            record.write(config.output)
            print(line(time.monotonic() - begun, task, found), flush=True)
            if failed(found) and not card.alive():
                print(f"The card answers no more. {GO_ON} {config.output}", file=sys.stderr)
                return
        if record.of(name):
            record.clocks[name] = card.clocks()
        record.write(config.output)
        show_page(config, record, plans)


def in_one_line(facts: Mapping) -> str:
    """Returns card, driver, clocks, versions and date."""
    machine, versions = facts["machine"], facts["versions"]
    about = [machine["card"] or facts["device"], machine["clocks before"], facts["date"]]
    about += [f"{name} {versions[name]}" for name in ("jax", "jaxlib", "torch") if name in versions]
    return "; ".join(word for word in about if word)


def show_page(config: argparse.Namespace, record: Record, plans: Mapping) -> bool:
    """Writes the page, and returns whether all its tables could be made; the rest can be run."""
    try:
        print(write_page(config.output, record, SECTIONS, plans), flush=True)
    except OSError:
        raise
    except Exception:
        traceback.print_exc()
        return False
    return True


def line(seconds: float, task: Task, found: Mapping) -> str:
    """Returns a line of progress, with the error in full where there is one."""
    verdict = "FAILED" if failed(found) else "done"
    took = f"{found['prepare seconds']:.1f} s to prepare, {found['seconds']:.1f} s"
    text = f"{seconds:6.1f} s  {verdict}  {task.name} ({took})"
    return f"{text}\n{found.get('traceback', '')}".rstrip()


def workers() -> int:
    """Returns how many tasks are prepared at a time: compiling keeps a core or two busy.

    At most 8: all that are prepared hold memory of the card, and time is looked at between them.
    """
    return min(max(cores() // 2, 1), 8)


def command_of(config: argparse.Namespace) -> str:
    """Returns the command that measures the same again."""
    words = ["python", "-m", "experiments.accelerator"]
    if config.sections != list(SECTIONS):
        words += ["--sections", *config.sections]
    return shlex.join([*words, "--minutes", f"{config.minutes:g}"] + ["--quick"] * config.quick)


def run(args: Sequence[str] | None = None) -> None:
    """Runs the command and ends the process; after Ctrl-C at once, without threads that compile."""
    try:
        sys.exit(guarded(main, options(args)))
    except SystemExit as end:
        if end.code != 130:
            raise
        os._exit(130)  # results are in their file


if __name__ == "__main__":
    run()
