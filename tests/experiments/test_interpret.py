"""What codes mean: each number by hand or against a reference, and the whole command."""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, sparse

import vqvae_jax as vj
from experiments.code_meaning import interpretation, page, probes
from experiments.code_meaning.coder import Coder
from experiments.code_meaning.interventions import (
    distances,
    erase_codes,
    nearest_other,
    reach,
    replace,
    swap,
)
from experiments.code_meaning.representations import (
    Pair,
    histogram,
    one_hot,
    trimmed,
    untrained,
    vae_of,
)
from experiments.code_meaning.statistics import (
    crops,
    entropies,
    entropy,
    information,
    meaning,
    neighbours,
    plane,
)
from experiments.run import command
from experiments.run.recipe import hierarchy
from tests.experiments.test_bad_input import refused
from vqvae_jax.data.scaling import preprocess

RNG = np.random.default_rng


def random_variables(model, *shape: int):
    """Without running `init`, which would compile for seconds."""
    rng = RNG(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *shape)))
    return jax.tree.map(lambda s: rng.normal(0, 0.4, s.shape).astype(s.dtype), shapes)


def coder_of(model, *shape: int) -> Coder:
    return Coder(model, random_variables(model, *shape))


def plain_model(quantizer, channels: int = 1):
    encoder = vj.Encoder(channels, quantizer.dim, width=8, depth=1, downsamplings=1)
    decoder = vj.Decoder(channels, quantizer.dim, width=8, depth=1, upsamplings=1)
    return vj.VQVAE(encoder, quantizer, decoder)


def noise(*shape: int) -> np.ndarray:
    return RNG(1).integers(0, 256, shape).astype(np.uint8)


IMAGES = noise(12, 8, 8, 1)


@pytest.fixture(scope="module")
def coder():
    return coder_of(plain_model(vj.vq(8, 3)), 8, 8, 1)


@pytest.fixture(scope="module")
def deep():
    """Two levels, the lower one of two streams."""
    quantizers = [vj.vq(4, 3), vj.residual(vj.vq(6, 5), vj.vq(7, 5))]
    return coder_of(hierarchy(1, quantizers, 2, width=8, depth=1), 8, 8, 1)


# Probes.


def problem(n: int, dim: int, classes: int, seed: int = 0):
    rng = RNG(seed)
    return rng.normal(size=(n, dim)), rng.integers(0, classes, n)


def test_logistic_regression_is_the_minimum_of_its_loss():
    """Against Newton's method on the written-out loss, and the gradient there is 0."""
    x, y = problem(40, 3, 3)

    def loss(flat):
        w, b = flat[:9].reshape(3, 3), flat[9:]
        scores = x @ w + b
        logs = np.log(np.exp(scores).sum(1)) - scores[np.arange(40), y]
        return logs.mean() + 0.05 / 2 * (w**2).sum()

    expected = optimize.minimize(loss, np.zeros(12), method="BFGS", options={"gtol": 1e-8})
    found = probes.logistic_regression(x, y, 3, 0.05, tolerance=1e-14)
    np.testing.assert_allclose(found.w, expected.x[:9].reshape(3, 3), atol=1e-5)
    spread = found.b - found.b.mean() - (expected.x[9:] - expected.x[9:].mean())
    np.testing.assert_allclose(spread, 0, atol=1e-5)
    np.testing.assert_allclose(
        probes.cross_entropy(found, x, y) + 0.025 * (found.w**2).sum(), expected.fun, rtol=1e-7
    )


def test_a_start_and_sparse_features_change_nothing():
    x, y = problem(40, 3, 3)
    x = np.where(x > 0, x, 0)
    plain = probes.logistic_regression(x, y, 3, 0.1, tolerance=1e-14)
    begin = probes.Linear(np.ones((3, 3)), np.ones(3))
    again = probes.logistic_regression(x, y, 3, 0.1, begin, tolerance=1e-14)
    thin = probes.logistic_regression(sparse.csr_matrix(x), y, 3, 0.1, tolerance=1e-14)
    np.testing.assert_allclose(again.w, plain.w, atol=1e-5)
    np.testing.assert_allclose(thin.w, plain.w, atol=1e-6)


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix])
def test_probes_of_separable_classes_are_right(make):
    rng = RNG(0)
    y = np.arange(150) % 3
    x = make((np.eye(3)[y] * 5 + rng.normal(size=(150, 3)) * 0.3).astype(np.float32))
    for probe in (probes.linear_probe, probes.neighbour_probe):
        score = probe(x[:100], y[:100], x[100:], y[100:])
        assert score.accuracy == score.high == 1.0
        assert score.low == pytest.approx(50 / (50 + 1.959964**2))


