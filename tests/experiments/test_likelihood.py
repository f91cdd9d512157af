"""Bits an element: each term by hand, the learned prior on codes of known entropy, the command."""

import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vqvae_jax as vj
from experiments.compare import likelihood_training
from experiments.compare.__main__ import Command, main
from experiments.compare.comparison import make_study
from experiments.compare.likelihood import LIKELIHOOD, Config, make_arms, models
from experiments.compare.likelihood_training import CodedBudget, bits_of_codes, bits_of_draws
from experiments.generation import small_prior
from experiments.generation.small_prior import Prior, learned_bits
from experiments.pages.arm_pages import arm_markdown
from vqvae_commands.terminal import command
from vqvae_jax.data.scaling import preprocess

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
TRAIN, TEST = (RNG.integers(0, 256, (n, 4, 2), np.uint8) for n in (50, 130))
BUDGET = CodedBudget("noise", coded_images=40, test_images=120, fast_compile=True)
PRIOR = Prior(steps=150, tokens=128, learning_rate=1e-2, warmup=10, width=16, depth=1, heads=2,
              dropout=0.0, fast_compile=True)  # fmt: skip
DIMS = 4 * 2


@pytest.fixture
def noise(monkeypatch):
    """Examples of 4 rows of 2 pixels."""
    monkeypatch.setattr(likelihood_training, "images", lambda data: (TRAIN, TEST))


# The terms ----------------------------------------------------------------------------------------


def test_the_terms_of_a_model_with_codes(noise, monkeypatch):
    model = vj.VQVAE(vj.MLP(3, 8, 1), vj.vq(6, 3, init=vj.inits.normal(0.3)), vj.MLP(4, 8, 1))
    law, calls = vj.likelihoods.logistic(), []

    def fixed(prior, vocabs, level, train, test, seed):
        calls.append((prior, vocabs, level, train, test, seed))
        return np.full(len(test[0]), 5.0), np.arange(len(test[0]))

    monkeypatch.setattr(likelihood_training, "learned_bits", fixed)
    variables = jax.jit(model.init)(KEY, preprocess(TEST))
    numbers, pictures = bits_of_codes(model, law, BUDGET, prior=PRIOR)(variables, 7)
    x = preprocess(TEST[:120])
    rec = jax.jit(model.apply)(variables, x)
    known = jax.jit(vj.as_functions(model).tokenize)(variables, preprocess(TRAIN[:40]))
    nats = -float(law.log_prob(x, rec.x).mean())
    static = float(vj.rates.static_bits(vj.metrics.code_counts((6,), known), rec.indices).mean())
    expected = {
        "distortion": nats / math.log(2) / DIMS,
        "rate": 119 / 2 / DIMS,
        "rate_train": 5 / DIMS,
        "rate_uniform": 4 * math.log2(6) / DIMS,
        "rate_static": static / DIMS,
        "psnr": -10 * math.log10(np.mean((x - law.mean(rec.x)) ** 2)),
    }
    for kind in ("", "_train", "_uniform", "_static"):
        expected[f"total{kind}"] = expected["distortion"] + expected[f"rate{kind}"]
    assert numbers == pytest.approx(expected, rel=1e-5)
    ((prior, vocabs, level, train, test, seed),) = calls
    assert (prior, vocabs, level, seed) == (PRIOR, [(6,)], 0, 7)
    np.testing.assert_array_equal(train[0], known)
    np.testing.assert_array_equal(test[0], rec.indices)
    assert pictures.shape == (8, 4, 2) and pictures.dtype == np.uint8


