"""Effects of changed codes on decoded pictures: codes swapped, erased, replaced."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Float64, Int, UInt8

from vqvae_commands.code_meaning.coder import Coder, Stream, as_pixels
from vqvae_commands.code_meaning.statistics import frequent
from vqvae_commands.run.code_streams import Maps, tally


class Swap(NamedTuple):
    """Pairs of pictures that exchanged codes; pixels in [0, 1]."""

    upper: Float32[np.ndarray, "n H W C"]  # decoded codes of one picture
    lower: Float32[np.ndarray, "n H W C"]  # decoded codes of another
    codes: Float32[np.ndarray, "n H W C"]  # decoded: upper half of the one, lower of the other
    pixels: Float32[np.ndarray, "n H W C"]  # the same halves of the decoded pictures
    one: Float32[np.ndarray, "n H W C"]  # the first, with one cell's codes of the other
    place: Int[np.ndarray, "2"]  # first row and column of that cell, in pixels
    side: Int[np.ndarray, "2"]  # height and width of that cell, in pixels


def swap(coder: Coder, a: Maps, b: Maps) -> Swap:
    """Mixes codes of a and b: halves, and the middle cell of the top level."""
    whole, other = as_pixels(coder.decode(a)), as_pixels(coder.decode(b))
    mixed = tuple(halves(x, y) for x, y in zip(a, b, strict=True))
    size, grid = np.array(whole.shape[1:3]), np.array(a[0].shape[1:3])
    i, j = grid // 2
    top = np.array(a[0])
    top[:, i, j] = b[0][:, i, j]
    one = as_pixels(coder.decode((top, *a[1:])))
    both = as_pixels(coder.decode(mixed))
    return Swap(
        whole, other, both, halves(whole, other), one, grid // 2 * size // grid, size // grid
    )


def halves(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the upper half of a [B, H, ...] above the lower half of b.

    Example:
        >>> halves(np.zeros((1, 3, 1)), np.ones((1, 3, 1))).ravel()
        array([0., 1., 1.])
    """
    middle = a.shape[1] // 2
    return np.concatenate([a[:, :middle], b[:, middle:]], axis=1)


class Erased(NamedTuple):
    """Effects of taking a code out of the picture with most of it, and of others that hold it."""

    code: int
    second: int  # its nearest code
    places: Int[np.ndarray, "h w"]  # 1 where it stands
    before: Float32[np.ndarray, "H W C"]
    replaced: Float32[np.ndarray, "H W C"]  # replaced by the second
    erased: Float32[np.ndarray, "H W C"]  # replaced by no code, -1
    errors: dict[str, float]  # mean squared errors of pictures with it: before, replaced, erased


def erase_codes(
    coder: Coder,
    stream: Stream,
    images: UInt8[np.ndarray, "N H W C"],
    maps: Maps,
    known: Int[np.ndarray, "m"],
    most: int = 6,
    pictures: int = 64,
) -> list[Erased]:
    """Erases each of the most frequent codes.

    Args:
        coder, stream: the model, and a stream of it.
        images, maps: pictures and their codes.
        known: codes among which the nearest one is looked for.
        most: number of codes that are erased.
        pictures: number of pictures with a code, at most, that count for its errors.
    """
    k = stream.of(maps)
    table = coder.vectors(stream, known)
    found = []
    for code in frequent(tally(k), most):
        held = (k == code).sum(axis=(1, 2))
        rows = np.argsort(-held, kind="stable")[:pictures]
        rows = rows[held[rows] > 0]
        second = nearest_other(table, known, code)
        some = tuple(level[rows] for level in maps)
        changed = [replace(stream, some, code, by) for by in (code, second, -1)]
        decoded = [as_pixels(coder.decode(m)) for m in changed]
        x = images[rows] / np.float32(255)
        names = ("before", "replaced", "erased")
        errors = {n: float(np.mean((x - y) ** 2)) for n, y in zip(names, decoded, strict=True)}
        places = (k[rows[0]] == code).astype(int)
        found.append(Erased(int(code), second, places, *(y[0] for y in decoded), errors))
    return found