def test_probes_of_noise_are_at_chance_and_penalised():
    x, y = problem(600, 20, 3)
    score = probes.linear_probe(x[:300], y[:300], x[300:], y[300:])
    assert score.low < 1 / 3 < score.high and score.chosen >= 1e-3
    assert probes.linear_probe(x[:300], y[:300], x[300:], y[300:]) == score


def test_the_penalty_is_that_of_the_least_loss_held_out():
    x, y = problem(300, 10, 2)
    y = (x[:, 0] + 0.5 * RNG(3).normal(size=300) > 0).astype(int)
    train, _ = probes.scale(x, x)
    fit, held = probes.split(300, 0)
    losses = {}
    for penalty in probes.PENALTIES:
        model = probes.logistic_regression(train[fit], y[fit], 2, penalty, tolerance=1e-9)
        losses[penalty] = probes.cross_entropy(model, train[held], y[held])
    assert probes.linear_probe(x, y, x, y).chosen == min(losses, key=losses.get)
    assert sorted([*fit, *held]) == list(range(300)) and len(held) == 60


def test_scaled_features():
    x = np.array([[1.0, 5, 0], [3, 5, 4]])
    train, test = probes.scale(x, np.array([[2.0, 9, 8]]))
    np.testing.assert_allclose(train, np.array([[-1, 0, -1], [1, 0, 1]]) / 2**0.5)
    np.testing.assert_allclose(test, np.array([[0, 0, 3]]) / 2**0.5)  # a constant says nothing
    thin, _ = probes.scale(sparse.csr_matrix(x), sparse.csr_matrix(x))
    np.testing.assert_allclose(thin.toarray(), x / (76 / 2) ** 0.5)


def test_nearest_neighbours_by_hand():
    train, labels = np.array([[0.0], [1], [2.5], [10]]), np.array([0, 1, 1, 2])
    x = np.array([[0.4], [9.0]])
    assert probes.nearest(train, x, 3).tolist() == [[0, 1, 2], [3, 2, 1]]
    assert probes.nearest(sparse.csr_matrix(train), sparse.csr_matrix(x), 1).tolist() == [[0], [3]]
    votes = probes.vote(train, labels, x, [1, 2, 3])
    assert [v.tolist() for v in votes] == [[0, 2], [0, 2], [1, 1]]  # of two equals the nearest


def test_many_rows_of_neighbours_against_all_distances():
    train, x = RNG(0).normal(size=(50, 4)), RNG(1).normal(size=(30, 4))
    every = ((x[:, None] - train) ** 2).sum(-1)
    found = probes.nearest(train, x, 5, rows=7)
    np.testing.assert_array_equal(found, np.argsort(every, axis=1)[:, :5])


def test_wilsons_interval_is_the_set_of_shares_that_fit():
    """Its ends p solve |hits / n - p| = z sqrt(p (1 - p) / n)."""
    for hits, n in ((0, 10), (7, 10), (180, 200)):
        for p in probes.wilson(hits, n):
            z2 = 1.959963984540054**2
            np.testing.assert_allclose((hits / n - p) ** 2, z2 * p * (1 - p) / n, atol=1e-12)
    for hits, n in ((3, 2), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match=f"got {hits} of {n}"):
            probes.wilson(hits, n)


# Representations.


