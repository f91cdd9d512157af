"""The accelerator command: what it runs in which time, and what it keeps. Sections are toys here.

The whole command runs in CI: `python -m experiments.accelerator --quick`.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vqvae_jax as vj
from experiments.accelerator import __main__ as command
from experiments.accelerator.checks import equal_steps, exact_indices, exact_products
from experiments.accelerator.record import Record, read
from experiments.accelerator.tables import task_table, value, verdict
from experiments.accelerator.tasks import Section, Task, run_tasks
from experiments.bench.search import Problem
from vqvae_commands.terminal.command import guarded
from vqvae_jax.quantizers.combinators import wrappers

FACTS = {
    "command": "python -m x", "date": "today", "versions": {}, "machine": {"rates of": "card"},
    "device": "card", "quick": False,
}  # fmt: skip


class Clock:
    """A clock that tasks move."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def task(name, seconds=0.0, clock=None, log=None, error=None, **found):
    """A task that takes seconds of a clock, and notes in a log what it does."""
    log = [] if log is None else log

    def prepare():
        log.append(f"prepare {name}")
        if error == "prepare":
            raise ValueError(f"{name} can't be compiled")
        return measure

    def measure():
        log.append(f"measure {name}")
        if clock:
            clock.now += seconds
        if error == "measure":
            raise MemoryError(f"{name} is too large")
        return found or {"value": 1.0}

    return Task(name, prepare)


def test_a_task_that_fails_leaves_its_error_and_the_next_goes_on():
    tasks = [task("a", error="prepare"), task("b", error="measure"), task("c", value=3)]
    (_, a), (_, b), (_, c) = run_tasks(tasks, 1.0, 2, Clock())
    assert a["failure"] == "ValueError: a can't be compiled" and "in prepare" in a["traceback"]
    assert b["failure"] == "MemoryError: b is too large" and "in measure" in b["traceback"]
    assert c == {"value": 3, "prepare seconds": 0.0, "seconds": 0.0}


def test_a_group_is_prepared_before_the_first_of_it_is_measured():
    log = []
    list(run_tasks([task(name, log=log) for name in "abc"], 1.0, 2, Clock()))
    assert sorted(log[:2]) == ["prepare a", "prepare b"]
    assert log[2:] == ["measure a", "measure b", "prepare c", "measure c"]


def test_nothing_is_begun_after_the_deadline():
    clock, log = Clock(), []
    tasks = [task(name, 10.0, clock, log) for name in "abcd"]
    done = [t.name for t, _ in run_tasks(tasks, 15.0, 1, clock)]
    assert done == ["a", "b"] and "prepare c" not in log


def section(*tasks, share=1.0):
    """A section of tasks with one table."""
    columns = {"value": value("value"), "": verdict}
    return Section("Title", "About.", share, lambda quick: tasks, table_of(columns))


