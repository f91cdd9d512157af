"""Examples of different lengths: only their real samples are trained on, measured and coded."""

import json

import jax
import numpy as np
import optax
import pytest

import vqvae_jax as vj
from vqvae_commands import evaluate, tokenize
from vqvae_commands.data import kinds
from vqvae_commands.data.data_options import DataOptions, data_options, given_data, load_data
from vqvae_commands.data.padded import Padded
from vqvae_commands.generation.code_bits import uniform
from vqvae_commands.generation.code_files import open_codes
from vqvae_commands.run import autoencoder, model_metrics, remarks
from vqvae_commands.run.recipe import host_batches
from vqvae_jax.data.pipeline import batch_indices
from vqvae_jax.data.readers import DataError
from vqvae_jax.models.masks import sequence_mask
from vqvae_jax.training.step import Batch, init_state

RNG = np.random.default_rng(0)
T = 16
LENGTHS = np.array([8, 16] * 20)
LENGTHS[-4:] = [16, 8, 8, 8]  # of the test split


def signals() -> np.ndarray:
    """Noise of a mean that differs from signal to signal, and padding that is no number."""
    x = RNG.normal(0, 1, (40, T, 2)) + RNG.normal(0, 1, (40, 1, 2))
    x[np.arange(T) >= LENGTHS[:, None]] = np.nan
    return x.astype(np.float32)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The folder of x.npy and lengths.npy."""
    folder = tmp_path_factory.mktemp("data")
    np.save(folder / "x.npy", signals())
    np.save(folder / "lengths.npy", LENGTHS)
    return folder


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A short training, with all that comes after it."""
    options = DataOptions(str(data / "x.npy"), lengths=str(data / "lengths.npy"))
    small = {"width": 4, "depth": 1, "dim": 4, "codes": (8,), "batch_size": 8}
    few = {"steps": 2, "log_every": 1, "eval_every": 2, "save_every": 2, "warmup": 0}
    runs = tmp_path_factory.mktemp("runs")
    config = autoencoder.Config(
        "padded", runs, options.data, lengths=options.lengths, **small, **few
    )
    autoencoder.train_autoencoder(config)
    return runs / "padded"


def test_each_split_has_its_lengths(data):
    options = DataOptions(str(data / "x.npy"), lengths=str(data / "lengths.npy"))
    train, test = load_data(options)
    assert train.lengths.tolist() == LENGTHS[:36].tolist()
    assert test.lengths.tolist() == [16, 8, 8, 8]
    x, mask = test[1:3]
    np.testing.assert_array_equal(x, np.load(data / "x.npy")[37:39])
    np.testing.assert_array_equal(mask, sequence_mask([8, 8], T))
    frames = Padded(np.zeros((2, 3, 4, 4, 1)), np.array([1, 3]))[:]
    assert frames.mask.tolist() == [[[[1]], [[0]], [[0]]], [[[1]], [[1]], [[1]]]]


def test_a_batch_has_the_lengths_of_its_examples():
    rows = Padded(np.arange(20.0).reshape(5, 4, 1), np.array([1, 2, 3, 4, 0]))
    config = autoencoder.Config(batch_size=2, seed=3)
    batch = next(iter(host_batches(config, rows, 1)))
    assert isinstance(batch, Batch)
    i = batch_indices(3, 1, 2, 5)
    np.testing.assert_array_equal(batch.x, rows.x[i])
    np.testing.assert_array_equal(batch.mask.sum(axis=1), rows.lengths[i])


def alone(model, variables, x, lengths):
    """Examples that the model sees without padding: (real samples, x', codes) of each."""
    apply = jax.jit(model.apply)
    for row, length in zip(x, lengths, strict=True):
        rec = apply(variables, row[None, :length])
        yield row[:length], np.asarray(rec.x[0]), np.asarray(rec.indices[0, :, 0])


def test_training_and_evaluation_ignore_padding(run, data):
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in metrics if "train/loss" in line]
    assert len(trained) == 2 and all(line["train/invalid_examples"] == 0 for line in trained)
    bundle = vj.load_model(run / "model")
    x = np.load(data / "x.npy")[36:]
    found = list(alone(bundle.model, bundle.variables, x, LENGTHS[36:]))
    real, made, codes = (np.concatenate(parts) for parts in zip(*found, strict=True))
    table = evaluate.main(evaluate.Config(run, batch_size=3))
    mse = np.mean(np.square(real - made))
    assert table["mse"] == pytest.approx(mse, rel=1e-5)
    variance = np.mean(np.var(real, axis=0))
    assert table["explained_variance"] == pytest.approx(1 - mse / variance, rel=1e-4)
    assert table["seen"] == len(codes) == 40 / 4
    assert table["used"] == len(set(codes.tolist())) / 8
    assert table["bits_uniform"] == 10 / 4 * 3 and "left_out" not in table
    batch = Padded(x, LENGTHS[36:])[1:3]
    start = init_state(bundle.model, optax.sgd(1.0), jax.random.key(0), x)
    [said] = remarks.of_first_batches(bundle.model, start, [batch])
    assert "made from 4 rows, for 8 codes" in said  # 2 of each of two signals of length 8
    data_json = json.loads((run / "data.json").read_text())
    assert data_json["kind"] == "signals" and data_json["lengths"] == [8, 16]


