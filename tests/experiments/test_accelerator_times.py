"""Times on an accelerator: how they are measured and what is expected, not how fast anything is."""

import time

import jax
import numpy as np
import optax
import pytest

from experiments.accelerator.tasks import run_tasks
from experiments.accelerator.times import (
    card_rates,
    queued,
    search_floors,
    search_tables,
    search_times,
    searches,
    step_tables,
    step_times,
    step_work,
    torch_searches,
    torch_side,
)
from experiments.accelerator.times.queued import LineUp, Work, line_up, race_queued
from experiments.bench import exactness, peers, plain_flax, step
from experiments.bench.plain_flax import Sizes
from experiments.bench.search import Problem
from experiments.bench.timing import Race

PROBLEM = Problem(64, 4, 32)


def recorded(name: str, seen: list, rows: int | None = None) -> Work:
    return Work(name, lambda i: seen.append(i) or i, lambda i: seen.append(f"wait {i}"), rows)


def test_a_call_queues_several_sets_and_waits_for_the_last():
    seen = []
    call = queued.queued(recorded("a", seen), 3).call
    call()
    call()
    assert seen == [0, 1, 2, "wait 2", 3, 4, 5, "wait 5"]


def test_times_are_those_of_one_set(monkeypatch):
    """20 ms hold four sets of 5 ms: a call of 1 s is four sets of 0.25 s."""
    asked = {}

    def race(title, entries, rounds, **options):
        asked.update(options)
        return Race(title, "a", {"a": [1.0] * rounds, "b": [3.0] * rounds})

    monkeypatch.setattr(queued, "race", race)
    works = [recorded("a", []), recorded("b", [])]
    line = LineUp(works, {"a": 0.005, "b": 1.0}, {}, {})
    result = race_queued("race", line, 2)
    assert result.seconds == {"a": [0.25, 0.25], "b": [3.0, 3.0]}
    assert asked["short"] == 0.0  # calls are long enough: none is repeated


def slow(seconds: float, name: str, rows: int) -> Work:
    return Work(name, lambda i: time.sleep(seconds), lambda result: None, rows)


def broken(name: str) -> Work:
    def start(i):
        raise MemoryError("too large\nfor this card")

    return Work(name, start, lambda result: None, 7)


def test_of_each_contestant_the_quickest_way_takes_part():
    ways = [slow(0.02, "a", 10), slow(0.0, "a", 5), broken("a")]
    others = [[broken("b")], [slow(0.05, "c", 1)]]
    line = line_up([ways, *others], slow=0.04)
    assert [(work.name, work.rows) for work in line.works] == [("a", 5)]
    assert line.trials["a"].keys() == {"10", "5"} and line.seconds.keys() == {"a"}
    assert line.skipped == {"b": "MemoryError: too large", "c": "0.1 s a call"}
    with pytest.raises(MemoryError):  # nothing to compare with
        line_up([[broken("a")], ways])


def test_makers_that_fail_are_skipped():
    contestants, skipped = queued.built({"a": lambda n: [n], "b": lambda n: [][n]}, 3)
    assert contestants == [[3]] and skipped == {"b": "IndexError: list index out of range"}


def expected_indices(inputs: searches.Inputs, i: int) -> np.ndarray:
    return exactness.distances64(np.asarray(inputs.zs[i]), np.asarray(inputs.e)).argmin(axis=1)


def test_contestants_in_jax_find_the_nearest():
    inputs = searches.make_inputs(PROBLEM)
    assert inputs.problem == PROBLEM and len(inputs.zs) == searches.SETS[1]
    contestants, skipped = queued.built(searches.OTHERS, inputs)
    assert not skipped
    ours = [make(inputs) for make in searches.OF_THIS_LIBRARY]
    for (work,) in [*ours, *contestants]:
        if work.name != searches.XLA_PRODUCT["float32"]:
            np.testing.assert_array_equal(work.start(1), expected_indices(inputs, 1))


