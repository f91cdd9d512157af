"""The rules of the ablations: intervals against SciPy, and that each can say all three things."""

import math

import numpy as np
import pytest
from scipy import stats

from experiments.ablations import ABLATIONS
from experiments.ablations.verdicts import (
    NOT_REPRODUCED,
    REPRODUCED,
    UNDECIDED,
    Claim,
    Interval,
    Measure,
    Region,
    above,
    below,
    best,
    combine,
    difference_of,
    judge,
    mean_of,
    number,
    range_of,
    ratio_of,
    variance_ratio_of,
    verdict,
    within,
)
from experiments.sweep.arms import Arm, Row

ALL = {REPRODUCED, NOT_REPRODUCED, UNDECIDED}


def row(name: str, *values: float, number: str = "psnr", first: int = 0) -> Row:
    """An arm with one number of several seeds."""
    records = [{"seed": first + i, "numbers": {number: v}} for i, v in enumerate(values)]
    return Row(Arm(name, name, {}, lambda: None), records)


A, B = (20.1, 20.4, 20.2, 20.6), (19.0, 19.9, 18.7)
ROWS = [row("a", *A), row("b", *B)]


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.1, 0.9, REPRODUCED),
        (0.0, 0.9, UNDECIDED),  # the region is open
        (-0.5, 0.5, UNDECIDED),
        (-0.5, 1.5, UNDECIDED),
        (1.0, 1.5, NOT_REPRODUCED),
        (-1.0, 0.0, NOT_REPRODUCED),
        (math.nan, math.nan, UNDECIDED),
    ],
)
def test_a_verdict(low, high, said):
    assert verdict(Region(0, 1), Interval((low + high) / 2, low, high)) == said


def test_one_rule_that_fails_is_enough():
    assert combine([REPRODUCED, REPRODUCED]) == REPRODUCED
    assert combine([REPRODUCED, UNDECIDED]) == UNDECIDED
    assert combine([UNDECIDED, NOT_REPRODUCED, REPRODUCED]) == NOT_REPRODUCED
    assert combine([]) == UNDECIDED


def test_the_mean_has_students_interval():
    found = mean_of("", number("psnr", "a")).of(ROWS)
    assert found.value == pytest.approx(np.mean(A))
    assert found[1:] == pytest.approx(
        stats.t.interval(0.95, len(A) - 1, np.mean(A), stats.sem(A)), rel=1e-9
    )


def test_the_difference_has_welchs_interval():
    found = difference_of("", number("psnr", "a"), number("psnr", "b")).of(ROWS)
    ci = stats.ttest_ind(A, B, equal_var=False).confidence_interval()
    assert found == pytest.approx((np.mean(A) - np.mean(B), ci.low, ci.high), rel=1e-9)


def test_the_ratio_is_that_of_geometric_means():
    found = ratio_of("", number("psnr", "a"), number("psnr", "b")).of(ROWS)
    ci = stats.ttest_ind(np.log(A), np.log(B), equal_var=False).confidence_interval()
    value = stats.gmean(A) / stats.gmean(B)
    assert found == pytest.approx((value, math.exp(ci.low), math.exp(ci.high)), rel=1e-9)
    zero = ratio_of("", number("psnr", "a"), number("psnr", "zero"))
    assert all(map(math.isnan, zero.of([*ROWS, row("zero", 0.0, 1.0)])))


def test_the_ratio_of_variances_has_fishers_interval():
    """A true ratio at either end of the interval would be refused with p = 0.025 on one side."""
    found = variance_ratio_of("", [number("psnr", "b")], [number("psnr", "a")]).of(ROWS)
    assert found.value == pytest.approx(np.var(B, ddof=1) / np.var(A, ddof=1))
    n, m = len(B) - 1, len(A) - 1
    assert stats.f.sf(found.value / found.low, n, m) == pytest.approx(0.025)
    assert stats.f.cdf(found.value / found.high, n, m) == pytest.approx(0.025)
    pooled = variance_ratio_of("", [number("psnr", "b")] * 2, [number("psnr", "a")] * 3).of(ROWS)
    assert pooled.value == pytest.approx(found.value)
    assert found.low < pooled.low and pooled.high < found.high


