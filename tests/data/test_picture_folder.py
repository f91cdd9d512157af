"""Folders of pictures as people have them: sizes, splits, classes, formats, and bad files."""

import warnings

import numpy as np
import pytest
from PIL import Image, ImageOps
from test_folder import noise, save

from vqvae_jax.data.labels import open_labels
from vqvae_jax.data.picture_files import lay_out, picture_suffixes
from vqvae_jax.data.picture_folders import PictureFolder, Survey
from vqvae_jax.data.readers import decode_image
from vqvae_jax.data.records import open_records
from vqvae_jax.data.sources import DataError, folder, stream
from vqvae_jax.data.writing import write_records


def plain(path, *names, value=0, side=4):
    for name in names:
        save(path / name, np.full((side, side, 3), value, np.uint8))


@pytest.fixture
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_resize_scales_the_shorter_side_and_takes_the_middle(tmp_path):
    """The middle of three bands fills the square, with room for the filter on both sides."""
    bands = np.repeat(np.uint8([10, 90, 170]), [30, 60, 30])
    wide = bands[None, :, None] * np.ones((40, 1, 3), np.uint8)
    save(tmp_path / "train/wide.png", wide)
    save(tmp_path / "train/tall.png", wide.swapaxes(0, 1))
    plain(tmp_path, "test/a.png", value=7, side=3)
    found = folder(tmp_path, resize=8)
    assert found("train").shape == (2, 8, 8, 3) and (found("train") == 90).all()
    assert (found("test") == np.full((1, 8, 8, 3), 7)).all()  # enlarged


def test_resize_averages_what_it_leaves_out(tmp_path):
    """A board of black and white pixels becomes grey; picking pixels would keep black or white."""
    board = np.indices((64, 96)).sum(0) % 2 * np.uint8(255)
    save(tmp_path / "train/a.png", board.astype(np.uint8))
    plain(tmp_path, "test/a.png")
    np.testing.assert_allclose(folder(tmp_path, resize=8)("train").astype(int), 128, atol=3)


@pytest.mark.parametrize(("size", "side"), [((900, 600), 32), ((200, 100), 40)])
def test_a_jpeg_decoded_at_a_fraction_is_close_to_the_whole(size, side, tmp_path):
    """The fraction is an eighth of the larger one, and all of the smaller one."""
    smooth = Image.fromarray(noise(6, 9)).resize(size, Image.Resampling.BICUBIC)
    (tmp_path / "train").mkdir()
    smooth.save(tmp_path / "train/a.jpg", quality=95)
    plain(tmp_path, "test/a.png")
    whole = ImageOps.fit(smooth, (side, side), Image.Resampling.BICUBIC)
    found = folder(tmp_path, resize=side)("train")[0].astype(int)
    assert np.abs(found - np.asarray(whole)).mean() < 2


def test_tiles_are_cut_from_the_scaled_picture(tmp_path):
    image = noise(20, 30)
    save(tmp_path / "train/a.png", image)
    plain(tmp_path, "test/a.png")
    scaled = Image.fromarray(image).resize((15, 10), Image.Resampling.BICUBIC)
    source = folder(tmp_path, 5, resize=10)
    tiles = source("train").reshape(2, 3, 5, 5, 3).swapaxes(1, 2).reshape(10, 15, 3)
    np.testing.assert_array_equal(tiles, scaled)
    assert source.survey("train") == Survey({"train/a.png": 6}, ())
    with pytest.raises(DataError, match=r"tiles that fit into pictures of 10 x 10, found .* of 11"):
        folder(tmp_path, 11, resize=10)


