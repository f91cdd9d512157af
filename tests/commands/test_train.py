"""The training script: what it writes, that it goes on bit for bit, on devices and in processes."""

import dataclasses
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from vqvae_commands import evaluate
from vqvae_commands.run import autoencoder, resumable
from vqvae_commands.run.run_folder import ConfigChanged, read_lines
from vqvae_jax import load_model, pixels, save_model, vq
from vqvae_jax.data.scaling import preprocess
from vqvae_jax.training.checkpoint import Checkpoints
from vqvae_jax.training.step import init_state

ROOT = Path(__file__).parents[2]
SMALL = {"codes": (16,), "dim": 8, "width": 8, "depth": 1, "batch_size": 8, "warmup": 2,
         "optimizer": "adam"}  # fmt: skip
INVALID = {"train/invalid_rows", "train/invalid_codes"}
EVERY = {"log_every": 1, "eval_every": 5, "save_every": 3, "steps": 10}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """100 images of 12 x 12 pixels, brighter and darker copies of four."""
    rng = np.random.default_rng(0)
    four = np.kron(rng.normal(size=(4, 3, 3, 1)), np.ones((1, 4, 4, 1)))
    images = four[rng.integers(4, size=100)] * rng.uniform(40, 60, size=(100, 1, 1, 1)) + 128
    path = tmp_path_factory.mktemp("data") / "images.npy"
    np.save(path, images.clip(0, 255).astype(np.uint8))
    return path


def config(data: Path, folder: Path, **options) -> autoencoder.Config:
    options = {**SMALL, **EVERY, "data": str(data), "runs": folder} | options
    return autoencoder.Config(**options)


def final_state(config: autoencoder.Config):
    """Every array of the last checkpoint."""
    images = np.load(config.data)
    model, optimizer = autoencoder.make_model(config, images), autoencoder.optimizer_of(config)
    like = init_state(model, optimizer, jax.random.key(config.seed), images)
    with Checkpoints(config.runs / config.name / "checkpoints") as checkpoints:
        return jax.tree.map(np.asarray, checkpoints.restore(like))


def assert_same_run(a: autoencoder.Config, b: autoencoder.Config):
    jax.tree.map(np.testing.assert_array_equal, final_state(a), final_state(b))
    first, second = (c.runs / c.name / "metrics.jsonl" for c in (a, b))
    assert first.read_bytes() == second.read_bytes()


def assert_close_run(a: autoencoder.Config, b: autoencoder.Config):
    states = final_state(a), final_state(b)
    for x, y in zip(*(jax.tree.leaves((s.params, s.collections)) for s in states), strict=True):
        assert np.linalg.norm(x * 1.0 - y) <= 1e-5 * np.linalg.norm(x) + 1e-7


class StopAt:
    """Stands for a Ctrl-C that comes during step n."""

    def __init__(self, n: int):
        self.left = n

    def __call__(self):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    @property
    def signal(self):
        self.left -= 1
        return None if self.left > 0 else signal.SIGINT


def command(config: autoencoder.Config, **env) -> subprocess.Popen:
    options = {k: v for k, v in dataclasses.asdict(config).items() if v is not None}
    arguments = [
        f"--{k.replace('_', '-')}={v}"
        for k, v in options.items()
        if k != "codes" and v is not False
    ]
    arguments += ["--codes", *map(str, config.codes)]
    flags = [f for f in os.environ["XLA_FLAGS"].split() if "device_count" not in f]
    # Level 3: XLA would print a page for each program that another build left in the cache.
    single = {"XLA_FLAGS": " ".join(flags), "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.train", *arguments],
        cwd=ROOT,
        env={**os.environ, **single, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended_well(process: subprocess.Popen) -> None:
    """Reads while it waits: a full pipe would stop the process for ever."""
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory) -> autoencoder.Config:
    """A run that was never stopped."""
    c = config(data, tmp_path_factory.mktemp("runs"), learning_rate=1e-2)
    autoencoder.train_autoencoder(c)
    return c


@pytest.fixture
def no_figures(monkeypatch):
    """Most tests don't look at the pictures, which take seconds to draw."""
    monkeypatch.setattr(autoencoder.run_report, "make_figures", lambda *_: {})


