"""Compare the current arms with those whose results are recorded in docs/.

python -m experiments.compare.recorded            lists the arms whose definition has changed
python -m experiments.compare.recorded --renew    writes the current definitions

An arm's definition may change without its results, for example if a new argument has a default
that keeps the old behaviour. Renew only then; if results would differ, run the arm again.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from experiments.ablations import ABLATIONS
from experiments.compare import COMPARISONS
from experiments.sweep.arms import Arm
from vqvae_commands.run.run_folder import strict_json, write_text
from vqvae_commands.terminal.command import run


@dataclasses.dataclass(frozen=True)
class Config:
    """List the recorded arms whose definition has changed."""

    docs: Path = Path("docs")
    """Folder of the recorded results."""
    renew: bool = False
    """Write the current definitions into results.json, and leave all numbers unchanged."""


def main(config: Config) -> None:
    """Lists the arms that differ, or renews their definitions.

    Raises:
        SystemExit: after the list, if an arm differs and stays as it is.
    """
    total, left = 0, 0
    for path, make_arms in recorded_pages(config.docs):
        record, now = json.loads(path.read_text()), definitions(make_arms())
        total += len(record["arms"])
        changed = differing(record, now)
        for name, parts in changed.items():
            print(f"{path}: {name} differs in {', '.join(parts) or 'its name'}")
        if config.renew and changed:
            write_text(path, strict_json(renewed(record, now), indent=1))
            changed = differing(record, now)
        left += len(changed)
    print(f"{total} recorded arms, {left} differ")
    if left:
        raise SystemExit(1)


def recorded_pages(docs: Path) -> Iterator[tuple[Path, Callable[[], list[Arm]]]]:
    """Yields each results.json with a function that makes its current arms."""
    for name, comparison in COMPARISONS.items():
        yield docs / name / "results.json", partial(comparison.make_arms, comparison.options())
    for name, ablation in ABLATIONS.items():
        make_arms = partial(ablation.make_arms, ablation.default)
        yield docs / "ablations" / name / "results.json", make_arms


def definitions(arms: list[Arm]) -> dict[str, Any]:
    """The definitions of arms by name, as JSON gives them back."""
    return {arm.name: json.loads(json.dumps(arm.definition)) for arm in arms}


def differing(record: dict[str, Any], now: dict[str, Any]) -> dict[str, list[str]]:
    """The recorded arms that differ from those of now, with the parts that do.

    Args:
        record: a results.json.
        now: definitions by the name of the arm; a recorded arm that is missing has no parts.
    """
    found: dict[str, list[str]] = {}
    for arm in record["arms"]:
        old, new = arm["definition"], now.get(arm["arm"])
        if new is None:
            found[arm["arm"]] = []
        elif old != new:
            found[arm["arm"]] = sorted(k for k in old | new if old.get(k) != new.get(k))
    return found


def renewed(record: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Returns the record, changed in place, with the current definitions where they differ."""
    for arm in record["arms"]:
        if arm["definition"] != now.get(arm["arm"], arm["definition"]):
            arm["definition"] = now[arm["arm"]]
    return record


if __name__ == "__main__":
    run(main, Config)
