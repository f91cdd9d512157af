"""The accelerator command where something is wrong: a file, a folder, a task, or a page."""

import json
import signal
import subprocess
import sys
import time

import pytest

from experiments.accelerator import __main__ as command
from experiments.accelerator import card
from experiments.accelerator.all_sections import SECTIONS
from experiments.accelerator.record import Record, read
from experiments.accelerator.tables import task_table, value
from experiments.accelerator.tasks import Section, Task, run_tasks
from vqvae_commands.terminal.command import guarded

FACTS = {
    "command": "python -m x", "date": "today", "versions": {}, "machine": {"rates of": "card"},
    "device": "card", "quick": True,
}  # fmt: skip


def section(*tasks):
    """A section of tasks that find 1, or an error."""
    table = lambda plan, found: [task_table("", plan, found, {"value": value("value")})]  # noqa: E731
    return Section("Title", "About.", 1.0, lambda quick: tasks, table)


def done(name):
    return Task(name, lambda: lambda: {"value": 1.0})


@pytest.fixture
def refused(monkeypatch, capsys):
    """Runs the command, which must end with one line, and returns that line."""

    def call(*words):
        monkeypatch.setattr(command, "SECTIONS", {"one": section(done("a"))})
        with pytest.raises(SystemExit, match="2"):
            guarded(command.main, command.options([*map(str, words)]))
        line = capsys.readouterr().err
        assert line.count("\n") == 1
        return line

    return call


def test_without_an_accelerator_only_quick_sizes_are_run(refused, monkeypatch, tmp_path):
    monkeypatch.setattr(command.jax, "default_backend", lambda: "cpu")
    assert "expected an accelerator" in refused("-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [["--sections", "nope"], ["--minutes", "soon"], ["--nope"]])
def test_a_wrong_word_is_one_line(capsys, words):
    with pytest.raises(SystemExit, match="2"):
        command.options(words)
    line = capsys.readouterr().err
    assert line.startswith("error: ") and line.count("\n") == 1


def test_results_are_not_overwritten(refused, tmp_path):
    words = "--quick", "-o", str(tmp_path / "out")
    refused("--quick", "--resume", tmp_path / "none")
    assert command.main(command.options(words)) == 0
    before = (tmp_path / "out/results.json").read_bytes()
    assert "holds results" in refused(*words)
    assert (tmp_path / "out/results.json").read_bytes() == before
    for resumed in (tmp_path / "out", tmp_path / "out/../out/results.json"):
        assert command.main(command.options([*words, "--resume", str(resumed)])) == 0


def test_a_folder_that_cannot_be_written_is_refused_before_anything_runs(refused, tmp_path):
    (tmp_path / "results.json").mkdir()
    assert "results.json" in refused("--quick", "-o", tmp_path)
    (tmp_path / "page/report.md").mkdir(parents=True)
    assert "report.md" in refused("--quick", "--plan", "-o", tmp_path / "page")


def test_tasks_that_are_no_more_do_not_fail(monkeypatch, tmp_path):
    monkeypatch.setattr(command, "SECTIONS", {"one": section(done("a"))})
    record = Record({**FACTS, "device": card.facts("", True)["device"]})
    record.add("one", done("gone"), {"failure": "lost"})
    record.add("gone", done("a"), {"passed": False})
    record.write(tmp_path)
    words = ["--quick", "--resume", str(tmp_path), "-o", str(tmp_path)]
    assert command.main(command.options(words)) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"sections": {"one": [1, 2]}}, {"sections": {"one": None}}, {"sections": {"one": {"a": 3}}},
        {"clocks": 3}, {"calls": [{"device": "card", "quick": True}]}, {"calls": ["a", FACTS]},
    ],
)  # fmt: skip
def test_what_has_not_the_shape_of_results_is_not_gone_on_from(tmp_path, change):
    good = {"calls": [FACTS], "clocks": {}, "sections": {"one": {"a": {}}}}
    path = tmp_path / "results.json"
    path.write_text(json.dumps(good))
    assert read(path, FACTS) == good
    path.write_text(json.dumps({**good, **change}))
    with pytest.raises(ValueError, match="expected results of this command"):
        read(path, FACTS)


