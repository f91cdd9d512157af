"""Numbers that would mislead are said in a sentence, and only those."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vqvae_jax as vj
from vqvae_commands.run import remarks, run_folder
from vqvae_commands.run.resumable import PATIENCE, Guard, NothingLearnt
from vqvae_jax.training.step import init_state

KMEANS = vj.inits.kmeans(1)
RNG = np.random.default_rng(0)
GOOD = {"mse": 0.1, "used": 0.9, "seen": 1000.0}


def at_start(model, x: np.ndarray):
    return init_state(model, optax.sgd(0.1), jax.random.key(0), x)


def first_batch(x: np.ndarray, size: int) -> list[str]:
    model = vj.VQVAE(
        vj.MLP(4, 8, 1), vj.vq(size, 4, init=KMEANS), vj.MLP(1, 8, 1), domain=vj.pixels()
    )
    return remarks.of_first_batches(model, at_start(model, x), [x])


def test_a_first_batch_that_k_means_cannot_start_from():
    x = RNG.integers(0, 256, (8, 5, 5, 1)).astype(np.uint8)
    assert first_batch(x, 64) == []
    assert "made from 200 rows, for 256 codes" in first_batch(x, 256)[0]
    assert (
        "Only 2 rows are distinct of those that make the first 64 codes"
        in first_batch(x // 128 * 255, 64)[0]
    )


def test_each_level_is_told_apart():
    q = (vj.vq(64, 4, init=KMEANS), vj.vq(8, 4))
    model = vj.VQVAE2((vj.MLP(4), vj.MLP(4)), q, (vj.MLP(4), vj.MLP(1)), domain=vj.pixels())
    x = RNG.integers(0, 256, (4, 3, 3, 1)).astype(np.uint8)
    (found,) = remarks.of_first_batches(model, at_start(model, x), [x])
    assert "codes of level 0 are made from 36 rows, for 64 codes" in found


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, ()),
        ({"used": 25 / 256}, ("Only 25 of 256 codes are in use",)),
        ({"used": 0.3, "seen": 100.0}, ("has 100 codes, fewer than the 256",)),
        ({"used": 0.1, "seen": 100.0}, ("has 100 codes, fewer than the 256", "Only 26 of 256")),
        ({"mse": float("nan")}, ("not finite: it diverged",)),
        ({"left_out": 3.0}, ("3 test examples are not finite",)),
    ],
)
def test_results_that_mislead(change, words):
    found = remarks.of_results(GOOD | change, {"": 256})
    assert len(found) == len(words)
    assert all(w in sentence for w, sentence in zip(words, found, strict=True))


def test_streams_are_named():
    table = {"mse": 0.1, "0/used": 1.0, "0/seen": 99.0, "1/used": 0.25, "1/seen": 99.0}
    (found,) = remarks.of_results(table, {"0/": 8, "1/": 16})
    assert "Only 4 of 16 codes (stream 1)" in found


def test_skipped_steps_are_said():
    lines = [{"step": 5, "train/skipped": 2.0}, {"step": 9, "test/psnr": 1.0}]
    assert "2 of 5 steps changed nothing" in remarks.of_training(lines)[0]
    assert remarks.of_training([{"step": 5, "train/skipped": 0.0}]) == []


def test_the_guard_counts_steps_in_a_row():
    guard = Guard(0, 0, 1000)
    guard.check(24, 24)
    guard.check(25, 24)  # one in 25 moved
    guard.check(49, 48)
    with pytest.raises(NothingLearnt, match="from 26 to 50"):
        guard.check(25 + PATIENCE, 24 + PATIENCE)
    late = guard.look(75, None, {"skipped": jnp.array(24)})
    late()  # nothing is read before the next step runs


def test_a_resumed_run_counts_its_own_steps():
    guard = Guard(100, 90, 103)
    guard.check(103, 93)  # the last three of a run that has learnt
    with pytest.raises(NothingLearnt, match="from 101 to 125"):
        Guard(100, 90, 1000).check(125, 115)


def test_json_is_strict():
    text = run_folder.strict_json(
        {"a": [float("nan"), {"b": float("-inf")}], "c": (1, None, "x", True)}
    )
    assert json.loads(text) == {"a": [None, {"b": None}], "c": [1, None, "x", True]}
    assert "NaN" not in text and "Infinity" not in text