def replace(stream: Stream, maps: Maps, code: int, by: int) -> Maps:
    """Returns the maps with another code wherever `code` stood in the stream."""
    k = stream.of(maps)
    return stream.put(maps, np.where(k == code, by, k))


def nearest_other(table: Float[np.ndarray, "m D"], known: Int[np.ndarray, "m"], code: int) -> int:
    """Returns the other code whose vector is nearest to that of `code`; -1 without another.

    Example:
        >>> nearest_other(np.array([[0.0], [3.0], [1.0]]), np.array([4, 5, 9]), 4)
        9
    """
    others = known != code
    if not others.any():
        return -1
    e = table[np.flatnonzero(~others)[0]]
    distances = np.where(others, np.sum((table - e) ** 2, axis=1), np.inf)
    return int(known[distances.argmin()])


class Reach(NamedTuple):
    """Distances at which a change of one cell's codes is seen.

    Attributes:
        mean: mean |change| of a pixel of range 1 at each distance 0, 1, ... from the cell; 0 is
            inside the cell. NaN where no pixel is so far.
        share: share of the whole change that lies within each distance.
    """

    mean: Float64[np.ndarray, "d"]
    share: Float64[np.ndarray, "d"]

    def within(self, share: float) -> int:
        """Returns the least distance that holds this share of the change."""
        # The last share may be a rounding error below 1.
        return int(np.searchsorted(self.share, share - 1e-12))


def reach(coder: Coder, maps: Maps, level: int, changes: int = 256, seed: int = 0) -> Reach:
    """Gives cells of one level the codes that another image has there, and measures the change.

    Args:
        coder: the model.
        maps: codes of images.
        level: level whose cells change, in all its streams.
        changes: number of changes, at most, in random images and cells where the two differ.
        seed: seed of the choice.
    """
    rng, k = np.random.default_rng(seed), np.asarray(maps[level])
    n, h, w, _ = k.shape
    # More draws than changes: two images often have the same code in a cell.
    a, b = rng.integers(0, n, (2, 8 * changes))
    i, j = rng.integers(0, h, 8 * changes), rng.integers(0, w, 8 * changes)
    differ = np.flatnonzero((k[a, i, j] != k[b, i, j]).any(axis=-1))[:changes]
    a, b, i, j = (v[differ] for v in (a, b, i, j))
    if not len(a):
        return Reach(np.zeros(1), np.ones(1))
    old = tuple(np.asarray(m)[a] for m in maps)
    cells = old[level].copy()
    cells[np.arange(len(a)), i, j] = k[b, i, j]
    new = (*old[:level], cells, *old[level + 1 :])
    change = np.abs(coder.decode(new) - coder.decode(old)).mean(axis=-1, dtype=np.float64)
    where = np.stack([cell_distances(change.shape[1:], (h, w), c) for c in zip(i, j, strict=True)])
    total = np.bincount(where.ravel(), weights=change.ravel())
    pixels = np.bincount(where.ravel())
    mean = np.where(pixels > 0, total / np.maximum(pixels, 1), np.nan)
    return Reach(mean, np.cumsum(total) / max(total.sum(), 1e-300))


def cell_distances(
    size: tuple[int, ...], grid: tuple[int, int], cell: tuple[int, int]
) -> Int[np.ndarray, "H W"]:
    """Returns each pixel's distance from a cell: the larger of rows and columns; 0 inside.

    Example:
        >>> cell_distances((2, 6), (1, 3), (0, 0))
        array([[0, 0, 1, 2, 3, 4],
               [0, 0, 1, 2, 3, 4]])
    """
    along = []
    for pixels, cells, at in zip(size, grid, cell, strict=True):
        side, x = pixels // cells, np.arange(pixels)
        first = at * side
        along.append(np.maximum(0, np.maximum(first - x, x - (first + side - 1))))
    return np.maximum(along[0][:, None], along[1][None])
