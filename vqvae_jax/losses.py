"""Codebook loss and commitment loss of VQ-VAE, each a mean over elements."""

import jax.numpy as jnp
from jax.lax import stop_gradient as sg
from jaxtyping import Array, Float

from vqvae_jax.checks import check_same_shape
from vqvae_jax.conversions import boundary
from vqvae_jax.reductions import AxisName, mean


@boundary
def codebook_loss(
    z_e: Float[Array, "*rows D"],
    z_q: Float[Array, "*rows D"],
    weights: Float[Array, "*rows"] | None = None,
    axis_name: AxisName = None,
) -> Float[Array, ""]:
    """Codebook loss |sg[z_e] - z_q|^2, a mean over elements: moves codes to the encoder's outputs.

    The second term of equation 3 of arXiv:1711.00937; beta does not multiply it.

    Args:
        z_e: the encoder's outputs, `[..., D]`.
        z_q: their codes, `[..., D]`.
        weights: weights of the rows, `[...]`; the weighted mean is 0 if all weights are 0.
        axis_name: axis of the replicas, over whose rows the mean is taken too.

    Raises:
        ValueError: if z_e and z_q differ in shape.

    Example:
        >>> codebook_loss(jnp.array([[1.0, 3.0]]), jnp.array([[0.0, 0.0]]))
        Array(5., dtype=float32)
    """
    check_same_shape("z_e", z_e, "z_q", z_q)
    # A mean over elements, not a sum over D, so that beta means the same for every width D.
    return mean(jnp.square(sg(z_e) - z_q), weights, axis_name)


@boundary
def commitment_loss(
    z_e: Float[Array, "*rows D"],
    z_q: Float[Array, "*rows D"],
    weights: Float[Array, "*rows"] | None = None,
    axis_name: AxisName = None,
) -> Float[Array, ""]:
    """Commitment loss |z_e - sg[z_q]|^2, a mean over elements: keeps the encoder near its codes.

    The third term of equation 3 of arXiv:1711.00937, without its factor beta. Beta belongs here and
    only here; the widely copied code of taming-transformers puts it on the codebook term by
    default.

    Args, raises: as `codebook_loss`.

    Example:
        >>> 0.25 * commitment_loss(jnp.array([[1.0, 3.0]]), jnp.array([[0.0, 0.0]]))
        Array(1.25, dtype=float32)
    """
    check_same_shape("z_e", z_e, "z_q", z_q)
    return mean(jnp.square(z_e - sg(z_q)), weights, axis_name)
