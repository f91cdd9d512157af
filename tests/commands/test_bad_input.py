"""Bad input to the commands: one line on stderr, exit code 2, nothing written."""

import numpy as np
import pytest

from vqvae_commands import evaluate
from vqvae_commands.run import autoencoder
from vqvae_commands.terminal import command


def refused(capsys, main, config, arguments: list[str]) -> str:
    """The one line on stderr."""
    with pytest.raises(SystemExit) as stop:
        command.run(main, config, arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.startswith("error: ") and error.count("\n") == 1, error
    return error


def images(path, shape=(20, 8, 8, 1), dtype=np.uint8):
    np.save(path, np.zeros(shape, dtype))
    return str(path)


BAD_DATA = {
    "no such set": (lambda tmp: "no_such_set", "no_such_set"),
    "int64": (lambda tmp: images(tmp / "a.npy", dtype=np.int64), "found int64"),
    "int32": (lambda tmp: images(tmp / "a.npy", dtype=np.int32), "found int32"),
    "no pictures": (
        lambda tmp: str(tmp),
        "expected records, IDX files, pictures, WAV",
    ),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_train_refuses_data(name, tmp_path, capsys, as_users):
    make, message = BAD_DATA[name]
    data = make(tmp_path)
    runs = tmp_path / "runs"
    error = refused(
        capsys,
        autoencoder.train_autoencoder,
        autoencoder.Config,
        ["--data", data, "--runs", str(runs)],
    )
    assert message in error
    assert not runs.exists()


OPTIONS = {
    "codes": ("0", "size must be an integer >= 1, got 0"),
    "dim": ("-1", "dim must be an integer >= 1, got -1"),
    "beta": ("-1", r"beta must be in [0, inf), got -1"),
    "reset": ("7", r"share must be in [0, 1), got 7"),
    "width": ("0", "width must be an integer >= 1, got 0"),
    "batch-size": ("0", "batch_size must be an integer >= 1, got 0"),
    "steps": ("0", "steps must be an integer >= 1, got 0"),
    "depth": ("-1", "depth must be in [0, inf), got -1"),
    "parts": ("7", "--parts 7 does not divide"),
    "name": ("../x", "--name: expected the name of a new folder, found '../x'"),
    "nope": ("1", "Unrecognized options: --nope=1"),
    "kind": ("foo", "invalid choice 'foo' for argument '--kind'"),
    "log-every": ("0", "log_every must be an integer >= 1, got 0"),
    "downsamplings": (
        "4",
        "a side of 8 is no multiple of 16, as 4 downsamplings need: crop or pad the data to 16",
    ),
}


@pytest.mark.parametrize("option", OPTIONS)
def test_train_refuses_options(option, tmp_path, capsys, as_users):
    value, message = OPTIONS[option]
    runs = tmp_path / "runs"
    data = ["--data", images(tmp_path / "a.npy"), "--runs", str(runs)]
    error = refused(
        capsys, autoencoder.train_autoencoder, autoencoder.Config, [*data, f"--{option}={value}"]
    )
    assert message in error
    assert not runs.exists()


def test_train_refuses_a_batch_that_the_devices_cannot_share(tmp_path, capsys, as_users):
    data = ["--data", images(tmp_path / "a.npy"), "--runs", str(tmp_path / "runs")]
    error = refused(
        capsys, autoencoder.train_autoencoder, autoencoder.Config, [*data, "--batch-size=7"]
    )
    assert "a batch of 7 can't be split over 8 devices" in error
    assert not (tmp_path / "runs").exists()


def test_evaluate_refuses_a_folder_that_is_no_run(tmp_path, capsys):
    assert "expected the folder of a run" in refused(
        capsys, evaluate.main, evaluate.Config, [str(tmp_path)]
    )
