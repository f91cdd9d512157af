"""Benchmarks of milliseconds, classifiers that run fast, and untrained models as coders."""

import pytest
from coders import coder_of, plain_model

import vqvae_jax as vj
from experiments.bench import exactness, peers, search, step
from experiments.quality import classifier
from experiments.run.recipe import hierarchy
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


@pytest.fixture(scope="session", autouse=True)
def classifiers_that_run_fast():
    """Their hundreds of steps, compiled in haste as `make test` asks for, would take a minute."""
    classifier.COMPILER_OPTIONS = {"xla_backend_optimization_level": 1}


@pytest.fixture(scope="module")
def coder():
    return coder_of(plain_model(vj.vq(8, 3)), 8, 8, 1)


@pytest.fixture(scope="module")
def deep():
    """Two levels, the lower one of two streams."""
    quantizers = [vj.vq(4, 3), vj.residual(vj.vq(6, 5), vj.vq(7, 5))]
    return coder_of(hierarchy(1, quantizers, 2, width=8, depth=1), 8, 8, 1)