def test_padding_has_no_codes(run, data, capsys):
    found = tokenize.main(tokenize.Config(run))
    assert "no codes" not in capsys.readouterr().out
    assert found["test"]["codes"] == 2.5 and found["test"]["bits_uniform"] == 7.5
    codes = open_codes(run / "codes")
    assert uniform(codes, 0) == 7.5 and codes.data.lengths == str(data / "lengths.npy")
    bundle, x = vj.load_model(run / "model"), np.load(data / "x.npy")[36:]
    expected = np.full((4, T // 4), -1)
    for row, (_, _, k) in zip(
        expected, alone(bundle.model, bundle.variables, x, LENGTHS[36:]), strict=True
    ):
        row[: len(k)] = k
    np.testing.assert_array_equal(codes.maps["test"][0][..., 0], expected)


def test_other_data_do_not_take_the_lengths_of_the_run():
    options = {"data": "x.npy", "lengths": "lengths.npy"}
    assert data_options(options).lengths == "lengths.npy"
    assert data_options(options, data="y.npy").lengths is None
    assert data_options(options, data="y.npy", lengths="l.npy").lengths == "l.npy"


def test_a_command_passes_on_all_options_of_the_data(tmp_path):
    options = {"data": "d", "crop": 1, "window": 2, "frames": 3, "lengths": "l"}
    for command in (evaluate, tokenize):
        found = data_options({}, **given_data(command.Config(tmp_path, **options)))
        assert {name: getattr(found, name) for name in options} == options


def test_padding_says_nothing_about_the_data():
    x = np.zeros((4, 3, 1), np.float32)
    x[:, 0], x[0, 1], x[1, 1:] = 5, 7, np.nan
    splits = Padded(x[:2], np.array([2, 1])), Padded(x[2:], np.array([1, 1]))
    facts = kinds.look_at_data("x", *splits)
    assert (facts.low, facts.high, facts.invalid_train) == (5, 7, 0)
    assert "3 x 1 padded from lengths of 1 to 2, float32 from 5 to 7" in str(facts)
    assert facts.remarks() == []
    empty = kinds.look_at_data("x", splits[0], Padded(x[2:], np.array([0, 1])))
    assert empty.remarks() == ["Some examples have length 0 and are ignored."]
    many = Padded(np.zeros((2, 9, 80), np.float32), np.array([9, 3]))
    assert kinds.look_at_data("x", many, many).kind == "signals"  # pictures have no lengths


WRONG = {
    "count": (LENGTHS[1:], r"expected 40 integers, .* found int64 \(39,\)"),
    "floats": (LENGTHS / 1.0, r"expected 40 integers, .* found float64 \(40,\)"),
    "negative": (LENGTHS - 9, "expected lengths from 0 to 16, found -1 to 7"),
    "long": (LENGTHS + 1, "expected lengths from 0 to 16, found 9 to 17"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_lengths_are_refused(name, data, tmp_path):
    lengths, words = WRONG[name]
    np.save(tmp_path / "wrong.npy", lengths)
    with pytest.raises(DataError, match=f"wrong.npy: {words}"):
        load_data(DataOptions(str(data / "x.npy"), lengths=str(tmp_path / "wrong.npy")))


def test_lengths_that_are_no_lengths(data, tmp_path):
    load = lambda lengths, x="x.npy": load_data(DataOptions(str(data / x), lengths=str(lengths)))  # noqa: E731
    with pytest.raises(DataError, match=r"none.npy: .* found no such file"):
        load(tmp_path / "none.npy")
    (tmp_path / "text.npy").write_text("8, 16")
    with pytest.raises(DataError, match=r"text.npy: expected a .npy array, found"):
        load(tmp_path / "text.npy")
    np.savez(tmp_path / "both.npz", lengths=LENGTHS)
    with pytest.raises(DataError, match="found an archive"):
        load(tmp_path / "both.npz")
    np.save(data / "vectors.npy", np.zeros((40, 3), np.float32))
    with pytest.raises(DataError, match=r"expected lengths of signals .* data of 36 x 3"):
        load(data / "lengths.npy", "vectors.npy")


def test_the_likeness_of_videos_is_that_of_their_real_frames():
    x = RNG.uniform(-0.5, 0.5, (2, 3, 12, 12, 1)).astype(np.float32)
    y = (x + RNG.normal(0, 0.1, x.shape)).astype(np.float32)
    real = np.broadcast_to(sequence_mask([3, 2], 3)[:, :, None, None, None], x.shape)
    found = model_metrics.likeness(x, y, real)
    each = [[float(vj.metrics.ssim(x[i, t], y[i, t])) for t in range(3)] for i in range(2)]
    np.testing.assert_allclose(found, [np.mean(each[0]), np.mean(each[1][:2])], rtol=1e-5)