@pytest.mark.core
def test_a_run_writes_its_folder_and_a_second_call_finds_it_done(straight, capsys):
    folder = straight.runs / straight.name
    for name in ("config.json", "evaluation.json", "report.html", "timing.jsonl"):
        assert (folder / name).stat().st_size > 0, name
    assert list((folder / "tensorboard").glob("events*"))
    table = json.loads((folder / "evaluation.json").read_text())
    assert table["seen"] == 10 * 3 * 3 and table["bits_uniform"] == 9 * 4
    model = autoencoder.make_model(straight, np.load(straight.data)).clone(domain=pixels())
    assert load_model(folder / "model").model == model
    assert json.loads((folder / "data.json").read_text())["kind"] == "pictures"
    lines = read_lines(folder / "metrics.jsonl")
    assert [x["step"] for x in lines if "train/loss" in x] == list(range(1, 11))
    assert [x["step"] for x in lines if "test/psnr" in x] == [5, 10]
    assert autoencoder.train_autoencoder(straight)[0] == table
    assert capsys.readouterr().out.strip().endswith("report.html")


def test_the_loss_falls(straight):
    lines = read_lines(straight.runs / straight.name / "metrics.jsonl")
    mse = [line["train/mse"] for line in lines if "train/mse" in line]
    assert np.mean(mse[-3:]) < 0.92 * np.mean(mse[:3])


def test_evaluate_prints_the_table_of_a_run(straight, capsys):
    table = evaluate.main(evaluate.Config(straight.runs / straight.name))
    assert table == json.loads((straight.runs / straight.name / "evaluation.json").read_text())
    images = preprocess(np.load(straight.data)[90:])
    bundle = load_model(straight.runs / straight.name / "model")
    out = jax.jit(bundle.model.apply)(bundle.variables, images)
    mse = float(np.mean(np.square(np.asarray(images) - out.x), dtype=np.float64))
    np.testing.assert_allclose(table["mse"], mse, rtol=1e-5)
    np.testing.assert_allclose(table["psnr"], -10 * np.log10(mse), rtol=1e-5)
    share = np.bincount(np.ravel(out.indices), minlength=16) / 90
    entropy = -sum(p * np.log2(p) for p in share if p > 0)
    np.testing.assert_allclose(table["bits_entropy"], 9 * entropy, rtol=1e-5)
    assert table["used"] == np.mean(share > 0)
    assert f"{2**entropy:.4g}" in capsys.readouterr().out


def test_a_stopped_run_goes_on_bit_for_bit(straight, tmp_path, monkeypatch, no_figures, capsys):
    stopped = dataclasses.replace(straight, runs=tmp_path)
    for at in (4, 3):
        with monkeypatch.context() as patch:
            patch.setattr(resumable, "Interrupt", StopAt(at))
            with pytest.raises(SystemExit) as stop:
                autoencoder.train_autoencoder(stopped)
        assert stop.value.code == 128 + signal.SIGINT
        assert "the same command continues" in capsys.readouterr().out
    autoencoder.train_autoencoder(stopped)
    assert_same_run(straight, stopped)


def test_another_configuration_is_refused_with_the_fields(straight):
    fields = r"codes: \[16\] there, \[32\] now.*beta: 0.5 there, 1.0 now"
    with pytest.raises(ConfigChanged, match=fields):
        autoencoder.train_autoencoder(dataclasses.replace(straight, codes=(32,), beta=1.0))


def test_another_model_is_refused(straight, tmp_path):
    shutil.copytree(straight.runs / straight.name, tmp_path / straight.name)
    bundle = load_model(tmp_path / straight.name / "model")
    other = bundle.model.clone(quantizer=vq(16, 8))
    save_model(tmp_path / straight.name / "model", other, bundle.variables)
    with pytest.raises(ConfigChanged, match="is another model than these options make"):
        autoencoder.train_autoencoder(dataclasses.replace(straight, runs=tmp_path))


@pytest.mark.parametrize("parallel", [pytest.param("shard_map", marks=pytest.mark.slow), "pmap"])
def test_parallel_modes_agree_with_jit(straight, tmp_path, no_figures, parallel):
    other = dataclasses.replace(straight, parallel=parallel, runs=tmp_path)
    autoencoder.train_autoencoder(other)
    for x, y in zip(
        *(jax.tree.leaves(final_state(c).params) for c in (straight, other)), strict=True
    ):
        assert np.linalg.norm(x - y) <= 1e-5 * np.linalg.norm(x) + 1e-7


