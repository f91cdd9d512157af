"""Numbers of several seeds and their 95 % intervals: means, differences, ratios of variances."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import fdtri, stdtrit


class Interval(NamedTuple):
    """A measured number with its 95 % interval; NaN where there is none."""

    value: float
    low: float
    high: float


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half-width of its 95 % interval, t_{0.975, n-1} s / sqrt(n); NaN for n = 1.

    Example:
        >>> mean, half = interval([1.0, 2.0, 3.0])
        >>> mean, round(half, 3)
        (2.0, 2.484)
    """
    n = len(values)
    if n < 2:
        return (float(values[0]) if n else math.nan), math.nan
    half = float(stdtrit(n - 1, 0.975)) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return float(np.mean(values)), half


def difference(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Mean of the first less that of the second, and the half-width of its 95 % interval.

    Welch's: t_{0.975, nu} sqrt(v_1 / n_1 + v_2 / n_2), with nu after Satterthwaite; NaN for n = 1.

    Example:
        >>> mean, half = difference([1.0, 2.0, 3.0], [1.0, 1.0, 1.0])
        >>> mean, round(half, 3)
        (1.0, 2.484)
    """
    mean = float(np.mean(first) - np.mean(second))
    if min(len(first), len(second)) < 2:
        return mean, math.nan
    parts = [float(np.var(x, ddof=1)) / len(x) for x in (first, second)]
    spread = sum(parts)
    if spread == 0:
        return mean, 0.0
    freedom = spread**2 / sum(
        v**2 / (len(x) - 1) for v, x in zip(parts, (first, second), strict=True)
    )
    return mean, float(stdtrit(freedom, 0.975)) * math.sqrt(spread)


def variance_ratio(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]) -> Interval:
    """The variance of the first over that of the second, with the F-test's interval.

    Each variance is that of `pooled` groups.

    Example:
        >>> ratio, low, high = variance_ratio([[0.0, 2.0, 4.0]], [[1.0, 2.0, 3.0]])
        >>> ratio, round(low, 3), round(high, 1)
        (4.0, 0.103, 156.0)
    """
    (a, n), (b, m) = pooled(first), pooled(second)
    if not min(n, m) or not min(a, b):
        return Interval(math.nan, math.nan, math.nan)
    ratio = a / b
    return Interval(ratio, ratio / float(fdtri(n, m, 0.975)), ratio * float(fdtri(m, n, 0.975)))


def pooled(groups: Sequence[Sequence[float]]) -> tuple[float, int]:
    """The variance of values around the means of their groups, and its degrees of freedom.

    Example:
        >>> pooled([[1.0, 3.0], [10.0, 12.0, 14.0], [7.0]])
        (3.3333333333333335, 3)
    """
    freedom = sum(len(values) - 1 for values in groups if len(values) > 1)
    squares = sum(float(np.var(values)) * len(values) for values in groups if len(values) > 1)
    return squares / max(freedom, 1), freedom
