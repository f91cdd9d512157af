"""Benchmarks: how they measure, not what: nothing here depends on how fast the machine is."""

import json
from pathlib import Path

import numpy as np
import pytest

from experiments.bench import __main__ as bench
from experiments.bench import (
    bench_page,
    exactness,
    machine,
    memory,
    peers,
    scale,
    search,
)
from experiments.bench.timing import Contestant, Race, Spread, calls_for, race, spread
from vqvae_commands.terminal import command


class FakeClock:
    """A clock that only the contestants move; it remembers who did."""

    def __init__(self):
        self.now, self.order = 0.0, []

    def __call__(self) -> float:
        return self.now

    def contestant(self, name: str, *seconds: float) -> Contestant:
        """Takes these times in turn, then the last of them for ever."""
        left = list(seconds)

        def call():
            self.order.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return Contestant(name, call)


def test_contestants_take_turns():
    clock = FakeClock()
    entries = [clock.contestant("a", 1.0), clock.contestant("b", 2.0), clock.contestant("c", 3.0)]
    result = race("race", entries, rounds=3, clock=clock)
    assert clock.order == [*"abc", *"abc"] + [*"abc"] * 3  # two calls each that are not counted
    assert result.seconds == {"a": [1.0] * 3, "b": [2.0] * 3, "c": [3.0] * 3}
    assert result.baseline == "a"


def test_short_calls_are_repeated_after_one_that_is_not_counted():
    clock = FakeClock()
    entry = clock.contestant("a", 9.0, 0.02, 5.0, 0.02)  # first calls, then 1 + 3 calls
    assert race("race", [entry], rounds=1, clock=clock).seconds["a"] == [pytest.approx(0.02)]
    assert len(clock.order) == 2 + 1 + calls_for(0.02)


def test_slow_contestants_have_two_rounds():
    clock = FakeClock()
    entries = [clock.contestant("fast", 1.0), clock.contestant("slow", 50.0)]
    result = race("race", entries, rounds=5, clock=clock)
    assert [len(result.seconds[name]) for name in ("fast", "slow")] == [5, 2]
    assert result.ratio("slow") == Spread(50.0, 50.0, 50.0)


def test_median_and_quartiles():
    assert spread([1.0, 100.0, 3.0, 2.0, 4.0]) == Spread(3.0, 2.0, 4.0)
    assert spread([7.0]) == Spread(7.0, 7.0, 7.0)


def test_ratios_are_those_of_the_same_round():
    """The machine is ten times slower in the second round: each ratio is still 2."""
    result = Race("race", "base", {"base": [1.0, 10.0, 1.0], "other": [2.0, 20.0, 2.0]})
    assert result.ratio("other") == Spread(2.0, 2.0, 2.0)
    assert result.ratio("base") == Spread(1.0, 1.0, 1.0)
    assert result.faster("other") == Spread(0.5, 0.5, 0.5)
    assert bench_page.race_json(result)["ratio_to_baseline"]["other"]["median"] == 2.0


@pytest.mark.parametrize(
    "names, baseline, rounds", [("aa", "a", 1), ("ab", "c", 1), ("ab", "a", 0)]
)
def test_race_refuses(names, baseline, rounds):
    entries = [Contestant(name, lambda: None) for name in names]
    with pytest.raises(ValueError, match="distinct names"):
        race("race", entries, rounds, baseline)


def test_exactness_counts():
    z = np.array([[0.0], [1.0], [5.0]], np.float32)
    e = np.array([[0.0], [1.0 + 2e-7], [1.0]], np.float32)
    distances = exactness.distances64(z, e)
    np.testing.assert_allclose(distances[2], [5, 4, 4], atol=1e-6)
    found = exactness.count_errors(np.array([1, 2, 2]), distances, width=1)
    # Squared distances 1 (least 0), 0 and 16.
    assert found == {"rows": 3, "different": 2, "wrong": 1, "excess": pytest.approx(1 / 16, 1e-5)}


def started(*arguments: str) -> None:
    command.run(bench.main, bench.Config, list(arguments))


def test_search_leaves_json_page_and_plot(tiny, tmp_path, capsys):
    started("search", "--quick", "-o", str(tmp_path / "new"))
    shown, home = capsys.readouterr().out, tmp_path / "new" / "search"
    assert sorted(f.name for f in home.iterdir()) == ["report.md", "results.json", "search.png"]
    found = json.loads((home / "results.json").read_text())
    assert found["command"] == "python -m experiments.bench search --quick"
    assert found["machine"]["cores"] >= 1 and found["machine"]["cpu"]
    assert {"jax", "jaxlib", "numpy"} <= found["versions"].keys() and found["date"]
    first = found["speed"][0]
    assert first["baseline"] == peers.BOUND and first["sizes"] == {"n": 20, "d": 4, "k": 16}
    assert all(len(s) == search.QUICK_ROUNDS for s in first["seconds"].values())
    assert first["compile_seconds"].keys() == first["seconds"].keys()
    assert [c[peers.OURS]["wrong"] for c in found["exactness"].values()] == [0] * 5
    text = (home / "report.md").read_text()
    assert "time / baseline" in text and "search.png" in text and found["command"] in text
    assert str(home / "report.md") in shown.replace("\n", "")


