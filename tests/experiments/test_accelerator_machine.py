"""The accelerator command on machines that lack something: nvidia-smi, PyTorch, a compiler."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.accelerator import card
from experiments.accelerator.tasks import run_tasks
from experiments.accelerator.times import step_times
from experiments.bench import machine

ROOT = Path(__file__).parents[2]


@pytest.fixture
def smi(monkeypatch, tmp_path):
    """Puts a script in the place of nvidia-smi."""

    def write(text):
        path = tmp_path / "nvidia-smi"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    card.answers.cache_clear()
    yield write
    card.answers.cache_clear()


@pytest.mark.parametrize("text", ["exit 0", "exit 9", "echo", "no-such-command"])
def test_nvidia_smi_that_says_nothing(smi, text):
    smi(text)
    assert card.clocks() == ""


def test_nvidia_smi_that_says_anything(smi):
    smi(r"printf '\377\376 | x\nsecond\n'")
    assert card.clocks().endswith("| x")


def test_nvidia_smi_that_is_stuck_is_asked_once(monkeypatch):
    asked = []

    def stuck(words, **options):
        asked.append(words)
        raise subprocess.TimeoutExpired(words, options["timeout"])

    card.answers.cache_clear()
    monkeypatch.setattr(card.subprocess, "run", stuck)
    assert card.clocks() == card.clocks() == "" and len(asked) == 1
    card.answers.cache_clear()


@pytest.fixture
def broken_torch(monkeypatch, tmp_path):
    """Puts a PyTorch that can't find its libraries in the place of PyTorch."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text("raise OSError('libcudart.so.13: not found')")
    for name in [name for name in sys.modules if name.split(".")[0] == "torch"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "experiments.bench.plain_torch", raising=False)
    monkeypatch.syspath_prepend(tmp_path)


def test_a_broken_pytorch_costs_only_its_own_times(broken_torch):
    assert machine.torch_blas() == ""
    (task,) = [t for t in step_times.tasks(True) if t.name.endswith(": torch")]
    ((_, found),) = run_tasks([task], float("inf"), 1)
    assert found["skipped"] == "OSError: libcudart.so.13: not found"


@pytest.mark.parametrize(
    ("name", "line"), [("nope", "error: expected one of h200"), ("v5e", "jax[tpu]")]
)
def test_compiling_ahead_says_what_is_missing(name, line):
    if name != "nope" and importlib.util.find_spec("libtpu"):
        pytest.skip("its compiler is here")
    words = [sys.executable, "tools/compile_ahead.py", name]
    found = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert found.returncode == 2 and found.stderr.count("\n") == 1 and line in found.stderr