def table_of(columns):
    return lambda plan, found: [task_table("", plan, found, columns)]


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs the command with sections of its own."""

    def call(sections, *words):
        monkeypatch.setattr(command, "SECTIONS", sections)
        monkeypatch.setattr(command, "check_device", lambda config: None)
        return command.main(command.options([*words, "-o", str(tmp_path / "out")]))

    return call


def results(tmp_path):
    return json.loads((tmp_path / "out/results.json").read_text())


def test_results_of_all_sections_are_kept_and_shown(run, tmp_path):
    first = section(task("a", value=1.5), task("b", error="measure"))
    code = run({"one": first, "two": section(task("c", passed=False))})
    found = results(tmp_path)["sections"]
    assert code == 1
    assert found["one"]["a"]["value"] == 1.5 and "traceback" in found["one"]["b"]
    page = (tmp_path / "out/report.md").read_text()
    assert "| a | 1.5 | done |" in page and "| b | - | **error** |" in page
    assert "| c | - | **FAILED** |" in page and "MemoryError: b is too large" in page


def test_a_call_that_is_cut_off_keeps_what_it_has(run, tmp_path):
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run({"one": section(task("a"), Task("b", lambda: stop))})
    assert list(results(tmp_path)["sections"]["one"]) == ["a"]


def test_resume_runs_what_is_missing_and_what_failed(run, tmp_path):
    log = []
    run({"one": section(task("a", log=log), task("b", log=log, error="measure"))})
    assert log.count("measure a") == 1 and log.count("measure b") == 1
    there = section(task("a", log=log), task("b", log=log), task("c", log=log))
    assert run({"one": there}, "--resume", str(tmp_path / "out")) == 0
    assert log.count("measure a") == 1 and log.count("measure b") == 2
    found = results(tmp_path)
    assert list(found["sections"]["one"]) == ["a", "b", "c"] and len(found["calls"]) == 2


def test_sections_can_be_chosen_and_the_page_names_the_others(run, tmp_path):
    log = []
    both = {"one": section(task("a", log=log)), "two": section(task("b", log=log))}
    assert run(both, "--sections", "two") == 0
    assert log == ["prepare b", "measure b"]
    assert "| a | - | not measured |" in (tmp_path / "out/report.md").read_text()


def test_a_plan_measures_nothing(run, tmp_path):
    log = []
    assert run({"one": section(task("a", log=log))}, "--plan") == 0
    assert not log and "1 not measured" in (tmp_path / "out/report.md").read_text()


def test_a_table_that_fails_costs_no_results(run, tmp_path, capsys):
    broken = section(task("a"))._replace(tables=lambda plan, found: 1 / 0)
    run({"one": broken, "two": section(task("b"))})
    assert list(results(tmp_path)["sections"]) == ["one", "two"]
    assert "ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--minutes", "0"], "minutes must be > 0, got 0.0"),
        (["--quick", "--resume", "nowhere.json"], "nowhere.json: No such file or directory"),
    ],
)
def test_a_wrong_option_is_one_line(monkeypatch, capsys, words, message):
    with pytest.raises(SystemExit, match="2"):
        guarded(command.main, command.options(words))
    assert capsys.readouterr().err == f"error: {message}\n"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"calls": [], "sections": {}, "clocks": {}}'])
def test_another_file_is_not_gone_on_from(tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ValueError, match="expected results of this command"):
        read(tmp_path, FACTS)


@pytest.mark.parametrize("change", [{"device": "another"}, {"quick": True}])
def test_results_of_another_card_or_size_are_not_gone_on_from(tmp_path, change):
    Record({**FACTS, **change}).write(tmp_path)
    with pytest.raises(ValueError, match=r"expected results of card, quick: False; got those of"):
        read(tmp_path, FACTS)


def wrong_by_one(z, e):
    """A search that finds the code after the nearest."""
    return (vj.nearest(z, e) + 1) % len(e)


def test_wrong_indices_are_counted():
    problem = Problem(n=60, k=7, d=5)
    programs = {"right": jax.jit(vj.nearest), "wrong": jax.jit(wrong_by_one)}
    found = exact_indices.count(problem, programs, exact_indices.cases(problem))
    assert not found["passed"] and found["searches"]["right"]["wrong"] == 0
    assert found["searches"]["wrong"]["wrong"] > 0.8 * found["searches"]["wrong"]["rows"]


def test_rows_that_are_not_finite_must_get_minus_one():
    problem = Problem(n=60, k=7, d=5)
    careless = {"careless": lambda z, e: jnp.maximum(vj.nearest(z, e), 0)}
    found = exact_indices.count(problem, careless, exact_indices.cases(problem))
    assert found["searches"]["careless"]["wrong"] == 9  # 60 / 7, rounded up


@pytest.mark.parametrize("name", exact_indices.WAYS)
def test_each_transformation_is_checked_against_a_plain_call(name):
    way = exact_indices.WAYS[name]
    right = exact_indices.prepare_way(Problem(n=64, k=40, d=6), way)()
    assert right == {"rows": 64, "different": 0, "passed": True}

    def broken(z, e):
        call = way(z, e)
        return lambda: np.asarray(call()).reshape(-1)[::-1]

    assert not exact_indices.prepare_way(Problem(n=64, k=40, d=6), broken)()["passed"]


def test_a_product_that_rounds_is_found(monkeypatch):
    """A device whose default products are bfloat16, imitated."""

    def rounded(x):
        exact = jax.config.jax_default_matmul_precision == "highest"
        return x if exact else x.astype(jnp.bfloat16).astype(jnp.float32)

    plain = vj.ema_vq(6, 4, init=vj.inits.normal())
    careless = vj.project(plain, 4)
    monkeypatch.setattr(wrappers, "times", lambda x, w: rounded(x) @ w)
    assert exact_products.prepare_products(plain)()["passed"]
    found = exact_products.prepare_products(careless)()
    assert not found["passed"] and found["error"] > 1e-3


def test_sums_by_code_are_those_of_float64():
    found = exact_products.prepare_sums((100, 7, 3))()
    assert found["passed"] and found["error"] < 1e-6


def test_the_change_of_a_step_is_what_differences_are_shares_of():
    before, after = {"w": np.zeros(3)}, {"w": np.array([0.0, 3.0, 4.0])}
    assert equal_steps.change_error(before, after, {"w": np.array([0.0, 3.0, 4.5])}) == 0.1
    assert equal_steps.change_error(before, after, after) == 0.0


def test_a_code_that_flips_is_wrong_unless_it_is_a_near_tie():
    z_e, e = np.zeros((1, 4, 2)), np.array([[1.0, 0.0], [0.0, 1.00005], [0.0, 1.001]])
    k = np.zeros((1, 4), int)
    other = np.array([[0, 1, 2, 0]])
    found = equal_steps.flips((k, z_e, e[k]), (other, z_e, e[other]))
    assert found == {"different codes": 2, "wrong codes": 1}
