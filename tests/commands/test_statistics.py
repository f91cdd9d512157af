"""Statistics of codes, each against a number computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from coders import IMAGES, RNG

from vqvae_commands.code_meaning.statistics import (
    crops,
    entropies,
    entropy,
    information,
    meaning,
    neighbour_information,
    plane,
)
from vqvae_jax.data.scaling import preprocess


def test_codes_of_many_images_are_those_of_the_model(deep):
    maps = deep.tokenize(np.tile(IMAGES, (20, 1, 1, 1)))  # more than a batch
    variables = jax.tree.map(jnp.asarray, deep.variables)
    expected = deep.model.apply(variables, preprocess(IMAGES), method="tokenize")
    for found, k in zip(maps, expected, strict=True):
        np.testing.assert_array_equal(found, np.tile(k, (20, 1, 1, 1)))
    x = deep.model.apply(variables, expected, method="detokenize")
    np.testing.assert_allclose(deep.decode(maps)[-12:], x, atol=1e-5)
    assert [s[:3] for s in deep.streams] == [
        ("level0/", 0, 0), ("level1/0/", 1, 0), ("level1/1/", 1, 1)
    ]  # fmt: skip
    assert [s.size for s in deep.streams] == [4, 6, 7]


def test_vectors_of_a_stream_are_what_it_adds(deep):
    """Streams of a residual quantizer add up to z_q."""
    maps = deep.tokenize(IMAGES)
    z_q = deep.look(IMAGES).z_q[1]
    _, first, second = deep.streams
    total = sum(deep.vectors(s, s.of(maps).ravel()) for s in (first, second))
    np.testing.assert_allclose(total.reshape(z_q.shape), z_q, atol=1e-5)


def test_meaning_by_hand(coder):
    maps = coder.tokenize(IMAGES)
    (stream,) = coder.streams
    k = stream.of(maps)
    found = meaning(coder, stream, IMAGES, maps, most=3, examples=2, contexts=5)
    counts = np.bincount(k.ravel(), minlength=8)
    assert counts[found.codes].tolist() == sorted(counts)[::-1][:3]
    np.testing.assert_allclose(found.shares, counts[found.codes] / k.size)
    code = found.codes[0]
    padded = np.pad(IMAGES / 255, ((0, 0), (2, 2), (2, 2), (0, 0)), constant_values=np.nan)
    patches = [
        padded[n, 2 * i : 2 * i + 6, 2 * j : 2 * j + 6] for n, i, j in np.argwhere(k == code)
    ]
    np.testing.assert_allclose(found.average[0], np.nanmean(patches, axis=0), atol=1e-5)
    np.testing.assert_allclose(found.examples[0], [patches[0], patches[-1]], atol=1e-6)
    decode = lambda m: np.clip(coder.decode((np.asarray(m),)) + 0.5, 0, 1)  # noqa: E731
    filled, alone = np.full((1, 4, 4, 1), code), np.full((1, 4, 4, 1), -1)
    alone[:, 2, 2] = code
    np.testing.assert_allclose(found.filled[:1], decode(filled), atol=1e-5)
    np.testing.assert_allclose(found.alone[:1], decode(alone), atol=1e-5)
    put = maps[0][:5].copy()
    put[:, 2, 2] = code
    np.testing.assert_allclose(found.context[0], decode(put)[:, 2:8, 2:8].mean(0), atol=1e-5)


def test_crops_have_the_cell_in_the_middle():
    image = np.arange(24, dtype=np.float32).reshape(1, 4, 6, 1)
    view = crops(image, (2, 3))
    assert view.shape == (1, 2, 3, 1, 6, 6)
    np.testing.assert_array_equal(view[0, 1, 1, 0, 2:4, 2:4], image[0, 2:4, 2:4, 0])
    assert np.isnan(view[0, 0, 0, 0, :2]).all() and np.isnan(view[0, 0, 0, 0, :, :2]).all()


def test_entropy_at_each_place_by_hand():
    k = np.array([[[0, 5]], [[0, 5]], [[0, 2]], [[0, 3]]])
    np.testing.assert_allclose(entropies(k), [[0, 1.5]])
    expected = 1.5 + 2 / (2 * 4 * np.log(2))
    assert entropy(k[:, 0, 1], corrected=True) == pytest.approx(expected)


def test_information_of_copies_and_of_strangers():
    rng = RNG(0)
    a = rng.integers(0, 4, (4000, 2, 1))
    same, other = information(a, a), information(a, rng.integers(0, 4, a.shape))
    assert same["bits"] == pytest.approx(entropy(a.ravel())) and same["strangers"] < 0.01
    bias = 9 / (2 * a.size * np.log(2))
    assert 0 <= other["bits"] < 5 * bias
    assert other["corrected"] == pytest.approx(other["bits"] - bias)
    k = np.stack([a[..., 0], a[..., 0]], axis=2)  # [N, 2, 2], columns alike
    found = neighbour_information(k)
    assert found["across"]["bits"] > 1.9 > 0.1 > found["down"]["bits"]
    assert list(neighbour_information(k[:, :1])) == ["across"]


def test_the_plane_keeps_distances_of_what_lies_in_one():
    rng = RNG(0)
    flat = rng.normal(size=(6, 2)) @ rng.normal(size=(2, 5)) + 3
    found = plane(flat, np.ones(6, bool))
    gaps = lambda x: np.linalg.norm(x[:, None] - x, axis=-1)  # noqa: E731
    np.testing.assert_allclose(gaps(found.places), gaps(flat), atol=1e-9)
    assert sum(found.explained) == pytest.approx(1) and found.explained[0] > found.explained[1]
    line = plane(np.array([[0.0], [1], [9]]), np.array([True, True, False]))
    np.testing.assert_allclose(np.abs(line.places), [[0.5, 0], [0.5, 0], [8.5, 0]])