@pytest.mark.parametrize(
    ("folders", "train", "test", "unused"),
    [
        (("Train", "TEST"), "Train", "TEST", {}),
        (("train", "VAL"), "train", "VAL", {}),
        (("training", "Valid"), "training", "Valid", {}),
        (("train", "validation", "test"), "train", "test", {"validation": 2}),
        (("train", "test", "raw"), "train", "test", {"raw": 2}),
    ],
)
def test_split_folders_of_any_capitalisation_are_kept_apart(folders, train, test, unused, tmp_path):
    for name in folders:
        plain(tmp_path, f"{name}/a.png", f"{name}/deep/b.png")
    layout = lay_out(tmp_path)
    expected = {"train": train, "test": test}
    assert layout.splits == {s: (f"{n}/a.png", f"{n}/deep/b.png") for s, n in expected.items()}
    assert layout.unused == unused and layout.rule.startswith("by the folders ")


def test_a_test_folder_without_a_train_folder_is_asked_about(tmp_path):
    plain(tmp_path, "Val/a.png", "a.png")
    with pytest.raises(DataError, match="expected a folder train beside Val, found none"):
        lay_out(tmp_path)


def test_a_train_folder_alone_is_split_by_hash(tmp_path):
    plain(tmp_path, *(f"train/{'ab'[i % 2]}/{i}.png" for i in range(40)))
    layout = lay_out(tmp_path)
    assert 0 < len(layout.splits["test"]) < 10 and layout.classes == ("a", "b")
    assert sorted(sum(layout.splits.values(), ())) == sorted(
        f"train/{'ab'[i % 2]}/{i}.png" for i in range(40)
    )


