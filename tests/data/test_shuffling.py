"""Permutations without a table: bijections that look random, and never change."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqvae_jax.data import pipeline
from vqvae_jax.data.pipeline import TABLED, batch_indices
from vqvae_jax.data.shuffling import shuffled

HUGE = 10**10
FIRST = [9630659770, 4510080537, 1308908811, 4393839983]


@given(seed=st.integers(0, 2**40), epoch=st.integers(0, 99), n=st.integers(2, 3000))
def test_every_index_stands_at_one_place(seed, epoch, n):
    order = shuffled(seed, epoch, n, np.arange(n))
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), np.arange(n))


@pytest.mark.parametrize("n", [TABLED + 1, 2**32, HUGE, 2**62])
def test_indices_of_a_huge_set_are_distinct_and_spread_evenly(n):
    order = shuffled(3, 1, n, np.arange(n - 10**5, n))
    assert len(np.unique(order)) == 10**5 and order.min() >= 0 and order.max() < n
    gaps = np.diff(order) % n  # a walk of equal steps would have one
    for values in (order, gaps):
        counts = np.bincount((values / n * 100).astype(int), minlength=100)
        assert np.square(counts - 1000).sum() / 1000 < 148  # chi^2 of 99: one in a thousand


def test_order_of_huge_sets_is_fixed_for_ever():
    """Saved runs resume only if later versions give the same order."""
    np.testing.assert_array_equal(shuffled(7, 0, HUGE, np.arange(8000, 8004)), FIRST)
    np.testing.assert_array_equal(batch_indices(7, 2000, 4, HUGE), FIRST)


def test_batches_of_a_huge_set_are_parts_of_one_order():
    """A run resumes at any step; batches of another size cut the same order."""
    straight = np.concatenate([batch_indices(5, step, 96, HUGE) for step in range(40)])
    assert len(np.unique(straight)) == len(straight)
    for step in (0, 7, 19):
        np.testing.assert_array_equal(
            batch_indices(5, step, 192, HUGE)[:96], straight[192 * step :][:96]
        )


def test_epochs_and_seeds_of_a_huge_set_have_different_orders():
    first, later = (batch_indices(0, step, 1000, HUGE) for step in (0, HUGE // 1000))
    other = batch_indices(1, 0, 1000, HUGE)
    assert len(np.unique(np.concatenate([first, later, other]))) == 3000


def test_a_batch_across_the_end_of_a_huge_epoch():
    size, last = 64, HUGE // 64
    got = batch_indices(0, last, size, HUGE + 8)
    cut = HUGE + 8 - last * size
    np.testing.assert_array_equal(got[:cut], shuffled(0, 0, HUGE + 8, last * size + np.arange(cut)))
    np.testing.assert_array_equal(got[cut:], shuffled(0, 1, HUGE + 8, np.arange(size - cut)))


def test_on_both_sides_of_the_bound(monkeypatch):
    """Up to it the order of all runs so far, a table; above it no table."""
    monkeypatch.setattr(pipeline, "TABLED", 1000)
    table = np.random.default_rng([4, 0]).permutation(1000)
    np.testing.assert_array_equal(batch_indices(4, 0, 1000, 1000), table)
    monkeypatch.setattr(pipeline, "_permutation", None)
    order = batch_indices(4, 0, 1001, 1001)
    np.testing.assert_array_equal(np.sort(order), np.arange(1001))


def test_memory_does_not_grow_with_the_set():
    batch_indices(0, 0, 256, TABLED + 1)
    tracemalloc.start()
    batch_indices(0, 0, 256, 2**50)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000
