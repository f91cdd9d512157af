"""The classifier of the experiments, and what it says about generated images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqvae_commands.quality import classifier
from vqvae_commands.quality.classifier import (
    Classifier,
    ConvNet,
    augment,
    kept_classifier,
    perceptual,
    train_classifier,
)
from vqvae_commands.quality.image_quality import (
    frechet,
    memorised,
    nearest_neighbours,
    recognised,
    trained_on,
)
from vqvae_jax.data.scaling import preprocess
from vqvae_jax.metrics import frechet_distance, moments


def squares(n: int, seed: int, side: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Noise with a bright bar: across in class 0, down in class 1, none in class 2."""
    rng = np.random.default_rng(seed)
    images, labels = rng.integers(0, 100, (n, side, side, 1), np.uint8), np.arange(n) % 3
    images[labels == 0, 3:7] += 120
    images[labels == 1, :, 3:7] += 120
    return images, labels


TRAIN, LABELS = squares(90, 0)
TEST, TEST_LABELS = squares(250, 1)  # more than a batch


@pytest.fixture(scope="module")
def trained() -> Classifier:
    return train_classifier(TRAIN, LABELS, steps=100, width=8)


def test_it_learns_and_is_the_same_for_the_same_seed(trained):
    assert trained.accuracy(TEST, TEST_LABELS) > 0.95
    again = train_classifier(TRAIN, LABELS, steps=100, width=8)
    other = train_classifier(TRAIN, LABELS, steps=100, width=8, seed=1)
    np.testing.assert_array_equal(again.logits(TEST), trained.logits(TEST))
    assert np.abs(other.logits(TEST) - trained.logits(TEST)).max() > 0.01