def test_the_terms_of_a_vae_are_those_of_the_evidence_bound(noise, monkeypatch):
    monkeypatch.setattr(likelihood_training, "DRAWS", 300)
    model, law = vj.VAE(vj.MLP(6, 8, 1), vj.MLP(4, 8, 1)), vj.likelihoods.gaussian()
    variables = jax.jit(model.init)(KEY, preprocess(TEST))
    variables = jax.tree.map(lambda p: 2 * p, variables)  # so that z matters
    measure = bits_of_draws(model, law, BUDGET)
    numbers, _ = measure(variables, 0)
    x = preprocess(TEST[:120])
    rec = model.apply(variables, x)
    rate = float(rec.metrics["kl_bits"]) / DIMS
    mu, v = np.float64(model.apply(variables, x, method="posterior"))
    z = mu + np.exp(v / 2) * np.random.default_rng(1).normal(size=(300, *mu.shape))
    y = model.apply(variables, jnp.float32(z).reshape(-1, *mu.shape[1:]), method="decode")
    nats = -law.log_prob(jnp.tile(x, (300, 1, 1)), y).reshape(300, -1).mean(1)
    drawn = nats / math.log(2) / DIMS
    assert numbers["rate"] == pytest.approx(rate, rel=1e-5)
    assert abs(numbers["distortion"] - drawn.mean()) < 6 * drawn.std() / math.sqrt(300)
    at_mean = -float(law.log_prob(x, rec.x).mean()) / math.log(2) / DIMS
    assert abs(numbers["distortion"] - at_mean) > 12 * drawn.std() / math.sqrt(300)
    assert numbers["total"] == pytest.approx(numbers["distortion"] + rate, rel=1e-6)
    assert set(numbers) == {"distortion", "rate", "total", "psnr"}
    assert measure(variables, 0)[0] == numbers != measure(variables, 1)[0]


# The learned prior --------------------------------------------------------------------------------


def test_the_prior_finds_the_entropy_of_independent_codes_and_no_less():
    rng, p = np.random.default_rng(0), np.array([0.7, 0.2, 0.1])
    train, test = (rng.choice(3, (n, 2, 1), p=p) for n in (2000, 1000))
    of_train, of_test = learned_bits(PRIOR, [(3,)], 0, (train,), (test,), 0)
    assert of_train.shape == of_test.shape == (1000,)
    own = -2 * np.sum(p * np.log2(p))
    expected = -np.log2(p)[test].sum((1, 2)).mean()  # under the true law
    assert expected - 0.01 < of_test.mean() < expected + 0.1
    assert abs(of_train.mean() - own) < 0.15
    again = learned_bits(PRIOR, [(3,)], 0, (train,), (test,), 0)[1]
    np.testing.assert_array_equal(again, of_test)
    assert np.any(learned_bits(PRIOR, [(3,)], 0, (train,), (test,), 1)[1] != of_test)


def test_a_level_is_told_the_levels_above_but_not_itself():
    """The bottom repeats the top: given it, no bits; two streams, of which the second is new."""
    rng = np.random.default_rng(0)
    maps = []
    for n in (600, 100):
        top = rng.integers(0, 4, (n, 2, 1))
        bottom = np.concatenate([np.repeat(top, 2, axis=1), rng.integers(0, 2, (n, 4, 1))], -1)
        maps.append((top, bottom))
    vocabs = [(4,), (4, 2)]
    _, alone = learned_bits(PRIOR, vocabs, 0, *maps, 0)
    assert 3.9 < alone.mean() < 4.2  # 2 codes of 2 bits
    longer = Prior(**{**vars(PRIOR), "steps": 300})
    _, told = learned_bits(longer, vocabs, 1, *maps, 0)
    assert 3.9 < told.mean() < 4.8  # 4 codes of 1 bit


# The command --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    """60 images of 8 x 8 pixels."""
    path = tmp_path_factory.mktemp("data") / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), np.uint8))
    return str(path)


