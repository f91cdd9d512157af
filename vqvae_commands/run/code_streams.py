"""The codes of a model, which has one level or, as `VQVAE2`, several; each has streams.

Numbers of a stream are kept under its prefix: "" for a model's only one, "1/", "level0/" or, in a
level of several streams, "level0/1/".
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Float, Float64, Int

from vqvae_jax import VQVAE2, Quantizer
from vqvae_jax.metrics import LISTED

Maps = tuple[Int[Array, "B ... _"], ...]


def quantizers(model) -> tuple[Quantizer, ...]:
    """The quantizer of each level, the top one first."""
    return tuple(model.quantizers) if isinstance(model, VQVAE2) else (model.quantizer,)


def as_levels(found) -> tuple[Any, ...]:
    """A tuple with one entry for each level, from the indices, z_e or z_q that a model gives."""
    return tuple(found) if isinstance(found, tuple | list) else (found,)


def streams(quantizers: Sequence[Quantizer]) -> dict[str, int]:
    """The size K of each stream, by its prefix.

    Example:
        >>> import vqvae_jax as vj
        >>> streams([vj.vq(512, 64)]), streams([vj.lfq(9), vj.grouped(vj.vq(8, 2), vj.vq(4, 2))])
        ({'': 512}, {'level0/': 512, 'level1/0/': 8, 'level1/1/': 4})
    """
    sizes = {}
    for level, quantizer in enumerate(quantizers):
        above = "" if len(quantizers) == 1 else f"level{level}/"
        for q, size in enumerate(quantizer.vocab):
            sizes[above if len(quantizer.vocab) == 1 else f"{above}{q}/"] = size
    return sizes


def by_stream(quantizers: Sequence[Quantizer], maps: Sequence[Any]) -> dict[str, Any]:
    """The indices `[B, *grid]` of each stream, by its prefix."""
    each = [k[..., q] for k in maps for q in range(k.shape[-1])]
    return dict(zip(streams(quantizers), each, strict=True))


@partial(jax.jit, static_argnums=(0, 1))
def vectors(model, level: int, variables, indices: Int[Array, "n Q"]) -> Float[Array, "n D"]:
    """The vectors of codes of one level; -1 adds nothing."""

    def of(bound, k):
        return as_levels(bound.codes)[level].decode(k)

    return nn.apply(of, model)(variables, indices)


def tally(k: Int[np.ndarray, "..."]) -> Counter[int]:
    """Counts the codes that occur; -1 is none. Tallies of batches add up to that of a set.

    Example:
        >>> tally(np.array([[3, -1], [3, 0]]))
        Counter({3: 2, 0: 1})
    """
    seen, times = np.unique(k[k >= 0], return_counts=True)
    return Counter(dict(zip(seen.tolist(), times.tolist(), strict=True)))


def as_counts(seen: Counter[int], size: int) -> Float64[np.ndarray, "_"]:
    """The counts of all K codes; beyond 2^20, where K costs too much, of those that occur.

    Example:
        >>> as_counts(Counter({3: 2, 0: 1}), 5), as_counts(Counter({3: 2, 0: 1}), 2**30)
        (array([1., 0., 0., 2., 0.]), array([2., 1.]))
    """
    if size > LISTED:
        return np.array([*seen.values()], np.float64)
    counts = np.zeros(size)
    counts[[*seen]] = [*seen.values()]
    return counts


def title(prefix: str) -> str:
    """The name of a stream in tables and figures.

    Example:
        >>> title(""), title("1/"), title("level0/1/")
        ('', 'stream 1', 'level 0, stream 1')
    """
    parts = [part for part in prefix.split("/") if part]
    names = [p.replace("level", "level ") if "level" in p else f"stream {p}" for p in parts]
    return ", ".join(names)
