"""The scale of pixels: uint8 to floats in [-0.5, 0.5] before the encoder, and back."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped, UInt8

from vqvae_jax.conversions import boundary

_FLOATS = (jnp.float32, jnp.bfloat16, jnp.float16)


def preprocess(
    pixels: Shaped[jax.Array | np.ndarray, "*shape"] | list | tuple,
) -> Float[jax.Array, "*shape"]:
    """Scales uint8 pixels to float32 in [-0.5, 0.5]: `x / 255 - 0.5`; floats pass unchanged.

    This is the only place where the scale changes. It works inside `jit`, so that batches travel to
    the accelerator as bytes.

    Args:
        pixels: uint8 `[..., H, W, C]`, or float32, bfloat16 or float16 of any shape; float64 and
            lists of floats become float32.

    Raises:
        TypeError: for any other dtype.

    >>> preprocess(np.array([[[0], [255]]], np.uint8)).ravel()
    Array([-0.5,  0.5], dtype=float32)
    """
    pixels = jnp.asarray(pixels) if isinstance(pixels, list | tuple) else pixels
    if pixels.dtype in _FLOATS:
        return jnp.asarray(pixels)
    if pixels.dtype == np.float64:
        return jnp.asarray(pixels, jnp.float32)
    if pixels.dtype != jnp.uint8:
        raise TypeError(f"expected uint8 or floats, found {pixels.dtype}")
    # The subtraction is exact and a single product follows, so that `jit` has nothing to contract.
    # As written in the formula, compiled code would give 0.50000006 for 255, unlike eager code.
    return (jnp.asarray(pixels, jnp.float32) - 127.5) * (1 / 255)


@boundary
def to_pixels(x: Float[jax.Array | np.ndarray, "*shape"]) -> UInt8[jax.Array, "*shape"]:
    """The inverse of `preprocess`: `round((x + 0.5) * 255)` clipped to [0, 255], as uint8.

    Args:
        x: floats of any shape, usually a reconstruction in about [-0.5, 0.5].

    >>> to_pixels(np.array([-0.5, -0.3, 0.5, 7.0], np.float32))
    Array([  0,  51, 255, 255], dtype=uint8)
    """
    scaled = (jnp.asarray(x, jnp.float32) + 0.5) * 255.0
    return jnp.clip(jnp.round(scaled), 0, 255).astype(jnp.uint8)
