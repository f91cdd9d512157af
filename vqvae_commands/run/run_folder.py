"""The folder of a run: `runs/<name>/`.

config.json       the options, enough to start it again
checkpoints/      the train state (orbax)
model/            description and weights (`vqvae_jax.load_model`)
metrics.jsonl     one line per logged step, without any clock: equal runs give equal files
timing.jsonl      what the clock said: seconds since the line before, and the date
tensorboard/      the same curves
data.json         what the data are
evaluation.json   the table of the whole test set
pictures/, report.html
"""

import dataclasses
import datetime
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vqvae_commands.run.changes import ConfigChanged, check_same_run
from vqvae_jax import BundleError, load_model
from vqvae_jax.saving.bundle import DESCRIPTION, Bundle, write
from vqvae_jax.saving.weights import read_json

PARTS = ("checkpoints", "codes", "interpretation", "model", "pictures", "samples", "tensorboard")
"""Folders in that of a run."""


def prepare_folder(folder: Path, config) -> None:
    """Makes the folder, or checks that it belongs to a run of the same options, a dataclass.

    Raises:
        ConfigChanged: naming each option that differs and may not, see `changes`.
    """
    path, options = folder / "config.json", to_plain(config)
    if path.exists():
        old = json.loads(path.read_text())
        check_same_run(folder, old, config, options)
        # A run goes on not saying what it never said: `as_begun` can tell that it is older.
        options = {name: value for name, value in options.items() if name in old}
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, strict_json(options, indent=1))


def open_run(run: Path) -> tuple[Bundle, dict[str, Any]]:
    """A run's model and options; a folder that `save_model` wrote has a model and no options.

    Raises:
        BundleError: neither of them, or a damaged model.
    """
    path = run / "config.json"
    if path.exists():
        return load_model(run / "model"), read_json(path)
    if not any((folder / DESCRIPTION).is_file() for folder in (run, run / "model")):
        raise BundleError(f"{run}: expected the folder of a run or of a saved model, found neither")
    return load_model(run), {}


def check_name(name: str) -> None:
    """Raises a ValueError unless a name is that of a folder of its own, not of a run's parts."""
    if name in ("", ".", "..", *PARTS) or Path(name).name != name:
        raise ValueError(f"--name: expected the name of a new folder, found {name!r}")


def check_model(folder: Path, model) -> None:
    """Raises a ConfigChanged if the run's saved model is another than these options make now."""
    if load_model(folder / "model").model != model:
        raise ConfigChanged(f"{folder / 'model'} is another model than these options make")


def to_plain(config) -> dict[str, Any]:
    """A dataclass as plain JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    write(path, lambda file: file.write(text.encode()))


def strict_json(value: Any, **options) -> str:
    """The JSON of nested values, as every reader takes it: null for what is not a finite number.

    >>> strict_json({"psnr": float("nan"), "codes": (1, float("inf"))})
    '{"psnr": null, "codes": [1, null]}'
    """
    return json.dumps(nullable(value), allow_nan=False, **options)


def nullable(value: Any) -> Any:
    """Returns nested values with None in place of NaN and infinities."""
    if isinstance(value, dict):
        return {name: nullable(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [nullable(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file; a last line cut off by a crash is left out."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


class Log:
    """Writes metrics to metrics.jsonl and TensorBoard, times to timing.jsonl.

    Lines after `start` are dropped: a run that continues there writes them again.
    """

    def __init__(self, folder: Path, start: int):
        from tensorboardX import SummaryWriter  # what writes no run does not need it

        self.metrics, self.timing = folder / "metrics.jsonl", folder / "timing.jsonl"
        for path in (self.metrics, self.timing):
            kept = [line for line in read_lines(path) if line["step"] <= start]
            write_text(path, "".join(strict_json(line) + "\n" for line in kept))
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)
        self.step, self.time = start, time.perf_counter()

    def write(self, step: int, values: dict[str, float]) -> None:
        append(self.metrics, {"step": step, **values})
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def write_pictures(self, step: int, pictures: Mapping[str, UInt8[np.ndarray, "H W C"]]) -> None:
        """Writes pictures of 1, 3 or 4 channels, by their names, to TensorBoard alone."""
        for name, picture in pictures.items():
            self.board.add_image(name, picture, step, dataformats="HWC")

    def write_time(self, step: int) -> float | None:
        """Steps per second since the last call, also written to timing.jsonl; None before any."""
        now, steps = time.perf_counter(), step - self.step
        rate = steps / (now - self.time) if steps else None
        if rate:
            seconds = {"seconds": round(now - self.time, 3), "steps_per_second": round(rate, 2)}
            date = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
            append(self.timing, {"step": step, **seconds, "date": date})
        self.step, self.time = step, now
        return rate

    def close(self) -> None:
        self.board.close()


def append(path: Path, line: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(strict_json(line) + "\n")