def test_class_folders_are_labels_of_every_tile(tmp_path, quiet):
    for i, name in enumerate(("dogs/b", "cats/a", "dogs/a", "emus/x/a")):
        save(tmp_path / f"train/{name}.png", np.full((4, 4 * (i + 1)), 50 * i, np.uint8))
    (tmp_path / "train/cats/bad.png").write_bytes(b"")
    plain(tmp_path, "test/dogs/a.png")
    source = folder(tmp_path, 4, "L")
    labels = open_labels(str(tmp_path), source)
    assert labels.names == ("cats", "dogs", "emus")
    pairs = list(zip(source("train")[:, 0, 0, 0] // 50, labels.read("train"), strict=True))
    assert pairs == [(1, 0)] * 2 + [(2, 1)] * 3 + [(0, 1)] + [(3, 2)] * 4
    assert labels.read("test").tolist() == [1] and labels.read("test").dtype == np.int32


def test_pictures_outside_of_class_folders_have_no_labels(tmp_path):
    plain(tmp_path, "cats/a.png", "cats/b.png")
    assert open_labels(str(tmp_path), folder(tmp_path, 4)) is None  # one class
    plain(tmp_path, "dogs/a.png")
    assert open_labels(str(tmp_path), folder(tmp_path, 4)).names == ("cats", "dogs")
    plain(tmp_path, "a.png")
    assert open_labels(str(tmp_path), folder(tmp_path, 4)) is None
    assert open_labels(str(tmp_path)) is None


FORMATS = ["bmp", "gif", "tif", "ppm", "jp2", "tga", "ico", "pcx", "jfif", "JPE"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_formats_of_pillow_are_read(suffix, tmp_path):
    picture = Image.new("RGB", (16, 16), (200, 30, 60))
    (tmp_path / "train").mkdir()
    picture.save(tmp_path / f"train/a.{suffix}", **({"format": "JPEG"} if suffix == "JPE" else {}))
    plain(tmp_path, "test/a.png")
    found = folder(tmp_path, 16)("train").astype(int)
    np.testing.assert_allclose(found, np.broadcast_to([200, 30, 60], (1, 16, 16, 3)), atol=4)


def test_an_animation_gives_its_first_frame(tmp_path):
    first, second = (Image.new("L", (4, 4), value) for value in (40, 200))
    (tmp_path / "train").mkdir()
    first.save(tmp_path / "train/a.gif", save_all=True, append_images=[second])
    plain(tmp_path, "test/a.png")
    assert (folder(tmp_path, 4, "L")("train") == 40).all()


def test_other_files_are_counted_and_hidden_ones_are_named(tmp_path):
    plain(tmp_path, "a.png", "b.png", "._a.png", ".thumbs/c.png", "sub/._d.png")
    for name in ("notes.txt", "film.mp4", "film2.MP4", "README", ".DS_Store"):
        (tmp_path / name).write_bytes(b"x")
    layout = lay_out(tmp_path)
    assert layout.others == {".mp4": 2, ".txt": 1, "without suffix": 1}
    assert layout.hidden == ("._a.png", ".thumbs/c.png", "sub/._d.png")
    assert sorted(sum(layout.splits.values(), ())) == ["a.png", "b.png"]
    assert not {".mp4", ".mpg", ".pdf", ".eps", ".h5", ".txt"} & picture_suffixes()


@pytest.fixture
def mixed(tmp_path):
    """Good and bad pictures in turn; the good ones have the values 0, 1, 2."""
    root = tmp_path / "mixed"
    save(root / "whole.png", noise(32, 32))
    half = (root / "whole.png").read_bytes()[:900]
    (root / "whole.png").unlink()
    for value, name in enumerate("aceg"):
        plain(root, f"train/{name}.png", value=value)
    (root / "train/b.png").write_bytes(half)
    (root / "train/d.jpg").write_bytes(b"")
    (root / "train/f.bmp").write_bytes(b"BM no picture")
    save(root / "train/h.png", np.full((4, 4), 1000, np.uint16))
    save(root / "train/i.png", noise(3, 9))
    plain(root, "test/a.png")
    return root


def test_bad_files_are_named_and_skipped_in_every_read(mixed, tmp_path):
    source = folder(mixed, 4)
    with pytest.warns(UserWarning, match=r"skipped 5 of 9 files for train: .*; and 2 more$"):
        found = source("train")
    assert found[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    with pytest.warns(UserWarning, match="skipped 5 of 9"):
        write_records(tmp_path / "set", {"train": stream(str(mixed), "train", source).examples})
    np.testing.assert_array_equal(open_records(tmp_path / "set", "train")[:], found)
    survey = source.survey("train")
    assert list(survey.tiles) == [f"train/{name}.png" for name in "aceg"]
    faults = dict(fault.split(": ", 1) for fault in survey.skipped)
    assert [name[6] for name in faults] == ["b", "d", "f", "h", "i"]
    readable = "expected a readable image, found: "
    assert faults["train/d.jpg"] == readable + "an empty file"
    assert faults["train/f.bmp"] == readable + "cannot identify image file"
    assert faults["train/h.png"].startswith("expected 8 bits per channel, found 16 bits")
    assert faults["train/i.png"] == "expected at least 4 x 4 pixels, found 9 x 3"


def test_only_bad_files_are_an_error(mixed):
    for name in "aceg":
        (mixed / f"train/{name}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"none that can be used among 9: .*; and 6 more$") as error:
        folder(mixed, 4)("train")
    assert "\n" not in str(error.value)


def test_a_split_is_surveyed_with_the_read_that_was_asked_for(tmp_path, monkeypatch):
    """Labels and counts after a read decode nothing again."""
    plain(tmp_path, "train/a/1.png", "test/b/1.png")
    source = folder(tmp_path, 2)
    source("train")
    monkeypatch.setattr(PictureFolder, "_read", None)
    assert source.labels("train").tolist() == [0] * 4
    assert source.survey("train").tiles == {"train/a/1.png": 4}


def test_streams_keep_unchanged_files_only(tmp_path):
    """Bytes of a file where its pixels are the item, and arrays where they were scaled or grey."""
    for name, shape in (("a", (8, 8)), ("b", (16, 16)), ("c", (8, 16))):
        save(tmp_path / f"train/{name}.png", noise(*shape))
    plain(tmp_path, "test/a.png")
    for mode in ("RGB", "L"):
        source = folder(tmp_path, mode=mode, resize=8)
        part = stream(str(tmp_path), "train", source)
        examples = list(part.examples)
        assert [isinstance(e, bytes) for e in examples] == [True, False, False]
        rows = [decode_image(e, part.mode, "") if isinstance(e, bytes) else e for e in examples]
        np.testing.assert_array_equal(np.stack(rows), source("train"))
