"""Benchmarks of milliseconds."""

import pytest

from experiments.bench import exactness, peers, search, step
from vqvae_jax.compiling import fast_compile


def absent(name: str):
    raise ModuleNotFoundError(f"No module named {name!r}")


@pytest.fixture
def tiny(monkeypatch):
    """Problems of milliseconds, and no other library."""
    monkeypatch.setattr(search, "QUICK", [search.Problem(20, 4, 16), search.Problem(3, 2, 1)])
    monkeypatch.setattr(search, "QUICK_TRAINING", [search.Problem(20, 4, 16)])
    monkeypatch.setattr(exactness, "QUICK_ROWS", 40)
    monkeypatch.setattr(exactness, "CODES", 16)
    monkeypatch.setattr("experiments.bench.timing.SHORT", 1e-4)
    monkeypatch.setattr(step, "COMPILER_OPTIONS", fast_compile())
    monkeypatch.setattr(peers, "import_module", absent)