def test_what_failed_is_tried_again_after_what_is_missing():
    record = Record(FACTS)
    tasks = [done(name) for name in "abc"]
    record.add("one", tasks[0], {"failure": "lost"})
    record.add("one", tasks[1], {"value": 1.0, "skipped": {"torch": "slow"}})
    assert [t.name for t in record.missing("one", tasks)] == ["c", "a"]
    record.add("one", tasks[1], {"skipped": "No module named 'torch'"})
    assert [t.name for t in record.missing("one", tasks)] == ["c", "a", "b"]


def fails():
    raise RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS")


def test_nothing_more_is_run_on_a_card_that_answers_no_more(monkeypatch, tmp_path, capsys):
    sections = {"one": section(Task("a", fails), done("b")), "two": section(done("c"))}
    monkeypatch.setattr(command, "SECTIONS", sections)
    monkeypatch.setattr(card, "alive", lambda: False)
    monkeypatch.setattr(command, "workers", lambda: 1)
    assert command.main(command.options(["--quick", "-o", str(tmp_path)])) == 1
    assert "The card answers no more" in capsys.readouterr().err
    found = json.loads((tmp_path / "results.json").read_text())["sections"]
    assert list(found) == ["one"] and list(found["one"]) == ["a"]
    assert (tmp_path / "report.md").exists()


def test_a_card_that_answers_is_alive():
    assert card.alive()


def test_a_result_that_is_no_json_is_a_failure_of_its_task():
    (_, a), (_, b) = run_tasks([Task("a", lambda: lambda: {"x": {1, 2}}), done("b")], 1e9, 1)
    assert a["failure"].startswith("TypeError") and b["value"] == 1.0


def test_an_error_without_a_traceback_and_a_table_that_fails_leave_the_page(tmp_path):
    record = Record(FACTS)
    record.add("one", done("a"), {"failure": "lost"})
    broken = section(done("b"))._replace(tables=lambda plan, found: 1 / 0, title="Broken")
    sections = {"one": section(done("a")), "broken": broken, "two": section(done("c"))}
    plans = {name: s.tasks(True) for name, s in sections.items()}
    with pytest.raises(ZeroDivisionError):
        command.write_page(tmp_path, record, sections, plans)
    page = (tmp_path / "report.md").read_text()
    assert "lost" in page and "ZeroDivisionError" in page and "| c | - |" in page


@pytest.mark.parametrize("name", SECTIONS)
def test_tables_stand_with_results_that_lack_their_fields(name):
    tasks = SECTIONS[name].tasks(True)
    for found in ({}, {"passed": None}, {"value": None, "hours": None, "step": None}):
        assert SECTIONS[name].tables(tasks, {task.name: found for task in tasks})


SLOW = """
import signal, time
from experiments.accelerator import __main__ as command
from tests.experiments.test_accelerator_errors import done, section
from experiments.accelerator.tasks import Task
def prepare():
    print("compiling", flush=True)
    time.sleep(60)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
command.SECTIONS = {"one": section(done("a"), done("b"), Task("c", prepare))}
command.workers = lambda: 2
command.run(["--quick", "-o", %r])
"""


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -15)])
def test_a_call_that_is_stopped_ends_at_once_and_keeps_what_it_has(tmp_path, sent, code):
    words = [sys.executable, "-c", SLOW % str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        while process.stdout.readline().strip() != "compiling":
            assert process.poll() is None
        begun = time.monotonic()
        process.send_signal(sent)
        assert process.wait(50) == code and time.monotonic() - begun < 20
    found = json.loads((tmp_path / "results.json").read_text())["sections"]["one"]
    assert list(found) == ["a", "b"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["results.json"]
