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
    """The last of the updates by these gradients, one after the other, of parameters that are 1."""
    optimizer = make(1.0)
    params = jax.tree.map(jnp.ones_like, gradients[0])
    state = optimizer.init(params)
    step = jax.jit(optimizer.update)
    for gradient in gradients:
        found, state = step(gradient, state, params)
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
    np.testing.assert_allclose(of_kernel.reshape(36, 8), of_matrix, rtol=1e-6, atol=1e-6)
    g0, g1, g2 = (np.float64(g) for g in matrices)
    momentum = g2 + 0.95 * (g2 + 0.95 * (g1 + 0.95 * g0))  # Nesterov's
    expected = -orthogonal(jnp.float32(momentum)) - 0.1  # of the parameters, which are 1
    np.testing.assert_allclose(of_matrix, expected, atol=1e-4 * float(jnp.abs(expected).max()))


def test_muon_moves_biases_and_codes_as_adam_does():
    gradients = [
        {"layer": {"bias": normal(5, seed=seed)}, "codebook": normal(6, 4, seed=seed)}
        for seed in range(3)
    ]
    jax.tree.map(np.testing.assert_array_equal, updates(muon, gradients), updates(adam, gradients))


def test_a_kernel_without_gradient_only_decays():
    found = updates(muon, [{"kernel": np.zeros((6, 3), np.float32)}] * 2)
    np.testing.assert_array_equal(found["kernel"], np.float32(-0.1))


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


def test_the_command_of_a_run_from_before_there_was_a_choice_continues_it(tmp_path):
    """Again and again: the folder goes on showing that the run is from before."""
    config = autoencoder.Config(runs=tmp_path)
    folder = tmp_path / config.name
    was = run_folder.to_plain(config) | {"steps": 8000, "beta": 0.25}
    del was["optimizer"], was["decay"]
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(was))
    then = {"optimizer": "adam", "steps": 8000, "beta": 0.25, "decay": 0.99}
    for _ in range(2):
        begun = autoencoder.as_begun(config)
        assert begun == dataclasses.replace(config, **then)
        run_folder.prepare_folder(folder, begun)
        assert json.loads((folder / "config.json").read_text()) == was
    given = autoencoder.as_begun(dataclasses.replace(config, steps=9000))
    with pytest.raises(run_folder.ConfigChanged, match="steps: 8000 there, 9000 now"):
        run_folder.prepare_folder(folder, given)
    for name, found in (
        ("optimizer", "'adam' there, 'muon' now"),
        ("decay", "0.99 there, 0.97 now"),
    ):
        with pytest.raises(run_folder.ConfigChanged, match=f"{name}: {found}"):
            run_folder.prepare_folder(folder, config)


def test_what_an_earlier_run_was_told_stays(tmp_path):
    config = autoencoder.Config(runs=tmp_path, steps=4000, beta=0.5)
    was = run_folder.to_plain(config)
    del was["optimizer"], was["decay"]
    (tmp_path / config.name).mkdir()
    (tmp_path / config.name / "config.json").write_text(json.dumps(was))
    begun = autoencoder.as_begun(config)
    assert begun == dataclasses.replace(config, optimizer="adam", decay=0.99)
    run_folder.prepare_folder(tmp_path / config.name, begun)


def test_a_new_run_has_the_options_of_today(tmp_path):
    config = autoencoder.Config(runs=tmp_path)
    assert autoencoder.as_begun(config) == config
    run_folder.prepare_folder(tmp_path / config.name, config)
    assert autoencoder.as_begun(config) == config


def test_adam_has_the_memory_that_recorded_runs_had():
    gradients = [{"x": normal(4, seed=seed)} for seed in range(3)]
    expected = updates(lambda rate: optax.adam(rate, b2=0.99), gradients)
    np.testing.assert_array_equal(updates(adam, gradients)["x"], expected["x"])
