"""Meaning of codes in arrays and numbers: places, decoded pictures, entropy, information.

Images are uint8 `[N, H, W, 1 or 3]`; pictures are floats in [0, 1].
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Float64, Int, UInt8

from vqvae_commands.code_meaning.coder import Coder, Stream, as_pixels
from vqvae_commands.run.code_streams import Maps, tally

CONTEXT = 3  # cells a side of the pictures around a code


class Meaning(NamedTuple):
    """The most frequent codes of a stream; pictures are in [0, 1], NaN outside of an image."""

    codes: Int[np.ndarray, "n"]
    shares: Float64[np.ndarray, "n"]
    average: Float32[np.ndarray, "n P R C"]  # mean image around the code's places
    examples: Float32[np.ndarray, "n e P R C"]  # images around some of its places
    filled: Float32[np.ndarray, "n H W C"]  # decoded grid of this code alone
    alone: Float32[np.ndarray, "n H W C"]  # decoded code in the middle, without other codes
    context: Float32[np.ndarray, "n P R C"]  # mean of images in whose middle it was put


def meaning(
    coder: Coder,
    stream: Stream,
    images: UInt8[np.ndarray, "N H W C"],
    maps: Maps,
    most: int,
    examples: int = 4,
    contexts: int = 24,
) -> Meaning:
    """Describes the `most` frequent codes of a stream.

    Args:
        coder, stream: the model, and a stream of it.
        images, maps: pictures and their codes.
        most: number of codes, at most.
        examples: number of examples of each code.
        contexts: number of images in which each code is tried.
    """
    k = stream.of(maps)
    times = tally(k)
    chosen = frequent(times, most)
    seen = crops(images / np.float32(255), k.shape[1:])
    places = [np.argwhere(k == code) for code in chosen]
    middle = (k.shape[1] // 2, k.shape[2] // 2)
    silent = coder.silent(maps, len(chosen))
    filled = np.broadcast_to(chosen[:, None, None], (len(chosen), *k.shape[1:]))
    alone = np.full_like(filled, -1)
    alone[:, *middle] = chosen
    return Meaning(
        chosen,
        np.array([times[code] for code in chosen.tolist()]) / times.total(),
        np.stack([average(seen, found) for found in places]),
        np.stack([pick(seen, found, examples) for found in places]),
        as_pixels(coder.decode(stream.put(silent, filled))),
        as_pixels(coder.decode(stream.put(silent, alone))),
        in_context(coder, stream, maps, chosen, middle, contexts),
    )


def frequent(times: Counter[int], most: int) -> Int[np.ndarray, "n"]:
    """Returns the `most` frequent codes, the most frequent first, of equals the lowest.

    Example:
        >>> frequent(Counter({0: 3, 2: 5, 3: 3, 4: 1}), 3)
        array([2, 0, 3])
    """
    return np.array(
        [code for code, _ in Counter(dict(sorted(times.items()))).most_common(most)], int
    )


def crops(images: Float32[np.ndarray, "N H W C"], grid: Sequence[int]) -> np.ndarray:
    """Returns a view [N, h, w, C, P, R]: `CONTEXT` x `CONTEXT` cells around each cell."""
    sides = [size // n for size, n in zip(images.shape[1:3], grid, strict=True)]
    around = [(side * (CONTEXT // 2),) * 2 for side in sides]
    padded = np.pad(images, ((0, 0), *around, (0, 0)), constant_values=np.nan)
    windows = [CONTEXT * side for side in sides]
    # A view without copies: cells overlap in their neighbourhoods.
    view = np.lib.stride_tricks.sliding_window_view(padded, windows, axis=(1, 2))
    return view[:, :: sides[0], :: sides[1]]


def pictures_at(view: np.ndarray, places: Int[np.ndarray, "m 3"]) -> Float32[np.ndarray, "m P R C"]:
    """Returns the pictures at these places (n, i, j) of `crops`."""
    return np.moveaxis(view[tuple(places.T)], 1, -1)


def average(view: np.ndarray, places: Int[np.ndarray, "m 3"]) -> Float32[np.ndarray, "P R C"]:
    """Returns the mean picture at these places; pixels outside of the images don't count."""
    found = pictures_at(view, places)
    inside = ~np.isnan(found)
    total = np.sum(np.where(inside, found, 0), axis=0, dtype=np.float64)
    n = inside.sum(axis=0)
    return np.where(n > 0, total / np.maximum(n, 1), np.nan).astype(np.float32)


