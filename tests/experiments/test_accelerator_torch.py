"""PyTorch's side of the times on an accelerator, on a CPU."""

import numpy as np
import pytest

from experiments.accelerator.times import (
    queued,
    search_times,
    searches,
    step_times,
    steps,
    torch_searches,
    torch_side,
)
from experiments.bench import exactness
from experiments.bench.search import Problem

PROBLEM = Problem(64, 4, 32)


def expected_indices(inputs: searches.Inputs, i: int) -> np.ndarray:
    return exactness.distances64(np.asarray(inputs.zs[i]), np.asarray(inputs.e)).argmin(axis=1)


@pytest.fixture(autouse=True)
def module():
    return pytest.importorskip("torch")


@pytest.fixture
def parts(monkeypatch):
    """All rows at a time, and fewer."""
    monkeypatch.setattr(searches, "PARTS", (1e9, 4.0 * 32 * 16))
    monkeypatch.setattr(searches, "FEWEST", 1)


def test_contestants_find_the_nearest(parts):
    inputs = searches.make_inputs(PROBLEM)
    tensors = torch_searches.tensors_of(inputs)
    makers = {n: m for n, m in search_times.QUICK_MAKERS.items() if n != searches.MODULE}
    contestants, skipped = queued.built(makers, tensors)
    assert not skipped
    for ways in contestants:
        if ways[0].name in torch_searches.PRODUCTS:
            continue
        assert [work.rows for work in ways] == [64, 16]
        for work in ways:
            assert queued.trial(work) > 0
            k = search_times.indices(work)
            np.testing.assert_array_equal(k, expected_indices(inputs, 0))


@pytest.mark.slow
def test_one_compiled_program_serves_any_number_of_rows(parts):
    from torch._dynamo.utils import counters

    # For PROBLEM, on a CPU, PyTorch 2.11 compiles an argmin that is wrong.
    inputs = searches.make_inputs(Problem(256, 8, 128))
    before = counters["stats"]["unique_graphs"]
    ways = torch_searches.compiled("float32", torch_searches.tensors_of(inputs))
    assert [work.rows for work in ways] == [256, 4]
    for work in ways:
        k = search_times.indices(work)
        np.testing.assert_array_equal(k, expected_indices(inputs, 0))
    assert counters["stats"]["unique_graphs"] == before + 1


def test_products_in_parts_are_all_made():
    inputs = searches.make_inputs(PROBLEM)
    made = []
    tensors = torch_searches.tensors_of(inputs)

    def product(z, e):
        made.append(len(z))
        return z @ e.T

    last = torch_searches.last
    found = torch_searches.torch_work("", product, tensors, 16, "float32", last).start(0)
    assert made == [16] * 4
    np.testing.assert_allclose(found, inputs.zs[0][-16:] @ inputs.e.T, rtol=1e-4, atol=1e-5)


def test_switches_are_set_back(module):
    switch = module.backends.cuda.matmul
    before = switch.allow_tf32
    for precision, allowed in (("tf32", True), ("float32", False)):
        with torch_side.float32_products(precision):
            assert switch.allow_tf32 == allowed == module.backends.cudnn.allow_tf32
    assert switch.allow_tf32 == before


def test_steps_learn(module):
    """In both precisions and layouts; the loss falls."""
    sizes = step_times.MODELS[step_times.TINY]
    for precision in ("float32", "bfloat16"):
        ready = steps.eager(sizes, precision, None)
        for work in ready.ways:
            first = float(work.start(0))
            assert min(float(work.start(i)) for i in range(40)) < first
