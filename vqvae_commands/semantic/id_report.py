"""The report on ids: collisions, and by stage the variance explained and the codes used."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Int

from vqvae_commands.code_meaning.coder import Coder
from vqvae_commands.run.model_metrics import number_or_words
from vqvae_commands.semantic.collisions import collisions
from vqvae_commands.semantic.vector_codes import BATCH
from vqvae_commands.terminal.terminal_table import print_lines
from vqvae_jax.metrics import usage

Rows = Float32[np.ndarray, "N D"]
Codes = Int[np.ndarray, "N Q"]


def make_report(coder: Coder, x: Rows, codes: Codes, ids: Int[np.ndarray, "N L"]) -> dict[str, Any]:
    """The numbers of the ids.

    Args:
        coder: the model.
        x: the embeddings.
        codes: the codes that the model gives them.
        ids: the codes after collisions were resolved.
    """
    *_, level = ids.max(axis=0).tolist()
    streams = codes.shape[1]
    return {
        "items": len(x),
        "dim": x.shape[1],
        "vocab": [*coder.model.quantizer.vocab, *[level + 1] * (ids.shape[1] - streams)],
        "collisions": collisions(codes)._asdict(),
        "moved": int(np.count_nonzero((codes != ids[:, :streams]).any(axis=1))),
        "explained_variance": explained_by(coder, x, ids[:, :streams]),
        "stages": by_stage(coder, x, codes),
    }


def explained_by(coder: Coder, x: Rows, codes: Codes) -> float:
    """The share of the variance that the model's reconstruction from these codes explains."""
    return explained_variance(x, coder.decode((codes,), BATCH))


def explained_variance(x: Rows, y: Rows) -> float:
    """The share of the variance of x, around the mean of each column, that y explains.

    Example:
        >>> explained_variance(np.float32([[0, 0], [2, 4]]), np.float32([[0, 0], [2, 2]]))
        0.6
    """
    variance = float(np.var(x, axis=0, dtype=np.float64).mean())
    mse = float(np.mean(np.square(x - y), dtype=np.float64))
    return 1 - mse / variance if variance else math.nan


def by_stage(coder: Coder, x: Rows, codes: Codes) -> list[dict[str, float]]:
    """Numbers of each stage: the variance explained by it and those before, and its codes."""
    found = []
    for stream in coder.streams:
        so_far = np.where(np.arange(codes.shape[1]) <= stream.q, codes, -1)
        counts = np.bincount(codes[:, stream.q], minlength=stream.size)
        found.append(
            {
                "explained_variance": explained_by(coder, x, so_far),
                "codes": stream.size,
                "used": int(np.count_nonzero(counts)),
                "perplexity": float(usage(jnp.asarray(counts))["perplexity"]),
            }
        )
    return found


def print_report(report: dict[str, Any], folder: str) -> None:
    """Prints the report, the stages as a table."""
    print(f"{report['items']:,} items of {report['dim']:,} numbers, model {report['model'][:16]}")
    lines = [["stage", "variance explained", "codes used", "perplexity"]]
    for number, stage in enumerate(report["stages"], 1):
        explained = number_or_words(stage["explained_variance"], ".2%")
        used = f"{stage['used']:,} of {stage['codes']:,}"
        lines.append([str(number), explained, used, f"{stage['perplexity']:,.1f}"])
    print_lines(lines)
    print(*remarks(report), f"{folder}, {report['seconds']:.1f} s", sep="\n")


def remarks(report: dict[str, Any]) -> list[str]:
    """Lines on unused codes, on collisions, and on how they were resolved.

    Example:
        >>> stages = [{"codes": 8, "used": 8}, {"codes": 8, "used": 5}]
        >>> found = {"items": 30, "distinct": 960, "largest": 4}
        >>> report = {"items": 980, "stages": stages, "collisions": found, "vocab": [8, 8, 4]}
        >>> for line in remarks(report | {"moved": 0}):
        ...     print(line)
        3 of 8 codes of stage 2 are unused
        30 of 980 items share all codes with another: 960 distinct ids, at most 4 items on one
        all ids are unique: a last level of 4 numbers the items of the same codes
    """
    lines = [
        f"{stage['codes'] - stage['used']:,} of {stage['codes']:,} codes of stage {i} are unused"
        for i, stage in enumerate(report["stages"], 1)
        if stage["used"] < stage["codes"]
    ]
    found, n = report["collisions"], report["items"]
    if not found["items"]:
        return [*lines, f"all ids are unique: no two of {n:,} items share all codes"]
    shared = (
        f"{found['items']:,} of {n:,} items share all codes with another: "
        f"{found['distinct']:,} distinct ids, at most {found['largest']:,} items on one"
    )
    return [*lines, shared, resolution(report)]


def resolution(report: dict[str, Any]) -> str:
    """A line on how collisions were resolved."""
    if len(report["vocab"]) > len(report["stages"]):
        size = report["vocab"][-1]
        return f"all ids are unique: a last level of {size:,} numbers the items of the same codes"
    if report["moved"]:
        return (
            f"all ids are unique: {report['moved']:,} items have another last code, "
            f"and {report['explained_variance']:.2%} of the variance is explained"
        )
    return "these ids are not unique"
