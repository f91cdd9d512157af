"""Timing of work that is queued on the device several times before anyone waits for it.

A call that waits for its result measures the way to the device and back as well, which on a GPU
takes longer than a small problem. Here a call queues the work for one set of inputs after another,
for `QUEUE` seconds, and waits once; times are those of one set.
"""

import contextlib
import dataclasses
import itertools
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, TypeVar

from experiments.accelerator.times import torch_side
from experiments.bench.timing import Contestant, Race, race

QUEUE = 0.02  # seconds of work that are queued before one waits
MOST = 400  # sets in a queue: until they are done, they may hold memory
SLOW = 0.5  # seconds of one set from which on a contestant, called seven times, is left out


class Work(NamedTuple):
    """Work of a contestant.

    Attributes:
        name: name of the contestant.
        start: `(i) -> result` of the i-th set of inputs, i = 0, 1, ...; it need not be ready.
        wait: returns when a result, and all those started before it, are ready.
        rows: number of rows that are worked on at a time.
        within: context of all that a call starts.
    """

    name: str
    start: Callable[[int], Any]
    wait: Callable[[Any], object]
    rows: int | None = None
    within: Callable[[], AbstractContextManager] = contextlib.nullcontext


Ways = list[Work]
"""Works of one contestant, of one name."""
Inputs = TypeVar("Inputs")


def built(
    makers: Mapping[str, Callable[[Inputs], Ways]], inputs: Inputs
) -> tuple[list[Ways], dict[str, str]]:
    """Returns what each maker makes of the inputs, and by name why some can't."""
    contestants, skipped = [], {}
    for name, make in makers.items():
        try:
            contestants.append(make(inputs))
        except Exception as error:  # other libraries lack compilers or memory in many ways
            skipped[name] = reason(error)
    return contestants, skipped


class LineUp(NamedTuple):
    """Contestants that take part.

    Attributes:
        works: the quickest way of each contestant.
        seconds: times of one set, waited for, in a single trial, by name.
        trials: times of all its ways by the number of their rows, by name.
        skipped: why the others don't take part, by name.
    """

    works: Sequence[Work]
    seconds: Mapping[str, float]
    trials: Mapping[str, Mapping[str, float]]
    skipped: Mapping[str, str]


def line_up(contestants: Sequence[Ways], slow: float = SLOW) -> LineUp:
    """Tries every way of each contestant once, and keeps the quickest.

    Args:
        contestants: ways of each, of one name. The first contestant must not fail.
        slow: seconds of a set from which on a contestant is left out.
    """
    found, trials, skipped = {}, {}, {}
    for ways in contestants:
        name, times, errors = ways[0].name, {}, []
        for work in ways:
            try:
                times[work] = trial(work)
            except Exception as error:  # one that runs out of memory must not cost the others
                traceback.clear_frames(error.__traceback__)  # they would keep their arrays
                errors.append(error)
        if not times and ways is contestants[0]:
            raise errors[0]
        best = min(times, key=times.__getitem__, default=None)
        trials[name] = {str(work.rows): seconds for work, seconds in times.items()}
        if best is None:
            skipped[name] = reason(errors[0])
        elif times[best] > slow and ways is not contestants[0]:
            skipped[name] = f"{times[best]:.1f} s a call"
        else:
            found[best] = times[best]
    return LineUp(list(found), {w.name: t for w, t in found.items()}, trials, skipped)


def trial(work: Work, clock: Callable[[], float] = time.perf_counter) -> float:
    """Returns the seconds of the second call; the first may compile."""
    with work.within():
        work.wait(work.start(0))
        begun = clock()
        work.wait(work.start(1))
        return clock() - begun


def queue_length(seconds: float, queue: float = QUEUE) -> int:
    """Returns how many sets take `queue` seconds.

    Example:
        >>> queue_length(0.005), queue_length(1.0), queue_length(0.0)
        (4, 1, 400)
    """
    return max(1, min(MOST, round(queue / max(seconds, 1e-9))))


def queued(work: Work, sets: int) -> Contestant:
    """Returns a contestant whose call queues so many sets, and then waits."""
    turn = itertools.count()

    def call():
        with work.within():
            for _ in range(sets):
                # Only the last result is kept: those of several sets may not fit into memory.
                result = work.start(next(turn))
            work.wait(result)

    return Contestant(work.name, call)


def race_queued(
    title: str,
    line: LineUp,
    rounds: int,
    sizes: Mapping[str, Any] | None = None,
    queue: float = QUEUE,
) -> Race:
    """Races those of a line-up; the first is the baseline, and times are those of one set."""
    sets = {name: queue_length(seconds, queue) for name, seconds in line.seconds.items()}
    entries = [queued(work, sets[work.name]) for work in line.works]
    result = race(title, entries, rounds, sizes=sizes, short=0.0)
    seconds = {name: [t / sets[name] for t in times] for name, times in result.seconds.items()}
    return dataclasses.replace(result, seconds=seconds)


def seconds_of(work: Work, rounds: int = 3, queue: float = QUEUE) -> float:
    """Returns the median seconds of one set of a work that nothing is raced against."""
    return race_queued(work.name, line_up([[work]]), rounds, queue=queue).time(work.name).median


@contextlib.contextmanager
def let_go(contestants: list) -> Iterator[None]:
    """Empties the list at the end: arrays of one task must not be in the way of the next."""
    try:
        yield
    finally:
        contestants.clear()
        torch_side.forget()


def reason(error: Exception) -> str:
    """Returns the first line of an error."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
