"""Samples: what is given stays, levels are told what is above them, and the page has it all."""

import json
import re
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from code_runs import CLASSES, two_levels, write_idx, write_run
from compiling import jit
from test_reconstruct import save_random

import vqvae_jax as vj
from vqvae_commands.data.data_options import DataOptions
from vqvae_commands.generation import generate, sample_page, sample_run
from vqvae_commands.generation.code_files import Codes
from vqvae_commands.generation.codes_of_data import codes_of
from vqvae_commands.generation.generate import (
    How,
    draw_codes,
    mixed_codes,
    mixed_vectors,
    nothing_given,
    upper_half,
)
from vqvae_commands.generation.prior_recipe import items
from vqvae_commands.quality import sample_quality
from vqvae_commands.quality.classifier import kept_classifier
from vqvae_commands.run.run_folder import open_run
from vqvae_jax import BundleError
from vqvae_jax.data.readers import DataError
from vqvae_jax.data.scaling import preprocess, to_pixels
from vqvae_jax.data.sources import EMBEDDED, embedded
from vqvae_jax.priors import Condition, MaskedPrior, PixelCNN, TransformerPrior, sample_codes
from vqvae_jax.saving.bundle import Bundle

GRIDS = (((2, 2), (4, 8)), ((4, 4), (16,)))  # of `two_levels`
KINDS = {
    "transformer": (TransformerPrior, {"depth": 1, "heads": 2}),
    "pixelcnn": (PixelCNN, {"depth": 2}),
    "masked": (MaskedPrior, {"depth": 1, "heads": 2}),
}


def make_priors(kind: str, seed: int = 0) -> list[Bundle]:
    """Random ones of both levels, that are sure of themselves."""
    cls, inner = KINDS[kind]
    rng, found = np.random.default_rng(seed), []
    for level, (grid, vocab) in enumerate(GRIDS):
        prior = cls(vocab, grid, classes=CLASSES, coarse=GRIDS[:level], width=8, **inner)
        maps = [jnp.zeros((1, *g, len(v)), jnp.int32) for g, v in GRIDS[: level + 1]]
        condition = Condition(jnp.zeros(1, jnp.int32), tuple(maps[:-1]))
        shapes = jax.eval_shape(prior.init, jax.random.key(0), maps[-1], condition)
        draw = partial(draw_weights, rng)
        variables = jax.tree_util.tree_map_with_path(draw, shapes)
        found.append(Bundle(prior, variables, ""))
    return found


def draw_weights(rng, path, shape) -> np.ndarray:
    """Large embeddings and no biases, so that what a prior is told matters."""
    name = jax.tree_util.keystr(path)
    if "bias" in name:
        return np.zeros(shape.shape, np.float32)
    return np.float32(rng.normal(size=shape.shape) * (3 if "embedding" in name.lower() else 1))