def test_vectors_train_with_an_mlp(tmp_path, no_figures):
    path = tmp_path / "vectors.npy"
    np.save(path, np.random.default_rng(0).normal(size=(100, 10)).astype(np.float32))
    table, _ = autoencoder.train_autoencoder(config(path, tmp_path))
    assert table["seen"] == 10 and not {"psnr", "ssim"} & set(table)
    test = np.load(path)[90:]
    variance = test.var(axis=0).mean(dtype=np.float64)
    np.testing.assert_allclose(table["explained_variance"], 1 - table["mse"] / variance, rtol=1e-5)


def test_what_a_run_says_of_other_data_is_in_their_own_words(tmp_path, capsys):
    """No pixels, no PSNR, no images; rows that are not finite are left out and counted."""
    x = np.random.default_rng(0).normal(size=(100, 8, 2)).astype(np.float32)
    x[5], x[90:93] = np.nan, np.inf
    np.save(tmp_path / "signals.npy", x)
    c = config(tmp_path / "signals.npy", tmp_path, steps=5, learning_rate=1e-3)
    table, _ = autoencoder.train_autoencoder(c)
    folder = c.runs / c.name
    said, page = capsys.readouterr().out, (folder / "report.html").read_text()
    facts = json.loads((folder / "data.json").read_text())
    assert facts["kind"] == "signals" and facts["shape"] == [8, 2] and facts["test"] == 10
    assert table["left_out"] == 3 and table["seen"] == 7 * 2 and np.isfinite(table["mse"])
    for words in (
        "90 signals to train on and 10 to test, 8 x 2, float32 from",
        "1 of 90 training examples are not finite",
        "3 of 10 test examples are not finite",
        "explained variance",
        "in the data's units, squared",
    ):
        assert words in said, words
    assert "1 of 90 training examples are not finite" in page and "Explained variance" in page
    for word in ("PSNR", "pixels in", "images", "psnr"):
        assert word not in said.replace(str(tmp_path), ""), word
    assert "PSNR" not in page and "pixels in" not in page
    assert not any("psnr" in name for line in read_lines(folder / "metrics.jsonl") for name in line)
    again = evaluate.main(evaluate.Config(folder))
    assert again == table and "test signals of" in capsys.readouterr().out


def test_a_run_that_learns_nothing_ends_and_keeps_its_last_good_state(
    tmp_path, monkeypatch, no_figures
):
    """It is stopped after step 12, and its batches are bad from then on."""
    x = np.random.default_rng(0).normal(size=(100, 6)).astype(np.float32)
    np.save(tmp_path / "vectors.npy", x)
    c = config(tmp_path / "vectors.npy", tmp_path, steps=200, save_every=20, eval_every=200)
    folder = c.runs / c.name
    with monkeypatch.context() as patch:
        patch.setattr(resumable, "Interrupt", StopAt(12))
        with pytest.raises(SystemExit):
            autoencoder.train_autoencoder(c)
    digest = load_model(folder / "model").sha256
    bad = lambda *_: itertools.repeat(np.full((8, 6), np.nan, np.float32))  # noqa: E731
    monkeypatch.setattr(autoencoder, "host_batches", bad)
    with pytest.raises(resumable.NothingLearnt, match="no step from 13 to 40 changed anything"):
        autoencoder.train_autoencoder(c)
    assert load_model(folder / "model").sha256 == digest
    last = read_lines(folder / "metrics.jsonl")[-1]
    assert set(last) == {"step", "train/invalid_examples", "train/skipped", *INVALID}


def test_a_run_of_nothing_but_skipped_steps_saves_nothing(tmp_path, monkeypatch, no_figures):
    np.save(tmp_path / "vectors.npy", np.ones((100, 6), np.float32))
    bad = lambda *_: itertools.repeat(np.full((8, 6), np.nan, np.float32))  # noqa: E731
    monkeypatch.setattr(autoencoder, "host_batches", bad)
    c = config(tmp_path / "vectors.npy", tmp_path, steps=4, save_every=2)
    with pytest.raises(resumable.NothingLearnt, match="no step from 1 to 4 changed anything"):
        autoencoder.train_autoencoder(c)
    assert not (c.runs / c.name / "report.html").exists()


@pytest.fixture(scope="module")
def levels(data, tmp_path_factory) -> autoencoder.Config:
    """A run of two levels."""
    options = {"model": "vqvae2", "codes": (4, 16), "steps": 6, "eval_every": 3}
    return config(data, tmp_path_factory.mktemp("levels"), **options)


