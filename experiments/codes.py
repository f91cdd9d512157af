"""The codes of a model, which has one level or, as `VQVAE2`, several; each has streams.

Numbers of a stream are kept under its prefix: "" for a model's only one, "1/", "level0/" or, in a
level of several streams, "level0/1/".
"""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Array, Float, Int

from vqvae_jax import VQVAE2, Quantizer, code_counts
from vqvae_jax.modules.vqvae import of_rows

Maps = tuple[Int[Array, "B ... _"], ...]


def quantizers(model) -> tuple[Quantizer, ...]:
    """One for each level, the top one first."""
    return tuple(model.quantizers) if isinstance(model, VQVAE2) else (model.quantizer,)


def as_levels(found) -> tuple[Any, ...]:
    """One entry for each level, of what a model gives: indices, z_e or z_q."""
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


def count(
    quantizers: Sequence[Quantizer], maps: Maps, weights: Float[Array, "B"] | None = None
) -> dict[str, Float[Array, "_"]]:
    """How often each code of each stream occurs, by its prefix; add them up over a set."""
    found = [
        counts
        for quantizer, k in zip(quantizers, maps, strict=True)
        for counts in code_counts(quantizer.vocab, k, of_rows(weights, k))
    ]
    return dict(zip(streams(quantizers), found, strict=True))


def title(prefix: str) -> str:
    """What a stream is called where people look.

    Example:
        >>> title(""), title("1/"), title("level0/1/")
        ('', 'stream 1', 'level 0, stream 1')
    """
    parts = [part for part in prefix.split("/") if part]
    names = [p.replace("level", "level ") if "level" in p else f"stream {p}" for p in parts]
    return ", ".join(names)
