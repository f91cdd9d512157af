"""Timing of contestants in turns, with ratios taken within a round.

A shared machine is slow for minutes and then fast again. Therefore each round times every
contestant once, one after another, and a ratio to the baseline uses times of the same round.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

SHORT = 0.05  # seconds: shorter calls are repeated within a measurement, after one untimed call
LONG = 5.0  # seconds: a slower contestant is timed in two rounds only
Clock = Callable[[], float]


class Contestant(NamedTuple):
    """A function to be timed: it returns when its work is done."""

    name: str
    call: Callable[[], object]
    compile_seconds: float | None = None  # None: nothing is compiled ahead


class Spread(NamedTuple):
    """Median, first and third quartile."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Returns median, first and third quartile.

    Example:
        >>> spread([4.0, 1.0, 2.0, 3.0, 5.0])
        Spread(median=3.0, low=2.0, high=4.0)
    """
    low, median, high = np.quantile(np.asarray(values, np.float64), [0.25, 0.5, 0.75])
    return Spread(float(median), float(low), float(high))


@dataclasses.dataclass(frozen=True)
class Race:
    """Times of the contestants.

    Attributes:
        title: name of the problem, with its sizes.
        baseline: contestant to which ratios refer.
        seconds: times of one call, by contestant; entry i belongs to round i.
        compile_seconds: times of compiling, by contestant that compiles ahead.
        sizes: sizes of the problem, by name.
    """

    title: str
    baseline: str
    seconds: Mapping[str, Sequence[float]]
    compile_seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    sizes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def time(self, name: str) -> Spread:
        """Returns the seconds of one call."""
        return spread(self.seconds[name])

    def ratio(self, name: str) -> Spread:
        """Returns the time over the baseline's time in the same round."""
        pairs = zip(self.seconds[name], self.seconds[self.baseline], strict=False)
        return spread([a / b for a, b in pairs])

    def faster(self, name: str) -> Spread:
        """Returns the baseline's time over this one's in the same round."""
        median, low, high = self.ratio(name)
        return Spread(1 / median, 1 / high, 1 / low)


def race(
    title: str,
    contestants: Sequence[Contestant],
    rounds: int,
    baseline: str | None = None,
    clock: Clock = time.perf_counter,
    sizes: Mapping[str, Any] | None = None,
    short: float | None = None,
) -> Race:
    """Times all contestants `rounds` times, in turns.

    Args:
        title: title of the result.
        contestants: functions with different names, called twice before the first round.
        rounds: number of rounds, at least 1.
        baseline: name of a contestant; by default the first.
        clock: function that returns seconds.
        sizes: sizes of the problem, for the record.
        short: seconds below which calls are repeated within a measurement; by default SHORT.

    Raises:
        ValueError: two contestants of one name, no such baseline, or no round.
    """
    names = [c.name for c in contestants]
    baseline = baseline or names[0]
    if len(set(names)) < len(names) or baseline not in names or rounds < 1:
        raise ValueError(f"need distinct names, {baseline!r} among {names}, and rounds >= 1")
    # The first call may be slow, with cold caches or compiling: the faster of two is expected.
    expected = {c.name: once(c, clock) for c in contestants}
    expected = {c.name: min(expected[c.name], once(c, clock)) for c in contestants}
    short = SHORT if short is None else short
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for contestant in contestants:
            if turn < 2 or expected[contestant.name] < LONG:
                calls = calls_for(expected[contestant.name], short)
                seconds[contestant.name].append(time_call(contestant, calls, clock))
    compiled = {c.name: c.compile_seconds for c in contestants if c.compile_seconds is not None}
    return Race(title, baseline, seconds, compiled, dict(sizes or {}))


def once(contestant: Contestant, clock: Clock) -> float:
    """Returns the seconds of a single call."""
    begun = clock()
    contestant.call()
    return clock() - begun


def time_call(contestant: Contestant, calls: int, clock: Clock) -> float:
    """Returns the mean seconds of so many calls; before several, one is not counted."""
    if calls > 1:
        contestant.call()  # caches hold this contestant's data again, others' threads have stopped
    begun = clock()
    for _ in range(calls):
        contestant.call()
    return (clock() - begun) / calls


def calls_for(seconds: float, short: float = SHORT) -> int:
    """Returns the number of calls in one measurement: as many as take `short` seconds.

    Example:
        >>> calls_for(1.0), calls_for(0.02), calls_for(1e-7)
        (1, 3, 1000)
    """
    return 1 if seconds >= short else min(1000, int(np.ceil(short / max(seconds, 1e-9))))


def compiled(name: str, function: Callable, *args, **options) -> Contestant:
    """Compiles a function for these arguments, and returns it with the time of compiling.

    Args:
        name: name of the contestant.
        function: function of arrays.
        args: arguments of the function.
        options: options of `jax.jit`.
    """
    begun = time.perf_counter()
    program = jax.jit(function, **options).lower(*args).compile()
    seconds = time.perf_counter() - begun
    return Contestant(name, lambda: jax.block_until_ready(program(*args)), seconds)
