"""Folders of WAV files and of videos: cut into pieces, files kept apart, bad ones named."""

import sys
import wave

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from vqvae_jax.data import videos, waves
from vqvae_jax.data.sources import DataError, open_source
from vqvae_jax.data.splitting import at_least_one
from vqvae_jax.data.splitting import number as hash_of

RATE = 8000


def write_waves(root, lengths, **folders):
    """Files whose samples all have the file's number; names in folders by keyword."""
    for number, length in enumerate(lengths):
        name = folders.get(f"n{number}", "") + f"{number}.wav"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        wavfile.write(root / name, RATE, np.full(length, number, np.float32))
    return root


def write_frames(folder, values, size=(6, 8), names="{}.png"):
    """A picture of one grey level for each value."""
    folder.mkdir(parents=True)
    for t, value in enumerate(values):
        pixels = np.full((*size, 3), value, np.uint8)
        pixels[0, 0] = 255  # a corner, which a crop leaves out
        Image.fromarray(pixels).save(folder / names.format(t))


@pytest.mark.parametrize(
    ("width", "stored"),
    [
        (1, [0, 64, 128, 192]),
        (2, [-(2**15), -(2**14), 0, 2**14]),
        (3, [-(2**23), -(2**22), 0, 2**22]),
        (4, [-(2**31), -(2**30), 0, 2**30]),
    ],
)
def test_integers_of_every_width_are_scaled(width, stored, tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        with wave.open(str(tmp_path / split / "a.wav"), "wb") as file:
            file.setnchannels(2)
            file.setsampwidth(width)
            file.setframerate(RATE)
            for value in stored:
                both = value.to_bytes(width, "little", signed=width > 1) * 2
                file.writeframes(both)
    x = waves(tmp_path, 4)("train")
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x, [[[-1, -1], [-0.5, -0.5], [0, 0], [0.5, 0.5]]])


def test_files_are_cut_into_windows_and_the_rest_is_said(tmp_path):
    write_waves(tmp_path, [10, 7, 3, 8], n0="Train/", n1="TEST/", n2="Train/", n3="val/")
    with pytest.warns(
        UserWarning, match=r"left out 8 of 28 samples, .* all of 1 files shorter than 4"
    ) as said:
        source = open_source(str(tmp_path), window=4)
        train, test = source("train"), source("test")
    assert len(said) == 1  # files are read once for both splits
    assert train[..., 0].tolist() == [[0] * 4] * 2 and test[..., 0].tolist() == [[1] * 4]


def test_no_file_is_in_both_splits_and_each_split_has_one(tmp_path):
    source = waves(write_waves(tmp_path, [8, 8, 8]), 4)
    train, test = ({*source(split).ravel().tolist()} for split in ("train", "test"))
    assert train | test == {0, 1, 2} and not train & test and len(test) == 1


def test_a_hash_decides_about_one_in_ten_whatever_the_others():
    names = [f"{i}.wav" for i in range(300)]
    test = at_least_one(names)
    assert 15 <= len(test) <= 50
    assert test <= at_least_one([*names, "new.wav", "newer.wav"])
    assert at_least_one(["a"]) == set() == at_least_one([])
    others = [name for name in names if name not in test]
    assert len(at_least_one(others)) == 1
    assert at_least_one([*test]) == test - {max(test, key=hash_of)}


def test_broken_files_are_named_and_skipped(tmp_path):
    write_waves(tmp_path, [8, 8, 8])
    (tmp_path / "broken.WAV").write_bytes(b"RIFF????junk")
    (tmp_path / "cut.wav").write_bytes((tmp_path / "0.wav").read_bytes()[:20])
    (tmp_path / "._0.wav").write_bytes(b"of macOS")
    (tmp_path / "notes.txt").write_text("no sound")
    with pytest.warns(UserWarning, match=r"skipped 2 of 5 files: broken.WAV, cut.wav \(.*junk"):
        assert len(waves(tmp_path, 8)("train")) == 2


@pytest.mark.parametrize(
    ("rate", "channels", "words"),
    [
        (RATE, 2, "8,000 Hz and 1 channel, as in 0.wav, found 8,000 Hz and 2 channels"),
        (44100, 1, "expected 8,000 Hz and 1 channel, as in 0.wav, found 44,100 Hz and 1 channel"),
    ],
)
def test_files_of_another_rate_are_named(rate, channels, words, tmp_path):
    wavfile.write(
        write_waves(tmp_path, [8, 8]) / "9.wav", rate, np.zeros((8, channels), np.float32)
    )
    with pytest.raises(DataError, match=rf"9.wav: .*{words}"):
        waves(tmp_path, 4)("train")


