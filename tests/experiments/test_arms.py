"""Arms: intervals, results that are kept, processes, tables and pages."""

import json
import math
import os
import re
from functools import partial

import jax
import numpy as np
import pytest
from scipy import stats

from experiments.pages import arm_figures
from experiments.pages.arm_pages import (
    arm_html,
    arm_markdown,
    findings_section,
    results,
    write_arm_pages,
)
from experiments.pages.study import Column, Study
from experiments.sweep.arms import Arm, Diverged, Result, collect, missing, pack, run_missing
from experiments.sweep.arms import unpack as unpacked
from experiments.sweep.intervals import interval
from experiments.sweep.processes import run_all
from vqvae_commands.run.environment import cores, version

PICTURES = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3, 1)


class Fake:
    """Arms without training, which remember what was run."""

    def __init__(self):
        self.prepared, self.ran = [], []

    def arm(self, name, values=(1.0, 2.0, 4.0), group="", **definition) -> Arm:
        """values[seed] is the number, or the exception, of a seed."""

        def run(seed):
            self.ran.append((name, seed))
            if isinstance(values[seed], BaseException):
                raise values[seed]
            return Result({"score": values[seed], "size": 8}, PICTURES + seed)

        def prepare():
            self.prepared.append(name)
            return run

        return Arm(name, f"label of {name}", {"name": name, **definition}, prepare, group)


@pytest.fixture
def fake():
    return Fake()


def study(seeds=range(3), **options) -> Study:
    columns = (
        Column("score", "score", "{:.2f}", "more is better", max, drawn=True),
        Column("size", "size", "{:,.0f}", "of a thing", constant=True),
    )
    return Study("A title", "About <it>.", columns, "python it", seeds, {"steps": 7}, **options)


# Intervals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 5, 12])
def test_the_interval_is_that_of_student(n):
    values = np.random.default_rng(n).normal(20, 3, n)
    low, high = stats.t.interval(0.95, n - 1, values.mean(), stats.sem(values))
    mean, half = interval(list(values))
    np.testing.assert_allclose([mean - half, mean + half], [low, high], rtol=1e-12)


def test_the_interval_of_three_by_hand():
    mean, half = interval([20.0, 21.0, 22.0])  # s = 1, and t of 2 degrees of freedom is 4.302653
    assert mean == 21 and half == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)


def test_one_value_has_no_interval_and_none_has_no_mean():
    assert interval([3.0])[0] == 3 and math.isnan(interval([3.0])[1])
    assert all(map(math.isnan, interval([])))


# Results that are kept ----------------------------------------------------------------------------


def test_no_arm_is_run_twice_and_seeds_share_what_was_prepared(fake, tmp_path):
    arms = [fake.arm("a"), fake.arm("b")]
    run_missing(arms[:1], tmp_path, range(2))
    assert fake.ran == [("a", 0), ("a", 1)] and fake.prepared == ["a"]
    run_missing(arms, tmp_path, range(3))
    assert fake.ran[2:] == [("a", 2), ("b", 0), ("b", 1), ("b", 2)]
    run_missing(arms, tmp_path, range(3))
    assert len(fake.ran) == 6 and fake.prepared == ["a", "a", "b"]


def test_a_call_that_is_stopped_goes_on_where_it_was(fake, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_missing([fake.arm("a", (1.0, KeyboardInterrupt()))], tmp_path, range(2))
    assert missing(fake.arm("a"), tmp_path, range(2)) == [1]
    run_missing([fake.arm("a")], tmp_path, range(2))
    assert fake.ran == [("a", 0), ("a", 1), ("a", 1)]


def test_a_result_is_written_whole_or_not_at_all(fake, tmp_path, monkeypatch):
    def fail(_):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fail)
        with pytest.raises(OSError, match="disk full"):
            run_missing([fake.arm("a")], tmp_path, [0])
    assert list((tmp_path / "results").iterdir()) == []
    assert missing(fake.arm("a"), tmp_path, [0]) == [0]


def test_a_changed_definition_is_run_again_and_the_old_result_stays(fake, tmp_path):
    run_missing([fake.arm("a", beta=0.25)], tmp_path, [0])
    run_missing([fake.arm("a", (9.0,), beta=0.5)], tmp_path, [0])
    assert len(fake.ran) == 2
    old, new = fake.arm("a", beta=0.25), fake.arm("a", beta=0.5)
    assert missing(old, tmp_path, [0]) == missing(new, tmp_path, [0]) == []
    scores = [row.values("score") for row in collect([old, new], tmp_path, [0])]
    assert scores == [[1.0], [9.0]]


def test_equal_definitions_are_equal_whatever_their_order(fake, tmp_path):
    run_missing([fake.arm("a", beta=1, alpha=2)], tmp_path, [0])
    assert missing(fake.arm("a", alpha=2, beta=1), tmp_path, [0]) == []


