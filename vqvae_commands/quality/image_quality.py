"""Measures of generated images, by a classifier of real ones and by their nearest neighbours.

Functions of arrays that return numbers. Compare each number with that of real test images.
"""

import numpy as np
from jaxtyping import Float64, Int, Shaped, UInt8

from vqvae_commands.quality.classifier import STEPS, Classifier, train_classifier
from vqvae_jax import nearest
from vqvae_jax.metrics import frechet_distance, moments


def frechet(
    classifier: Classifier,
    real: Shaped[np.ndarray, "N H W C"],
    images: Shaped[np.ndarray, "M H W C"],
) -> float:
    """Returns the Frechet distance between the features of real images and of others.

    This is no FID: the features are the classifier's. Values of equal N, M and classifier compare.
    """
    of_real, of_images = (moments(classifier.features(x)) for x in (real, images))
    return frechet_distance(*of_real, *of_images)


def recognised(
    classifier: Classifier, images: Shaped[np.ndarray, "N H W C"], labels: Int[np.ndarray, "N"]
) -> float:
    """Returns the share of the samples that the classifier takes for their labels."""
    return classifier.accuracy(images, labels)


def trained_on(
    samples: Shaped[np.ndarray, "N H W C"],
    labels: Int[np.ndarray, "N"],
    test: Shaped[np.ndarray, "M H W C"],
    test_labels: Int[np.ndarray, "M"],
    steps: int = STEPS,
    seed: int = 0,
) -> float:
    """Returns the classification accuracy score (arXiv:1905.10887).

    A classifier learns from samples alone, and its accuracy on real test images is returned. It is
    low where samples lack properties of real images, such as variety. Compare it with the accuracy
    of a classifier that learns from real training images.
    """
    return train_classifier(samples, labels, steps, seed).accuracy(test, test_labels)


def nearest_neighbours(
    images: UInt8[np.ndarray, "N H W C"], train: UInt8[np.ndarray, "M H W C"]
) -> tuple[Float64[np.ndarray, "N"], Int[np.ndarray, "N"]]:
    """Returns the distance of each image from its nearest training image, and that image's index.

    The distance is the root of the mean squared difference of pixels in [0, 1].
    """
    if images.shape[1:] != train.shape[1:]:
        raise ValueError(f"images {images.shape} and train {train.shape} must be of equal size")
    x, y = (np.reshape(v, (len(v), -1)).astype(np.float32) / 255 for v in (images, train))
    index = np.asarray(nearest(x, y))
    # Parts bound the memory: all differences at once would be as large as the images.
    parts = (slice(i, i + 1000) for i in range(0, len(x), 1000))
    squared = [np.mean(np.square(x[p] - y[index[p]], dtype=np.float64), axis=1) for p in parts]
    return np.sqrt(np.concatenate(squared)), index


def memorised(
    samples: UInt8[np.ndarray, "N H W C"],
    train: UInt8[np.ndarray, "M H W C"],
    test: UInt8[np.ndarray, "K H W C"],
) -> dict[str, float]:
    """Measures whether samples repeat training images, compared with test images, which can't.

    Returns:
        nearest_samples, nearest_test: medians of the distances of `nearest_neighbours`.
        copies: share of the samples that are nearer than 99 % of the test images are; about
            0.01 where samples are as new as test images.
    """
    of_samples, of_test = (nearest_neighbours(x, train)[0] for x in (samples, test))
    return {
        "nearest_samples": float(np.median(of_samples)),
        "nearest_test": float(np.median(of_test)),
        "copies": float(np.mean(of_samples < np.quantile(of_test, 0.01))),
    }
