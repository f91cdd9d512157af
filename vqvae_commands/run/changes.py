"""Options that may change when a run continues, in one place, for all trainings.

The name and place of a run, how it is computed, and how often it is logged, evaluated and saved.
Its steps, where the schedule of the learning rate does not depend on them: `--schedule constant`.
All else belongs to the run, which continues bit for bit; begin another one with `--start`.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CHANGEABLE = {
    *("name", "runs", "run"),
    *("parallel", "parts", "processes", "process_id", "coordinator"),
    *("log_every", "eval_every", "save_every"),
}


class ConfigChanged(ValueError):
    """The folder belongs to a run with other options."""


EARLIER = {"optimizer": "adam", "steps": 8000, "beta": 0.25, "decay": 0.99}
"""Defaults of runs from before there was a choice of optimizer, where they differ from today's."""


def as_begun(config):
    """Returns the options of a training, with the defaults of when the run in its folder began.

    The command line that began a run thus continues it, though the defaults have changed.
    """
    path = config.runs / config.name / "config.json"
    old = json.loads(path.read_text()) if path.exists() else {"optimizer": None}
    if "optimizer" in old:
        return config
    today = {field.name: field.default for field in dataclasses.fields(config)}
    left = {name for name in EARLIER if getattr(config, name) == today[name]}
    left = {name for name in left if old.get(name, EARLIER[name]) == EARLIER[name]}
    return dataclasses.replace(config, **{name: EARLIER[name] for name in left})


def check_same_run(folder: Path, old: Mapping[str, Any], config, new: Mapping[str, Any]) -> None:
    """Raises a ConfigChanged that names each option which may not change, but does.

    Args:
        folder: the run's folder.
        old: options with which the run began; one that did not exist then has its default.
        config: dataclass of the options now.
        new: the same as plain values.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(config)} | EARLIER
    before = {name: old.get(name, plain(defaults.get(name))) for name in {**old, **new}}
    changed = [
        f"{name}: {value!r} there, {new.get(name)!r} now"
        for name, value in before.items()
        if name not in CHANGEABLE and value != new.get(name) and not lengthened(name, before, new)
    ]
    if not changed:
        return
    advice = "use --name"
    if [line.partition(":")[0] for line in changed] == ["steps"]:
        advice = "a run with --schedule constant can be lengthened, others can't; use --name"
    raise ConfigChanged(f"{folder} holds another run; {advice}. {'; '.join(changed)}")


def plain(value: Any) -> Any:
    """Returns a default as JSON has it."""
    return list(value) if isinstance(value, tuple) else value


def lengthened(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Returns whether the option is the number of steps, which grows, and no rate depends on it."""
    constant = old.get("schedule") == new.get("schedule") == "constant"
    return name == "steps" and constant and new["steps"] > old["steps"]