def test_the_spread_is_within_a_seed():
    rows = [row("a", 1.0, 5.0), row("b", 2.0, 2.5), row("c", 0.5, 9.0, 7.0)]
    assert range_of("psnr", "a", "b", "c")(rows) == [1.5, 6.5]
    assert range_of("psnr", "a", "b")([row("a", 1.0, 2.0), row("b", 3.0, 9.0, first=1)]) == [1.0]


def test_the_best_arm_is_that_of_the_greatest_mean():
    assert best("psnr", "a", "b", "missing")(ROWS) == list(A)
    assert best("psnr", "b")(ROWS) == list(B) and best("psnr", "missing")(ROWS) == []


def test_what_was_not_run_is_undecided():
    missing = number("psnr", "elsewhere")
    for measure in (
        mean_of("", missing),
        difference_of("", number("psnr", "a"), missing),
        ratio_of("", missing, number("psnr", "a")),
        variance_ratio_of("", [missing], [number("psnr", "a")]),
        mean_of("", number("ssim", "a")),
        difference_of("", number("psnr", "a"), number("psnr", "one seed")),
    ):
        rows = [*ROWS, row("one seed", 1.0)]
        claim = Claim("", (above(measure), below(measure, 0.0)), "")
        assert judge([claim], rows)[0].verdict == UNDECIDED


def test_a_rule_in_words():
    gain = Measure("PSNR of a less that of b", lambda rows: Interval(0, 0, 0))
    assert str(above(gain, 0.1)) == "PSNR of a less that of b above 0.1"
    assert str(below(gain, 2)) == "PSNR of a less that of b below 2"
    assert str(within(gain, -1, 1)) == "PSNR of a less that of b between -1 and 1"


# The ablations' own rules -------------------------------------------------------------------------


def asked(name: str, monkeypatch) -> set[tuple[str, str]]:
    """The (number, arm) that the rules of an ablation look at."""
    found = set()

    def by_seed(rows, number, arm):
        found.add((number, arm))
        return {0: 1.0, 1: 2.0}

    ablation = ABLATIONS[name]
    with monkeypatch.context() as context:
        context.setattr("experiments.ablations.verdicts.by_seed", by_seed)
        judge((*ablation.claims, *ablation.of_paper), [])
    return found


@pytest.mark.parametrize("name", ABLATIONS)
def test_rules_name_arms_that_there_are(name, monkeypatch):
    names = [arm.name for arm in ABLATIONS[name].make_arms(ABLATIONS[name].default)]
    assert len(set(names)) == len(names)
    assert {arm for _, arm in asked(name, monkeypatch)} <= set(names)


def synthetic(rng, numbers: set[tuple[str, str]]) -> list[Row]:
    """Three seeds of each arm, with numbers of any size and of much noise or little."""
    shift, noise = 10 ** rng.uniform(-1, 1.5), 10 ** rng.uniform(-4, 0)
    values = {}
    for name, arm in sorted(numbers):
        center = shift * 10 ** rng.uniform(-1, 1) if rng.random() < 0.5 else rng.uniform(0, 1)
        values[arm, name] = np.abs(center * (1 + noise * rng.normal(size=3)))
    arms = sorted({arm for _, arm in numbers})
    rows = []
    for arm in arms:
        mine = {name: v for (owner, name), v in values.items() if owner == arm}
        records = [{"seed": i, "numbers": {n: float(v[i]) for n, v in mine.items()}}
                   for i in range(3)]  # fmt: skip
        rows.append(Row(Arm(arm, arm, {}, lambda: None), records))
    return rows


@pytest.mark.parametrize("name", ABLATIONS)
def test_each_rule_can_say_all_three(name, monkeypatch):
    ablation, numbers = ABLATIONS[name], asked(name, monkeypatch)
    claims = (*ablation.claims, *ablation.of_paper)
    rng, said = np.random.default_rng(0), [set() for _ in claims]
    for _ in range(3000):
        for found, finding in zip(said, judge(claims, synthetic(rng, numbers)), strict=True):
            found.add(finding.verdict)
        if all(found == ALL for found in said):
            return
    missing = {c.text: ALL - found for c, found in zip(claims, said, strict=True)}
    raise AssertionError({text: words for text, words in missing.items() if words})
