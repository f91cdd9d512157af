"""Runs that an earlier version began: the command line that began them continues them."""

import dataclasses
import json

EARLIER = {"optimizer": "adam", "steps": 8000, "beta": 0.25, "decay": 0.99}
"""The defaults of runs from before there was a choice of optimizer."""


def as_begun(config):
    """Returns the options with the defaults of the time when the run in their folder began."""
    path = config.runs / config.name / "config.json"
    if not path.exists() or "optimizer" in json.loads(path.read_text()):
        return config
    today = {field.name: field.default for field in dataclasses.fields(config)}
    left = {name: then for name, then in EARLIER.items() if getattr(config, name) == today[name]}
    return dataclasses.replace(config, **left)
