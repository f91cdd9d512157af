"""Sharded data: the same training as in memory, bit for bit, and one line for what is wrong."""

import dataclasses
import json
import signal

import numpy as np
import pytest
from test_bad_input import images, refused
from test_train import SMALL, StopAt

from vqvae_commands import shard
from vqvae_commands.run import autoencoder, resumable
from vqvae_jax.data.records import open_records
from vqvae_jax.data.sources import EMBEDDED, embedded


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """The embedded images as a folder of records."""
    return shard.main(shard.Config(EMBEDDED, tmp_path_factory.mktemp("data") / "set", shards=3))


def test_both_splits_are_written(sharded, capsys):
    assert len(list(sharded.glob("*.array_record"))) == 6
    for split in ("train", "test"):
        np.testing.assert_array_equal(open_records(sharded, split)[:], embedded()(split))


def test_training_on_records_equals_training_in_memory(tmp_path, monkeypatch, capsys):
    """The records are stopped and go on; every metric, test set included, has the same bits."""
    monkeypatch.setattr(autoencoder.run_report, "make_figures", lambda *_: {})
    every = {"steps": 6, "log_every": 1, "eval_every": 3, "save_every": 6}
    noise = np.random.default_rng(0).integers(0, 256, (100, 12, 12, 1), np.uint8)
    np.save(tmp_path / "noise.npy", noise)
    options = {"data": str(tmp_path / "noise.npy"), "runs": tmp_path} | SMALL | every
    memory = autoencoder.Config(name="memory", **options)
    sharded = shard.main(shard.Config(memory.data, tmp_path / "set", shards=3))
    records = dataclasses.replace(memory, name="records", data=str(sharded))
    table, _ = autoencoder.train_autoencoder(memory)
    with monkeypatch.context() as patch:
        patch.setattr(resumable, "Interrupt", StopAt(4))
        with pytest.raises(SystemExit) as stop:
            autoencoder.train_autoencoder(records)
    assert stop.value.code == 128 + signal.SIGINT
    assert autoencoder.train_autoencoder(records)[0] == table
    first, second = (tmp_path / name / "metrics.jsonl" for name in ("memory", "records"))
    assert first.read_bytes() == second.read_bytes()
    steps = [json.loads(line)["step"] for line in first.read_text().splitlines()]
    assert set(steps) == set(range(1, 7))
    weights = [
        json.loads((tmp_path / name / "model/model.json").read_text())["sha256"]
        for name in ("memory", "records")
    ]
    assert weights[0] == weights[1]


BAD = {
    "no such set": (lambda tmp: ["no_such_set", "-o", "new"], "no_such_set"),
    "no size": (lambda tmp: [photo(tmp), "-o", "new"], "needs a size, found none"),
    "no shards": (
        lambda tmp: [images(tmp / "a.npy"), "-o", "new", "--shards", "0"],
        "expected at least 1 shard, found 0",
    ),
    "too many shards": (
        lambda tmp: [images(tmp / "a.npy"), "-o", "new", "--shards", "19"],
        "train: expected an example for each of 19 shards, found 18",
    ),
    "the folder exists": (
        lambda tmp: [images(tmp / "a.npy"), "-o", str(tmp)],
        "expected a new folder, found one that exists",
    ),
    "a broken picture": (
        lambda tmp: [photo(tmp), "-o", "new", "--size", "8"],
        "none that can be used among 1: train/a.png: expected a readable image",
    ),
}


def photo(tmp):
    for split in ("train", "test"):
        (tmp / split).mkdir()
        (tmp / split / "a.png").write_bytes(b"no picture")
    return str(tmp)


@pytest.mark.parametrize("name", BAD)
def test_shard_refuses(name, tmp_path, capsys, monkeypatch, as_users):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    make, message = BAD[name]
    assert message in refused(capsys, shard.main, shard.Config, make(tmp_path))
    assert list((tmp_path / "here").iterdir()) == []


def test_train_refuses_a_damaged_folder(sharded, tmp_path, capsys, as_users):
    broken = tmp_path / "set"
    broken.mkdir()
    for file in sharded.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    missing = broken / "train-00001-of-00003.array_record"
    missing.unlink()
    options = ["--data", str(broken), "--runs", str(tmp_path / "runs")]
    error = refused(capsys, autoencoder.train_autoencoder, autoencoder.Config, options)
    assert f"{missing}: expected " in error and "found no such file" in error
    assert not (tmp_path / "runs").exists()
