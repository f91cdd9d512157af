"""A trained model as functions of arrays of any length, and its streams of codes.

Images are uint8 `[N, H, W, 1 or 3]`, decoded ones float32 in the scale of `preprocess`. Vectors
are float32 `[N, D]`.
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Float32, Int, UInt8

from vqvae_commands.run import code_streams
from vqvae_commands.run.batchwise import in_batches
from vqvae_commands.run.code_streams import Maps, as_levels
from vqvae_jax import VQVAE, VQVAE2
from vqvae_jax.data.scaling import preprocess


class Stream(NamedTuple):
    """A stream of a model's codes: its prefix, its level, its place in the level, its size K."""

    prefix: str
    level: int
    q: int
    size: int

    def of(self, maps: Maps) -> Int[np.ndarray, "B h w"]:
        """Returns the codes of this stream."""
        return np.asarray(maps[self.level][..., self.q])

    def put(self, maps: Maps, k: Int[np.ndarray, "B h w"]) -> Maps:
        """Returns the maps with these codes in this stream."""
        level = np.array(maps[self.level])
        level[..., self.q] = k
        return (*maps[: self.level], level, *maps[self.level + 1 :])


@dataclasses.dataclass(frozen=True, eq=False)
class Coder:
    """A trained model of pictures whose methods take arrays of any length."""

    model: VQVAE | VQVAE2
    variables: Any

    @property
    def streams(self) -> list[Stream]:
        """All streams, level by level."""
        levels = code_streams.quantizers(self.model)
        places = [(i, q) for i, quantizer in enumerate(levels) for q in range(len(quantizer.vocab))]
        sizes = code_streams.streams(levels).items()
        return [Stream(p, *place, k) for (p, k), place in zip(sizes, places, strict=True)]

    def look(self, images: UInt8[np.ndarray, "N H W C"], batch_size: int = 100):
        """Returns `Seen` of all images."""
        return in_batches(partial(look_at_batch, self.model, self.variables), images, batch_size)

    def tokenize(self, images: UInt8[np.ndarray, "N H W C"]) -> Maps:
        """Returns the map of codes of each level."""
        return self.look(images).indices

    def decode(self, maps: Maps, batch_size: int = 64) -> Float32[np.ndarray, "N H W C"]:
        """Decodes the maps of all levels; -1 is no code."""

        def of_rows(rows):
            batch = tuple(np.asarray(k)[rows] for k in maps)
            return decode_maps(self.model, self.variables, batch)

        return in_batches(of_rows, np.arange(len(maps[0])), batch_size)

    def silent(self, maps: Maps, n: int) -> Maps:
        """Returns n maps of each level without any code."""
        return tuple(np.full((n, *k.shape[1:]), -1, np.int32) for k in maps)

    def vectors(self, stream: Stream, k: Int[np.ndarray, "n"]) -> Float32[np.ndarray, "n D"]:
        """Returns the vectors that these codes add to z_q."""
        width = len(code_streams.quantizers(self.model)[stream.level].vocab)
        indices = np.full((len(k), width), -1, np.int32)
        indices[:, stream.q] = k
        return np.asarray(code_streams.vectors(self.model, stream.level, self.variables, indices))


class Seen(NamedTuple):
    """Outputs of a model for images; levels are tuples."""

    x: Float[np.ndarray, "N H W C"]
    z_e: tuple[Float[np.ndarray, "N h w _"], ...]
    z_q: tuple[Float[np.ndarray, "N h w _"], ...]
    indices: Maps


@partial(jax.jit, static_argnums=0)
def look_at_batch(model, variables, images) -> Seen:
    """Returns the outputs for one batch."""
    rec = model.apply(variables, preprocess(images))
    return Seen(rec.x, *map(as_levels, (rec.z_e, rec.z_q, rec.indices)))


@partial(jax.jit, static_argnums=0)
def decode_maps(model, variables, maps):
    """Decodes one batch."""
    given = maps if isinstance(model, VQVAE2) else maps[0]
    return model.apply(variables, given, method="detokenize")


def as_pixels(x: Float32[np.ndarray, "*b H W C"]) -> Float32[np.ndarray, "*b H W C"]:
    """Returns decoded pixels in [0, 1], for figures."""
    return np.clip(x + np.float32(0.5), 0, 1)
