"""Numbers on the quality of samples, beside those of reconstructions and real test images."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int, UInt8

from vqvae_commands.generation.code_files import Codes, flat
from vqvae_commands.generation.codes_of_data import unique_share
from vqvae_commands.generation.generate import Maps
from vqvae_commands.quality.classifier import kept_classifier
from vqvae_commands.quality.image_quality import frechet, memorised, nearest_neighbours, recognised

Pictures = UInt8[np.ndarray, "N H W C"]


class Images(NamedTuple):
    """Samples, and the images that they are compared with."""

    train: Pictures
    test: Pictures
    samples: Pictures
    reconstructions: Pictures  # as many as there are samples, or one of each test image
    codes: Codes  # codes of train and test
    maps: Maps  # codes of the samples
    label: Int[np.ndarray, "N"] | None  # classes of the samples


def measure_samples(images: Images, folder: Path, steps: int) -> dict[str, float]:
    """Measures samples; uses a classifier, saved in `folder`, only if there are classes."""
    train, samples, rec = images.train, images.samples, images.reconstructions
    numbers = {"samples": float(len(samples)), "different": unique_share(images.maps)}
    numbers["repeated"] = repeated(images.maps, images.codes.maps["train"])
    of_samples = memorised(samples, train, images.test)
    of_reconstructions = memorised(rec, train, images.test)
    numbers |= of_samples
    numbers["nearest_reconstructions"] = of_reconstructions["nearest_samples"]
    numbers["copies_reconstructions"] = of_reconstructions["copies"]
    label, real = images.codes.label("test"), images.test[: len(rec)]
    if label is None or images.label is None:
        return numbers
    known = images.codes.labels["train"]
    classifier = kept_classifier(train, known, steps, folder=folder)
    n = min(len(samples), len(rec))  # Frechet distances of unequal numbers do not compare
    # Samples are ordered by class: a random choice has all classes.
    order = np.random.default_rng(0).permutation(len(samples))[:n]
    return numbers | {
        "recognised": recognised(classifier, samples, images.label),
        "recognised_reconstructions": recognised(classifier, rec, label[: len(rec)]),
        "recognised_test": recognised(classifier, real, label[: len(rec)]),
        "frechet": frechet(classifier, train, samples[order]),
        "frechet_reconstructions": frechet(classifier, train, rec),
        "frechet_test": frechet(classifier, train, real),
    }


def repeated(maps: Maps, train: Maps) -> float:
    """Returns the share of the samples whose codes of all levels are those of a training image.

    Example:
        >>> repeated((np.array([[1, 2], [1, 3]]),), (np.array([[1, 3], [0, 0]]),))
        0.5
    """
    known = {row.tobytes() for row in as_rows(train)}
    return float(np.mean([row.tobytes() in known for row in as_rows(maps)]))


def as_rows(maps: Maps) -> Int[np.ndarray, "N T"]:
    """Returns all codes of each item in one row."""
    return np.concatenate(flat(maps), axis=1).astype(np.int32)


def sample_distances(images: Images) -> dict[str, Float64[np.ndarray, "_"]]:
    """Returns the distance of each image from its nearest training image."""
    named = {"test": images.test, "samples": images.samples}
    named["reconstructions"] = images.reconstructions
    return {name: nearest_neighbours(x, images.train)[0] for name, x in named.items()}
