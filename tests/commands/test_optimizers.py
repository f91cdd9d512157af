"""The optimizers of runs: what a step of Muon is, and that every one of them trains."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vqvae_commands.run import autoencoder, run_folder
from vqvae_commands.run.optimizers import adam, muon, orthogonal

TINY = {
    "codes": (8,),
    "dim": 4,
    "width": 16,
    "depth": 1,
    "batch_size": 32,
    "steps": 60,
    "warmup": 2,
}
SHAPES = [(3, 3, 8, 8), (2, 2, 4, 32), (4, 4, 1, 8), (1, 1, 8, 24), (20, 6)]


def updates(make, gradients: list) -> dict:
    """The last of the updates by these gradients, one after the other."""
    optimizer = make(1.0)
    state = optimizer.init(gradients[0])
    step = jax.jit(optimizer.update)
    for gradient in gradients:
        found, state = step(gradient, state, gradient)
    return found


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_update_of_a_kernel_keeps_singular_vectors_and_levels_singular_values(shape):
    """Against the decomposition in float64; 0.7 to 1.2 is where Muon's coefficients lead."""
    x = normal(*shape).reshape(-1, shape[-1]).astype(np.float64)
    u, _, vt = np.linalg.svd(x, full_matrices=False)
    y = np.asarray(orthogonal(jnp.float32(x).reshape(shape)), np.float64).reshape(x.shape)
    levels = u.T @ y @ vt.T / (0.2 * max(x.shape) ** 0.5)
    np.testing.assert_allclose(levels, np.diag(np.diag(levels)), atol=1e-4)
    assert np.diag(levels).min() > 0.66
    assert np.diag(levels).max() < 1.21


def test_muon_takes_the_kernel_of_a_convolution_as_one_matrix():
    gradients = [normal(3, 3, 4, 8, seed=seed) for seed in range(3)]
    matrices = [g.reshape(36, 8) for g in gradients]
    of_kernel, of_matrix = (
        updates(muon, [{"layer": {"kernel": g}} for g in given])["layer"]["kernel"]
        for given in (gradients, matrices)
    )
    np.testing.assert_allclose(of_kernel.reshape(36, 8), of_matrix, rtol=1e-6)
    g0, g1, g2 = (np.float64(g) for g in matrices)
    momentum = g2 + 0.95 * (g2 + 0.95 * (g1 + 0.95 * g0))  # Nesterov's
    expected = -orthogonal(jnp.float32(momentum))
    np.testing.assert_allclose(of_matrix, expected, atol=1e-4 * float(jnp.abs(expected).max()))


def test_muon_moves_biases_and_codes_as_adam_does():
    gradients = [
        {"layer": {"bias": normal(5, seed=seed)}, "codebook": normal(6, 4, seed=seed)}
        for seed in range(3)
    ]
    jax.tree.map(np.testing.assert_array_equal, updates(muon, gradients), updates(adam, gradients))


def test_a_kernel_without_gradient_stays():
    found = updates(muon, [{"kernel": np.zeros((6, 3), np.float32)}] * 2)
    np.testing.assert_array_equal(found["kernel"], 0)


def test_a_run_trains_with_muon(tmp_path, monkeypatch):
    """Adam is in all other tests of training."""
    monkeypatch.setattr(autoencoder.run_report, "make_figures", lambda *_: {})
    np.save(tmp_path / "vectors.npy", 2 + normal(200, 10) / 10)
    options = {**TINY, "optimizer": "muon", "runs": tmp_path, "log_every": 1, "learning_rate": 2e-2}
    config = autoencoder.Config(data=str(tmp_path / "vectors.npy"), **options)
    table, _ = autoencoder.train_autoencoder(config)
    assert autoencoder.train_autoencoder(config)[0] == table  # found done, in its checkpoint
    lines = run_folder.read_lines(tmp_path / config.name / "metrics.jsonl")
    mse = [line["train/mse"] for line in lines if "train/mse" in line]
    assert np.mean(mse[-5:]) < 0.5 * np.mean(mse[:5])


def test_a_run_from_before_there_was_a_choice_goes_on_with_adam(tmp_path):
    config = autoencoder.Config(runs=tmp_path)
    folder = tmp_path / config.name
    was = run_folder.to_plain(config)
    assert was.pop("optimizer") == "adam"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(was))
    other = dataclasses.replace(config, optimizer="muon")
    with pytest.raises(run_folder.ConfigChanged, match="optimizer: 'adam' there, 'muon' now"):
        run_folder.prepare_folder(folder, other)
    run_folder.prepare_folder(folder, config)
    assert json.loads((folder / "config.json").read_text()) == run_folder.to_plain(config)


def test_adam_has_the_memory_that_recorded_runs_had():
    gradients = [{"x": normal(4, seed=seed)} for seed in range(3)]
    expected = updates(lambda rate: optax.adam(rate, b2=0.99), gradients)
    np.testing.assert_array_equal(updates(adam, gradients)["x"], expected["x"])
