"""The comparison from end to end on 120 small images, and that its parts are what they say."""

import json
import re
import struct

import numpy as np
import pytest

from experiments.compare import adversarial as compare_adversarial
from experiments.compare import adversarial_training
from experiments.compare.__main__ import main
from experiments.compare.adversarial import ADVERSARIAL, Config, define, make_arms
from vqvae_jax.data.readers import DataError
from vqvae_jax.data.scaling import preprocess
from vqvae_jax.metrics import sharpness


def write_idx(path, array):
    """A file of unsigned bytes as MNIST's are."""
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(head + array.astype(np.uint8).tobytes())


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    """120 images of 12 x 12 pixels in IDX files: noise, brighter in class 1."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for stem, n in (("train", 80), ("t10k", 40)):
        labels = np.arange(n) % 2
        images = rng.integers(0, 100, (n, 12, 12)) + 100 * labels[:, None, None]
        write_idx(folder / f"{stem}-images-idx3-ubyte", images)
        write_idx(folder / f"{stem}-labels-idx1-ubyte", labels)
    return str(folder)


def tiny(data, folder, **options) -> Config:
    small = {"steps": 6, "batch_size": 4, "width": 8, "discriminator_width": 4, "processes": 1}
    return Config(quick=True, data=data, output=folder, classifiers=folder, **small | options)


TWO = ("mse", "both")


@pytest.fixture(scope="module", params=[TWO, pytest.param((), marks=pytest.mark.slow)])
def finished(request, data, tmp_path_factory):
    """The folder of a comparison of two arms, and in the slow tests of all four."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adversarial_training, "classifier_steps", lambda config: 3)
        patch.setattr(compare_adversarial, "classifier_steps", lambda config: 3)
        main(tiny(data, folder, only=request.param))
        main(tiny(data, folder, only=request.param))  # finds all of it done
    return folder


def test_all_arms_are_run_and_told_apart(finished):
    found = json.loads((finished / "results.json").read_text())
    labels = [arm["label"] for arm in found["arms"]]
    assert labels in (
        ["MSE", "MSE + both"],
        ["MSE", "MSE + features", "MSE + adversarial", "MSE + both"],
    )
    numbers = [arm["seeds"][0]["numbers"] for arm in found["arms"]]
    assert all(set(n) >= {column.name for column in ADVERSARIAL.columns} for n in numbers)
    assert len({n["psnr"] for n in numbers}) == len(labels)
    assert all(0 <= n["recognised"] <= 1 and n["frechet"] > 0 for n in numbers)
    assert "--quick" in found["command"] and "--output" not in found["command"]
    assert found["settings"]["steps"] == "6" and "quick run" in found["note"]
    text = (finished / "report.md").read_text()
    assert re.search(r"\| MSE \+ both \| (\*\*)?\d+\.\d\d(\*\*)? \|", text)
    assert re.search(r"recognises \d\.\d{4} of the test images themselves", text)
    assert (finished / "pictures" / "pictures.png").stat().st_size > 0


def test_the_classifier_that_measures_is_not_the_one_of_the_feature_loss(finished, monkeypatch):
    assert len([path for path in finished.iterdir() if path.name.startswith("classifier-")]) == 2
    asked = []
    monkeypatch.setattr(
        adversarial_training, "perceptual", lambda seed: asked.append(seed) or (lambda x, y: 0)
    )
    monkeypatch.setattr(adversarial_training, "make_classifier", lambda config, seed: seed)
    monkeypatch.setattr(adversarial_training, "images_and_labels", lambda config: ((0, 0), (0, 0)))
    monkeypatch.setattr(adversarial_training, "make_networks", lambda config: (None, None))
    training = adversarial_training.Training(None, lambda state, batch: state, None)
    adversarial_training.trainer(Config(), lambda config, task_loss: training, True)
    assert (
        asked == [adversarial_training.TEACHER]
        and adversarial_training.TEACHER != adversarial_training.JUDGE
    )


def test_sharpness_is_the_mean_over_images():
    images = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 1), np.uint8)
    expected = np.mean([sharpness(preprocess(image)) for image in images])
    np.testing.assert_allclose(adversarial_training.sharpness(images), expected, rtol=1e-6)


def test_what_changes_results_is_in_the_definition(data, tmp_path):
    base = tiny(data, tmp_path)
    changes = {
        "steps": 8,
        "generator_weight": 2.0,
        "features_weight": 2.0,
        "discriminator_width": 8,
        "discriminator_rate": 1.0,
        "r1": 0.0,
    }
    for name, value in changes.items():
        assert define(tiny(data, tmp_path, **{name: value})) != define(base), name
    assert define(tiny(data, tmp_path, seeds=2, processes=2)) == define(base)
    assert len({arm.path(tmp_path, 0) for arm in make_arms(base)}) == 4


def test_names_and_data_without_labels(data, tmp_path, capsys):
    main(Config(list=True, only=("both", "mse"), data=data))
    assert capsys.readouterr().out.split() == ["mse", "both"]
    with pytest.raises(ValueError, match="no arm mae; there are"):
        main(Config(list=True, only=("mae",), data=data))
    np.save(tmp_path / "x.npy", np.zeros((20, 12, 12, 1), np.uint8))
    with pytest.raises(DataError, match=r"x\.npy: expected data with labels, found none"):
        main(Config(data=str(tmp_path / "x.npy"), output=tmp_path))