@pytest.mark.parametrize("rows", [64, 16, 1])
def test_some_rows_at_a_time_find_what_all_find(rows):
    inputs = searches.make_inputs(PROBLEM)
    find = searches.rows_at_a_time(peers.plain_nearest, rows)
    np.testing.assert_array_equal(find(inputs.zs[0], inputs.e), expected_indices(inputs, 0))


def test_products_take_the_place_of_the_last():
    inputs = searches.make_inputs(PROBLEM)
    (work,) = searches.xla_product("float32", inputs)
    for i in (0, 1):
        np.testing.assert_allclose(work.start(i), inputs.zs[i] @ inputs.e.T, rtol=1e-4, atol=1e-5)
    assert work.start.program.memory_analysis().alias_size_in_bytes == 4 * PROBLEM.n * PROBLEM.k


def test_products_that_do_not_fit_are_refused(monkeypatch):
    monkeypatch.setattr(searches, "PARTS", (4.0 * 32 * 16,))
    monkeypatch.setattr(searches, "FEWEST", 1)
    assert searches.row_choices(PROBLEM) == [16]
    with pytest.raises(ValueError, match="does not fit"):
        searches.xla_product("float32", searches.make_inputs(PROBLEM))


H200 = {"float32": 67e12, "bfloat16": 989e12, "memory": 4.8e12}


def test_floors_by_hand():
    found = search_floors.expected_seconds(Problem(262144, 64, 8192))
    operations = 2 * 262144 * 8192 * 64
    assert found[search_floors.FLOOR] == pytest.approx(operations / H200["float32"])
    product = operations / (0.85 * H200["float32"])
    assert found[searches.PRODUCT["float32"]] == pytest.approx(product)
    passes = 2 * 4 * 262144 * 8192 / (0.9 * H200["memory"])
    assert found[searches.COMPILED["float32"]] == pytest.approx(product + passes)
    # A tile: 128 x 64 x 64 numbers, three products of which take 768 clocks, at 2,048 in a clock.
    tiles = 262144 / 128 * 8192 / 64 / 132
    kernel = 1.15 * tiles * 768 / 1.755e9
    assert found[searches.OURS] == pytest.approx(kernel + 40 * 2.5e-6 + 15e-6, rel=0.05)


def test_narrow_products_are_bound_by_the_memory():
    found = search_floors.product_seconds(Problem(262144, 8, 8192), "bfloat16")
    assert found == pytest.approx(2 * 262144 * 8192 / (0.9 * H200["memory"]))


def test_rates_of_the_card():
    seconds = {card_rates.COPY: [0.5], searches.PRODUCT["tf32"]: [4.0]}
    seconds[searches.XLA_PRODUCT["tf32"]] = [2.0]
    found = card_rates.rates_of(Race("", card_rates.COPY, seconds), Problem(10, 20, 30), 100)
    assert found == {"memory": 400.0, "tf32": 2 * 10 * 20 * 30 / 2.0}  # 100 bytes read, 100 written


def without_torch(inputs):
    raise ModuleNotFoundError("No module named 'torch'")


def found_of(tasks) -> dict:
    return {task.name: found for task, found in run_tasks(tasks, float("inf"), 1)}


def shown(tables) -> str:
    return "\n".join(" | ".join([t.title, *row]) for t in tables for row in [t.head, *t.rows])


def test_search_without_pytorch(monkeypatch):
    monkeypatch.setattr(torch_searches, "tensors_of", without_torch)
    tasks = search_times.tasks(True)
    found = found_of(tasks)
    assert all(result.get("passed", True) for result in found.values())
    assert not any("failure" in result for result in found.values()), found
    result = found[str(search_times.QUICK[0])]
    assert result["skipped"] == {"torch": "ModuleNotFoundError: No module named 'torch'"}
    assert result["race"]["baseline"] == searches.OURS
    mine = {searches.OURS, searches.BLOCKS, searches.LOW}
    assert mine | {*searches.OTHERS} == result["race"]["seconds"].keys()
    for name in (searches.BLOCKS, *searches.JAX_ARGMIN.values()):
        assert result["different"][name] <= 2
    text = shown(search_times.SECTION.tables(tasks, found))
    assert searches.BLOCKS in text and "met" in text.replace("missed", "met")
    assert list(search_times.SECTION.figures(tasks, found)) == ["search"]


