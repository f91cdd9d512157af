"""Experiments as lists of arms: each arm runs with several seeds, and every result is kept.

    folder/results/<arm>-<hash of its definition>-<seed>.json

A result is written whole or not at all, under a name that holds what was run: so the same call
goes on where another was stopped, an arm that was changed is run again, and its old result stays.
This module knows nothing about what an arm does.
"""

import base64
import dataclasses
import datetime
import hashlib
import io
import json
import math
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vqvae_commands.run.environment import device, versions
from vqvae_commands.run.run_folder import strict_json, write_text


class Diverged(ArithmeticError):
    """A training that diverged: this is the seed's result, not an error of the program."""


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of one arm for one seed.

    Attributes:
        numbers: finite ones, by name.
        pictures: reconstructions of the same few images for every arm, or samples.
    """

    numbers: Mapping[str, float]
    pictures: UInt8[np.ndarray, "n H W C"] | None = None


@dataclasses.dataclass(frozen=True)
class Arm:
    """One of the models, or ways of training, that are compared.

    Attributes:
        name: unlike any other arm's, and fit for a file name.
        label: in tables and plots; arms of different groups may share it.
        definition: JSON values that say all on which the result depends beside the seed. Arms of
            equal definitions are the same arm; one that is changed is another.
        prepare: called once for all seeds, so that they share what it compiles. It returns
            `run(seed) -> Result`, which raises `Diverged` where there is nothing to measure.
        group: arms of one group share a table.
    """

    name: str
    label: str
    definition: Mapping[str, Any]
    prepare: Callable[[], Callable[[int], Result]]
    group: str = ""

    def path(self, folder: Path, seed: int) -> Path:
        """The file of a seed's result."""
        digest = hashlib.sha256(json.dumps(self.definition, sort_keys=True).encode()).hexdigest()
        return folder / "results" / f"{self.name}-{digest[:12]}-{seed}.json"

    def read(self, folder: Path, seed: int) -> dict[str, Any] | None:
        """The record of a seed, or None before there is one."""
        path = self.path(folder, seed)
        return json.loads(path.read_text()) if path.exists() else None


def run_arm(arm: Arm, seed: int, run: Callable[[int], Result]) -> dict[str, Any]:
    """The record of one seed, with status "done", "diverged" or, after an exception, "failed".

    Args:
        arm: the arm that is run.
        seed: the seed of everything random in it.
        run: the function that `arm.prepare` returned.
    """
    begun, result, status, reason = time.perf_counter(), Result({}), "done", ""
    try:
        result = run(seed)
        wrong = [name for name, value in result.numbers.items() if not math.isfinite(value)]
        if wrong:
            raise Diverged(f"not finite: {', '.join(wrong)}")
    except Diverged as error:
        status, reason = "diverged", str(error)
    except Exception as error:  # one arm's mistake must not cost the results of all others
        message = f"{type(error).__name__}: {error}"
        status, reason = "failed", f"{message}\n{traceback.format_exc()}"
    return {
        "arm": arm.name,
        "seed": seed,
        "status": status,
        "reason": reason,
        "numbers": {k: float(v) for k, v in result.numbers.items()} if status == "done" else {},
        "seconds": round(time.perf_counter() - begun, 1),
        "date": datetime.date.today().isoformat(),
        "versions": versions(),
        "device": device(),
        "definition": arm.definition,
        "pictures": None if result.pictures is None else pack(result.pictures),
    }


def run_missing(
    arms: Sequence[Arm],
    folder: Path,
    seeds: Sequence[int],
    after: Callable[[dict[str, Any]], None] = lambda record: None,
) -> None:
    """Runs each arm with each seed that has no result yet, and calls `after` with its record.

    An arm that failed is left for this call; the next one tries it again.
    """
    (folder / "results").mkdir(parents=True, exist_ok=True)
    for arm in arms:
        prepare = cache(arm.prepare)
        for seed in missing(arm, folder, seeds):
            record = run_arm(arm, seed, lambda seed, prepare=prepare: prepare()(seed))
            write_text(arm.path(folder, seed), strict_json(record, indent=1))
            after(record)
            if record["status"] == "failed":
                break


def missing(arm: Arm, folder: Path, seeds: Sequence[int]) -> list[int]:
    """The seeds that an arm is still to be run with."""
    records = {seed: arm.read(folder, seed) for seed in seeds}
    return [seed for seed, r in records.items() if r is None or r["status"] == "failed"]


@dataclasses.dataclass(frozen=True)
class Row:
    """An arm with the records that it has."""

    arm: Arm
    records: Sequence[Mapping[str, Any]]

    def count(self, status: str) -> int:
        """The number of seeds that ended so."""
        return sum(record["status"] == status for record in self.records)

    def values(self, name: str) -> list[float]:
        """One number of all seeds that have it."""
        return [r["numbers"][name] for r in self.records if name in r["numbers"]]

    def pictures(self) -> UInt8[np.ndarray, "n H W C"] | None:
        """The pictures of the first seed that has any."""
        packed = [r["pictures"] for r in self.records if r["status"] == "done" and r["pictures"]]
        return unpack(packed[0]) if packed else None


def collect(arms: Sequence[Arm], folder: Path, seeds: Sequence[int]) -> list[Row]:
    """The rows of a table: each arm with the records that are there."""
    found = [(arm, [arm.read(folder, seed) for seed in seeds]) for arm in arms]
    return [Row(arm, [record for record in records if record]) for arm, records in found]


def pack(pictures: np.ndarray) -> str:
    """An array as text: base64 of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, pictures, allow_pickle=False)
    return base64.b64encode(buffer.getvalue()).decode()


def unpack(text: str) -> np.ndarray:
    """The array of `pack`."""
    return np.load(io.BytesIO(base64.b64decode(text)), allow_pickle=False)