def pick(view: np.ndarray, places: Int[np.ndarray, "m 3"], n: int) -> np.ndarray:
    """Returns n of the pictures, spread from first to last; NaN where there are fewer."""
    chosen = places[np.unique(np.linspace(0, len(places) - 1, n).round().astype(int))]
    found = pictures_at(view, chosen)
    return np.pad(found, ((0, n - len(found)), *[(0, 0)] * 3), constant_values=np.nan)


def in_context(
    coder: Coder,
    stream: Stream,
    maps: Maps,
    chosen: Int[np.ndarray, "n"],
    middle: tuple[int, int],
    contexts: int,
) -> Float32[np.ndarray, "n P R C"]:
    """Returns the mean of decoded images around the middle, with each code put there."""
    some = tuple(k[:contexts] for k in maps)
    grid, found = stream.of(some).shape[1:], []
    for code in chosen:
        k = stream.of(some).copy()
        k[:, *middle] = code
        view = crops(as_pixels(coder.decode(stream.put(some, k), contexts)), grid)
        found.append(view[:, *middle].mean(axis=0))
    return np.moveaxis(np.stack(found), 1, -1)


def entropies(k: Int[np.ndarray, "N h w"]) -> Float64[np.ndarray, "h w"]:
    """Returns bits of the codes at each place, over images; low by about (K - 1) / (2 N ln 2)."""
    return np.array([[entropy(k[:, i, j]) for j in range(k.shape[2])] for i in range(k.shape[1])])


def entropy(values: Int[np.ndarray, "N"], corrected: bool = False) -> float:
    """Returns -sum_k p_k log2 p_k, corrected by (m - 1) / (2 N ln 2) for m codes (Miller 1955).

    Example:
        >>> entropy(np.array([1, 1, 7, 7])), entropy(np.array([4, 4]))
        (1.0, 0.0)
    """
    counts = np.unique(values, return_counts=True)[1]
    p = counts / counts.sum()
    bits = -float(np.sum(p * np.log2(p))) + 0.0
    return bits + corrected * (len(counts) - 1) / (2 * len(values) * math.log(2))


def information(a: Int[np.ndarray, "*n"], b: Int[np.ndarray, "*n"]) -> dict[str, float]:
    """Returns the mutual information of codes and neighbours, H(a) + H(b) - H(a, b), in bits.

    Returns:
        bits: plain estimate, which is too high: about K^2 / (2 N ln 2) where pairs are rare.
        corrected: estimate with the entropies corrected.
        strangers: plain estimate with neighbours from the next image: the bias, and the information
            in their places alone.
    """

    def estimate(b, corrected: bool) -> float:
        # Each pair as one number, whose entropy is the joint one.
        joint = a.astype(np.int64).ravel() * (int(b.max()) + 1) + b.ravel()
        each = (entropy(v.ravel(), corrected) for v in (a, b, joint))
        return next(each) + next(each) - next(each)

    return {
        "bits": estimate(b, False),
        "corrected": estimate(b, True),
        "strangers": estimate(np.roll(b, 1, axis=0), False),
    }


def neighbour_information(k: Int[np.ndarray, "N h w"]) -> dict[str, dict[str, float]]:
    """Returns `information` across and down, where the grid has more than one cell."""
    pairs = {"across": (k[:, :, :-1], k[:, :, 1:]), "down": (k[:, :-1], k[:, 1:])}
    return {name: information(a, b) for name, (a, b) in pairs.items() if a.size}


class Plane(NamedTuple):
    """Vectors of codes along their two main directions, and the variance's share along each."""

    places: Float64[np.ndarray, "m 2"]
    explained: tuple[float, float]


def plane(vectors: Float[np.ndarray, "m D"], used: np.ndarray) -> Plane:
    """Projects all vectors to the two main principal components of the vectors in use.

    Example:
        >>> line = np.array([[0.0, 0, 1], [2, 0, 1], [4, 0, 1]])
        >>> abs(plane(line, np.ones(3, bool)).places[:, 0]), plane(line, np.ones(3, bool)).explained
        (array([2., 0., 2.]), (1.0, 0.0))
    """
    some = vectors[used].astype(np.float64)
    middle = some.mean(axis=0)
    _, deviations, directions = np.linalg.svd(some - middle, full_matrices=False)
    directions = np.pad(directions, ((0, 2), (0, 0)))[:2]
    variances = np.pad(deviations**2, (0, 2))
    first, second = variances[:2] / max(variances.sum(), 1e-300)
    return Plane((vectors - middle) @ directions.T, (float(first), float(second)))
