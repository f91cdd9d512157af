"""Reruns of two arms of a recorded ablation with a new seed, to check the recorded intervals.

A number of the new seed should lie in the 95 % prediction interval of the recorded ones,

    mean ± t_{1 - a/2, n-1} s sqrt(1 + 1/n),  a = 0.05 / (number of numbers checked)
"""

import dataclasses
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from scipy.special import stdtrit

from experiments.sweep.arms import Arm, collect
from experiments.sweep.processes import default_processes, run_all
from vqvae_commands.terminal.terminal_table import print_lines

LOOKED_AT = ("psnr", "ssim", "used", "perplexity", "quantization_error", "total")
ARMS = 2


@dataclasses.dataclass(frozen=True)
class Recorded:
    """An arm as it stands in a results.json, with the numbers of each seed that was done."""

    name: str
    definition: Any
    numbers: Sequence[Mapping[str, float]]
    seeds: Sequence[int]  # all of them
    seconds: float  # the mean over seeds


def check_recorded(
    name: str,
    results: Path,
    make_arms: Callable[[], Sequence[Arm]],
    output: Path,
    processes: int | None = None,
) -> None:
    """Runs the quickest arms with the first seed that was not recorded, and prints a table.

    Args:
        name: the ablation's name.
        results: its results.json.
        make_arms: its arms as they are now; a function of a module, or a `partial` of one.
        output: where the new results go.
        processes: how many at a time.

    Raises:
        ValueError: nothing was recorded, or an arm's definition has changed.
        SystemExit: after the table, if a number lies outside its interval.
    """
    recorded = quickest(read(results))
    names = [old.name for old in recorded]
    arms = {arm.name: arm for arm in named(make_arms, names)}
    for old in recorded:
        if old.name not in arms or as_json(arms[old.name].definition) != old.definition:
            raise ValueError(f"{old.name} is not what {results} recorded")
    seed = 1 + max(seed for old in recorded for seed in old.seeds)
    run_all(partial(named, make_arms, names), output, [seed], processes or default_processes())
    numbers = {old.name: collect([arms[old.name]], output, [seed])[0] for old in recorded}
    outside = print_check(
        recorded, {name: row.records[0]["numbers"] for name, row in numbers.items()}
    )
    if outside:
        raise SystemExit(f"{outside} numbers lie outside what {name} recorded")


def named(make_arms: Callable[[], Sequence[Arm]], names: Sequence[str]) -> list[Arm]:
    """The arms of these names."""
    return [arm for arm in make_arms() if arm.name in names]


def as_json(definition) -> Any:
    """The definition as JSON gives it back."""
    return json.loads(json.dumps(definition))


def read(results: Path) -> list[Recorded]:
    """The arms of a results.json that have at least two seeds.

    Raises:
        ValueError: if there are none.
    """
    found = []
    for arm in json.loads(results.read_text())["arms"] if results.exists() else []:
        done = [seed for seed in arm["seeds"] if seed["status"] == "done"]
        if len(done) > 1:
            seconds = statistics.fmean(seed["seconds"] for seed in done)
            numbers = [seed["numbers"] for seed in done]
            seeds = [seed["seed"] for seed in arm["seeds"]]
            found.append(Recorded(arm["arm"], arm["definition"], numbers, seeds, seconds))
    if not found:
        raise ValueError(f"{results}: expected the record of arms with two seeds, found none")
    return found


def quickest(recorded: Sequence[Recorded]) -> list[Recorded]:
    """The `ARMS` that take the least time."""
    return sorted(recorded, key=lambda old: old.seconds)[:ARMS]


def print_check(recorded: Sequence[Recorded], new: Mapping[str, Mapping[str, float]]) -> int:
    """Prints what was recorded beside the new numbers; returns how many lie outside."""
    pairs = [(old, key) for old in recorded for key in LOOKED_AT if key in old.numbers[0]]
    lines, outside = [["arm", "number", "recorded", "new", ""]], 0
    for old, key in pairs:
        mean, half = prediction([numbers[key] for numbers in old.numbers], 0.05 / len(pairs))
        value = new[old.name].get(key, math.nan)  # a seed that diverged has no numbers
        inside = abs(value - mean) <= half
        outside += not inside
        words = f"{mean:.4g} ± {half:.2g}", f"{value:.4g}", "inside" if inside else "outside"
        lines.append([old.name, key, *words])
    print_lines(lines)
    return outside


def prediction(values: Sequence[float], alpha: float) -> tuple[float, float]:
    """Returns the mean, and the half-width that holds a further normal value with 1 - alpha.

    Example:
        >>> mean, half = prediction([1.0, 2.0, 3.0], 0.05)
        >>> mean, round(half, 3)
        (2.0, 4.968)
    """
    n = len(values)
    t = float(stdtrit(n - 1, 1 - alpha / 2))
    return statistics.fmean(values), t * statistics.stdev(values) * math.sqrt(1 + 1 / n)
