"""Rows of pictures that a model and its priors make: by class, completions, interpolations."""

import numpy as np

from vqvae_commands.generation.code_files import Codes
from vqvae_commands.generation.generate import (
    How,
    decode_codes,
    draw_codes,
    mixed_codes,
    mixed_vectors,
    upper_half,
)
from vqvae_jax.saving.bundle import Bundle

COLUMN = 10  # classes or samples beside each other
COMPLETED, COMPLETIONS = 8, 4  # test images, and of each
PAIRS, BETWEEN = 3, 9  # of test images, and pictures from one to the other


def in_rows(samples: np.ndarray, classes, label: np.ndarray | None) -> dict[str, np.ndarray]:
    """The first samples of each class, or of all."""
    if label is None:
        rows = samples[: COLUMN * COLUMN]
        return {str(i): rows[i : i + COLUMN] for i in range(0, len(rows), COLUMN)}
    return {name: samples[label == c][:COLUMN] for c, name in enumerate(classes)}


def complete(
    key, bundle: Bundle, priors: list[Bundle], codes: Codes, test: np.ndarray, how: How
) -> dict[str, np.ndarray]:
    """Rows of test images, the part that is given of them, and what the priors make of it."""
    rows = over_classes(codes, COMPLETED)
    maps, label = (tuple(k[rows] for k in codes.maps["test"]), codes.label("test"))
    given = upper_half(maps)
    many = tuple(np.tile(k, (COMPLETIONS, *[1] * (k.ndim - 1))) for k in given)
    told = None if label is None else np.tile(label[rows], COMPLETIONS)
    made = np.split(decode_codes(bundle, draw_codes(key, priors, many, told, how)), COMPLETIONS)
    reconstructions = decode_codes(bundle, maps)
    seen = reconstructions.copy()
    height = seen.shape[1] * (given[-1].shape[1] // 2) // given[-1].shape[1]
    seen[:, height:] = 128
    return {
        "original": test[rows],
        "reconstruction": reconstructions,
        "given": seen,
        **{f"completion {i + 1}": images for i, images in enumerate(made)},
    }


def over_classes(codes: Codes, n: int) -> np.ndarray:
    """Test items of n classes, or the first n."""
    label = codes.label("test")
    if label is None:
        return np.arange(min(n, len(codes.maps["test"][0])))
    return np.sort(np.unique(label, return_index=True)[1][:n])


def interpolate(bundle: Bundle, codes: Codes, test: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Pictures between two test images, by mixing vectors or codes; the images are at the ends."""
    a, b = np.random.default_rng(seed).permutation(len(test))[: 2 * PAIRS].reshape(2, -1)
    ends = [tuple(k[rows] for k in codes.maps["test"]) for rows in (a, b)]
    ways = {
        "vectors": list(mixed_vectors(bundle, test[a], test[b], BETWEEN)),
        "codes": [decode_codes(bundle, maps) for maps in mixed_codes(*ends, BETWEEN, seed)],
    }
    return {
        f"{i + 1}, {way}": np.stack([test[a[i]], *(step[i] for step in steps), test[b[i]]])
        for i in range(len(a))
        for way, steps in ways.items()
    }