def test_histograms_and_one_hot_codes_by_hand():
    quantizers = [vj.vq(2, 3), vj.grouped(vj.vq(3, 2), vj.vq(4, 2))]
    top = np.array([1, 1]).reshape(1, 1, 2, 1)
    low = np.array([[2, 0], [2, 3]]).reshape(1, 1, 2, 2)
    assert histogram(quantizers, (top, low)).tolist() == [[0, 2, 0, 0, 2, 1, 0, 0, 1]]
    found = one_hot(quantizers, (top, low)).toarray()[0]
    expected = np.concatenate([np.eye(k)[i].ravel() for k, i in ((2, [1, 1]), (3, [2, 2]),
                                                                  (4, [0, 3]))])  # fmt: skip
    assert found.tolist() == expected.tolist()


def test_features_of_a_codebook_that_is_implicit_have_the_columns_that_occur():
    quantizers, k = [vj.fsq([4] * 14)], np.array([[5, 2**28 - 1], [5, 7]]).reshape(2, 1, 2, 1)
    pair = Pair(histogram(quantizers, (k[:1],)), histogram(quantizers, (k[1:],)))
    assert [x.toarray().tolist() for x in trimmed(pair)] == [[[1, 1]], [[1, 0]]]
    small = Pair(*[one_hot([vj.vq(8, 3)], (k % 8,))] * 2)
    assert trimmed(small) is small


def test_untrained_codes_come_from_a_first_batch(coder):
    model = plain_model(vj.ema_vq(8, 3, init=vj.inits.kmeans()))
    new = untrained(coder_of(model, 8, 8, 1), IMAGES, 0)
    seen, (stream,) = new.look(IMAGES), new.streams
    k = stream.of(seen.indices)
    assert len(np.unique(k)) == 8  # all are in use, as those of random places are not
    error = np.square(seen.z_q[0] - seen.z_e[0]).mean()
    assert error < 0.3 * seen.z_e[0].var(axis=(0, 1, 2)).mean()


def test_the_vae_has_the_means_of_the_finest_level(coder, deep):
    for found, dim, channels in ((coder, 3, 1), (deep, 5, 1)):
        vae = vae_of(found.model)
        assert (vae.encoder.dim, vae.decoder.dim, vae.decoder.channels) == (2 * dim, dim, channels)
    assert vae_of(vj.VQVAE(vj.MLP(4), vj.vq(8, 4), vj.MLP(2))) is None


# Meanings.


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
    assert neighbours(k)["across"]["bits"] > 1.9 > 0.1 > neighbours(k)["down"]["bits"]
    assert list(neighbours(k[:, :1])) == ["across"]


def test_the_plane_keeps_distances_of_what_lies_in_one():
    rng = RNG(0)
    flat = rng.normal(size=(6, 2)) @ rng.normal(size=(2, 5)) + 3
    found = plane(flat, np.ones(6, bool))
    gaps = lambda x: np.linalg.norm(x[:, None] - x, axis=-1)  # noqa: E731
    np.testing.assert_allclose(gaps(found.places), gaps(flat), atol=1e-9)
    assert sum(found.explained) == pytest.approx(1) and found.explained[0] > found.explained[1]
    line = plane(np.array([[0.0], [1], [9]]), np.array([True, True, False]))
    np.testing.assert_allclose(np.abs(line.places), [[0.5, 0], [0.5, 0], [8.5, 0]])


# Interventions.


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
    found = distances((6, 6), (3, 3), (1, 2))
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
    where = distances((8, 8), (4, 4), (i[n], j[n]))
    expected = [change[where == d].mean() for d in range(where.max() + 1)]
    np.testing.assert_allclose(one.mean, expected, rtol=1e-4, atol=1e-7)
    inside = change[where == 0].sum() / change.sum()
    np.testing.assert_allclose(one.share[[0, -1]], [inside, 1], rtol=1e-4)