def test_a_record_says_how_it_came_about(fake, tmp_path):
    run_missing([fake.arm("a", beta=0.25)], tmp_path, [1])
    record = fake.arm("a", beta=0.25).read(tmp_path, 1)
    assert record["definition"] == {"name": "a", "beta": 0.25} and record["seed"] == 1
    assert record["numbers"] == {"score": 2.0, "size": 8.0}
    assert record["versions"]["jax"] == jax.__version__ and record["seconds"] >= 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", record["date"]) and record["device"]
    np.testing.assert_array_equal(unpacked(record["pictures"]), PICTURES + 1)


def test_pictures_come_back_bit_for_bit():
    assert unpacked(pack(PICTURES)).dtype == np.uint8
    np.testing.assert_array_equal(unpacked(pack(PICTURES)), PICTURES)


@pytest.mark.parametrize("loss", [Diverged("the loss is nan"), float("nan"), float("inf")])
def test_a_diverged_arm_is_a_result(fake, tmp_path, loss):
    arms = [fake.arm("a", (1.0, loss, 3.0)), fake.arm("b")]
    run_missing(arms, tmp_path, range(3))
    run_missing(arms, tmp_path, range(3))
    assert len(fake.ran) == 6  # nothing is tried again
    row, other = collect(arms, tmp_path, range(3))
    assert [record["status"] for record in row.records] == ["done", "diverged", "done"]
    assert row.values("score") == [1.0, 3.0] and len(other.values("score")) == 3
    assert row.records[1]["reason"] in ("the loss is nan", "not finite: score")
    assert "| label of a (1 diverged of 3) | 2.00 ± 12.71 | 8 |" in arm_markdown(
        study(), [row, other]
    )


def test_an_arm_that_fails_costs_no_other_and_is_tried_again(fake, tmp_path):
    arms = [fake.arm("a", (ValueError("no such thing"),) * 3), fake.arm("b")]
    run_missing(arms, tmp_path, range(3))
    assert fake.ran == [("a", 0), ("b", 0), ("b", 1), ("b", 2)]
    record = arms[0].read(tmp_path, 0)
    assert record["status"] == "failed" and "Traceback" in record["reason"]
    assert record["reason"].splitlines()[0] == "ValueError: no such thing"
    assert "| label of a (1 failed, 2 not run of 3) | failed | failed |" in arm_markdown(
        study(), collect(arms, tmp_path, range(3))
    )
    run_missing([fake.arm("a")], tmp_path, range(3))
    assert len(collect(arms, tmp_path, range(3))[0].values("score")) == 3


def test_progress_without_a_terminal_is_lines(fake, tmp_path, capsys):
    run_all(lambda: [fake.arm("a", (1.0, Diverged("lost")))], tmp_path, range(2), 1)
    lines = capsys.readouterr().out.rstrip().splitlines()
    assert lines[0] == "a, seed 0: done in 0 s; 1 left"
    assert lines[-1] == "a, seed 1: diverged in 0 s: lost"


def arms_of_processes(names: str) -> list[Arm]:
    """At the top of the module, where other processes find it."""
    run = lambda seed: Result({"process": os.getpid(), "seed": seed, "cores": cores()})  # noqa: E731
    return [Arm(name, name, {"name": name}, lambda: run) for name in names]


def test_several_processes_share_the_arms(tmp_path):
    make = partial(arms_of_processes, "abc")
    run_missing(make()[:1], tmp_path, [0])
    run_all(make, tmp_path, range(2), 2)
    rows = collect(make(), tmp_path, range(2))
    assert [row.values("seed") for row in rows] == [[0, 1]] * 3
    (here, a), b, c = (row.values("process") for row in rows)
    assert here == os.getpid() and here not in {a, *b, *c}
    assert len(set(b)) == len(set(c)) == 1  # the seeds of an arm share what is compiled