def random_maps(n: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    return tuple(
        np.stack([rng.integers(0, k, (n, *grid)) for k in vocab], axis=-1).astype(np.int16)
        for grid, vocab in GRIDS
    )


def label_of(n: int):
    return (np.arange(n) % CLASSES).astype(np.int32)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_idx(tmp_path_factory.mktemp("data") / "idx")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """Two levels, never trained."""
    return write_run(tmp_path_factory.mktemp("run") / "levels", data, two_levels())


@pytest.mark.parametrize("kind", KINDS)
def test_completions_keep_what_is_given(kind, monkeypatch):
    """In both levels, in batches that do not fit; the rest is drawn, and by the seed."""
    monkeypatch.setattr(generate, "AT_ONCE", 4)
    maps, how = random_maps(6), How(steps=2)
    given = upper_half(maps)
    found = draw_codes(jax.random.key(0), make_priors(kind), given, label_of(6), how)
    again = draw_codes(jax.random.key(0), make_priors(kind), given, label_of(6), how)
    other = draw_codes(jax.random.key(1), make_priors(kind), given, label_of(6), how)
    for k, start, new, same, (_, vocab) in zip(maps, given, found, again, GRIDS, strict=True):
        half = k.shape[1] // 2
        np.testing.assert_array_equal(start[:, :half], k[:, :half])
        assert (start[:, half:] == -1).all()
        np.testing.assert_array_equal(new[:, :half], k[:, :half])
        assert (new >= 0).all() and (new < np.array(vocab)).all()
        np.testing.assert_array_equal(new, same)
    assert any(np.any(a != b) for a, b in zip(found, other, strict=True))


def test_each_level_is_told_those_above_and_the_class():
    """The likeliest codes, level by level, by `sample_codes`; other conditions give others."""
    priors, label = make_priors("transformer"), label_of(6)
    given, how = nothing_given(priors, 6), How(temperature=0)
    top, low = draw_codes(jax.random.key(0), priors, given, label, how)

    def likeliest(level, label, *coarse):
        prior, variables, _ = priors[level]
        variables, free = jax.tree.map(jnp.asarray, variables), jnp.asarray(given[level])
        condition = Condition(jnp.asarray(label), tuple(jnp.asarray(k) for k in coarse))
        sample = jit(partial(sample_codes, filters=(vj.priors.top_k(1),)), static_argnums=1)
        return np.asarray(sample(jax.random.key(5), prior, variables, free, condition))

    np.testing.assert_array_equal(top, likeliest(0, label))
    np.testing.assert_array_equal(low, likeliest(1, label, top))
    assert np.any(low != likeliest(1, label, random_maps(6)[0]))
    assert np.any(top != likeliest(0, (label + 1) % CLASSES))
    assert np.any(low != likeliest(1, (label + 1) % CLASSES, top))


def test_options_change_the_logits():
    assert How().filters == ()
    how = How(temperature=0.5, top_k=3, top_p=0.9)
    assert how.filters == (vj.priors.temperature(0.5), vj.priors.top_k(3), vj.priors.top_p(0.9))
    priors, given = make_priors("transformer"), nothing_given(make_priors("transformer"), 20)
    plain, guided = (
        draw_codes(jax.random.key(0), priors, given, label_of(20), how)
        for how in (How(), How(guidance=3.0))
    )
    assert np.any(plain[0] != guided[0])


def test_from_codes_to_codes():
    """At the ends those of a and b; between, more and more places are those of b."""
    a, b = random_maps(3), tuple(k + 100 for k in random_maps(3, 1))
    steps = list(mixed_codes(a, b, 5, seed=0))
    for level in range(2):
        np.testing.assert_array_equal(steps[0][level], a[level])
        np.testing.assert_array_equal(steps[-1][level], b[level])
        new = [np.any(step[level] >= 100, axis=-1) for step in steps]
        np.testing.assert_array_equal([x.mean() for x in new], [0, 0.25, 0.5, 0.75, 1])
        for x, y in pairwise(new):
            assert (y >= x).all()


def test_from_vectors_to_vectors(run):
    """The ends are reconstructions, the middle is what the mean of both vectors gives."""
    bundle = vj.load_model(run / "model")
    x = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1)).astype(np.uint8)
    first, middle, last = mixed_vectors(bundle, x[:2], x[2:], 3)

    @jit
    def expected(variables, x):
        apply = partial(bundle.model.apply, variables)
        h = apply(x, method="encode")
        outs = apply(tuple((y[:2] + y[2:]) / 2 for y in h), method="quantize")
        mean = apply([o.quantized for o in outs], method="decode")
        return to_pixels(apply(x).x), to_pixels(mean)

    rec, mean = map(np.asarray, expected(bundle.variables, preprocess(x)))
    assert np.mean(first == rec[:2]) > 0.99 and np.mean(last == rec[2:]) > 0.99
    assert np.mean(middle == mean) > 0.99