# The command.


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(n.to_bytes(4) for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """IDX files: images whose brighter half is their class."""
    folder = tmp_path_factory.mktemp("idx")
    for split, n in (("train", 60), ("t10k", 30)):
        y = (np.arange(n) % 2).astype(np.uint8)
        x = RNG(n).integers(0, 100, (n, 8, 8)).astype(np.uint8)
        x[y == 0, :4] += 120
        x[y == 1, 4:] += 120
        (folder / f"{split}-images-idx3-ubyte").write_bytes(idx(x))
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(idx(y))
    return folder


def save_run(folder: Path, model, data, *shape: int) -> Path:
    folder.mkdir(exist_ok=True)
    vj.save_model(folder / "model", model, random_variables(model, *shape))
    options = {"name": "tiny <b>", "data": str(data), "crop": None, "batch_size": 8}
    (folder / "config.json").write_text(json.dumps(options))
    return folder


def test_the_command(data, tmp_path, capsys):
    run = save_run(tmp_path / "run", plain_model(vj.vq(8, 3)), data, 8, 8, 1)
    results = interpretation.interpret(interpretation.Config(run, most=5, vae_steps=2))
    out = run / "interpretation"
    assert str(out / "report.html") in capsys.readouterr().out
    assert json.loads((out / "results.json").read_text()) == results
    names = ["code_maps", "codebook", "codes", "entropy", "erased", "probes", "reach", "swaps"]
    assert sorted(p.stem for p in (out / "pictures").iterdir()) == names
    text = (out / "report.html").read_text(encoding="utf-8")
    assert text.count("data:image/png;base64,") == len(names)
    assert "tiny &lt;b&gt;" in text and not re.search(r"<script|http", text)
    stream = results["streams"][""]
    assert stream["used"] + stream["unused"] == stream["size"] == 8
    assert len(stream["codes"]) == min(5, stream["used"])
    scores = results["probes"]
    dimensions = {name: s["dimension"] for name, s in scores.items()}
    assert dimensions == {
        "pixels": 64, "histogram": 8, "one-hot": 128, "z_q": 48, "z_e": 48,
        "untrained histogram": 8, "untrained z_e": 48, "VAE means": 48,
    }  # fmt: skip
    assert scores["pixels"]["linear"]["accuracy"] == 1.0


def test_levels_streams_and_data_without_labels(deep, tmp_path):
    np.save(tmp_path / "images.npy", noise(40, 8, 8, 1))
    run = save_run(tmp_path / "run", deep.model, tmp_path / "images.npy", 8, 8, 1)
    results = interpretation.interpret(interpretation.Config(run, most=6))
    assert list(results["streams"]) == ["level0/", "level1/0/", "level1/1/"]
    assert list(results["reach"]) == ["level 0", "level 1"] and "probes" not in results
    text = (run / "interpretation" / "report.html").read_text(encoding="utf-8")
    assert page.NO_LABELS in text and "Codes, level 1, stream 0" in text


def test_codes_without_a_table(tmp_path):
    quantizer = vj.fsq([3, 3])
    np.save(tmp_path / "images.npy", noise(40, 8, 8, 3))
    model = plain_model(quantizer, channels=3)
    run = save_run(tmp_path / "run", model, tmp_path / "images.npy", 8, 8, 3)
    results = interpretation.interpret(interpretation.Config(run, most=4))
    assert results["streams"][""]["size"] == quantizer.vocab[0]


def test_errors_are_one_line(data, tmp_path, capsys, as_users):
    def error(*arguments):
        return refused(
            capsys, interpretation.interpret, interpretation.Config, [*map(str, arguments)]
        )

    assert "is no run: it has no config.json" in error(tmp_path / "none")
    run = save_run(tmp_path / "run", plain_model(vj.vq(8, 3)), data, 8, 8, 1)
    assert "most must be an integer >= 1, got 0" in error(run, "--most", 0)
    assert "vae_steps must be at least 0, got -1" in error(run, "--vae-steps", -1)
    np.save(tmp_path / "rows.npy", np.zeros((20, 4), np.float32))
    vectors = vj.VQVAE(vj.MLP(4), vj.vq(8, 4), vj.MLP(4))
    run = save_run(tmp_path / "rows", vectors, tmp_path / "rows.npy", 4)
    assert "expected pictures, uint8 [N, H, W, 1 or 3], found float32 [" in error(run)
    assert not (run / "interpretation").exists()
    run = save_run(tmp_path / "vae", vae_of(plain_model(vj.vq(8, 3))), data, 8, 8, 1)
    assert "a VAE has no codes to interpret" in error(run)
    assert command.one_line(ValueError("a\nb")) == "a b"