def test_the_last_arm_alone_has_no_more_cores_than_the_others(tmp_path):
    """Sums are split between cores: with more of them its last bits would be others."""
    make = partial(arms_of_processes, "ab")
    run_missing(make()[:1], tmp_path, [0])
    run_all(make, tmp_path, [0], 2)
    here, last = (row.values("cores")[0] for row in collect(make(), tmp_path, [0]))
    assert last == max(here // 2, 1)


# Pages --------------------------------------------------------------------------------------------


def test_the_table_of_markdown(fake, tmp_path):
    arms = [
        fake.arm("a", (20.0, 21.0, 22.0), group="small"),
        fake.arm("b", (23.0, 23.0, 23.0), group="small"),
        fake.arm("c", (1000.0, 1000.5, 1001.0), group="large"),
    ]
    run_missing(arms, tmp_path, range(3))
    text = arm_markdown(study(note="only a try"), collect(arms, tmp_path, range(3)))
    assert "# A title\n\n**only a try**\n\nAbout <it>.\n\n```\npython it\n```" in text
    table = """## small

|  | score | size |
| --- | ---: | ---: |
| label of a | 21.00 ± 2.48 | 8 |
| label of b | **23.00 ± 0.00** | 8 |

## large

|  | score | size |
| --- | ---: | ---: |
| label of c | 1000.50 ± 1.24 | 8 |
"""
    assert table in text
    assert "95 % t-interval over 3 seeds" in text and "- score: more is better" in text
    for fact in ("- steps: 7", "- seeds: 0, 1, 2", f"jax {jax.__version__}", "- date: 20"):
        assert fact in text


def test_the_lesser_is_better_where_it_is(fake, tmp_path):
    arms = [fake.arm("a", (2.0,)), fake.arm("b", (1.0,))]
    run_missing(arms, tmp_path, [0])
    column = Column("score", "score", "{:.1f}", "", min)
    one = Study("", "", (column,), "", [0], {})
    text = arm_markdown(one, collect(arms, tmp_path, [0]))
    assert "| label of a | 2.0 |\n| label of b | **1.0** |" in text
    assert "One seed gives no intervals." in text


def test_the_page_is_one_file_without_scripts(fake, tmp_path):
    arms = [fake.arm(name, group=group) for name in "ab" for group in ("x <1>", "y")]
    arms = [
        Arm(f"{a.name}{a.group[0]}", f"{a.label} <i>", a.definition, a.prepare, a.group)
        for a in arms
    ]
    run_missing(arms, tmp_path, range(2))
    rows = collect(arms, tmp_path, range(2))
    originals = np.zeros((2, 4, 3, 1), np.uint8)
    path = write_arm_pages(tmp_path, study(range(2), originals=originals), rows)
    text = path.read_text()
    assert text.count("data:image/png;base64,") == 2 and "<script" not in text
    assert not re.search(r"(src|href)=.?http", text)
    assert "label of a &lt;i&gt;" in text and "<i>" not in text
    assert "About &lt;it&gt;." in text and "<h2>x &lt;1&gt;</h2>" in text
    assert text.count("<td><b>1.50 ± 6.35</b></td>") == 4
    for name in ("report.md", "results.json", "pictures/intervals.png", "pictures/pictures.png"):
        assert (tmp_path / name).stat().st_size > 0, name
    numbers = json.loads((tmp_path / "results.json").read_text())["arms"][0]["seeds"][1]["numbers"]
    assert numbers == {"score": 2.0, "size": 8.0}
    first = path.read_bytes()
    write_arm_pages(tmp_path, study(range(2), originals=originals), rows)
    assert path.read_bytes() == first


def test_a_page_before_any_result(fake, tmp_path):
    rows = collect([fake.arm("a")], tmp_path, range(2))
    assert "| label of a (2 not run of 2) | not run | not run |" in arm_markdown(
        study(range(2)), rows
    )
    assert "not run" in arm_html(study(range(2)), rows, {}).body
    assert results(study(range(2)), rows)["arms"][0]["seeds"] == []


def test_marks_of_the_plot_are_where_the_numbers_are():
    nan = math.nan
    panel = {"x": {"a": (1.0, 0.5), "b": (3.0, nan)}, "y": {"b": (nan, nan), "c": (2.0, 0.1)}}
    figure = arm_figures.interval_figure({"score": panel})
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "b", "c"]
    first, second = axes.containers
    assert first[0].get_xdata().tolist() == [1, 3] and second[0].get_xdata()[1] == 2
    assert first[2][0].get_segments()[0][:, 0].tolist() == [0.5, 1.5]
    rows = [[round(y) for y in container[0].get_ydata()] for container in axes.containers]
    assert rows == [[0, 1], [1, 2]]


def test_all_of_a_mosaic_is_on_the_figure():
    rows = {"a quantizer of a long name": PICTURES + 1, "b": PICTURES + 2}
    figure = arm_figures.mosaics(PICTURES, {"x": rows, "y": {"b": PICTURES + 2}})
    figure.draw_without_rendering()
    left, bottom, right, top = figure.get_tightbbox().extents
    width, height = figure.get_size_inches()
    assert left >= 0 and bottom >= -0.01 and right <= width and top <= height
    shown = [axes.images[0].get_array()[:, :, 0] for axes in figure.axes]
    assert shown[0].shape == (3 * 6, 2 * 5) and shown[1].shape == (2 * 6, 2 * 5)
    np.testing.assert_array_equal(shown[0][12:16, 5:8], PICTURES[1, ..., 0] + 2)
    labels = [[text.get_text() for text in axes.get_yticklabels()] for axes in figure.axes]
    assert labels == [["original", *rows], ["original", "b"]]


def test_what_is_run_from_its_folder_has_no_version():
    assert version("jax") == jax.__version__
    assert version("vqvae_jax_of_nobody") == "not installed"


def test_a_verdict_stands_before_its_claim_and_never_in_a_box_that_scrolls():
    head = ("claim", "paper", "ours", "verdict")
    html = findings_section([head, ("a < b", "none", "0.5 (0 to 1)", "undecided")])
    shown = "<b>undecided</b>: a &lt; b<small>paper: none</small><small>ours: 0.5 (0 to 1)</small>"
    assert f"<th scope=row>{shown}</th>" in html and "<td>" not in html and "scroll" not in html
