"""The parts of an interpretation: each returns numbers, and figures with captions."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import starmap
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure

from vqvae_commands.code_meaning import code_pictures as draw
from vqvae_commands.code_meaning import meaning_charts
from vqvae_commands.code_meaning.coder import Coder, Stream, as_pixels
from vqvae_commands.code_meaning.interventions import erase_codes, reach, swap
from vqvae_commands.code_meaning.probes import Score
from vqvae_commands.code_meaning.statistics import (
    crops,
    entropies,
    entropy,
    frequent,
    meaning,
    neighbour_information,
    plane,
)
from vqvae_commands.pages import plots
from vqvae_commands.run import code_streams
from vqvae_commands.run.code_streams import Maps, tally

LISTED = 65_536  # the largest codebook whose vectors are all computed
DRAWN = 1024  # number of codes, at most, that are decoded on the map
SHOWN = 8  # number of streams, at most, that have pictures


class Section(NamedTuple):
    """A figure of the page: the name of its file, its heading and its caption."""

    name: str
    title: str
    caption: str
    figure: Figure


Found = tuple[dict[str, Any], list[Section]]


def maps_part(coder: Coder, images: UInt8[np.ndarray, "N H W C"], maps: Maps) -> Found:
    """Draws the code maps of the first images."""
    shown_maps = {code_streams.title(s.prefix): s.of(maps)[:16] for s in coder.streams[: SHOWN - 1]}
    caption = "A code has one colour wherever it occurs; colours that are alike mean nothing."
    figure = plots.code_maps(images[:16], shown_maps)
    return {}, [Section("code_maps", "Code maps", caption, figure)]


def stream_part(
    coder: Coder, stream: Stream, images: UInt8[np.ndarray, "N H W C"], maps: Maps, most: int
) -> Found:
    """Describes the codes of a stream: their meaning, their erasure, their vectors."""
    k = stream.of(maps)
    seen = tally(k)
    known = np.arange(stream.size) if stream.size <= LISTED else np.array(sorted(seen), int)
    found = meaning(coder, stream, images, maps, most)
    erased = erase_codes(coder, stream, images, maps, known)
    of_code = {e.code: {"second": e.second, **e.errors} for e in erased}
    listed = [
        {"code": int(code), "share": float(share), **of_code.get(int(code), {})}
        for code, share in zip(found.codes, found.shares, strict=True)
    ]
    used = len(seen)
    numbers = {"size": stream.size, "used": used, "unused": stream.size - used, "codes": listed}
    title = f", {code_streams.title(stream.prefix)}" if stream.prefix else ""
    name = stream.prefix.replace("/", "_")
    unused = f"{used:,} of {stream.size:,} codes occur in {len(images):,} test images, "
    unused += f"{stream.size - used:,} don't; here are the {len(listed)} most frequent. "
    return numbers, [
        Section(f"{name}codes", "Codes" + title, unused + CODES, draw.codes_table(found)),
        Section(f"{name}erased", "Codes erased" + title, ERASED, draw.erasures(erased)),
        Section(
            f"{name}codebook", "Map of the codebook" + title, PLANE,
            map_figure(coder, stream, maps, known, seen),
        ),
    ]  # fmt: skip


def map_figure(coder: Coder, stream: Stream, maps: Maps, known, seen: Counter[int]) -> Figure:
    """Draws codes in the plane of their main directions; the most frequent ones are decoded."""
    times = np.array([seen[k] for k in known.tolist()])
    order = np.argsort(-times, kind="stable")
    counts = times[order]
    found = plane(coder.vectors(stream, known[order]), counts > 0)
    chosen = frequent(seen, DRAWN)
    grid = stream.of(maps).shape[1:]
    filled = np.broadcast_to(chosen[:, None, None], (len(chosen), *grid))
    decoded = as_pixels(coder.decode(stream.put(coder.silent(maps, len(chosen)), filled)))
    middle = crops(decoded, grid)[:, grid[0] // 2, grid[1] // 2]
    cells = np.moveaxis(middle, 1, -1)
    return meaning_charts.codebook_map(found.places, counts / counts.sum(), cells, found.explained)


def information_part(coder: Coder, maps: Maps) -> Found:
    """Measures bits at each place, and the information of neighbours about each other."""
    numbers, grids = {}, {}
    for stream in coder.streams:
        k = stream.of(maps)
        bits = entropies(k)
        grids[code_streams.title(stream.prefix)] = (bits, stream.size)
        numbers[stream.prefix] = {
            "entropy": entropy(k.ravel()),
            "entropy_at_a_place": float(bits.mean()),
            "neighbours": neighbour_information(k),
        }
    some = dict(list(grids.items())[:SHOWN])
    told = " ".join(starmap(neighbours_text, numbers.items()))
    figure = meaning_charts.entropy_grids(some)
    return numbers, [Section("entropy", "Entropy at each place", f"{ENTROPY} {told}", figure)]


def neighbours_text(prefix: str, numbers: dict[str, Any]) -> str:
    """Returns the information of neighbours about each other in words."""
    each = [
        f"{way} {n['bits']:.2f} bits ({n['corrected']:.2f} corrected, {n['strangers']:.2f} from "
        "another image's)"
        for way, n in numbers["neighbours"].items()
    ]
    where = f"{code_streams.title(prefix)}: " if prefix else ""
    return f"{where}information of neighbours about a code: {'; '.join(each)}." if each else ""


def swap_part(coder: Coder, maps: Maps, seed: int, pairs: int = 6) -> Found:
    """Draws pictures that exchange codes."""
    n = len(maps[0])
    order = np.random.default_rng(seed).permutation(n)[: 2 * pairs]
    half = max(1, len(order) // 2)
    a, b = (tuple(k[rows] for k in maps) for rows in (order[:half], order[-half:]))
    return {}, [Section("swaps", "Codes exchanged", SWAPS, draw.swap_figure(swap(coder, a, b)))]


def reach_part(coder: Coder, maps: Maps, size: Sequence[int], seed: int) -> Found:
    """Measures how far the change of one cell is seen, for each level."""
    numbers, found, sides = {}, {}, {}
    for level, k in enumerate(maps):
        title = f"level {level}" if len(maps) > 1 else "codes"
        found[title] = reach(coder, maps, level, seed=seed)
        sides[title] = size[0] // k.shape[1]
        numbers[title] = {
            "cell": sides[title],
            "mean": found[title].mean.tolist(),
            "share": found[title].share.tolist(),
            "within_90": found[title].within(0.9),
        }
    seen = ", ".join(
        f"{title}: 90 % of the change lies within {numbers[title]['within_90']} pixels of the cell,"
        f" {reach.share[0]:.0%} in it"
        for title, reach in found.items()
    )
    return numbers, [
        Section(
            "reach",
            "How local a code is",
            f"{REACH} {seen}.",
            meaning_charts.reach_figure(found, sides),
        )
    ]


def probe_part(found: Mapping[str, tuple[int, dict[str, Score]]]) -> Found:
    """Returns numbers and figure of the accuracies, from dimension and scores by name."""
    numbers = {
        name: {"dimension": dim, **{probe: s._asdict() for probe, s in scores.items()}}
        for name, (dim, scores) in found.items()
    }
    figure = meaning_charts.accuracies({name: scores for name, (_, scores) in found.items()})
    return numbers, [Section("probes", "Information of the codes about the class", PROBES, figure)]


CODES = (
    "mean: of all places where the code occurs, the framed cell with one more on each side; "
    "examples of these; filled: a grid of nothing but this code, decoded; alone: the code in the "
    "middle, no other codes; placed: the mean of decoded test images in whose middle it was put; "
    "change: against the mean over these codes, orange brighter, blue darker. Faint blue is "
    "outside the image."
)
ERASED = (
    "The image with most occurrences of the code: its places, and the decoded picture with the "
    "code, with its nearest other code in its place, and with none. Orange is brighter than with "
    "the code, blue is darker; the factor is that of the mean squared error of up to 64 images "
    "that hold the code."
)
PLANE = (
    "The vectors of all codes along their two main directions (principal components of those in "
    "use). Rings are codes that don't occur."
)
ENTROPY = (
    "Bits of the codes at each place over the test images; even use of the codebook would give "
    "log2 K, the end of the scale. Estimates are too low, by about K / 2N ln 2, and those of the "
    "information of neighbours too high: Miller and Madow's correction removes a part; a neighbour "
    "from another image, which is informative by its place only, has as much bias."
)
SWAPS = (
    "Decoded codes of two images; the upper half of the codes of A above the lower half of those "
    "of B, beside the same of the pixels; A with the codes of B in one cell of the top level, and "
    "what that changed."
)
REACH = (
    "One cell gets the codes that another image has there. Dotted: the side of a cell. The change "
    "is in pixels of range 1, over both sides of the cell alike."
)
PROBES = (
    "A linear probe (logistic regression, penalty chosen on a fifth of the training set) and the "
    "nearest neighbours (their number chosen likewise). Intervals are Wilson's, for the test set "
    "as a sample; they don't cover other seeds of the training."
)
