"""One training for all, and a small comparison from end to end."""

import itertools
import json
import math
import re
from functools import partial
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

import vqvae_jax as vj
from experiments.compare import COMPARISONS
from experiments.compare.__main__ import Command, main
from experiments.compare.comparison import make_study
from experiments.compare.quantizers import QUANTIZERS, Config, all_quantizers, make_arms
from experiments.pages.arm_pages import arm_markdown
from experiments.sweep import arm_metrics, training_budget
from experiments.sweep.arms import Diverged
from experiments.sweep.launch import repeating
from experiments.sweep.metric_names import columns
from vqvae_commands.run import model_metrics
from vqvae_commands.terminal import command
from vqvae_jax.training.step import TrainState

# One training for all -----------------------------------------------------------------------------


START = TrainState(jnp.zeros((), jnp.int32), *[None] * 5)._replace(params=0)


def after(state: TrainState, batch: int) -> TrainState:
    """Its params are the sum of the batches."""
    return state._replace(step=state.step + 1, params=state.params + batch)


def test_a_step_takes_the_median_of_the_chunks_after_the_first(monkeypatch):
    clock = itertools.accumulate([0, 90, 0, 2, 0, 4, 0, 9.0])  # seconds of 20, 20, 20 and 5 steps
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    step = lambda state, batch: (after(state, batch), {"loss": 1.0})  # noqa: E731
    state, milliseconds, _ = training_budget.run_steps(step, START, itertools.count(), 65)
    assert state.params == sum(range(65)) and milliseconds == 200  # of 100, 200 and 1,800


def test_the_curve_holds_the_means_of_the_steps_before_its_marks():
    def step(state, batch):
        return after(state, batch), {"loss": 1.0, "mse": float(batch), "other": 1.0}

    curve = training_budget.run_steps(step, START, itertools.count(), 70, (20, 60, 100))[2]
    assert curve == {"mse@20": 9.5, "mse@60": 49.5}  # of batches 0 to 19, and 40 to 59


def test_a_loss_that_is_not_finite_ends_the_training():
    def step(state, batch):
        return after(state, batch), {"loss": float("nan") if state.step > 25 else 1.0}

    with pytest.raises(Diverged, match="the loss is nan after 40 steps"):
        training_budget.run_steps(step, START, itertools.count(), 1000)


def test_the_quantization_error_and_its_share_of_the_variance():
    z = np.array([[[0.0, 10.0], [2.0, 10.0]], [[4.0, 10.0], [6.0, 14.0]]], np.float32)
    mean = np.full_like(z, 1) * z.mean((0, 1))
    error = (5 + 3) / 2  # variances of the two channels: 5 and 3
    assert arm_metrics.quantization_error([z], [mean]) == {
        "quantization_error": error,
        "quantization_share": 1.0,
    }
    half = arm_metrics.quantization_error([z], [(z + mean) / 2])
    assert half == {"quantization_error": error / 4, "quantization_share": 0.25}


def test_numbers_of_two_streams_are_means_and_bits_are_sums():
    indices = np.array([[[0, 0], [1, 0]], [[0, 3], [1, -1]]])  # 2 images, 2 places, 2 streams
    numbers = arm_metrics.code_numbers([SimpleNamespace(vocab=(2, 4))], [indices])
    entropy = -(2 / 3 * math.log2(2 / 3) + 1 / 3 * math.log2(1 / 3))
    expected = {
        "codes": 8,
        "used": (1 + 0.5) / 2,
        "perplexity": (2 + 2**entropy) / 2,
        "bits_uniform": (4 * 1 + 3 * 2) / 2,
        "bits_entropy": (4 * 1 + 3 * entropy) / 2,
    }
    assert numbers == pytest.approx(expected, rel=1e-6)


class Halved:
    """Stands for a model: it halves the contrast, and the code is the top left pixel."""

    quantizer = SimpleNamespace(vocab=(16,))

    def apply(self, variables, x):
        z_e = x[:, :2, :2]
        indices = ((x[:, :1, :1] + 0.5) * 15.99).astype(int)
        return SimpleNamespace(x=x / 2, z_e=z_e, z_q=0.75 * z_e, indices=indices)


def test_numbers_are_those_of_evaluate():
    test = np.random.default_rng(0).integers(0, 256, (130, 12, 12, 1), np.uint8)
    found = training_budget.over_set(partial(arm_metrics.measure_arm, Halved()), True)(test, {})
    numbers = arm_metrics.arm_numbers(found, (Halved.quantizer,))
    table, _ = model_metrics.evaluate(Halved(), {}, test)
    for name in ("psnr", "ssim", "used", "perplexity", "bits_uniform", "bits_entropy"):
        assert numbers[name] == pytest.approx(table[name], rel=1e-5), name
    x = test / 255 - 0.5
    assert numbers["psnr"] == pytest.approx(-10 * np.log10(np.mean(x**2) / 4), rel=1e-5)
    z_e = x[:, :2, :2]
    assert numbers["quantization_error"] == pytest.approx(np.mean(z_e**2) / 16, rel=1e-5)
    assert numbers["quantization_share"] == pytest.approx(
        np.mean(z_e**2) / 16 / z_e.var(), rel=1e-5
    )
    np.testing.assert_array_equal(found["pictures"], np.round((x / 2 + 0.5) * 255))
    assert found["pictures"].dtype == np.uint8