def test_batches_are_put_together_in_order(trained):
    seen = trained.see(preprocess(TEST))
    np.testing.assert_allclose(trained.features(TEST), seen.features, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(trained.logits(TEST), seen.logits, rtol=1e-4, atol=1e-5)
    floats = np.asarray(preprocess(TEST))
    np.testing.assert_allclose(trained.logits(floats), seen.logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(trained.predict(TEST), np.argmax(seen.logits, axis=1))
    assert trained.features(TEST).shape == (250, 8) and [m.shape for m in seen.maps] == [
        (250, 5, 5, 4), (250, 3, 3, 8), (250, 2, 2, 16)
    ]  # fmt: skip


def test_accuracy_is_a_share(trained):
    right = trained.predict(TEST)
    wrong = np.where(np.arange(250) < 50, (right + 1) % 3, right)
    assert trained.accuracy(TEST, wrong) == recognised(trained, TEST, wrong) == 0.8


def test_it_is_kept_for_equal_arguments_and_code(tmp_path, monkeypatch):
    options = {"steps": 2, "width": 8, "folder": tmp_path}
    first = kept_classifier(TRAIN, LABELS, **options)
    (place,) = tmp_path.iterdir()
    assert place.name.startswith("classifier-")
    with monkeypatch.context() as patch:
        patch.setattr(classifier, "train_classifier", lambda *_: 1 / 0)
        second = kept_classifier(TRAIN, LABELS, **options)
        assert second.net == first.net
        np.testing.assert_array_equal(second.logits(TEST), first.logits(TEST))
        for changed in ({"seed": 1}, {"steps": 3}):
            with pytest.raises(ZeroDivisionError):
                kept_classifier(TRAIN, LABELS, **{**options, **changed})
        with pytest.raises(ZeroDivisionError):
            kept_classifier(TRAIN, (LABELS + 1) % 3, **options)
        with pytest.raises(ZeroDivisionError):
            kept_classifier(TRAIN[::-1], LABELS, **options)
        patch.setattr(classifier, "VERSION", 0)
        with pytest.raises(ZeroDivisionError):
            kept_classifier(TRAIN, LABELS, **options)
    next(place.glob("weights-*")).write_bytes(b"damaged")
    third = kept_classifier(TRAIN, LABELS, **options)
    np.testing.assert_array_equal(third.logits(TEST), first.logits(TEST))


def test_augmented_images_are_the_image_moved_and_flipped_without_other_change():
    x = jax.random.normal(jax.random.key(0), (1, 5, 6, 2))
    many = np.asarray(augment(jax.random.key(1), jnp.tile(x, (400, 1, 1, 1))))
    larger = np.pad(x[0], ((1, 1), (1, 1), (0, 0)), mode="edge")
    mirrored = larger[:, ::-1]
    expected = [v[i : i + 5, j : j + 6] for v in (larger, mirrored) for i in range(3)
                for j in range(3)]  # fmt: skip
    found = np.array([[np.array_equal(image, e) for e in expected] for image in many])
    assert (found.sum(1) == 1).all() and (found.sum(0) > 5).all()


def test_the_feature_loss_by_hand(trained):
    x, y = preprocess(TEST[:4]), preprocess(TEST[4:8])
    total = np.zeros(4)
    for a, b in zip(trained.see(x).maps, trained.see(y).maps, strict=True):
        a, b = (np.asarray(v, np.float64) for v in (a, b))
        a, b = (v / np.sqrt((v**2).sum(-1, keepdims=True) + 1e-6) for v in (a, b))
        total += ((a - b) ** 2).sum(-1).mean((1, 2))
    loss = perceptual(trained)
    np.testing.assert_allclose(loss(x, y), total, rtol=1e-4)
    np.testing.assert_array_equal(loss(x, x), 0)
    gradient = jax.grad(lambda y: loss(x, y).sum())(x)
    assert np.isfinite(gradient).all()


def test_frechet_is_of_the_classifiers_features(trained):
    a, b = TEST[:100], TEST[100:]
    expected = frechet_distance(*moments(trained.features(a)), *moments(trained.features(b)))
    assert frechet(trained, a, b) == expected
    assert frechet(trained, a, a) < 1e-6 < expected < frechet(trained, a, 255 - b)


def test_a_classifier_of_samples_is_tested_on_real_images():
    assert trained_on(TRAIN, LABELS, TEST, TEST_LABELS, steps=40) > 0.95
    assert trained_on(TRAIN, (LABELS + 1) % 3, TEST, TEST_LABELS, steps=40) < 0.05


def test_nearest_neighbours_against_all_distances():
    rng = np.random.default_rng(0)
    images, train = (rng.integers(0, 256, (n, 3, 4, 2), np.uint8) for n in (1200, 50))
    distance, index = nearest_neighbours(images, train)
    every = ((images[:, None] / 255 - train[None] / 255) ** 2).mean((2, 3, 4)) ** 0.5
    np.testing.assert_array_equal(index, every.argmin(1))
    np.testing.assert_allclose(distance, every.min(1), rtol=1e-6)
    with pytest.raises(ValueError, match=r"\(1200, 3, 4, 2\) and train \(50, 3, 4, 1\)"):
        nearest_neighbours(images, train[..., :1])


def test_copies_are_found():
    found = memorised(np.concatenate([TRAIN[:30], TEST[:90]]), TRAIN, TEST)
    assert found["copies"] >= 30 / 120 and found["nearest_test"] > 0
    fresh = memorised(TEST[:200], TRAIN, TEST)
    assert fresh["copies"] < 0.05
    same = memorised(TEST, TRAIN, TEST)
    assert same["nearest_samples"] == same["nearest_test"]


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (TRAIN, LABELS[1:], r"found \(90, 10, 10, 1\), \(89,\)"),
        (TRAIN[..., 0], LABELS, r"\[N, H, W, C\]"),
        (TRAIN, LABELS - 1, "at least 0, found -1"),
    ],
)
def test_labels_that_do_not_fit(images, labels, message, tmp_path):
    for train in (train_classifier, lambda *given: kept_classifier(*given, folder=tmp_path)):
        with pytest.raises(ValueError, match=message):
            train(images, labels)


def test_pixels_that_were_not_scaled():
    with pytest.raises(TypeError, match="x must be float, got uint8"):
        jax.eval_shape(ConvNet(2).init, jax.random.key(0), TRAIN[:1])
