"""Codes against continuous z: rates, samples and findings by hand; the command."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vqvae_jax as vj
from experiments.compare import vae as compare_vae
from experiments.compare import vae_training
from experiments.compare.__main__ import Command, main
from experiments.compare.vae import Config, make_arms, models
from experiments.compare.vae_findings import findings
from experiments.generation import autoencoder_samples
from experiments.generation.small_prior import Prior
from experiments.sweep.arms import Arm, Row
from vqvae_commands.terminal import command
from vqvae_jax.data.scaling import preprocess, to_pixels

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (40, 12, 12, 1), np.uint8)
FOUND = models(1, width=8, depth=0)
PRIOR = Prior(steps=3, tokens=64, width=8, depth=1, heads=1, fast_compile=True)


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(n.to_bytes(4) for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    """40 labelled images of 12 x 12 pixels, all of which are for training, and for the test."""
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "t10k"):
        (folder / f"{split}-images-idx3-ubyte").write_bytes(idx(X[..., 0]))
        labels = np.arange(40, dtype=np.uint8) % 3
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(idx(labels))
    return str(folder)


def variables(model):
    rng, shapes = np.random.default_rng(1), jax.eval_shape(model.init, jax.random.key(0), X / 1.0)
    return jax.tree.map(lambda p: jnp.float32(0.2 * rng.normal(size=p.shape)), shapes)


def test_thirty_six_runs_of_equal_networks(data):
    arms = make_arms(Config(data=data))
    assert len(arms) * Config().seeds == 36
    sizes = {k: sum(p.size for p in jax.tree.leaves(variables(FOUND[k])["params"])) for k in FOUND}
    assert sizes["VAE"] == sizes["beta-VAE"]
    assert FOUND["beta-VAE"].beta == 4 * FOUND["VAE"].beta == 8 * compare_vae.VARIANCE


def test_measures_of_each_model():
    x = preprocess(X)
    for label, model in FOUND.items():
        v = variables(model)
        found = jax.jit(lambda x, m=model, v=v: vae_training.measure_rate(m, v, x))(X)
        rec = jax.jit(model.apply)(v, x)
        np.testing.assert_allclose(found["error"], np.mean((x - rec.x) ** 2, (1, 2, 3)), rtol=1e-4)
        if label == "VQ-VAE":
            np.testing.assert_allclose(found["bits"], 9 * 9)
        elif label == "autoencoder":
            assert "bits" not in found
        else:
            mean, log_variance = model.apply(v, x, method="posterior")
            kl = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance)
            nats = np.asarray(kl, np.float64).sum(axis=(1, 2, 3))
            np.testing.assert_allclose(found["bits"], nats / math.log(2), rtol=1e-3, atol=1e-3)


def test_independent_codes_have_the_shares_of_their_place():
    codes = np.stack([np.arange(4) % 2, np.full(4, 7)], axis=1)[..., None]  # two places
    drawn = autoencoder_samples.independent(codes, 4000, 0)
    assert drawn.shape == (4000, 2, 1) and (drawn[:, 1] == 7).all()
    assert abs(drawn[:, 0].mean() - 0.5) < 0.03


def test_samples_of_continuous_models_are_gaussian():
    """z of a VAE from N(0, 1), of an autoencoder with mean and deviation of each element."""
    noise = np.random.default_rng(5).normal(size=(20, 3, 3, compare_vae.LATENT))
    for label in ("VAE", "autoencoder"):
        model, v = FOUND[label], variables(FOUND[label])
        found = autoencoder_samples.sample_images(model, v, X, 20, 5, None, fast=True)
        z = np.asarray(
            jax.jit(lambda x, m=model, v=v: m.apply(v, x, method="encode"))(preprocess(X))
        )
        drawn = noise if label == "VAE" else z.mean(0) + z.std(0) * noise
        expected = to_pixels(model.apply(v, jnp.float32(drawn), method="decode"))
        difference = np.abs(found["independent"].astype(int) - np.asarray(expected).astype(int))
        assert list(found) == ["independent"] and difference.max() <= 1


def test_samples_of_codes_are_decoded_codes():
    model, v = FOUND["VQ-VAE"], variables(FOUND["VQ-VAE"])
    found = autoencoder_samples.sample_images(model, v, X, 20, 5, PRIOR, fast=True)
    assert {k: x.shape for k, x in found.items()} == dict.fromkeys(
        ("independent", "prior"), (20, 12, 12, 1)
    )
    codes = np.asarray(jax.jit(vj.as_functions(model).tokenize)(v, preprocess(X)))
    expected = vj.as_functions(model).detokenize(
        v, jnp.asarray(autoencoder_samples.independent(codes, 20, 5))
    )
    gap = np.abs(found["independent"].astype(int) - np.asarray(to_pixels(expected)).astype(int))
    assert gap.max() <= 1


def test_the_command(data, tmp_path):
    options = [
        "--quick",
        "--steps",
        "3",
        "--prior-steps",
        "2",
        "--samples",
        "20",
        "--batch-size",
        "4",
        "--width",
        "8",
    ]
    args = ["vae", *options, "--depth", "0", "--processes", "1", "--data", data]
    args += ["--output", str(tmp_path / "out"), "--classifiers", str(tmp_path)]
    command.run(main, Command, args)
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    numbers = {arm["label"]: arm["seeds"][0]["numbers"] for arm in found["arms"]}
    assert list(numbers) == list(FOUND)
    assert numbers["VQ-VAE"]["bits"] == 81 and numbers["VQ-VAE"]["frechet"] > 0
    assert all(n["frechet_independent"] > 0 and 0 <= n["trained_on"] <= 1 for n in numbers.values())
    text = (tmp_path / "out" / "report.md").read_text()
    assert "A quick run" in text and "VQ-VAE less VAE" in text


def row(label, group, status="done", **numbers) -> Row:
    lists = zip(*numbers.values(), strict=True)
    records = [
        {"status": status, "numbers": dict(zip(numbers, values, strict=True))} for values in lists
    ]
    return Row(Arm(label, label, {}, lambda: None, group), records)


def test_findings_say_what_holds_and_what_does_not():
    rows = [
        row("VQ-VAE", "Learning rate 1", psnr=[20.0, 20.2, 20.4], frechet=[9.0, 9.1, 9.2]),
        row("VAE", "Learning rate 1", psnr=[21.0, 21.2, 21.4], frechet_independent=[11, 12, 13]),
        row("VQ-VAE", "Learning rate 2", psnr=[18.0, 18.2, 18.4]),
        row("VAE", "Learning rate 2", psnr=[18.0, 18.2, 18.4]),
    ]
    text = findings(rows)
    assert "PSNR, VQ-VAE less VAE: -1 ± 0.45 dB (learning rate 1, worse)" in text
    assert "(learning rate 2, undecided)" in text
    assert "Frechet distance of samples, VQ-VAE less VAE: -2.9 ± " in text and "better" in text
    assert "VQ-VAE: the PSNR deviates by 0.200 dB over seeds" in text
    assert "learning rates differ by up to 2.00 dB; 0 of 6 runs diverged" in text


@pytest.mark.parametrize(("scale", "word"), [(0.01, "steadier"), (1.0, "undecided"), (100, "less")])
def test_variances_are_compared_by_the_f_test(scale, word):
    """With 2 and 2 degrees of freedom P(F < r) = r / (1 + r)."""
    ours, theirs = [20 + scale * x for x in (-1, 0, 1)], [20.0, 21.0, 22.0]
    text = findings([row("VQ-VAE", "a", psnr=ours), row("VAE", "a", psnr=theirs)])
    below = scale**2 / (1 + scale**2)
    assert (
        f"is {scale**2:.2f} times that of VAE (F-test, p = {2 * min(below, 1 - below):.2f}" in text
    )
    assert word in text.rsplit("p = ", 1)[1]


def test_findings_count_the_runs_that_diverged():
    lost = Row(Arm("VAE", "VAE", {}, lambda: None, "b"), [{"status": "diverged", "numbers": {}}])
    text = findings([row("VAE", "a", psnr=[1.0, 2.0]), lost])
    assert "1 of 3 runs diverged" in text