def test_absent_libraries_are_skipped_with_a_line(tiny, tmp_path, capsys):
    started("search", "--quick", "-o", str(tmp_path))
    shown = " ".join(capsys.readouterr().out.split())
    text = (tmp_path / "search" / "report.md").read_text()
    for name in peers.PEERS:
        assert f"{name} skipped: " in shown
        assert text.count(f"- {name} skipped: ") == 1


def test_other_contestants_are_found():
    """One that can be imported takes part; one that can't does not."""
    found, skipped = peers.importable(("json", "no_such_module"))
    assert found == ["json"]
    assert len(skipped) == 1 and skipped[0].startswith("no_such_module skipped: No module named")


@pytest.mark.parametrize("make", [peers.ours, peers.in_bfloat16, peers.argmin_of_all])
def test_contestants_find_the_nearest(make):
    z, e = search.arrays(search.Problem(30, 4, 9))
    expected = exactness.distances64(z, e).argmin(axis=1)
    np.testing.assert_array_equal(make(z, e).indices(), expected)


@pytest.mark.parametrize("module", peers.PEERS)
def test_peers_find_the_nearest(module):
    pytest.importorskip(module)
    z, e = search.arrays(search.Problem(30, 4, 9))
    expected = exactness.distances64(z, e).argmin(axis=1)
    for make in peers.PEERS[module]:
        np.testing.assert_array_equal(make(z, e).indices(), expected)


def test_examples_a_second():
    result = Race("race", "a", {"a": [1.0, 2.0, 4.0]}, sizes={"batch": 8})
    assert bench_page.rate(result, "a") == Spread(4.0, pytest.approx(8 / 3), pytest.approx(16 / 3))


def test_rate_counts_operations():
    result = Race("race", "a", {"a": [1.0, 2.0, 4.0]}, sizes={"n": 1000, "d": 500, "k": 2000})
    assert search.gigaflops(result, "a") == Spread(1.0, pytest.approx(2 / 3), pytest.approx(4 / 3))


def test_memory_of_a_search():
    found = memory.measure_search(64, 4, 8)
    assert found["peak"] >= found["start"] > 0 and found["seconds"] > 0


def test_memory_says_why_it_failed():
    with pytest.raises(RuntimeError, match="failed: ValueError: invalid literal for int"):
        memory.measure_search("many", 4, 8)


def test_scale(tiny, monkeypatch, tmp_path):
    monkeypatch.setattr(scale, "BASE", search.Problem(8, 4, 8))
    monkeypatch.setattr(scale, "QUICK_SIZES", {"n": (4, 8), "k": (8, 16), "d": (2, 4)})
    monkeypatch.setattr(scale, "QUICK_MEMORY", [search.Problem(8, 4, 4), search.Problem(8, 4, 40)])
    monkeypatch.setattr(scale, "PLAIN_LIMIT", 1000)
    asked = []

    def measure(n, d, k, mode="ours"):
        asked.append((k, mode))
        return {"peak": 2e6 * k, "start": 1e6, "search": 1e6, "seconds": 1.0}

    monkeypatch.setattr(memory, "measure_search", measure)
    started("scale", "--quick", "-o", str(tmp_path))
    assert asked == [(4, "plain"), (4, "ours"), (40, "ours")]
    text = (tmp_path / "scale" / "report.md").read_text()
    assert "| 40 | 80 | - | 1 | - | 1 |" in text and "time.png" in text and "memory.png" in text


def refused(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        started(*arguments)
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_wrong_options(capsys, tmp_path):
    error = refused(capsys, "nothing", "-o", str(tmp_path / "new"))
    assert error == (
        "error: no benchmark 'nothing'; there are search, step, activations, serve, scale, "
        "pipeline, sampling and all\n"
    )
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("")
    error = refused(capsys, "search", "-o", str(tmp_path / "file"))
    assert error.startswith("error: ") and error.count("\n") == 1
    refused(capsys, "search", "--no-such-option")


def test_all_names_every_benchmark():
    assert bench.chosen("all") == bench.PARTS
    folder = Path(bench.__file__).parent
    assert all((folder / f"{name}.py").exists() for name in bench.PARTS)


def test_machine_knows_fields_that_are_missing(tmp_path):
    (tmp_path / "info").write_text("model name\t: Some CPU @ 2: 1\nother: 1\n")
    assert machine.proc(str(tmp_path / "info"), "model name") == "Some CPU @ 2: 1"
    assert machine.proc(str(tmp_path / "info"), "absent") == ""
    assert machine.proc(str(tmp_path / "no file"), "absent") == ""