def test_levels_train_as_one_does(levels, no_figures, capsys):
    """Levels train by the same loop and print the same table."""
    table, _ = autoencoder.train_autoencoder(levels)
    assert table["bits_uniform"] == 9 * 2 + 36 * 4
    assert table["level0/seen"] == 10 * 9 and table["level1/seen"] == 10 * 36
    folder = levels.runs / levels.name
    assert table == evaluate.main(evaluate.Config(folder))
    assert "(level 1)" in capsys.readouterr().out
    assert "train/level1/perplexity_batch" in read_lines(folder / "metrics.jsonl")[0]


def test_levels_in_parts_are_the_same_model(levels):
    images = np.load(levels.data)
    model = autoencoder.make_model(levels, images)
    state = init_state(model, autoencoder.optimizer_of(levels), jax.random.key(0), images)
    parts = autoencoder.in_parts(model, 2)
    assert all(part.parts == 2 for part in parts.encoders + parts.decoders)
    whole, same = (
        jax.jit(m.apply)(state.variables, preprocess(images[:8])) for m in (model, parts)
    )
    np.testing.assert_allclose(same.x, whole.x, atol=1e-5)


@pytest.mark.slow
def test_levels_stop_and_go_on_and_train_in_parts(levels, tmp_path, no_figures):
    """Levels keep the checkpoints and the parts of one level."""
    table, _ = autoencoder.train_autoencoder(levels)
    stopped = dataclasses.replace(levels, runs=tmp_path / "stopped")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resumable, "Interrupt", StopAt(4))
        with pytest.raises(SystemExit):
            autoencoder.train_autoencoder(stopped)
    assert table == autoencoder.train_autoencoder(stopped)[0]
    assert_same_run(levels, stopped)
    parts = dataclasses.replace(levels, runs=tmp_path / "parts", parts=2)
    autoencoder.train_autoencoder(parts)
    assert_close_run(levels, parts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codes": (4, 4)}, "vqvae has one size of codebook, got 2"),
        ({"codes": ()}, "vqvae has one size of codebook, got 0"),
        ({"model": "vqvae2", "downsamplings": 1}, "of 2 levels.*found 1 and 1"),
        ({"model": "vqvae2", "codes": (4, 4, 4)}, "of 3 levels.*found 3 and 2"),
    ],
)
def test_levels_that_a_model_cannot_have(data, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        autoencoder.train_autoencoder(config(data, tmp_path, **options))


def test_two_processes_give_the_same_bits(data, tmp_path):
    runs = [config(data, tmp_path, name=name) for name in "ab"]
    for process in [command(c) for c in runs]:
        ended_well(process)
    assert_same_run(*runs)


def test_ctrl_c_saves_and_the_same_command_continues(data, tmp_path):
    c = config(data, tmp_path, steps=100_000, eval_every=50, log_every=1000)
    process = command(c)
    while "step     50" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    rest = process.stdout.read()
    assert process.wait() == 130, rest
    assert "stopped at step" in rest and "Traceback" not in rest
    with Checkpoints(tmp_path / c.name / "checkpoints") as checkpoints:
        stopped = checkpoints.latest()
    assert stopped >= 50
    assert read_lines(tmp_path / c.name / "timing.jsonl")[-1]["step"] == stopped
    process = command(c)
    assert f"continues at step {stopped}" in process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    process.stdout.read()
    assert process.wait() == 143


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2])
def test_batches_in_parts_train_as_whole_ones(n, straight, tmp_path, no_figures):
    parts = dataclasses.replace(straight, runs=tmp_path, parts=n)
    autoencoder.train_autoencoder(parts)
    assert_close_run(straight, parts)
    assert (
        load_model(tmp_path / parts.name / "model").model
        == load_model(straight.runs / straight.name / "model").model
    )


@pytest.mark.parametrize(
    ("n", "how"),
    [
        (2, "jit"),
        pytest.param(2, "pmap", marks=pytest.mark.slow),
        pytest.param(4, "jit", marks=pytest.mark.slow),
    ],
)
def test_processes_train_together_as_one(n, how, straight, tmp_path):
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    together = dataclasses.replace(
        straight, runs=tmp_path, processes=n, parallel=how, coordinator=f"localhost:{port}"
    )
    processes = [command(dataclasses.replace(together, process_id=i)) for i in range(n)]
    for process in processes:
        ended_well(process)
    assert_close_run(straight, together)