def test_folders_that_give_no_windows(tmp_path):
    write_waves(tmp_path, [8, 20])
    with pytest.raises(
        DataError,
        match=r"10 samples .*found 1 to train and 0 to test among 2 files, the longest of 20",
    ):
        waves(tmp_path, 10)("train")
    with pytest.raises(DataError, match="needs a window"):
        open_source(str(tmp_path))
    with pytest.raises(DataError, match="split 'train' or 'test', found 'val'"):
        waves(tmp_path, 8)("val")
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    for split in ("train", "test"):
        (tmp_path / split / "a.wav").write_bytes(b"none")
    with pytest.raises(
        DataError, match=r"found 0 to train and 0 to test among 4 files, .*: test/a"
    ):
        waves(tmp_path, 10)("train")


def test_folders_of_frames_are_videos_in_order_of_the_numbers(tmp_path):
    write_frames(tmp_path / "train/a", range(11))
    write_frames(tmp_path / "train/b", range(100, 104))
    write_frames(tmp_path / "test/a", range(50, 55), names="frame_{}.png")
    with pytest.warns(UserWarning, match="left out 4 of 20 frames"):
        source = open_source(str(tmp_path), frames=4, size=4)
        train, test = source("train"), source("test")
    assert train.shape == (3, 4, 4, 4, 3) and train.dtype == np.uint8
    assert train.std(axis=(2, 3, 4)).max() == 0  # the middle, without the corner
    assert train[..., 0, 0, 0].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [100, 101, 102, 103]]
    assert test[..., 0, 0, 0].tolist() == [[50, 51, 52, 53]]


def test_frames_are_scaled_to_their_shorter_side(tmp_path):
    for name in "ab":
        write_frames(tmp_path / name, [9, 90], size=(12, 16))
    assert videos(tmp_path, 2, resize=6)("train").shape == (1, 2, 6, 6, 3)
    grey = videos(tmp_path, 2, crop=5, resize=6, mode="L")("train")
    assert grey.shape == (1, 2, 5, 5, 1) and grey[0, :, 4, 4, 0].tolist() == [9, 90]


def test_frames_of_different_sizes_need_a_crop(tmp_path):
    write_frames(tmp_path / "a", [1, 2])
    write_frames(tmp_path / "b", [1, 2], size=(8, 8))
    with pytest.raises(DataError, match=r"b: expected frames of 8 x 6, as in a, found .* 8 x 8"):
        videos(tmp_path, 2)("train")
    assert videos(tmp_path, 2, crop=6)("train").shape == (1, 2, 6, 6, 3)
    write_frames(tmp_path / "c", [1, 2], size=(5, 8))
    with pytest.warns(UserWarning, match=r"skipped 1 of 3 files: c .*at least 6 x 6, found 8 x 5"):
        videos(tmp_path, 2, crop=6)("train")


def test_a_film_among_photographs_makes_no_videos(tmp_path):
    write_frames(tmp_path / "train", [1, 2])
    write_frames(tmp_path / "test", [3])
    (tmp_path / "film.mp4").write_bytes(b"film")
    assert open_source(str(tmp_path), size=4)("train").shape == (4, 4, 4, 3)


def test_video_files_need_their_extra(tmp_path, monkeypatch):
    (tmp_path / "film.mp4").write_bytes(b"film")
    with pytest.raises(DataError, match="needs a number of frames"):
        open_source(str(tmp_path))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DataError, match=r"expected av .*pip install 'vqvae_jax\[video\]'"):
        open_source(str(tmp_path), frames=4)("train")


def test_video_files_are_decoded(tmp_path):
    av = pytest.importorskip("av")
    for name, grey in (("a.mkv", 40), ("b.avi", 200)):
        with av.open(str(tmp_path / name), "w") as file:
            stream = file.add_stream("mpeg4", rate=10)
            stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
            pixels = np.full((16, 32, 3), grey, np.uint8)
            for _ in range(5):
                file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            file.mux(stream.encode())
    (tmp_path / "c.mp4").write_bytes(b"film")
    with pytest.warns(UserWarning, match=r"left out 2|skipped 1 of 3 files: c.mp4"):
        source = videos(tmp_path, 4, crop=16)
        levels = sorted(float(source(split).mean()) for split in ("train", "test"))
    assert source("train").shape == (1, 4, 16, 16, 3)
    np.testing.assert_allclose(levels, [40, 200], atol=4)


def test_the_odd_file_is_named_though_it_comes_first(tmp_path):
    write_waves(tmp_path, [8, 8])
    wavfile.write(tmp_path / "0.wav", 44100, np.zeros(8, np.float32))
    wavfile.write(tmp_path / "2.wav", RATE, np.zeros(8, np.float32))
    with pytest.raises(DataError, match=r"0.wav: expected 8,000 Hz .* as in 1.wav, found 44,100"):
        waves(tmp_path, 4)("train")
