"""Domains: range and dtype of a model's inputs, stored with the model and checked."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Shaped

from vqvae_jax.data.scaling import preprocess
from vqvae_jax.saving.describe import Described, described

Input = Shaped[Array, "B *spatial C"]
"""Input of models: floats, or another dtype that the domain converts."""

OVERSHOOT = 0.1  # allowed beyond [-0.5, 0.5], since resizing and decoders overshoot


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Domain(Described):
    """Range of inputs of an autoencoder, its argument `domain`.

    Attributes:
        low, high: bounds, beyond which floats are refused.
        dtype: preferred dtype of x, which exported files take.
        read: `(x) -> floats`, for x of dtypes other than floats.
        words: description of inputs, for people.
        answer: description of a decoder's outputs, for people.
        remedy: `(low, high) -> text`, advice about values found in this range.
    """

    low: float
    high: float
    dtype: str
    read: Callable[[Any], Array]
    words: str
    answer: str
    remedy: Callable[[float, float], str]


@described
def pixels() -> Domain:
    """Domain of uint8 pixels, or of floats in [-0.5, 0.5] as from `preprocess`.

    Decoders output that scale, which `to_pixels` converts to uint8. Floats up to 0.1 beyond pass,
    since resizing and decoders overshoot.

    Example:
        >>> import vqvae_jax as vj
        >>> model = vj.VQVAE(vj.MLP(4), vj.vq(32, 4), vj.MLP(1), domain=pixels())
        >>> f, x = vj.as_functions(model), jnp.full((1, 8, 8, 1), 200, jnp.uint8)
        >>> variables = f.init(jax.random.key(0), x)
        >>> f.tokenize(variables, x).shape
        (1, 8, 8, 1)
        >>> f.tokenize(variables, x / 255)
        Traceback (most recent call last):
        ValueError: x has values from 0.784 to 0.784, ...: pixels in [0, 1] need - 0.5, ...
    """
    words = "uint8 pixels, or floats from -0.5 to 0.5"
    answer = (
        "floats from about -0.5 to 0.5: pixels are round((x' + 0.5) * 255), clipped to 0 and 255"
    )
    low, high = -0.5 - OVERSHOOT, 0.5 + OVERSHOOT
    return Domain(low, high, "uint8", preprocess, words, answer, scale_of_pixels)


@described
def values(low: float, high: float) -> Domain:
    """Domain of floats in [low, high] of any meaning.

    Raises:
        ValueError: unless low < high.
    """
    if not low < high:
        raise ValueError(f"values need low < high, got {low!r} and {high!r}")
    words = f"floats from {low:.4g} to {high:.4g}"

    def read(x):
        raise ValueError(f"x is {x.dtype}, but this model takes {words}")

    remedy = lambda *_: "scale them as the training data were"  # noqa: E731
    return Domain(low, high, "float32", read, words, "floats in the units of x", remedy)


def scale_of_pixels(low: float, high: float) -> str:
    """Advice on how to scale floats from low to high, if they are pixels.

    Example:
        >>> scale_of_pixels(0, 255)
        'grey levels 0 to 255 must be uint8, as np.round(x).astype(np.uint8)'
    """
    # A guess from the range: few pixel scales are in use, and each has its own remedy.
    if low >= 0 and high <= 1:
        return "pixels in [0, 1] need - 0.5, or np.round(x * 255).astype(np.uint8)"
    if low >= 0 and high <= 255:
        return "grey levels 0 to 255 must be uint8, as np.round(x).astype(np.uint8)"
    if low >= -1 and high <= 1:
        return "pixels in [-1, 1] need / 2"
    return "pixels have x / 255 - 0.5, see vqvae_jax.preprocess"


def admit(
    domain: Domain | None, x: Shaped[Array | np.ndarray, "B *shape"], check: bool = True
) -> Any:
    """Converts x to the scale of the domain, as an encoder takes it; returns x without a domain.

    Concrete values out of the domain raise. While `jit` traces, values are not known: an example
    with values out of the domain then becomes NaN, which a quantizer maps to index -1.

    Args:
        domain: domain of the model, or None.
        x: inputs, `[B, ...]`.
        check: whether to check the values.

    Raises:
        ValueError: if values are out of the domain; the error names both ranges and a remedy.

    Example:
        >>> x = jnp.array([[0.5], [9.0]])
        >>> jax.jit(lambda x: admit(values(0, 1), x))(x)
        Array([[0.5],
               [nan]], dtype=float32)
    """
    if domain is None:
        return x
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return domain.read(x)
    if not check:
        return x
    if isinstance(x, jax.core.Tracer):
        # Compiled code can't raise. NaN gives codes of -1 and is counted, while pixels in [0, 255]
        # would silently give wrong codes.
        each = inside(domain, x).reshape(-1, *(1,) * (x.ndim - 1))
        return jnp.where(each, x, jnp.nan)
    with jax.ensure_compile_time_eval():  # x is concrete, even if `jit` closes over it
        if not inside(domain, x).all():
            low, high = finite_range(x)
            raise ValueError(
                f"x has values from {low:.3g} to {high:.3g}, but this model takes {domain.words}: "
                f"{domain.remedy(low, high)}"
            )
    return x


def finite_range(x: Shaped[Array | np.ndarray, "..."]) -> tuple[float, float]:
    """Returns the least and the largest finite value; inf and -inf if there is none."""
    finite = jnp.isfinite(x)
    least, largest = (
        f(x, where=finite, initial=start) for f, start in ((jnp.min, jnp.inf), (jnp.max, -jnp.inf))
    )
    return float(least), float(largest)


def inside(domain: Domain, x: Shaped[Array | np.ndarray, "B *shape"]) -> Bool[Array, "B"]:
    """Returns whether all finite values of each example are in the domain."""
    # NaN is padding or a damaged example, which quantizers drop; it says nothing about the scale.
    outside = jnp.isfinite(x) & ((x < domain.low) | (x > domain.high))
    return ~outside.any(axis=tuple(range(1, x.ndim)))
