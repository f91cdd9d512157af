"""The results in docs/ are those of the arms as they are now; and what the command does else."""

import json
from pathlib import Path

import pytest

from experiments.compare import recorded
from experiments.compare.recorded import Config, definitions, differing, main, recorded_pages
from experiments.sweep.arms import Arm

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(("path", "make_arms"), [
    pytest.param(path, make, id=path.parent.name) for path, make in recorded_pages(DOCS)
])  # fmt: skip
def test_recorded_definitions_are_those_of_today(path, make_arms):
    """Otherwise: python -m experiments.compare.recorded"""
    record = json.loads(path.read_text())
    assert record["arms"] and not differing(record, definitions(make_arms()))


def arm(name: str, **definition) -> dict:
    return {"arm": name, "definition": definition, "seeds": [{"seed": 0, "numbers": {"psnr": 1.0}}]}


def test_renewing_writes_definitions_and_leaves_numbers(tmp_path, monkeypatch, capsys):
    path = tmp_path / "results.json"
    before = {"command": "it", "arms": [arm("a", steps=1), arm("b", steps=1), arm("c", steps=1)]}
    path.write_text(json.dumps(before))
    now = [Arm("a", "a", {"steps": 1}, print), Arm("b", "b", {"steps": 1, "more": (2,)}, print)]
    monkeypatch.setattr(
        recorded, "recorded_pages", lambda docs: [(docs / "results.json", lambda: now)]
    )
    with pytest.raises(SystemExit):
        main(Config(docs=tmp_path))
    out = capsys.readouterr().out
    assert "b differs in more" in out and "c differs in its name" in out
    assert "3 recorded arms, 2 differ" in out and json.loads(path.read_text()) == before
    with pytest.raises(SystemExit):
        main(Config(docs=tmp_path, renew=True))
    assert "3 recorded arms, 1 differ" in capsys.readouterr().out
    expected = [arm("a", steps=1), arm("b", steps=1, more=[2]), arm("c", steps=1)]
    assert json.loads(path.read_text()) == {"command": "it", "arms": expected}
