"""Comparison of two codes that are about equally near to a row.

    |z - e_i|^2 - |z - e_j|^2 = (e_j - e_i).((z - e_i) + (z - e_j))

In float32 the sign of the right side is correct unless
| |z - e_i| - |z - e_j| | < (D + 8) 2^-24 |e_i - e_j|, however far z and the codes lie from the
origin: differences of nearly equal numbers are exact.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def closer(z, e_j, e_k) -> Bool[Array, "P"]:
    """Returns whether |z - e_j| < |z - e_k|, by the product at the head of this file."""
    apart, off = near_one(e_k - e_j), near_one((z - e_k) + (z - e_j))
    return jnp.sum(apart * off, axis=-1) < 0


def near_one(x: Float[Array, "P D"]) -> Float[Array, "P D"]:
    """Scales x by a power of two so that max |x_d| is in [1, 2): exact, and nothing underflows."""
    return x / power_of_two(jnp.max(jnp.abs(x), axis=-1, keepdims=True))


def power_of_two(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The greatest power of two <= x, at least 2^-126.

    Example:
        >>> power_of_two(jnp.array([1.0, 3.9, 0.7, 0.0, 1e30]))
        Array([1.0000000e+00, 2.0000000e+00, 5.0000000e-01, 1.1754944e-38,
               6.3382530e+29], dtype=float32)
    """
    # Only the exponent bits are kept: exp2(floor(log2(x))) need not be a power of two to the last
    # bit, and then scaling would round. 1 << 23 is 2^-126, the least normal number.
    bits = jax.lax.bitcast_convert_type(x, jnp.int32)
    return jax.lax.bitcast_convert_type(jnp.maximum(bits & 0x7F800000, 1 << 23), jnp.float32)
