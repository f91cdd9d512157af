"""A folder of one's own pictures, from counts before training to labelled codes."""

import json
import re

import numpy as np
import pytest
from code_runs import one_level
from PIL import Image
from test_bad_input import images, refused
from test_reconstruct import save_random
from test_train import SMALL

from vqvae_commands import evaluate, shard, tokenize
from vqvae_commands.data.data_checks import check_sides
from vqvae_commands.data.data_options import DataOptions, data_options
from vqvae_commands.data.kinds import Facts
from vqvae_commands.data.picture_counts import PictureCounts
from vqvae_commands.generation.code_files import open_codes
from vqvae_commands.run import autoencoder
from vqvae_jax.data.readers import DataError
from vqvae_jax.data.records import open_records

TEN = {"train": 10, "test": 3}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Pictures of 24 x 16 in two classes, one of which is broken, and a folder of no split."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name in ("Train/cats", "Train/dogs", "TEST/cats", "TEST/dogs", "val/cats"):
        (root / name).mkdir(parents=True)
        for i in range(5):
            pixels = rng.integers(0, 256, (16, 24, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    (root / "Train/cats/[b]ad.jpg").write_bytes(b"")
    (root / "notes.txt").write_text("no picture")
    return root


def test_train_says_and_keeps_what_the_folder_held(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(autoencoder.run_report, "make_figures", lambda *_: {})
    few = {"steps": 2, "eval_every": 2, "save_every": 2, "log_every": 2, "warmup": 1}
    config = autoencoder.Config("own", tmp_path, str(photos), crop=8, grey=True, **SMALL | few)
    _, page = autoencoder.train_autoencoder(config)
    lines = [
        "Files: 10 (cut into 60 tiles) to train on and 10 (cut into 60 tiles) to test, split by "
        "the folders Train and TEST.",
        "2 classes, by folder: cats; dogs.",
        "Skipped 1 file: Train/cats/[b]ad.jpg: expected a readable image, found: an empty file.",
        "In neither split: 5 in val.",
        "Not pictures, and not read: 1 .txt.",
    ]
    printed = capsys.readouterr().out
    assert "60 images to train on and 60 to test, 8 x 8 x 1" in printed
    assert "\n".join(lines) in printed
    assert "The 60 test items are tiles of 10 files" in printed
    assert "The test set has only 60 items" in printed
    assert f". {lines[0]} {lines[1]} " in page.body
    assert "tiles of 10 files" in page.body
    kept = json.loads((tmp_path / "own/data.json").read_text())["pictures"]
    assert kept["files"] == {"train": 10, "test": 10} and kept["unused"] == {"val": 5}
    assert kept["items"] == {"train": 60, "test": 60} and len(kept["skipped"]) == 1


def test_codes_have_the_classes_of_the_folders(photos, tmp_path, capsys):
    """Options of the run's data hold, and a size given to the command takes the place of them."""
    run = tmp_path / "run"
    run.mkdir()
    options = {"data": str(photos), "resize": 8, "grey": True}
    (run / "config.json").write_text(json.dumps(options))
    save_random(run / "model", one_level(), 8, 8, 1)
    for given, tiles in (({}, 1), ({"crop": 8}, 6)):
        tokenize.main(tokenize.Config(run, **given))
        codes = open_codes(run / "codes")
        assert codes.classes == ("cats", "dogs")
        for split in ("train", "test"):
            np.testing.assert_array_equal(codes.label(split), np.repeat([0, 1], 5 * tiles))
            assert len(codes.maps[split][0]) == 10 * tiles
    assert codes.data == DataOptions(str(photos), crop=8, grey=True)
    evaluate.main(evaluate.Config(run))
    assert "Skipped 1 file: Train/cats/[b]ad.jpg" in capsys.readouterr().out


def test_shards_lack_what_was_skipped(photos, tmp_path, capsys):
    out = shard.main(shard.Config(str(photos), tmp_path / "set", resize=8, grey=True, shards=2))
    assert open_records(out, "train").shape == (10, 8, 8, 1)
    assert "Skipped 1 file" in capsys.readouterr().out


def broken(tmp):
    for split in ("train", "test"):
        (tmp / split).mkdir()
        (tmp / split / "a.png").write_bytes(b"no picture")
    return str(tmp)


def without_train(tmp):
    (tmp / "Val").mkdir()
    Image.new("L", (9, 9)).save(tmp / "Val/a.png")
    return str(tmp)


WRONG = {
    "no size": ("photos", [], "needs a size, found none; resize scales"),
    "crop": ("photos", ["--crop=50"], "--crop 50 is no multiple of 4, as 2 .*: use 48 or 52,"),
    "resize": ("photos", ["--resize=50"], "--resize 50 is no multiple of 4"),
    "side": ("photos", ["--resize=0"], "expected a resize size of at least 1, found 0"),
    "too large": ("photos", ["--crop=64"], "among 11: .*: expected at least 64 x 64 pixels"),
    "tiles": ("photos", ["--resize=64", "--crop=96"], "fit into pictures of 64 x 64"),
    "all broken": (broken, ["--resize=64"], "none that can be used among 1: train/a.png: "),
    "no training": (without_train, ["--resize=8"], "expected a folder train beside Val"),
    "array": (
        lambda tmp: images(tmp / "a.npy"),
        ["--resize=8"],
        "--resize is for folders",
    ),
    "window": ("photos", ["--resize=8", "--window=9"], "--window is for folders of WAV files"),
    "crop of other data": (
        "fashion_mnist_10k",
        ["--crop=7"],
        "--crop is for folders of pictures",
    ),
    "frames": ("fashion_mnist_10k", ["--frames=7"], "--frames is for folders of videos"),
    "grey": ("fashion_mnist_10k", ["--grey"], "--grey is for folders of pictures or videos"),
}


@pytest.mark.parametrize("name", WRONG)
def test_train_refuses(name, photos, tmp_path, capsys, as_users):
    make, options, message = WRONG[name]
    data = make(tmp_path) if callable(make) else {"photos": str(photos)}.get(make, make)
    arguments = ["--data", data, "--runs", str(tmp_path / "runs"), *options]
    error = refused(capsys, autoencoder.train_autoencoder, autoencoder.Config, arguments)
    assert re.search(message, error), error
    assert not (tmp_path / "runs").exists()


def test_sides_that_can_be_halved_are_named():
    check_sides(DataOptions("x.npy"), (), 3)
    check_sides(DataOptions("x.npy"), (24, 32), 3)
    with pytest.raises(DataError, match=r"x.npy: a side of 28 is no multiple of 8.* 24 or 32"):
        check_sides(DataOptions("x.npy"), (32, 28), 3)
    with pytest.raises(DataError, match=r"a side of 3 is no multiple of 8.*pass --downsamplings 0"):
        check_sides(DataOptions("x.npy", crop=5), (3, 8), 3)


@pytest.mark.parametrize(
    ("sides", "downsamplings", "fits"),
    [
        ((6, 8, 12), 2, "1 2 2"),
        ((250,), 2, "1"),
        ((5, 8, 8), (0, 2, 3), None),
        ((1, 4, 4), 1, "0 1 1"),
    ],
)
def test_sides_that_cannot_be_halved_are_said_with_what_can(sides, downsamplings, fits):
    options = DataOptions("x.npy")
    if fits is None:
        return check_sides(options, sides, downsamplings)
    with pytest.raises(DataError, match=rf"x.npy: .*pass --downsamplings {fits}$"):
        check_sides(options, sides, downsamplings)
    check_sides(options, sides, tuple(map(int, fits.split())) if " " in fits else int(fits))


def test_counts_are_silent_about_what_is_in_order():
    counts = PictureCounts(8, TEN, TEN, "by hash")
    assert counts.lines() == ["Files: 10 to train on and 3 to test, split by hash."]
    assert counts.remarks() == []
    facts = Facts("pictures", (8, 8, 3), "uint8", 0, 255, 10, 3, 0, 0, counts)
    assert facts.origin() == counts.lines() and facts.remarks() == []


def test_one_size_given_replaces_both_of_the_run():
    run = {"data": "photos", "resize": 100, "crop": 48, "grey": True}
    assert data_options(run) == DataOptions("photos", 48, 100, True)
    assert data_options(run, crop=32) == DataOptions("photos", 32, None, True)
    assert data_options(run, resize=64, crop=None) == DataOptions("photos", None, 64, True)
    assert data_options(run, data="others") == DataOptions("others", 48, 100, True)
