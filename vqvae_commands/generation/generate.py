"""Generated pictures: codes are drawn from priors, completed or mixed, and then decoded."""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray, Shaped, UInt8

from vqvae_commands.run.batchwise import in_batches
from vqvae_jax import VQVAE2
from vqvae_jax.data.scaling import preprocess, to_pixels
from vqvae_jax.priors import (
    Condition,
    MaskedPrior,
    TransformerPrior,
    cached,
    free_codes,
    sample_codes,
    sample_masked,
    temperature,
    top_k,
    top_p,
    uncached,
)
from vqvae_jax.priors.sampling import Filter
from vqvae_jax.quantizers.base import Output
from vqvae_jax.saving.bundle import Bundle

Maps = tuple[Int[np.ndarray, "N ..."], ...]
AT_ONCE = 100  # examples in a batch


@dataclasses.dataclass(frozen=True)
class How:
    """Options of drawing codes, the same for all levels; static arguments of `jax.jit`."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    guidance: float = 0.0
    steps: int = 12  # forward passes of a MaskedPrior

    @property
    def filters(self) -> tuple[Filter, ...]:
        """Filters of the logits that change anything."""
        chosen = [temperature(self.temperature)] if self.temperature != 1 else []
        chosen += [top_k(self.top_k)] if self.top_k is not None else []
        chosen += [top_p(self.top_p)] if self.top_p is not None else []
        return tuple(chosen)


def draw_codes(
    key: PRNGKeyArray,
    priors: Sequence[Bundle],
    given: Maps,
    label: Int[np.ndarray, "N"] | None,
    how: How,
) -> Maps:
    """Draws the codes of all levels: the top one first, each level given all those above.

    Args:
        key: random key, consumed.
        priors: prior of each level.
        given: codes to keep in each level; -1 where they are drawn.
        label: class of each example; None without classes.
        how: options such as the temperature.
    """

    def look(rows):
        key_i, maps = jax.random.fold_in(key, rows[0] // len(rows)), ()  # the batch's number
        told = None if label is None else jnp.asarray(label[rows])
        for level, (prior, variables, _) in enumerate(priors):
            codes = jnp.asarray(given[level][rows], jnp.int32)
            key_level = jax.random.fold_in(key_i, level)
            maps += (draw_level(prior, how, variables, key_level, codes, Condition(told, maps)),)
        return maps

    return in_batches(look, np.arange(len(given[0])), AT_ONCE)


@partial(jax.jit, static_argnums=(0, 1))
def draw_level(prior, how: How, variables, key, given: Array, condition: Condition) -> Array:
    """Draws the codes of one level with the sampler of its kind of prior."""
    options = {"filters": how.filters, "guidance": how.guidance or None}
    if isinstance(prior, MaskedPrior):
        options["steps"] = how.steps
        return sample_masked(key, prior, variables, given, condition, **options)
    stepper = cached if isinstance(prior, TransformerPrior) else uncached
    return sample_codes(key, prior, variables, given, condition, stepper=stepper, **options)


def nothing_given(priors: Sequence[Bundle], n: int) -> Maps:
    """Returns maps of -1, in which all codes are drawn."""
    return tuple(np.asarray(free_codes(prior, n)) for prior, *_ in priors)


def upper_half(maps: Maps) -> Maps:
    """Returns the codes of the upper half of each map, -1 below."""
    rows = (np.arange(k.shape[1]) < k.shape[1] // 2 for k in maps)
    return tuple(
        np.where(row.reshape(-1, *[1] * (k.ndim - 2)), k, -1)
        for row, k in zip(rows, maps, strict=True)
    )


def decode_codes(bundle: Bundle, maps: Maps) -> UInt8[np.ndarray, "N H W C"]:
    """Decodes codes to pictures."""

    def look(rows):
        batch = tuple(jnp.asarray(k[rows], jnp.int32) for k in maps)
        return decode_batch(bundle.model, bundle.variables, batch)

    return in_batches(look, np.arange(len(maps[0])), AT_ONCE)


@partial(jax.jit, static_argnums=0)
def decode_batch(model, variables, maps):
    """Decodes one batch."""
    indices = maps if isinstance(model, VQVAE2) else maps[0]
    return to_pixels(model.apply(variables, indices, method="detokenize"))


def mixed_vectors(
    bundle: Bundle, a: Shaped[np.ndarray, "N H W C"], b: Shaped[np.ndarray, "N H W C"], steps: int
) -> Iterator[UInt8[np.ndarray, "N H W C"]]:
    """Yields pictures from a to b: (1 - t) z(a) + t z(b) of the encoder's outputs, quantized."""
    for t in np.linspace(0, 1, steps):
        yield np.asarray(mix_batch(bundle.model, bundle.variables, a, b, t))


@partial(jax.jit, static_argnums=0)
def mix_batch(model, variables, a, b, t):
    """Returns the mixed pictures at one t."""
    apply = partial(model.apply, variables)
    ends = (apply(preprocess(x), method="encode") for x in (a, b))
    z = jax.tree.map(lambda x, y: (1 - t) * x + t * y, *ends)
    outs = apply(z, method="quantize")
    z_q = jax.tree.map(lambda o: o.quantized, outs, is_leaf=lambda o: isinstance(o, Output))
    return to_pixels(apply(z_q, method="decode"))


def mixed_codes(a: Maps, b: Maps, steps: int, seed: int) -> Iterator[Maps]:
    """Yields codes from a to b: one place after another, in random order, gets its code from b."""
    rng = np.random.default_rng(seed)
    places = [rng.permutation(k[0, ..., 0].size).reshape((*k.shape[1:-1], 1)) for k in a]
    for t in np.linspace(0, 1, steps):
        yield tuple(
            np.where(place < round(t * place.size), y, x)
            for place, x, y in zip(places, a, b, strict=True)
        )