def test_decoding_is_that_of_the_model(run, monkeypatch):
    monkeypatch.setattr(generate, "AT_ONCE", 2)
    bundle, maps = vj.load_model(run / "model"), random_maps(3)
    indices = [jnp.asarray(k, jnp.int32) for k in maps]
    expected = jit(partial(bundle.model.apply, method="detokenize"))(bundle.variables, indices)
    found = generate.decode_codes(bundle, maps)
    assert found.shape == (3, 8, 8, 1) and np.mean(found == np.asarray(to_pixels(expected))) > 0.99


def handmade(**changes):
    """Images of two classes, dark and bright, which a classifier tells apart."""
    rng = np.random.default_rng(0)

    def images(label):
        noise = rng.integers(0, 100, (len(label), 8, 8, 1))
        return (noise + 150 * label[:, None, None, None]).astype(np.uint8)

    labels = {"train": np.arange(200) % 2, "test": np.arange(100) % 2}
    maps = {split: (np.arange(len(x)).reshape(-1, 1, 1, 1),) for split, x in labels.items()}
    codes = Codes(maps, labels, ("dark", "bright"), (((1, 1), (200,)),), "", DataOptions(""))
    train, test = (images(label) for label in labels.values())
    label = np.repeat([0, 1], 20)
    samples = images(np.where(np.arange(40) < 4, 1 - label, label))  # 4 of 40 are of the other
    rows = (np.where(np.arange(40) < 10, 1000 + np.arange(40), 7).reshape(-1, 1, 1, 1),)
    return sample_quality.Images(train, test, samples, test[:40], codes, rows, label)._replace(
        **changes
    )


def test_numbers_by_hand(tmp_path):
    images = handmade()
    found = sample_quality.measure_samples(images, tmp_path, 60)
    assert found["recognised"] == 0.9 and found["recognised_test"] == 1
    assert found["different"] == 10 / 40 and found["repeated"] == 30 / 40
    assert found["frechet_reconstructions"] == found["frechet_test"]
    classifier = kept_classifier(images.train, images.codes.labels["train"], 60, folder=tmp_path)
    expected = vj.metrics.frechet_distance(
        *(
            m
            for x in (images.train, images.samples)
            for m in vj.metrics.moments(classifier.features(x))
        )
    )
    np.testing.assert_allclose(found["frechet"], expected, rtol=1e-5)
    far = sample_quality.sample_distances(images)
    assert found["nearest_samples"] == np.median(far["samples"])
    assert found["nearest_test"] == np.median(far["test"])
    copied = sample_quality.measure_samples(handmade(samples=images.train[:40]), tmp_path, 60)
    assert copied["copies"] == 1 and copied["nearest_samples"] == 0


def test_numbers_without_classes(tmp_path):
    images = handmade(label=None)
    images = images._replace(codes=images.codes._replace(labels={}, classes=()))
    found = sample_quality.measure_samples(images, tmp_path, 60)
    assert "recognised" not in found and not list(tmp_path.iterdir())
    table = sample_page.quality_table(found)
    assert "Recognised" not in table and "Distance to the nearest" in table


def test_rows_of_classes():
    label, samples = np.repeat([0, 1], 15), np.arange(30).reshape(30, 1, 1, 1).astype(np.uint8)
    rows = sample_run.in_rows(samples, ("a", "b"), label)
    assert {name: x.ravel().tolist() for name, x in rows.items()} == {
        "a": list(range(10)),
        "b": list(range(15, 25)),
    }
    rows = sample_run.in_rows(samples, (), None)
    assert [len(x) for x in rows.values()] == [10, 10, 10]


def test_neighbours_are_below_their_samples():
    images = handmade()
    rows = sample_page.neighbour_rows(images)
    for above, below in (("nearest samples", "their neighbours"), ("samples", "neighbours")):
        for x, y in zip(rows[above], rows[below], strict=True):
            error = np.square(images.train / 255 - x / 255).mean(axis=(1, 2, 3))
            np.testing.assert_array_equal(y, images.train[error.argmin()])


