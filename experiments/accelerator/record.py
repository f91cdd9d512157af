"""The record of the command: all results as JSON, written as they come."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.accelerator.tasks import Found, Task, failed
from vqvae_commands.run.run_folder import strict_json, write_text

FILE = "results.json"


class Record:
    """Results by section and task.

    Attributes:
        calls: facts on each call of the command that added results.
        found: {section: {task: result}}.
        clocks: what the card's clocks were just after each section.
    """

    def __init__(self, facts: Mapping[str, Any], earlier: Mapping[str, Any] | None = None):
        earlier = earlier or {"calls": [], "sections": {}, "clocks": {}}
        self.calls = [*earlier["calls"], dict(facts)]
        self.clocks: dict[str, str] = dict(earlier["clocks"])
        self.found: dict[str, dict[str, Found]] = {
            name: dict(tasks) for name, tasks in earlier["sections"].items()
        }

    def add(self, section: str, task: Task, found: Found) -> None:
        """Adds a result, with what was expected of it."""
        self.found.setdefault(section, {})[task.name] = {**found, "expected": dict(task.expected)}

    def of(self, section: str) -> Mapping[str, Found]:
        """The results of a section, by task."""
        return self.found.get(section, {})

    def missing(self, section: str, tasks: Sequence[Task]) -> list[Task]:
        """The tasks without a result, and after them those that failed or were skipped."""
        there = self.of(section)
        again = [t for t in tasks if t.name in there and incomplete(there[t.name])]
        return [t for t in tasks if t.name not in there] + again

    def write(self, folder: Path) -> None:
        """Writes the results, whole or not at all."""
        values = {"calls": self.calls, "clocks": self.clocks, "sections": self.found}
        write_text(folder / FILE, strict_json(values, indent=1))


def read(path: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the results of an earlier call, to go on from.

    Args:
        path: its results.json, or the folder that holds it.
        facts: facts on this call.

    Raises:
        ValueError: the file holds no such results, or those of another device or of other sizes.
    """
    path = file_of(path)
    try:
        values = json.loads(path.read_text())
        check_shape(values)
        there = values["calls"][-1]
        old = there["device"], there["quick"]
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        raise ValueError(f"{path}: expected results of this command, got other contents") from error
    if old != (facts["device"], facts["quick"]):
        raise ValueError(
            f"{path}: expected results of {facts['device']}, quick: {facts['quick']}; "
            f"got those of {old[0]}, quick: {old[1]}"
        )
    return values


def incomplete(found: Found) -> bool:
    """Returns whether a task failed, or was skipped as a whole: PyTorch may be there by now."""
    return failed(found) or isinstance(found.get("skipped"), str)


def file_of(path: Path) -> Path:
    """Returns the file of results: the path itself, or the one in that folder."""
    return path / FILE if path.is_dir() else path


def check_shape(values: Mapping[str, Any]) -> None:
    """Raises a TypeError, LookupError or AttributeError unless values are those of a record."""
    for call in values["calls"]:
        call["command"], call["date"], call["machine"]["rates of"], call["versions"].items()
    found = [result for tasks in values["sections"].values() for result in tasks.values()]
    if not all(isinstance(result, dict) for result in [values["clocks"], *found]):
        raise TypeError("results must be objects")
