"""Gradient estimators: functions (z_e, z_q) -> z_q, exact in value, with a surrogate gradient."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient as sg
from jaxtyping import Array, Float

from vqvae_jax.checks import check_same_shape
from vqvae_jax.conversions import boundary
from vqvae_jax.saving.describe import Function, described, named

Estimator = Callable[[Array, Array], Array]


@boundary
def exactly(z_q: Array, surrogate: Array) -> Array:
    """Returns sg[z_q] + (surrogate - sg[surrogate]): the value of z_q, the surrogate's gradient.

    Example:
        >>> jax.value_and_grad(lambda z: exactly(jnp.round(z), z**2))(1.6)
        (Array(2., dtype=float32, weak_type=True), Array(3.2, dtype=float32, weak_type=True))
    """
    # surrogate - sg(surrogate) is exactly 0, so nothing is rounded. The usual z_e + sg(z_q - z_e)
    # differs from the code in the last bits, but decode(indices) must equal it.
    return sg(z_q) + (surrogate - sg(surrogate))


@named
@boundary
def unit(z: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
    """Returns z / |z|, and 0 with a finite gradient for z = 0.

    Example:
        >>> unit(jnp.array([[3.0, 4.0], [0.0, 0.0]]))
        Array([[0.6, 0.8],
               [0. , 0. ]], dtype=float32)
    """
    largest = jnp.max(jnp.abs(z), axis=-1, keepdims=True)
    # Scaled first, so that no square over- or underflows. The gradient of z / |z| does not depend
    # on the length of z, so the scale may be a constant to it.
    z = z / sg(jnp.where(largest > 0, largest, 1))
    square = jnp.sum(z * z, axis=-1, keepdims=True)
    # The inner where keeps rsqrt finite at 0; otherwise its infinite slope times 0 is a NaN
    # gradient.
    return jnp.where(square > 0, z * jax.lax.rsqrt(jnp.where(square > 0, square, 1)), 0)


@named
@boundary
def straight_through(
    z_e: Float[Array, "*rows D"], z_q: Float[Array, "*rows D"]
) -> Float[Array, "*rows D"]:
    """The straight-through estimator: z_q, with dL/dz_e := dL/dz_q and no gradient to z_q.

    sg[z_q] + (z_e - sg[z_e]), whose value is z_q bit for bit (z_e + sg[z_q - z_e] is not).
    arXiv:1711.00937, section 3.2.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> z_e, z_q = jnp.array([0.2, 0.9]), jnp.array([0.0, 1.0])
        >>> jax.grad(lambda z: jnp.sum(straight_through(z, z_q) ** 2))(z_e)
        Array([0., 2.], dtype=float32)
    """
    check_same_shape("z_e", z_e, "z_q", z_q)
    return exactly(z_q, z_e)


@named
@boundary
def rotation_trick(
    z_e: Float[Array, "*rows D"], z_q: Float[Array, "*rows D"]
) -> Float[Array, "*rows D"]:
    """The rotation trick: z_q with the gradient of sg[|z_q| / |z_e| R] z_e, R turning z_e onto z_q.

    With u = z_e / |z_e|, v = z_q / |z_q| and r = (u + v) / |u + v|, R = I - 2 r r^T + 2 v u^T is
    the rotation in the plane of z_e and z_q (arXiv:2410.06424, section 4.2): the angle between the
    gradient and z_q becomes that between the gradient and z_e. Zero rows and zero codes pass no
    gradient.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> z_e, z_q = jnp.array([2.0, 0.0]), jnp.array([0.0, 1.0])
        >>> jax.grad(lambda z: rotation_trick(z, z_q) @ jnp.array([0.0, 1.0]))(z_e).round(6)
        Array([0.5, 0. ], dtype=float32)
    """
    check_same_shape("z_e", z_e, "z_q", z_q)
    # The map from z_e to z_q is a constant to the gradient, as in the paper; only the z_e that it
    # acts on is differentiated.
    length = jnp.linalg.norm(sg(z_e), axis=-1, keepdims=True)
    some, stretch = length > 0, jnp.linalg.norm(sg(z_q), axis=-1, keepdims=True)
    stretch = jnp.where(some, stretch / jnp.where(some, length, 1), 0)
    u, v = unit(sg(z_e)), unit(sg(z_q))
    r = unit(u + v)
    # R z_e by dot products, since the matrix R would take D^2 numbers for each row.
    turned = z_e - 2 * dot(z_e, r) * r + 2 * dot(z_e, u) * v
    return exactly(z_q, stretch * turned)


def dot(x: Float[Array, "*rows D"], y: Float[Array, "*rows D"]) -> Float[Array, "*rows 1"]:
    return jnp.sum(x * y, axis=-1, keepdims=True)


@described
def synchronized(nu: float | Array = 0.2) -> Function:
    """Returns a straight-through estimator that also passes nu times the gradient to the codes.

    sg[z_q] + (z_e - sg[z_e]) + nu (z_q - sg[z_q]): the codebook moves in the same step as the
    encoder instead of one step behind it (arXiv:2305.08842). It is for codebooks that gradients
    move. Others have found nu = 1 harmful, so test it in an ablation before adopting it.

    Example:
        >>> z_e, z_q = jnp.array([0.2]), jnp.array([1.0])
        >>> jax.grad(lambda *z: synchronized(0.5)(*z).sum(), argnums=(0, 1))(z_e, z_q)
        (Array([1.], dtype=float32), Array([0.5], dtype=float32))
    """

    def estimator(
        z_e: Float[Array, "*rows D"], z_q: Float[Array, "*rows D"]
    ) -> Float[Array, "*rows D"]:
        check_same_shape("z_e", z_e, "z_q", z_q)
        # `exactly` keeps the value, so the surrogate need only have the right gradient.
        return exactly(z_q, z_e + nu * z_q)

    return Function(estimator)
