"""Probes of codes: each number by hand or against a reference."""

import numpy as np
import pytest
from scipy import optimize, sparse

from vqvae_commands.code_meaning import probes

RNG = np.random.default_rng


def problem(n: int, dim: int, classes: int, seed: int = 0):
    rng = RNG(seed)
    return rng.normal(size=(n, dim)), rng.integers(0, classes, n)


def test_logistic_regression_is_the_minimum_of_its_loss():
    """Against Newton's method on the written-out loss, and the gradient there is 0."""
    x, y = problem(40, 3, 3)

    def loss(flat):
        w, b = flat[:9].reshape(3, 3), flat[9:]
        scores = x @ w + b
        logs = np.log(np.exp(scores).sum(1)) - scores[np.arange(40), y]
        return logs.mean() + 0.05 / 2 * (w**2).sum()

    expected = optimize.minimize(loss, np.zeros(12), method="BFGS", options={"gtol": 1e-8})
    found = probes.logistic_regression(x, y, 3, 0.05, tolerance=1e-14)
    np.testing.assert_allclose(found.w, expected.x[:9].reshape(3, 3), atol=1e-5)
    spread = found.b - found.b.mean() - (expected.x[9:] - expected.x[9:].mean())
    np.testing.assert_allclose(spread, 0, atol=1e-5)
    np.testing.assert_allclose(
        probes.cross_entropy(found, x, y) + 0.025 * (found.w**2).sum(), expected.fun, rtol=1e-7
    )


def test_a_start_and_sparse_features_change_nothing():
    x, y = problem(40, 3, 3)
    x = np.where(x > 0, x, 0)
    plain = probes.logistic_regression(x, y, 3, 0.1, tolerance=1e-14)
    begin = probes.Linear(np.ones((3, 3)), np.ones(3))
    again = probes.logistic_regression(x, y, 3, 0.1, begin, tolerance=1e-14)
    thin = probes.logistic_regression(sparse.csr_matrix(x), y, 3, 0.1, tolerance=1e-14)
    np.testing.assert_allclose(again.w, plain.w, atol=1e-5)
    np.testing.assert_allclose(thin.w, plain.w, atol=1e-6)


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix])
def test_probes_of_separable_classes_are_right(make):
    rng = RNG(0)
    y = np.arange(150) % 3
    x = make((np.eye(3)[y] * 5 + rng.normal(size=(150, 3)) * 0.3).astype(np.float32))
    for probe in (probes.linear_probe, probes.neighbour_probe):
        score = probe(x[:100], y[:100], x[100:], y[100:])
        assert score.accuracy == score.high == 1.0
        assert score.low == pytest.approx(50 / (50 + 1.959964**2))


def test_probes_of_noise_are_at_chance_and_penalised():
    x, y = problem(600, 20, 3)
    score = probes.linear_probe(x[:300], y[:300], x[300:], y[300:])
    assert score.low < 1 / 3 < score.high and score.chosen >= 1e-3
    assert probes.linear_probe(x[:300], y[:300], x[300:], y[300:]) == score


def test_the_penalty_is_that_of_the_least_loss_held_out():
    x, y = problem(300, 10, 2)
    y = (x[:, 0] + 0.5 * RNG(3).normal(size=300) > 0).astype(int)
    train, _ = probes.standardize(x, x)
    fit, held = probes.split(300, 0)
    losses = {}
    for penalty in probes.PENALTIES:
        model = probes.logistic_regression(train[fit], y[fit], 2, penalty, tolerance=1e-9)
        losses[penalty] = probes.cross_entropy(model, train[held], y[held])
    assert probes.linear_probe(x, y, x, y).chosen == min(losses, key=losses.get)
    assert sorted([*fit, *held]) == list(range(300)) and len(held) == 60


def test_scaled_features():
    x = np.array([[1.0, 5, 0], [3, 5, 4]])
    train, test = probes.standardize(x, np.array([[2.0, 9, 8]]))
    np.testing.assert_allclose(train, np.array([[-1, 0, -1], [1, 0, 1]]) / 2**0.5)
    np.testing.assert_allclose(test, np.array([[0, 0, 3]]) / 2**0.5)  # a constant says nothing
    thin, _ = probes.standardize(sparse.csr_matrix(x), sparse.csr_matrix(x))
    np.testing.assert_allclose(thin.toarray(), x / (76 / 2) ** 0.5)


def test_nearest_neighbours_by_hand():
    train, labels = np.array([[0.0], [1], [2.5], [10]]), np.array([0, 1, 1, 2])
    x = np.array([[0.4], [9.0]])
    assert probes.nearest(train, x, 3).tolist() == [[0, 1, 2], [3, 2, 1]]
    assert probes.nearest(sparse.csr_matrix(train), sparse.csr_matrix(x), 1).tolist() == [[0], [3]]
    votes = probes.vote(train, labels, x, [1, 2, 3])
    assert [v.tolist() for v in votes] == [[0, 2], [0, 2], [1, 1]]  # of two equals the nearest


def test_many_rows_of_neighbours_against_all_distances():
    train, x = RNG(0).normal(size=(50, 4)), RNG(1).normal(size=(30, 4))
    every = ((x[:, None] - train) ** 2).sum(-1)
    found = probes.nearest(train, x, 5, rows=7)
    np.testing.assert_array_equal(found, np.argsort(every, axis=1)[:, :5])


def test_wilsons_interval_is_the_set_of_shares_that_fit():
    """Its ends p solve |hits / n - p| = z sqrt(p (1 - p) / n)."""
    for hits, n in ((0, 10), (7, 10), (180, 200)):
        for p in probes.wilson(hits, n):
            z2 = 1.959963984540054**2
            np.testing.assert_allclose((hits / n - p) ** 2, z2 * p * (1 - p) / n, atol=1e-12)
    for hits, n in ((3, 2), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match=f"got {hits} of {n}"):
            probes.wilson(hits, n)
