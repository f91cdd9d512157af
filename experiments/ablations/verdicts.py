"""Claims, and rules written beforehand that decide whether runs support them.

A rule is a region of numbers and a measure of the runs with its 95 % interval:

    reproduced       the interval lies in the region
    not reproduced   they have nothing in common
    undecided        else, and where there is no interval

This module knows nothing about the runs themselves.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from experiments.sweep.arms import Row
from experiments.sweep.intervals import Interval, difference, interval, variance_ratio

REPRODUCED, NOT_REPRODUCED, UNDECIDED = "reproduced", "not reproduced", "undecided"

Values = Callable[[Sequence[Row]], list[float]]  # one number for each seed


class Region(NamedTuple):
    """The open interval of numbers that support a claim."""

    low: float
    high: float

    def __str__(self) -> str:
        if math.isinf(self.high):
            return f"above {self.low:g}"
        if math.isinf(self.low):
            return f"below {self.high:g}"
        return f"between {self.low:g} and {self.high:g}"


class Measure(NamedTuple):
    """A number that runs give, with its interval, and its name in words."""

    text: str
    of: Callable[[Sequence[Row]], Interval]


class Rule(NamedTuple):
    """A measure, and the region in which it must lie."""

    measure: Measure
    region: Region

    def __str__(self) -> str:
        return f"{self.measure.text} {self.region}"


@dataclasses.dataclass(frozen=True)
class Claim:
    """A paper's statement, and the rules that judge it, all of which must hold.

    Attributes:
        text: the claim in one sentence.
        rules: fixed before the runs.
        paper: the paper's number with its source, or a note that there is none.
        differs: the differences in the paper's setting.
    """

    text: str
    rules: tuple[Rule, ...]
    paper: str
    differs: str = ""


class Finding(NamedTuple):
    """A claim with what was measured, one interval for each rule."""

    claim: Claim
    measured: tuple[Interval, ...]

    @property
    def verdict(self) -> str:
        """Not reproduced if one rule fails, reproduced if all hold."""
        pairs = zip(self.claim.rules, self.measured, strict=True)
        return combine([verdict(rule.region, measured) for rule, measured in pairs])


def verdict(region: Region, measured: Interval) -> str:
    """The verdict of one rule.

    Example:
        >>> verdict(Region(0, 1), Interval(0.5, 0.4, 0.6))
        'reproduced'
        >>> verdict(Region(0, 1), Interval(0.5, -0.1, 1.1))
        'undecided'
        >>> verdict(Region(0, 1), Interval(2.0, 1.5, 2.5))
        'not reproduced'
    """
    if any(map(math.isnan, measured)):
        return UNDECIDED
    if region.low < measured.low and measured.high < region.high:
        return REPRODUCED
    apart = measured.high <= region.low or region.high <= measured.low
    return NOT_REPRODUCED if apart else UNDECIDED


def combine(verdicts: Sequence[str]) -> str:
    """The verdict of several rules together."""
    if NOT_REPRODUCED in verdicts:
        return NOT_REPRODUCED
    return UNDECIDED if UNDECIDED in verdicts or not verdicts else REPRODUCED


def judge(claims: Sequence[Claim], rows: Sequence[Row]) -> list[Finding]:
    """Each claim with what these runs give."""
    return [Finding(c, tuple(rule.measure.of(rows) for rule in c.rules)) for c in claims]


def number(name: str, arm: str) -> Values:
    """Takes one number of an arm, from each seed that has it."""
    return lambda rows: list(by_seed(rows, name, arm).values())


def range_of(name: str, *arms: str) -> Values:
    """Takes the range of a number over arms, for each seed that all of them have."""

    def of(rows: Sequence[Row]) -> list[float]:
        found = [by_seed(rows, name, arm) for arm in arms]
        seeds = sorted(set.intersection(*map(set, found)))
        return [max(v[s] for v in found) - min(v[s] for v in found) for s in seeds]

    return of


def best(name: str, *arms: str) -> Values:
    """Takes a number of the arm with its greatest mean."""

    def of(rows: Sequence[Row]) -> list[float]:
        found = [list(by_seed(rows, name, arm).values()) for arm in arms]
        return max((v for v in found if v), key=lambda v: float(np.mean(v)), default=[])

    return of


def by_seed(rows: Sequence[Row], name: str, arm: str) -> dict[int, float]:
    """Returns one number of an arm by seed; empty if the arm was not run."""
    records = [r for row in rows if row.arm.name == arm for r in row.records]
    return {r["seed"]: r["numbers"][name] for r in records if name in r["numbers"]}


def mean_of(text: str, values: Values) -> Measure:
    """The mean over seeds, with its t-interval."""
    return Measure(text, lambda rows: around(*interval(values(rows))))


def difference_of(text: str, first: Values, second: Values) -> Measure:
    """The mean of the first minus that of the second, with Welch's interval."""

    def of(rows: Sequence[Row]) -> Interval:
        a, b = first(rows), second(rows)
        return around(*difference(a, b)) if a and b else around(math.nan, math.nan)

    return Measure(text, of)


def ratio_of(text: str, first: Values, second: Values) -> Measure:
    """The geometric mean of the first over that of the second: Welch's interval of the logarithms.

    There is none where a value is not above 0.
    """

    def of(rows: Sequence[Row]) -> Interval:
        a, b = first(rows), second(rows)
        if not a or not b or min(*a, *b) <= 0:
            return around(math.nan, math.nan)
        logs = around(*difference(np.log(a).tolist(), np.log(b).tolist()))
        return Interval(*(math.exp(x) for x in logs))

    return Measure(text, of)


def variance_ratio_of(text: str, first: Sequence[Values], second: Sequence[Values]) -> Measure:
    """The variance over seeds of the first over that of the second; each pooled over its groups."""

    def of(rows: Sequence[Row]) -> Interval:
        return variance_ratio(*([values(rows) for values in side] for side in (first, second)))

    return Measure(text, of)


def around(mean: float, half: float) -> Interval:
    """The interval of this half-width."""
    return Interval(mean, mean - half, mean + half)


def above(measure: Measure, bound: float = 0.0) -> Rule:
    """The measure must lie above the bound."""
    return Rule(measure, Region(bound, math.inf))


def below(measure: Measure, bound: float) -> Rule:
    """The measure must lie below the bound."""
    return Rule(measure, Region(-math.inf, bound))


def within(measure: Measure, low: float, high: float) -> Rule:
    """The measure must lie between the two."""
    return Rule(measure, Region(low, high))
