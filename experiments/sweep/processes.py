"""Arms in several processes, each on its own cores, with one progress bar.

A train step of these small models keeps one core busy: two processes with a core each finish
almost twice as many arms as one process with two.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import jax
from rich.console import Console

from experiments.sweep.arms import Arm, missing, run_missing
from vqvae_commands.run.environment import cores
from vqvae_commands.run.progress import make_progress
from vqvae_commands.terminal.interrupts import held_back

MakeArms = Callable[[], Sequence[Arm]]


def run_all(make_arms: MakeArms, folder: Path, seeds: Sequence[int], processes: int) -> None:
    """Runs the missing arms, and shows the progress.

    Args:
        make_arms: returns all arms. With several processes each calls it, so it must be a
            function of a module, or a `partial` of one with plain arguments.
        folder: the folder of the results.
        seeds: the seeds of each arm.
        processes: how many at a time, each on its share of the cores, on which results depend in
            the last bits: the last arm alone has no more. With 1, this one runs them.
    """
    todo = [arm for arm in make_arms() if missing(arm, folder, seeds)]
    with Bar(todo, folder, seeds) as bar:
        if processes <= 1 or not todo:
            run_missing(todo, folder, seeds, lambda record: bar.look())
            return
        n = min(processes, len(todo))
        context = multiprocessing.get_context("spawn")
        names = context.SimpleQueue()  # of arms; whoever is free takes the next one
        for name in [*(arm.name for arm in todo), *[None] * n]:
            names.put(name)
        workers = [
            context.Process(target=work, args=(make_arms, folder, seeds, names, i, processes))
            for i in range(n)
        ]
        try:
            with held_back():
                for worker in workers:
                    worker.start()
            while any(worker.is_alive() for worker in workers):
                time.sleep(0.5)
                bar.look()
        except KeyboardInterrupt:
            raise KeyboardInterrupt("stopped: the same command continues") from None
        finally:
            for worker in workers:
                worker.terminate()
    if any(worker.exitcode for worker in workers):
        raise ChildProcessError("a process ended early; the same command continues")


def work(make_arms: MakeArms, folder: Path, seeds, names: SimpleQueue, i: int, n: int) -> None:
    """Runs one arm after another in process i of n, on every n-th core, until there is None."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this one
    threading.Thread(target=end_with_parent, daemon=True).start()
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, allowed[i::n] or allowed)
    arms = {arm.name: arm for arm in make_arms()}
    for name in iter(names.get, None):
        run_missing([arms[name]], folder, seeds)


def end_with_parent() -> None:
    """A parent that is killed takes its processes along: no arm is run by two of them."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def default_processes() -> int:
    """One for each core, at most 8; a single one where there is an accelerator."""
    if jax.default_backend() != "cpu":
        return 1
    return min(cores(), 8)


class Bar:
    """Progress over arms and seeds: a bar with the time left, or lines where there is no terminal.

    It looks at the folder, so it doesn't matter which process runs an arm.
    """

    def __init__(self, arms: Sequence[Arm], folder: Path, seeds: Sequence[int]):
        self.folder = folder
        self.waiting = [(arm, seed) for arm in arms for seed in missing(arm, folder, seeds)]
        for arm, seed in self.waiting:  # what failed before is tried again
            arm.path(folder, seed).unlink(missing_ok=True)
        # Arms take minutes: the usual 30 seconds of estimate would see none.
        self.progress = make_progress(Console(), speed_estimate_period=3600)
        self.task = self.progress.add_task("", total=len(self.waiting), now="compiling")

    def __enter__(self) -> "Bar":
        self.progress.start()
        return self

    def __exit__(self, *_) -> None:
        self.progress.stop()

    def look(self) -> None:
        """Moves by the results that came since the last look."""
        found = [(arm, seed, arm.read(self.folder, seed)) for arm, seed in self.waiting]
        self.waiting = [(arm, seed) for arm, seed, record in found if record is None]
        for arm, seed, record in found:
            if record is None:
                continue
            text = f"{arm.name}, seed {seed}: {record['status']} in {record['seconds']:.0f} s"
            self.progress.update(self.task, advance=1, now=text)
            if self.progress.disable:
                print(f"{text}; {len(self.waiting)} left", flush=True)
            if record["reason"]:
                self.progress.console.print(f"{text}: {record['reason'].splitlines()[0]}")