@pytest.mark.parametrize("section", [search_times.SECTION, step_times.SECTION])
def test_the_plan_stands_without_results(section):
    tasks = section.tasks(False)
    assert len({task.name for task in tasks}) == len(tasks)
    assert section.tables(tasks, {}) and not section.figures(tasks, {})
    errors = {task.name: {"failure": "lost", "traceback": ""} for task in tasks}
    assert section.tables(tasks, errors)


def test_bars():
    ratios = {searches.PRODUCT["float32"]: 0.5, searches.COMPILED["float32"]: 3.0}
    race = {"ratio_to_baseline": {name: {"median": r} for name, r in ratios.items()}}
    assert search_tables.over_product(None, {"race": race}) == "2.00, **missed**"
    assert search_tables.faster(None, {"race": race}) == "3.00, met"
    times = {step_tables.OURS: 0.002, step_tables.COMPILED: 0.001}
    assert step_tables.bar("a, bfloat16", times) == "0.50, **missed**"
    assert step_tables.bar("a, TF32", times) == "0.50"
    assert step_tables.bar("a, TF32", {**times, step_tables.COMPILED: None}) == "-"


def test_operations_of_a_convolution_by_hand():
    """3 x 3 taps, 5 to 7 channels, on 4 x 4 places: a product and an addition for each."""
    assert step_work.Convolution(16, 9, 5, 7).operations == 2 * 16 * 9 * 5 * 7
    sizes = Sizes(side=8, channels=3, width=6)
    first, last = step_work.encoder(sizes)[0], step_work.decoder(sizes)[-1]
    assert first == (16, 16, 3, 3) and last == (16, 16, 3, 3)


def test_operations_of_a_step_are_those_that_xla_counts():
    """XLA leaves out the products with zeros around the picture, and counts Adam and losses."""
    sizes = Sizes(side=64, channels=3, width=16, depth=2, codes=32, dim=16, batch=2)
    x, made = step.pixels(sizes), []

    def state():
        made.extend(plain_flax.make(sizes, x, optax.adam(1e-3)))
        return made[1]

    shapes = jax.eval_shape(state)
    counted = jax.jit(made[0]).lower(shapes, x).cost_analysis()["flops"]
    assert step_work.operations(sizes) == pytest.approx(counted, rel=0.05)


def test_small_steps_take_the_time_of_their_kernels():
    least = step_work.LAUNCHES * search_floors.LAUNCH
    assert step_work.expected_seconds(Sizes(batch=1), "bfloat16") == least
    large = step_times.MODELS[step_times.LARGE]
    seconds = step_work.operations(large) / (0.4 * H200["float32"])
    assert step_work.expected_seconds(large, "float32") == pytest.approx(seconds)


@pytest.mark.slow  # CI runs these tasks by `python -m experiments.accelerator --quick`
def test_steps(monkeypatch):
    """Ours goes on from its last state; without PyTorch its tasks say so."""
    monkeypatch.setattr(torch_side, "device", lambda: without_torch(None))
    tasks = step_times.tasks(True)
    found = found_of(tasks)
    assert all(result.get("passed", True) for result in found.values())
    assert not any("failure" in result for result in found.values()), found
    for who in (step_tables.OURS, step_tables.SCAN):
        result = found[f"8 x 8, bfloat16: {who}"]
        assert result["step"] > 0 and result["images"] == pytest.approx(4 / result["step"])
        assert result["memory"] > 0 and result["compile"] > 0
    assert "No module named" in shown(step_times.SECTION.tables(tasks, found))