@pytest.mark.parametrize("embedded", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_quick_command_does_it_all(embedded, data, tmp_path, capsys):
    """Trains a tiny model and prior, and finds them the second time."""
    source = EMBEDDED if embedded else str(data)
    config = sample_run.Config(tmp_path / "quick", quick=True, data=source)
    found, _ = sample_run.sample(config)
    folder = tmp_path / "quick/samples"
    assert found == json.loads((folder / "evaluation.json").read_text())
    classes, places = (10, 7 * 7) if embedded else (CLASSES, 2 * 2)
    assert found["samples"] == 10 * classes and 0 <= found["recognised"] <= 1
    assert found["test_bits"] < found["static_bits"] < found["uniform_bits"] == places * 6
    (table,) = [
        json.loads(path.read_text()) for path in tmp_path.glob("quick/prior/*/evaluation.json")
    ]
    assert found["test_bits"] == table["test_bits"]
    bundle, _ = open_run(tmp_path / "quick")
    codes = codes_of(tmp_path / "quick", bundle)
    prior, variables, _ = vj.load_model(tmp_path / "quick/prior/level0/model")
    test = items(codes.maps["test"], codes.label("test"), 0)
    nats = jax.jit(vj.priors.log_likelihood, static_argnums=0)(prior, variables, *test[:2])
    np.testing.assert_allclose(table["test_bits"], -np.mean(nats) / np.log(2), rtol=1e-5)
    page = (folder / "report.html").read_text()
    pictures = {path.stem for path in (folder / "pictures").iterdir()}
    assert pictures == set(sample_page.CAPTIONS)
    assert page.count("data:image/png;base64,") == len(pictures) and "<script" not in page
    for text in ("Recognised", "Frechet distance", "below static", f"{found['test_bits']:,.1f}"):
        assert text in page, text
    assert "FID" not in re.sub('base64,[^"]*', "", page)
    before = capsys.readouterr().out
    assert "begins" in before and "Nearer than 99 %" in before  # memorisation is printed
    again = sample_run.make_quick(config)
    assert again.per_class == 10 and capsys.readouterr().out == ""  # nothing is trained twice


def test_levels_are_sampled(run):
    """A VQ-VAE-2: the page of it, of priors that nobody trained."""
    bundle, _ = open_run(run)
    codes = codes_of(run, bundle)
    for level, (prior, variables, _) in enumerate(make_priors("transformer")):
        folder = run / f"prior/level{level}"
        vj.save_model(folder / "model", prior, variables)
        (folder / "config.json").write_text(json.dumps({"model": bundle.sha256}))
        numbers = dict.fromkeys(sample_run.COLUMNS, 1.0 + level)
        (folder / "evaluation.json").write_text(json.dumps(numbers))
    found, _ = sample_run.sample(sample_run.Config(run, per_class=4, classifier_steps=5))
    assert found["samples"] == 4 * CLASSES and found["test_bits"] == 3.0
    page = (run / "samples/report.html").read_text()
    assert "level 1" in page and len(codes.levels) == 2


def test_what_cannot_be_sampled(run, tmp_path):
    with pytest.raises(BundleError, match="expected the folder of a run, or --quick"):
        sample_run.sample(sample_run.Config())
    with pytest.raises(BundleError, match="expected a prior, found none; run"):
        sample_run.sample(sample_run.Config(run, prior="others"))
    rows = np.zeros((20, 6), np.float32)
    np.save(tmp_path / "rows.npy", rows)
    vectors = write_run(tmp_path / "run", tmp_path / "rows.npy")
    mlp = {"width": 8, "depth": 1}
    model = vj.VQVAE(vj.MLP(4, **mlp), vj.vq(8, 4), vj.MLP(6, **mlp))
    save_random(vectors / "model", model, 6)
    codes = codes_of(vectors, open_run(vectors)[0])
    with pytest.raises(DataError, match=r"shown and .* as pictures.* float32 \[18, 6\]"):
        sample_run.load_pictures(codes)
    wrong = codes._replace(data=DataOptions("fashion_mnist_10k"))
    with pytest.raises(DataError, match="expected 18 pictures"):
        sample_run.load_pictures(wrong)
    assert embedded()("test").shape[0] == 2000
