"""Tasks of the command, and how sections of them are run within a given time.

Each task is prepared, which mostly compiles, and then measured. Tasks are prepared several at a
time, and measured one by one while nothing else runs. One that fails leaves its error as its
result, and the next one goes on.
"""

import json
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from experiments.bench.bench_page import Table

Found = Mapping[str, Any]
"""Result of a task: JSON values by name; `passed` is a verdict, `failure` is an error."""


class Task(NamedTuple):
    """A measurement.

    Attributes:
        name: unlike that of any other task of its section.
        prepare: compiles, and returns the function that measures.
        expected: numbers that were worked out beforehand, by name.
        group: title of its table, where a section has several.
    """

    name: str
    prepare: Callable[[], Callable[[], Found]]
    expected: Mapping[str, float] = {}
    group: str = ""


class Section(NamedTuple):
    """Tasks that belong together, the most worthy first.

    Attributes:
        title: heading on the page.
        about: paragraph on what is measured.
        share: part of the time that it gets, relative to those of the other sections.
        tasks: `(quick) -> tasks`.
        tables: `(tasks, results by task) -> tables`; results may be missing or be errors.
        figures: `(tasks, results) -> figures by file name`.
        together: most tasks that are prepared at a time. The deadline is looked at in between.
    """

    title: str
    about: str
    share: float
    tasks: Callable[[bool], Sequence[Task]]
    tables: Callable[[Sequence[Task], Mapping[str, Found]], list[Table]]
    figures: Callable[[Sequence[Task], Mapping[str, Found]], Mapping[str, Figure]] = (
        lambda tasks, found: {}
    )
    together: int = 8


def failed(found: Found) -> bool:
    """Returns whether a task raised an error, or a check in it did not hold."""
    return "failure" in found or found.get("passed") is False


def deadlines(shares: Sequence[float], seconds: float) -> list[float]:
    """Returns the seconds from the start after which each section begins nothing new.

    What a section leaves is the next one's.

    Example:
        >>> deadlines([3, 1], 60.0)
        [45.0, 60.0]
    """
    return [seconds * sum(shares[: i + 1]) / sum(shares) for i in range(len(shares))]


def run_tasks(
    tasks: Sequence[Task],
    deadline: float,
    workers: int,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[tuple[Task, Found]]:
    """Yields each task with its result and the seconds that it took, until the deadline.

    Args:
        tasks: in the order in which they are measured.
        deadline: time of the clock from which on no further tasks are begun.
        workers: number of tasks that are prepared at a time.
        clock: function that returns seconds.
    """
    pool = ThreadPoolExecutor(workers)
    try:
        for i in range(0, len(tasks), workers):
            if clock() >= deadline:
                return
            group = tasks[i : i + workers]
            # All of a group first: compiling an accelerator's program runs trials on it.
            timed = [pool.submit(prepared, task, clock) for task in group]
            # By the second: Ctrl-C does not wake a thread that another one's lock holds.
            while wait(timed, timeout=1).not_done:
                pass
            for task, (ready, before) in zip(group, (t.result() for t in timed), strict=True):
                begun = clock()
                found = attempt(ready)
                took = {"prepare seconds": before, "seconds": round(clock() - begun, 3)}
                yield task, {**found, **took}
    finally:
        pool.shutdown(wait=False)  # after Ctrl-C it would wait for the compiler


def prepared(task: Task, clock: Callable[[], float]) -> tuple[Callable[[], Found], float]:
    """Prepares a task, and returns what measures it, with the seconds that preparing took."""
    begun = clock()
    return ready_or_error(task), round(clock() - begun, 3)


def ready_or_error(task: Task) -> Callable[[], Found]:
    """Prepares a task; where that fails, the function that it returns raises the same error."""
    try:
        return task.prepare()
    except Exception as error:
        caught = error
        traceback.clear_frames(error.__traceback__)  # which would keep arrays on the card

        def fail():
            raise caught

        return fail


def attempt(measure: Callable[[], Found]) -> dict[str, Any]:
    """Returns the result of a measurement, or its error with the whole traceback."""
    try:
        found = dict(measure())
        json.dumps(found)  # raises here, and not where the results of all are written
        return found
    except Exception as error:  # one task's failure must not cost the results of all others
        return {
            "failure": f"{type(error).__name__}: {error}",
            "traceback": "".join(traceback.format_exception(error)),
        }
