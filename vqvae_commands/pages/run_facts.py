"""Facts of a run's report: how it was made, how small its codes are, and how to use its model."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vqvae_commands.data.kinds import NOUNS, Facts, spread
from vqvae_commands.data.padded import chosen
from vqvae_commands.run import code_streams, environment
from vqvae_commands.run.model_metrics import evaluate
from vqvae_commands.run.run_folder import read_lines
from vqvae_jax.data.pipeline import Examples

SOME = 10_000  # training examples that are measured

USE = """import vqvae_jax as vj
model, variables, _ = vj.load_model({folder!r})
indices = model.apply(variables, x, method="tokenize")  # x: {dtype} [N, {shape}]
"""


def about(
    folder: Path, model, variables, data: str, facts: Facts, results: Mapping[str, float]
) -> dict[str, str]:
    """Returns all facts about a run, by their names."""
    made = how_made(folder, data, facts)
    return made | sizes(model, variables) | compression(results, facts)


def how_made(folder: Path, data: str, facts: Facts) -> dict[str, str]:
    """Returns data, date, duration, versions and device of a run, by their names."""
    timing = read_lines(folder / "timing.jsonl")
    found = {"data": " ".join([f"{data}: {facts}.", *facts.origin()])}
    if timing and "date" in timing[-1]:
        found["date"] = timing[-1]["date"][:16].replace("T", " ")
    if timing:
        found["duration"] = duration_text(seconds(timing))
    versions = ", ".join(f"{name} {number}" for name, number in environment.versions().items())
    return found | {"versions": versions, "device": device_text()}


def seconds(timing: Sequence[Mapping[str, Any]]) -> float:
    """Returns the seconds of a training over all its interruptions, from timing.jsonl.

    Lines of earlier versions have no seconds; they follow from the steps and the rate.

    Example:
        >>> seconds([{"step": 10, "steps_per_second": 5.0}, {"step": 14, "seconds": 3.5}])
        5.5
    """
    before = [0, *(line["step"] for line in timing)]
    each = zip(timing, before, strict=False)
    return sum(
        line["seconds"] if "seconds" in line else (line["step"] - since) / line["steps_per_second"]
        for line, since in each
        if line.get("seconds") or line.get("steps_per_second")
    )


def duration_text(duration: float) -> str:
    """Returns a duration in words.

    Example:
        >>> duration_text(5.4), duration_text(271.0), duration_text(86_500)
        ('5 s', '4 min 31 s', '24 h 1 min')
    """
    minutes, rest = divmod(round(duration), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def device_text() -> str:
    """Returns the device, and how many of them there are if more than one."""
    count = jax.device_count()
    return environment.device() + (f", {count} devices" if count > 1 else "")


def sizes(model, variables: Mapping[str, Any]) -> dict[str, str]:
    """Returns the number of parameters and of codes, by their names."""
    parameters = sum(np.size(leaf) for leaf in jax.tree.leaves(variables.get("params", {})))
    each = code_streams.streams(code_streams.quantizers(model))
    lines = [f"{title} {size:,}" if title else f"{size:,}" for title, size in titled(each)]
    return {"parameters": f"{parameters:,}", "codes": ", ".join(lines)}


def titled(each: Mapping[str, int]) -> list[tuple[str, int]]:
    """Returns the titles and sizes of streams; many equal ones together."""
    equal = set(each.values())
    if len(each) > 2 and len(equal) == 1:
        return [(f"{len(each)} streams of", *equal)]
    return [(code_streams.title(prefix), size) for prefix, size in each.items()]


def beside_training(
    results: Mapping[str, float], model, variables, train: Examples, count: int, kind: str
) -> dict[str, float]:
    """Returns the results with the first one also of up to `count` examples of all training."""
    some = chosen(train, spread(len(train), min(count, SOME)))
    table, _ = evaluate(model, variables, some, kind=kind)
    (name, value), *others = results.items()
    return {name: value, f"train_{name}": table[name], **dict(others)}


def compression(results: Mapping[str, float], facts: Facts) -> dict[str, str]:
    """Returns how much smaller the codes are than the data, and for pictures their bits a pixel.

    Example:
        >>> facts = Facts("pictures", (28, 28, 1), "uint8", 0, 255, 9, 9, 0, 0)
        >>> compression({"bits_uniform": 441.0, "bits_entropy": 196.0}, facts)["bits a pixel"]
        '0.562 at log2 K bits a code, 0.25 at their entropy'
    """
    noun = NOUNS[facts.kind][0]
    whole = math.prod(facts.shape) * np.dtype(facts.dtype).itemsize * 8
    bits = [results[name] for name in ("bits_uniform", "bits_entropy")]
    found = {
        "input": f"{whole:,} bits of one {noun}",
        "compression": both([f"{whole / n:,.1f} times" if n else "" for n in bits]),
    }
    if facts.kind == "pictures":
        found["bits a pixel"] = both([f"{n / math.prod(facts.shape[:2]):.3g}" for n in bits])
    return found


def both(texts: Sequence[str]) -> str:
    """Returns numbers of the codes at log2 K bits each, and at their entropy."""
    names = ("at log2 K bits a code", "at their entropy")
    return ", ".join(f"{text} {name}" for text, name in zip(texts, names, strict=True) if text)


def use(folder: Path, facts: Facts) -> str:
    """Returns three lines of Python that load the model of a run and tokenize examples."""
    shape = ", ".join(map(str, facts.shape))
    return USE.format(folder=str(folder / "model"), dtype=facts.dtype, shape=shape)
