"""Gradient estimators: functions (z_e, z_q) -> z_q, exact in value, that choose the gradient."""

from jax.lax import stop_gradient as sg
from jaxtyping import Array, Float

from vqvae_jax.losses import check_same_shape


def exactly(z_q: Array, surrogate: Array) -> Array:
    """sg[z_q] + (surrogate - sg[surrogate]): the value of z_q bit for bit, another's gradient.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> jax.value_and_grad(lambda z: exactly(jnp.round(z), z**2))(1.6)
        (Array(2., dtype=float32, weak_type=True), Array(3.2, dtype=float32, weak_type=True))
    """
    return sg(z_q) + (surrogate - sg(surrogate))


def straight_through(
    z_e: Float[Array, "*rows D"], z_q: Float[Array, "*rows D"]
) -> Float[Array, "*rows D"]:
    """The straight-through estimator: z_q, with dL/dz_e := dL/dz_q and no gradient to z_q.

    sg[z_q] + (z_e - sg[z_e]), whose value is z_q bit for bit (z_e + sg[z_q - z_e] is not).
    arXiv:1711.00937, section 3.2.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> z_e, z_q = jnp.array([0.2, 0.9]), jnp.array([0.0, 1.0])
        >>> jax.grad(lambda z: jnp.sum(straight_through(z, z_q) ** 2))(z_e)
        Array([0., 2.], dtype=float32)
    """
    check_same_shape("z_e", z_e, "z_q", z_q)
    return exactly(z_q, z_e)
