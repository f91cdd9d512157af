"""What data are: asked where it is open, said before training; and what would train in vain."""

import numpy as np
import pytest

import vqvae_jax as vj
from vqvae_commands.data import kinds
from vqvae_jax.data.readers import DataError
from vqvae_jax.data.records import Records

RNG = np.random.default_rng(0)


def facts(x: np.ndarray, kind=None) -> kinds.Facts:
    return kinds.look_at_data("x.npy", x[:-2], x[-2:], kind)


def floats(low: float, high: float, shape=(20, 4, 4, 1)) -> np.ndarray:
    """That reach both."""
    x = RNG.uniform(low, high, shape).astype(np.float32)
    x.flat[0], x.flat[-1] = low, high
    return x


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ((20, 5), "vectors"),
        ((20, 9, 2), "signals"),
        ((20, 8, 8, 1), "pictures"),
        ((20, 8, 8, 4), "pictures"),
        ((20, 8, 8, 2), "fields"),
        ((20, 4, 8, 8, 3), "volumes"),
    ],
)
def test_the_shape_says_the_kind(shape, kind):
    assert kinds.kind_of("x", shape) == kind


def test_bytes_over_time_are_videos_and_have_pixels():
    clip = RNG.integers(0, 256, (20, 4, 8, 8, 3)).astype(np.uint8)
    assert facts(clip).kind == facts(clip[..., :1]).kind == "videos"
    assert facts(clip[..., :2]).kind == facts(clip, "volumes").kind == "volumes"
    assert str(facts(clip)).startswith("18 videos to train on and 2 to test, 4 x 8 x 8 x 3")
    grey = floats(-0.5, 0.5, (20, 4, 8, 8, 1))
    assert facts(grey).kind == "volumes" and facts(grey).domain() != vj.pixels()
    assert facts(grey, "videos").domain() == vj.pixels()
    assert kinds.units("videos", "float32") == "pixels in [0, 1]"
    with pytest.raises(DataError, match=r"can't be videos, .* --kind volumes"):
        facts(2 * grey, "videos")


def test_what_may_be_two_kinds_is_asked():
    with pytest.raises(DataError, match=r"20 x 28 x 28 may be pictures .* x\[..., None\].*--kind"):
        kinds.kind_of("x", (20, 28, 28))
    assert kinds.kind_of("x", (20, 28, 28), "signals") == "signals"
    assert kinds.kind_of("x", (20, 28, 28, 3), "fields") == "fields"
    with pytest.raises(DataError, match=r"save x\[..., None\]"):
        kinds.kind_of("x", (20, 28, 28), "pictures")
    with pytest.raises(DataError, match="can't be volumes, but vectors"):
        kinds.kind_of("x", (20, 5), "volumes")
    with pytest.raises(DataError, match="2 to 5 axes"):
        kinds.kind_of("x", (20, 1, 1, 1, 1, 1))


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0, 1, r"float32 from 0 to 1 can't be pictures.*need - 0.5"),
        (0, 255, "must be uint8"),
        (-1, 1, "need / 2"),
        (-3, 4, "--kind fields"),
    ],
)
def test_pictures_in_another_scale_are_refused(low, high, words):
    with pytest.raises(DataError, match=words):
        facts(floats(low, high))
    assert facts(floats(low, high), "fields").domain() != vj.pixels()


def test_the_domain_of_the_model_is_that_of_the_data():
    bytes_ = RNG.integers(0, 256, (20, 4, 4, 1)).astype(np.uint8)
    assert facts(bytes_).domain() == facts(floats(-0.5, 0.5)).domain() == vj.pixels()
    assert facts(bytes_.reshape(20, 16)).domain() == vj.pixels()  # bytes enter as bytes
    assert facts(floats(-1, 3, (20, 9, 2))).domain() == vj.values(-3.0, 5.0)
    assert facts(np.full((9, 3), 2, np.float32)).domain() == vj.values(0.0, 4.0)


def test_masks_of_0_and_1_are_refused_and_few_levels_are_said():
    masks = RNG.integers(0, 2, (20, 4, 4, 1)).astype(np.uint8)
    with pytest.raises(DataError, match=r"uint8 from 0 to 1 are nearly black.*x \* 255"):
        facts(masks)
    assert facts(masks * 255).remarks() == []
    assert (
        "No value exceeds 9, and uint8 data are read as 0 to 255" in facts(masks * 9).remarks()[0]
    )
    assert facts(masks * 0).remarks() == ["All values are 0: there is nothing to learn."]


def test_what_is_not_finite_is_counted_or_refused():
    x = floats(-1, 1, (20, 3))
    x[[0, 4], 1], x[-1, 0] = np.nan, np.inf
    found = facts(x)
    assert (found.invalid_train, found.invalid_test, found.train, found.test) == (2, 1, 18, 2)
    assert -1 <= found.low < found.high <= 1
    assert found.remarks() == [
        "2 of 18 training examples are not finite and are ignored.",
        "1 of 2 test examples are not finite and are ignored.",
    ]
    with pytest.raises(DataError, match="expected finite numbers, found none in the training"):
        facts(np.concatenate([np.full((8, 3), np.nan, np.float32), x[:2] * 0 + 1]))
    with pytest.raises(DataError, match="found none in the test"):
        facts(np.concatenate([x[1:4], np.full((2, 3), np.nan, np.float32)]))


def test_facts_in_one_line(monkeypatch):
    x = floats(-0.5, 0.25)
    line = "18 images to train on and 2 to test, 4 x 4 x 1, float32 from -0.5 to 0.25"
    assert str(facts(x)) == line
    monkeypatch.setattr(kinds, "ELEMENTS", 40)  # a few examples at a time
    assert str(facts(x)) == line
    records = Records(x.shape, x.dtype, lambda i: x[i])
    assert kinds.scan(records) == kinds.scan(x)