def test_two_arms_through_the_command(data, tmp_path, capsys, monkeypatch):
    options = "--quick --steps 3 --batch-size 4 --prior-steps 2 --width 8 --depth 0 --processes 1"
    args = [
        "likelihood",
        *options.split(),
        "--only",
        "vae",
        "vqvae2",
        "--data",
        data,
        "--output",
        str(tmp_path),
    ]
    command.run(main, Command, args)
    assert capsys.readouterr().out.strip().endswith("report.html")
    found = json.loads((tmp_path / "results.json").read_text())
    vae, vqvae2 = (arm["seeds"][0]["numbers"] for arm in found["arms"])
    assert set(vqvae2) >= {column.name for column in LIKELIHOOD.columns}
    assert set(vqvae2) - set(vae) >= {"rate_uniform", "rate_static", "total_static"}
    assert vqvae2["rate_uniform"] == pytest.approx((2 * 2 * 9 + 4 * 4 * 5) / 64)
    for numbers in (vae, vqvae2):
        assert numbers["total"] == pytest.approx(numbers["distortion"] + numbers["rate"], rel=1e-5)
        assert numbers["distortion"] > 7  # noise
    definition = found["arms"][1]["definition"]
    assert definition["likelihood"] == {"call": "logistic", "kwargs": {"scale": None}}
    assert (definition["prior"]["steps"], definition["budget"]["steps"]) == (2, 3)
    assert "experiments.compare likelihood --only vae vqvae2 --quick" in found["command"]
    text = (tmp_path / "report.md").read_text()
    assert "**A quick run of 3 steps" in text
    assert re.search(r"\| VAE, 16 numbers a place \| \d\.\d{3} \| - \| - \| ", text)

    def never(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(
        likelihood_training, "trainer", never
    )  # the same command finds all of it done
    command.run(main, Command, args)


def test_an_arm_that_fails_gives_the_pages_and_an_exit_code(data, tmp_path, monkeypatch):
    monkeypatch.setattr(likelihood_training, "trainer", lambda *_: 1 / 0)
    with pytest.raises(SystemExit, match="vae failed"):
        main(Config(only=("vae",), data=data, output=tmp_path, processes=1))
    assert "ZeroDivisionError" in (tmp_path / "results.json").read_text()


def test_names_of_arms(data, capsys):
    main(Config(list=True, data=data))
    listed = "vae vqvae-categorical vqvae vqvae-grouped vqvae-grouped-categorical vqvae2"
    assert capsys.readouterr().out.split() == listed.split() == list(models(1, 8, 0))
    with pytest.raises(ValueError, match=r"no arm gan; there are .*vqvae2"):
        main(Config(only=("gan",), data=data))
    for option in ("seeds", "prior_steps"):
        with pytest.raises(ValueError, match=f"{option} must be an integer >= 1, got 0"):
            main(Config(data=data, **{option: 0}))


def test_rates_of_the_arms(data):
    """Bits a place of codes: 9, ten times 3, and of VQ-VAE-2 9 and 5 on four times the places."""
    for name, (model, law) in models(3, 8, 0).items():
        shapes = jax.eval_shape(model.init, KEY, jnp.zeros((1, 28, 28, 3)))
        rec = jax.eval_shape(model.apply, shapes, jnp.zeros((1, 28, 28, 3)))
        assert rec.x.shape == (1, 28, 28, 3 * law.outputs), name
    vocabs = {name: model.quantizer.vocab for name, (model, _) in models(1, 8, 0).items()
              if isinstance(model, vj.VQVAE)}  # fmt: skip
    assert vocabs == {
        "vqvae": (512,), "vqvae-categorical": (512,), "vqvae-grouped": (8,) * 10,
        "vqvae-grouped-categorical": (8,) * 10,
    }  # fmt: skip
    text = arm_markdown(make_study(LIKELIHOOD, "python it", Config(data=data), []), [])
    assert "A quick run" not in text and "1.875 bits" in text
    assert 49 * 30 / 784 == 640 * 9 / 3072 == 1.875 and 49 * 9 / 784 == 0.5625


def test_definitions_hold_what_the_result_depends_on(data):
    def definition(**options):
        (arm,) = make_arms(Config(only=("vqvae2",), data=data, **options))
        return json.dumps(arm.definition)

    assert definition() == definition(seeds=5)
    changes = ({"prior_steps": 7}, {"steps": 9}, {"width": 16}, {"quick": True})
    assert len({definition(), *(definition(**change) for change in changes)}) == 5
    assert small_prior.make_fitted(PRIOR, (2,), (3,), ()) is small_prior.make_fitted(
        PRIOR, (2,), (3,), ()
    )
