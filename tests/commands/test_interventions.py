"""Codes erased, swapped and changed one at a time: each number by hand."""

import numpy as np
import pytest
from coders import IMAGES, RNG, coder_of

import vqvae_jax as vj
from vqvae_commands.code_meaning.interventions import (
    cell_distances,
    erase_codes,
    nearest_other,
    reach,
    replace,
    swap,
)


def test_replacing_changes_this_code_in_this_stream_alone(deep):
    maps, (_, _, stream) = deep.tokenize(IMAGES), deep.streams
    code = int(np.bincount(stream.of(maps).ravel()).argmax())
    new = replace(stream, maps, code, -1)
    np.testing.assert_array_equal(new[0], maps[0])
    np.testing.assert_array_equal(new[1][..., 0], maps[1][..., 0])
    old = maps[1][..., 1]
    np.testing.assert_array_equal(new[1][..., 1], np.where(old == code, -1, old))
    assert (old == code).any()


def test_erased_codes_by_hand(coder):
    maps, (stream,) = coder.tokenize(IMAGES), coder.streams
    found = erase_codes(coder, stream, IMAGES, maps, np.arange(8), most=2, pictures=3)[1]
    k = stream.of(maps)
    counts = np.bincount(k.ravel(), minlength=8)
    assert found.code == np.argsort(-counts, kind="stable")[1]
    e = coder.vectors(stream, np.arange(8))
    gaps = np.linalg.norm(e - e[found.code], axis=1)
    assert found.second == np.argsort(gaps)[1]
    held = (k == found.code).sum((1, 2))
    rows = np.argsort(-held, kind="stable")[:3]
    np.testing.assert_array_equal(found.places, k[rows[0]] == found.code)
    for name, by, picture in (("before", found.code, found.before),
                              ("replaced", found.second, found.replaced),
                              ("erased", -1, found.erased)):  # fmt: skip
        new = np.where(k == found.code, by, k)[rows, ..., None]
        y = np.clip(coder.decode((new,)) + 0.5, 0, 1)
        np.testing.assert_allclose(picture, y[0], atol=1e-5)
        assert found.errors[name] == pytest.approx(np.mean((IMAGES[rows] / 255 - y) ** 2), rel=1e-4)
    assert nearest_other(e[:1], np.array([5]), 5) == -1


def test_swapped_halves_and_cells(deep):
    maps = deep.tokenize(IMAGES)
    a, b = (tuple(k[rows] for k in maps) for rows in (slice(0, 3), slice(3, 6)))
    found = swap(deep, a, b)
    mixed = tuple(np.concatenate([x[:, : x.shape[1] // 2], y[:, x.shape[1] // 2 :]], 1)
                  for x, y in zip(a, b, strict=True))  # fmt: skip
    shown = lambda m: np.clip(deep.decode(m) + 0.5, 0, 1)  # noqa: E731
    np.testing.assert_allclose(found.codes, shown(mixed), atol=1e-5)
    np.testing.assert_array_equal(found.pixels[:, :4], found.upper[:, :4])
    np.testing.assert_array_equal(found.pixels[:, 4:], found.lower[:, 4:])
    top = a[0].copy()
    top[:, 1, 1] = b[0][:, 1, 1]
    np.testing.assert_allclose(found.one, shown((top, a[1])), atol=1e-5)
    assert found.place.tolist() == [4, 4] and found.side.tolist() == [4, 4]


def test_distances_from_a_cell():
    found = cell_distances((6, 6), (3, 3), (1, 2))
    assert found[2:4, 4:].tolist() == [[0, 0], [0, 0]]
    assert found[0].tolist() == [4, 3, 2, 2, 2, 2]
    assert found[5, 0] == 4 and found[5, 5] == 2 and found[4, 5] == 1


def test_a_decoder_of_single_cells_has_all_change_in_the_cell():
    """Upsampling alone reaches one pixel further; none of the change is beyond."""
    quantizer = vj.vq(8, 3)
    model = vj.VQVAE(vj.Encoder(1, 3, 4, 0, 0), quantizer, vj.Decoder(1, 3, 4, 0, 0))
    found = coder_of(model, 8, 8, 1)
    maps = found.tokenize(IMAGES)
    spread = reach(found, maps, 0, changes=40)
    assert spread.share[0] < 1 and spread.share[1] == pytest.approx(1)  # one 3x3 convolution
    assert spread.within(1.0) == 1 and (spread.mean[2:] == 0).all()
    same = reach(found, tuple(np.zeros_like(k) for k in maps), 0)
    assert same.share.tolist() == [1]


def test_the_reach_is_the_mean_over_changed_images(coder):
    maps = coder.tokenize(IMAGES)
    one = reach(coder, maps, 0, changes=1, seed=3)
    rng, k = RNG(3), maps[0]
    a, b = rng.integers(0, 12, (2, 8))
    i, j = rng.integers(0, 4, 8), rng.integers(0, 4, 8)
    n = np.flatnonzero(k[a, i, j, 0] != k[b, i, j, 0])[0]
    new = k[a[n]][None].copy()
    new[0, i[n], j[n]] = k[b[n], i[n], j[n]]
    change = np.abs(coder.decode((new,)) - coder.decode((k[a[n]][None],)))[0, ..., 0]
    where = cell_distances((8, 8), (4, 4), (i[n], j[n]))
    expected = [change[where == d].mean() for d in range(where.max() + 1)]
    np.testing.assert_allclose(one.mean, expected, rtol=1e-4, atol=1e-7)
    inside = change[where == 0].sum() / change.sum()
    np.testing.assert_allclose(one.share[[0, -1]], [inside, 1], rtol=1e-4)
