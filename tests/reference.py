"""The definitions once more, in float64 NumPy and as plain as they can be: the tests' oracles."""

import numpy as np


def f64(x) -> np.ndarray:
    """x in float64; bfloat16 too, which NumPy alone would refuse."""
    return np.asarray(x).astype(np.float64)


def distances_one(z, codebook) -> np.ndarray:
    """|z - e_j|^2 of one vector z [D] to every code: [K]."""
    return np.square(f64(z) - f64(codebook)).sum(-1)


def nearest_one(z, codebook) -> int:
    """argmin_j |z - e_j|, the lowest index among equals."""
    return int(np.argmin(distances_one(z, codebook)))


def distances(z, codebook) -> np.ndarray:
    """|z - e_j|^2 of rows [N, D]: [N, K]. Expanded for speed, and exact enough in float64."""
    centre = f64(codebook).mean(0)
    z, e = f64(z) - centre, f64(codebook) - centre
    return np.square(z).sum(-1)[:, None] - 2 * z @ e.T + np.square(e).sum(-1)


def nearest64(z, codebook) -> np.ndarray:
    """`nearest_one` of each row [N, D]: [N]."""
    return np.argmin(distances(z, codebook), axis=-1)


def gap(z, codebook) -> np.ndarray:
    """How far the second best code is behind the best: d2 - d1 of each row, relative.

    Relative to 2 |z||e| + |e|^2 with the longest code e (both from the codebook's mean): to the
    size of the numbers that a search has to subtract, whose rounding decides near-ties.
    """
    centre = f64(codebook).mean(0)
    z_norm = np.linalg.norm(f64(z) - centre, axis=-1)
    e_norm = np.linalg.norm(f64(codebook) - centre, axis=-1).max()
    best = np.partition(distances(z, codebook), 1, axis=-1)
    return (best[:, 1] - best[:, 0]) / (2 * z_norm * e_norm + e_norm**2)


def near_tie(z, codebook, tol: float = 8 * 2.0**-23) -> np.ndarray:
    """Rows whose two best codes are too close to call: 8 units of float32's rounding, relative."""
    return gap(z, codebook) <= tol


def mse(x, y, weights=None) -> float:
    """Mean of |x - y|^2 over elements, rows weighted by `weights`."""
    return float(np.average(np.square(f64(x) - f64(y)).mean(-1), weights=weights))


def ema(average, value, decay: float):
    """One update of an exponential moving average."""
    return decay * average + (1 - decay) * value


def laplace(counts, eps: float) -> np.ndarray:
    """Counts smoothed towards equality, their sum kept."""
    counts = f64(counts)
    return (counts + eps) / (counts.sum() + len(counts) * eps) * counts.sum()


def hits_and_totals(z, k, size: int, weights=None) -> tuple[np.ndarray, np.ndarray]:
    """How many rows [N, D] each code received, [K], and their sum, [K, D]; k = -1 is no code."""
    weights = np.ones(len(k)) if weights is None else f64(weights)
    one_hot = (k[:, None] == np.arange(size)) * weights[:, None]
    return one_hot.sum(0), one_hot.T @ f64(z)


def ema_step(z, codebook, counts, sums, decay: float, eps: float = 1e-5, weights=None):
    """One update of the codebook by moving averages: the new (codebook, counts, sums)."""
    hits, totals = hits_and_totals(z, nearest64(z, codebook), len(codebook), weights)
    counts, sums = ema(f64(counts), hits, decay), ema(f64(sums), totals, decay)
    moved = sums / laplace(counts, eps)[:, None]
    return np.where(hits[:, None] > 0, moved, codebook), counts, sums


def debiased_step(z, codebook, counts, sums, t: int, decay: float, eps: float = 1e-5):
    """The same of Haiku: averages from 0, divided by 1 - decay^t after t updates."""
    hits, totals = hits_and_totals(z, nearest64(z, codebook), len(codebook))
    counts, sums = ema(f64(counts), hits, decay), ema(f64(sums), totals, decay)
    weight = 1 - decay**t
    return sums / weight / laplace(counts / weight, eps)[:, None], counts, sums


def perplexity(counts) -> float:
    """exp of the entropy of the codes that occur."""
    p = f64(counts)[f64(counts) > 0] / f64(counts).sum()
    return float(np.exp(-np.sum(p * np.log(p))))
