"""Exactness of a search: indices that differ from those of float64, and excess distortion."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.bench import peers
from experiments.bench.bench_page import Table

ROWS, CODES, WIDTH = 4096, 1024, 64
QUICK_ROWS = 1024

Counts = Mapping[str, Mapping[str, Mapping[str, float]]]


def data_sets(rows: int, codes: int, width: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns float32 (rows, codes) by name: normal ones, then moved and stretched ones."""
    random = np.random.default_rng(0)
    z, e = random.standard_normal((rows, width)), random.standard_normal((codes, width))
    uneven = np.where(np.arange(width) % 8 == 0, 1000.0, 0.0)
    scales = np.logspace(-2, 1, width)
    found = {
        "offset 0": (z, e),
        "offset 10": (z + 10, e + 10),
        "offset 1,000": (z + 1000, e + 1000),
        "offset 1,000 in each 8th channel, scales 0.01 to 10": (
            z * scales + uneven,
            e * scales + uneven,
        ),
        "codebook at distance 100 sqrt(D)": (z, e + 100),
    }
    return {name: (a.astype(np.float32), b.astype(np.float32)) for name, (a, b) in found.items()}


def count(makers: Sequence[Callable], quick: bool) -> Counts:
    """Returns {data: {contestant: counts}}, see `count_errors`; the bound has no indices."""
    found: dict[str, Any] = {}
    for name, (z, e) in data_sets(QUICK_ROWS if quick else ROWS, CODES, WIDTH).items():
        distances = distances64(z, e)
        found[name] = {}
        for make in makers:
            if make is not peers.bound:
                search = make(z, e)
                found[name][search.contestant.name] = count_errors(
                    search.indices(), distances, WIDTH
                )
    return found


def distances64(z: np.ndarray, e: np.ndarray) -> np.ndarray:
    """Returns |z_i - e_j| `[N, K]` in float64, relative to the mean code."""
    z, e = z.astype(np.float64), e.astype(np.float64)
    # Distances stay the same, and the squares cancel less when the data are far from 0.
    centre = e.mean(axis=0)
    z, e = z - centre, e - centre
    squares = np.sum(z * z, axis=1, keepdims=True) - 2 * z @ e.T + np.sum(e * e, axis=1)
    return np.sqrt(np.maximum(squares, 0))


def count_errors(indices: np.ndarray, distances: np.ndarray, width: int) -> dict[str, float]:
    """Counts indices that aren't float64's, and those off by more than (D + 8) 2^-22; distortion.

    Args:
        indices: index of the code of each row.
        distances: distance of each row from each code.
        width: D.

    Example:
        >>> d = np.array([[1.0, 2.0], [1.0, 1.0 + 1e-9], [1.0, 2.0]])
        >>> count_errors(np.array([0, 1, 1]), d, width=64)
        {'rows': 3, 'different': 2, 'wrong': 1, 'excess': 1.000000...}
    """
    least = distances.min(axis=1)
    chosen = np.take_along_axis(distances, indices.reshape(-1, 1).astype(np.int64), axis=1)[:, 0]
    return {
        "rows": len(least),
        "different": int(np.sum(indices != distances.argmin(axis=1))),
        "wrong": int(np.sum(chosen - least > (width + 8) * 2.0**-22 * least)),
        "excess": float(np.sum(chosen**2) / np.sum(least**2) - 1),
    }


def tables(counts: Counts) -> list[Table]:
    """Returns the tables of wrong indices and of excess distortion."""
    total = next(iter(next(iter(counts.values())).values()))["rows"]
    about = f"{total:,} rows, D = {WIDTH}, K = {CODES:,}. "
    wrong = (
        "How many rows have a code whose distance exceeds the least one by more than "
        "(D + 8) 2^-22 of it; in brackets, how many differ from float64 at all."
    )
    excess = "sum |z - e_k|^2 over that of float64's codes, less 1."
    return [
        table("Exactness", counts, lambda c: f"{c['wrong']} ({c['different']})", about + wrong),
        table("Excess distortion", counts, lambda c: f"{max(c['excess'], 0):.1e}", about + excess),
    ]


def table(title: str, counts: Counts, cell: Callable[..., str], note: str) -> Table:
    """Returns a table with a row for each contestant and a column for each data set."""
    names = next(iter(counts.values()))
    rows = [[name, *(cell(found[name]) for found in counts.values())] for name in names]
    return Table(title, ["contestant", *counts], rows, note)
