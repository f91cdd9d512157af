"""Scalar quantizers such as FSQ: each dimension is rounded by itself; digits form one stream."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient as sg
from jaxtyping import Array, Float

from vqvae_jax.checks import Number, check_range
from vqvae_jax.losses import codebook_loss, commitment_loss
from vqvae_jax.quantizers.base import Quantizer
from vqvae_jax.quantizers.digits import Levels, check_levels, digital
from vqvae_jax.saving.describe import described, named


class Axis(NamedTuple):
    """Bound and values of each dimension, in which digit d has the value (d - zero) / width."""

    bound: Callable[[Array], Array]  # z [..., D] -> y [..., D], elementwise
    width: Float[np.ndarray, "D"]  # digits per unit of y
    zero: Float[np.ndarray, "D"]  # the digit, possibly fractional, at y = 0


@named
def tanh_bound(levels: Levels) -> Axis:
    """The bound of FSQ: y = (tanh(z + shift) h - offset) / (L // 2), h = 0.999 (L - 1) / 2.

    It follows the listing in appendix A.1 of arXiv:2309.15505. For even L, the offset 1/2 gives
    values from -1 to 1 - 2 / L, and the shift tan(offset / h) keeps z = 0 near the value 0. For odd
    L both are 0.

    Raises:
        ValueError: for L = 2, which has no such shift.
    """
    return tanh_axis(levels, 1 - 1e-3, np.tan)


def tanh_axis(levels: Levels, stretch: float, inverse: Callable) -> Axis:
    """Makes `tanh_bound` with h = stretch (L - 1) / 2 and the shift inverse(offset / h)."""
    if levels.min() < 3:
        raise ValueError(f"tanh_bound needs levels >= 3, got {levels}: symmetric_bound takes 2")
    # Computed in float64 and rounded once to float32: all three are constants of the quantizer.
    half = (levels - 1) * stretch / 2
    offset = np.where(levels % 2 == 0, 0.5, 0.0)
    h, offset, shift = (a.astype(np.float32) for a in (half, offset, inverse(offset / half)))
    width = (levels // 2).astype(np.float32)
    return Axis(lambda z: (jnp.tanh(z + shift) * h - offset) / width, width, width)


@named
def arctanh_bound(levels: Levels) -> Axis:
    """The bound of `tanh_bound` with h = 1.001 (L - 1) / 2 and the shift arctanh(offset / h).

    The authors' later code and vector-quantize-pytorch use it; choose it for parity with models
    trained there. For levels L_i >= 3 its values are those of `tanh_bound`, reached from other z.
    """
    return tanh_axis(levels, 1 + 1e-3, np.arctanh)


@named
def symmetric_bound(levels: Levels) -> Axis:
    """The bound y = tanh(z), with values evenly spaced from -1 to 1 (arXiv:2411.19842, 3.2)."""
    half = ((levels - 1) / 2).astype(np.float32)
    return Axis(jnp.tanh, half, half)


@named
def tanh_cdf(z: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
    """Distribution function of a logistic variable: (tanh(z) + 1) / 2."""
    return (jnp.tanh(z) + 1) / 2


@named
def normal_cdf(z: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
    """Distribution function of N(0, 1)."""
    return phi(z)


@jax.custom_jvp
def phi(z: Array) -> Array:
    """Distribution function of N(0, 1) with a derivative of its own, `slope_of_phi`."""
    # The gradient of `jax.scipy.stats.norm.cdf` raises under `shard_map` in JAX 0.12.
    return jax.scipy.stats.norm.cdf(z)


@phi.defjvp
def slope_of_phi(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """Derivative of `phi`: the density of N(0, 1)."""
    (z,), (dz,) = primals, tangents
    return phi(z), jax.scipy.stats.norm.pdf(z) * dz


@described
def grid(levels: Sequence[int]) -> Quantizer:
    """The plain lattice: in each dimension, the nearest of L values evenly spaced from -1 to 1.

    d = floor((z + 1) (L - 1) / 2 + 1/2), clipped to 0..L - 1; z_q = 2 d / (L - 1) - 1. The gradient
    is straight-through, also where z is clipped. There are no losses.

    Args:
        levels: L_1..L_D. The stream has prod(levels) codes.

    Raises:
        ValueError: if a level is out of range, or there are more than 2^31 - 1 codes.

    Example:
        >>> q = grid([3, 2])
        >>> out, _ = q.apply({}, {}, jnp.array([[0.2, 0.2], [-7.0, 0.6]]))
        >>> out.quantized.tolist(), out.indices.tolist(), q.vocab
        ([[0.0, 1.0], [-1.0, 1.0]], [[4], [3]], (6,))
    """
    size = check_levels(levels)
    half = ((size - 1) / 2).astype(np.float32)
    return on_axis(size, Axis(lambda z: z, half, half))


@described
def fsq(
    levels: Sequence[int],
    *,
    bound: Callable[[Levels], Axis] = tanh_bound,
    rounded: Number | None = None,
) -> Quantizer:
    """Finite scalar quantization: bound, then round (arXiv:2309.15505).

    z_q = round(f(z)) / (L // 2), where f(z) / (L // 2) is the y of `tanh_bound`. Only the rounding
    is straight-through: the gradient is that of y. There are no losses. The paper's levels for
    about 2^8, 2^10, 2^12, 2^14 and 2^16 codes are [8, 6, 5], [8, 5, 5, 5], [7, 5, 5, 5, 5],
    [8, 8, 8, 6, 5] and [8, 8, 8, 5, 5, 5].

    Args:
        levels: L_1..L_D. The stream has prod(levels) codes.
        bound: `tanh_bound`, `symmetric_bound`, or another function from the levels to an `Axis`.
        rounded: None, or the share of scalars that training rounds. The others get noise as wide as
            a cell, y + U(-1/2, 1/2) / width (arXiv:2411.19842), for which training needs a key.

    Raises:
        ValueError: if an argument is out of range, or there are more than 2^31 - 1 codes.

    Example:
        >>> q = fsq([8, 5, 5, 5])
        >>> out, _ = q.apply({}, {}, jnp.array([[0.0, 0.0, 9.0, -9.0]]))
        >>> out.quantized.tolist(), q.vocab
        ([[0.0, 0.0, 1.0, -1.0]], (1000,))
    """
    size = check_levels(levels)
    return on_axis(size, bound(size), rounded)


@described
def fsp(
    levels: Sequence[int], cdf: Callable[[Array], Array] = tanh_cdf, *, rounded: Number = 0.0
) -> Quantizer:
    """Finite scalar perturbation: noise in training, rounding in eval mode (arXiv:2602.17133).

    p = cdf(z), d = floor(p L), z_q = sqrt(12) ((d + 1/2) / L - 1/2), of variance 1 for uniform p.
    Training replaces (d + 1/2) / L by p + U(-1/2, 1/2) / L, or by p where that sum leaves (0, 1):
    the error is as large as that of rounding, but smooth. Indices are still those of d. There are
    no losses.

    Args:
        levels: L_1..L_D. The stream has prod(levels) codes.
        cdf: elementwise function from reals to [0, 1]: `tanh_cdf`, `normal_cdf`.
        rounded: share of scalars that training rounds nevertheless.

    Training needs a key.

    Raises:
        ValueError: if an argument is out of range, or there are more than 2^31 - 1 codes.

    Example:
        >>> q, z = fsp([3, 3]), jnp.array([[0.1, 9.0]])
        >>> rounded, _ = q.apply({}, {}, z)
        >>> noisy, _ = q.apply({}, {}, z, train=True, key=jax.random.key(0))
        >>> rounded.indices == noisy.indices, rounded.quantized == noisy.quantized
        (Array([[ True]], dtype=bool), Array([[False, False]], dtype=bool))
    """
    # Uniform p has standard deviation 12^(-1/2), so y = (p - 1/2) / std has variance 1.
    size, std = check_levels(levels), 12**-0.5
    width, zero = (size * std).astype(np.float32), ((size - 1) / 2).astype(np.float32)
    return on_axis(size, Axis(lambda z: (cdf(z) - 0.5) / std, width, zero), rounded)


@described
def latent_vq(levels: Sequence[int], *, alpha: Number = 0.01, beta: Number = 0.01) -> Quantizer:
    """Latent quantization: L_i learnt values for dimension i (arXiv:2305.18378).

    d_i = argmin_j |z_i - v_ij|, z_q = v_id; losses alpha |sg[z] - z_q|^2 ("codebook") and
    beta |z - sg[z_q]|^2 ("commitment"), means over elements. params["values"] `[D, max L]` start
    evenly spaced from -1/2 to 1/2; entries beyond L_i are padding. The gradient is
    straight-through.

    Args:
        levels: L_1..L_D. The stream has prod(levels) codes.
        alpha: weight of the term that moves the values.
        beta: weight of the term that moves the encoder.

    A value that is not finite is never chosen, and counted in metrics["invalid_codes"].

    Raises:
        ValueError: if an argument is out of range, or there are more than 2^31 - 1 codes.

    Example:
        >>> q = latent_vq([3, 2])
        >>> params, state = q.init(jax.random.key(0))
        >>> q.apply(params, state, jnp.array([[0.2, 0.2]]))[0].quantized
        Array([[0. , 0.5]], dtype=float32)
    """
    size = check_levels(levels)
    check_range(0, float("inf"), alpha=alpha, beta=beta)

    def real():
        return np.arange(size.max()) < size[:, None]

    def start():
        first = np.where(real(), np.arange(size.max()) / (size[:, None] - 1) - 0.5, 0)
        return {"values": jnp.asarray(first, jnp.float32)}

    def digits(params, z):
        v = params["values"]
        # Padding and values that are not finite count as infinitely far; argmin would choose a NaN.
        distance = jnp.where(real() & jnp.isfinite(v), jnp.abs(z[..., None] - v), jnp.inf)
        return jnp.argmin(distance, axis=-1)

    def values(params, d):
        return params["values"][np.arange(len(size)), d]

    def terms(params, rows, z, z_q, axis_name):
        losses = {
            "codebook": alpha * codebook_loss(z, z_q, rows.weights, axis_name),
            "commitment": beta * commitment_loss(z, z_q, rows.weights, axis_name),
        }
        lost = real() & ~jnp.isfinite(sg(params["values"]))
        return losses, {"invalid_codes": jnp.sum(lost, dtype=jnp.float32)}

    return digital(size, lambda z: z, digits, values, terms, start=start)


def on_axis(levels: Levels, axis: Axis, rounded: Number | None = None) -> Quantizer:
    """Makes a quantizer with fixed values; if `rounded` is given, training adds noise instead."""
    top = levels - 1

    def place(y):
        return y * axis.width + axis.zero

    def digits(params, y):
        # floor(x + 1/2) instead of round, which takes the even digit at ties: cells would differ.
        return jnp.clip(jnp.floor(place(y) + 0.5), 0, top)

    def values(params, d):
        return (d - axis.zero) / axis.width

    def perturb(key, y, z_q, share):
        key_share, key_noise = jax.random.split(key)
        noisy = y + (jax.random.uniform(key_noise, y.shape, jnp.float32) - 0.5) / axis.width
        # Where noise would leave the outermost cells, y itself is passed on: clipping would add a
        # bias.
        inside = (place(noisy) > -0.5) & (place(noisy) < np.float32(top + 0.5))
        # float32: under x64 the threshold, and so which scalars are rounded, would change.
        keep = jax.random.bernoulli(key_share, jnp.float32(share), y.shape)
        return jnp.where(keep, z_q, jnp.where(inside, noisy, y))

    if rounded is None:
        return digital(levels, axis.bound, digits, values)
    check_range(0, 1, rounded=rounded)
    noise = partial(perturb, share=rounded)
    return digital(levels, axis.bound, digits, values, perturb=noise)