# The command --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    """60 images of 12 x 12 pixels."""
    path = tmp_path_factory.mktemp("data") / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (60, 12, 12, 1), np.uint8))
    return str(path)


def test_one_arm_through_the_command(data, tmp_path, capsys, monkeypatch):
    options = "--codes 16 --seeds 2 --steps 6 --batch-size 4 --width 8 --depth 0 --processes 1"
    args = [
        "quantizers",
        *options.split(),
        "--only",
        "vq-16",
        "--data",
        data,
        "--output",
        str(tmp_path),
    ]
    orders, batches = [], training_budget.batches
    monkeypatch.setattr(
        training_budget, "batches", lambda x, seed, n: orders.append(seed) or batches(x, seed, n)
    )
    command.run(main, Command, args)
    assert orders == [0, 1]
    assert capsys.readouterr().out.strip().endswith("report.html")
    found = json.loads((tmp_path / "results.json").read_text())
    (arm,) = found["arms"]
    assert arm["definition"]["budget"]["steps"] == 6
    assert arm["definition"]["model"]["kwargs"]["quantizer"]["call"] == "vq"
    first, second = (seed["numbers"] for seed in arm["seeds"])
    assert set(first) >= {column.name for column in QUANTIZERS.columns}
    assert first["bits_uniform"] == 9 * 4 and first["psnr"] != second["psnr"]
    assert "--codes 16" in found["command"] and "output" not in found["command"]
    text = (tmp_path / "report.md").read_text()
    assert re.search(r"\| vq \| 16 \| \d+\.\d\d ± \d+\.\d\d \|", text)

    def never(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(training_budget, "trainer", never)  # the same command finds all of it done
    command.run(main, Command, args)
    assert json.loads((tmp_path / "results.json").read_text()) == found


def test_a_training_that_skipped_every_step_is_no_result(tmp_path):
    np.save(tmp_path / "x.npy", np.full((20, 3), np.nan, np.float32))
    model = vj.VQVAE(vj.MLP(2, 4, 0), vj.vq(4, 2), vj.MLP(3, 4, 0))
    budget = training_budget.Budget(
        str(tmp_path / "x.npy"), steps=3, batch_size=4, fast_compile=True
    )
    with pytest.raises(Diverged, match="every step was skipped"):
        training_budget.fitter(model, budget)(0)


def test_an_arm_that_fails_gives_the_pages_and_an_exit_code(data, tmp_path, monkeypatch):
    monkeypatch.setattr(training_budget, "trainer", lambda *_: 1 / 0)
    with pytest.raises(SystemExit, match="vq-16 failed"):
        main(Config(only=("vq-16",), codes=(16,), data=data, output=tmp_path, processes=1))
    assert "ZeroDivisionError" in (tmp_path / "results.json").read_text()


def test_names_of_arms(data, capsys):
    main(Config(list=True, only=("vq", "ema_vq-4096"), data=data))
    assert capsys.readouterr().out.split() == ["vq-512", "vq-4096", "ema_vq-4096"]
    with pytest.raises(ValueError, match=r"no arm vqq; there are .*vq-4096, vq-512"):
        main(Config(only=("vqq",), data=data))


def test_the_list_names_all_comparisons(capsys):
    command.run(main, Command, ["list"])
    shown = capsys.readouterr().out
    assert all(
        name in shown and comparison.title in shown for name, comparison in COMPARISONS.items()
    )


def test_numbers_of_a_step_share_an_entry():
    first, second = columns("mse@200", "psnr_2", drawn=("mse@200",))
    assert (first.name, first.title, first.drawn) == ("mse@200", "error at 200", True)
    assert first.meaning.endswith("before step 200")
    assert (second.name, second.title, second.drawn) == ("psnr_2", "PSNR, first 2", False)
    for unknown in ("psnr2", "ssim_2", "other"):
        with pytest.raises(KeyError):
            columns(unknown)


def test_a_quick_run_says_so(data):
    config = Config(quick=True, data=data)
    command = repeating(config, "experiments.compare", "quantizers")
    page = arm_markdown(make_study(QUANTIZERS, command, config, []), [])
    assert "**A quick run" in page and "experiments.compare quantizers --quick" in page


@pytest.mark.parametrize("codes", [512, 4096])
def test_all_quantizers_have_about_as_many_codes_and_a_name(codes, data):
    for label, q in all_quantizers(codes).items():
        assert 0.9 <= math.prod(q.vocab) / codes <= 1.1, label
    arms = make_arms(Config(codes=(codes,), data=data))
    assert all(re.fullmatch(r"[\w-]+", arm.name) for arm in arms)
    assert len({arm.name for arm in arms}) == len(arms)
