"""DiVeQ and NSVQ: noise as long as the error carries the gradient to rows and codes."""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient as sg
from jaxtyping import Array, Float

from vqvae_jax.checks import Number, check_range
from vqvae_jax.estimators import unit
from vqvae_jax.quantizers.base import Quantizer, local_key
from vqvae_jax.quantizers.codebooks.dead_codes import Reset
from vqvae_jax.quantizers.codebooks.inits import Init, normal
from vqvae_jax.quantizers.codebooks.storage import gradient
from vqvae_jax.quantizers.from_codebook import lookup_quantizer
from vqvae_jax.saving.describe import described


@described
def diveq(
    size: int,
    dim: int,
    *,
    sigma: Number = 0.03,
    init: Init = normal(),  # noqa: B008
    reset: Reset = None,
) -> Quantizer:
    """DiVeQ: z_q = z_e + |e_k - z_e| sg[d / |d|] with d = e_k - z_e + sigma n, n ~ N(0, I).

    arXiv:2509.26469. The gradient reaches z_e and, through the length, e_k: there are no losses
    beside that of the task. In training `quantized` is near the code (as sigma is small), not equal
    to it, and needs a key; in eval mode it is the code. Under `residual` use estimator=None.

    Args:
        size: K.
        dim: D.
        sigma: deviation of the noise, in the units of z_e; at 0 the value is the code's.
        init, reset: as in `vq`. Without losses, a code that no row chooses gets no gradient.

    Raises:
        ValueError: if an argument is out of range, or training has no key.

    Example:
        >>> diveq(8, 2).stochastic
        True
    """
    check_range(0, float("inf"), sigma=sigma)

    def surrogate(key, z_e, z_q, axis_name):
        noise = jax.random.normal(local_key(key, axis_name), z_e.shape, jnp.float32)
        # sg, as this direction depends on z_e and e_k; that of `nsvq` is noise alone.
        return z_e + length(z_q - z_e) * sg(unit(z_q - z_e + sigma * noise))

    return reparameterized(size, dim, init, reset, surrogate)


@described
def nsvq(
    size: int,
    dim: int,
    *,
    init: Init = normal(),  # noqa: B008
    reset: Reset = None,
) -> Quantizer:
    """NSVQ: z_q = z_e + |e_k - z_e| n / |n| with n ~ N(0, I): noise as long as the error.

    Vali and Backstrom 2022 (doi:10.1109/ACCESS.2022.3147670), the limit of `diveq` for large sigma.
    The gradient reaches z_e and, through the length, e_k; no losses. In training `quantized` is not
    a code, and needs a key; in eval mode it is the code. Under `residual` use estimator=None.

    Args:
        size, dim: K, D.
        init, reset: as in `vq`.

    Raises:
        ValueError: if an argument is out of range, or training has no key.

    Example:
        >>> nsvq(8, 2).vocab
        (8,)
    """

    def surrogate(key, z_e, z_q, axis_name):
        noise = jax.random.normal(local_key(key, axis_name), z_e.shape, jnp.float32)
        return z_e + length(z_q - z_e) * unit(noise)

    return reparameterized(size, dim, init, reset, surrogate)


def reparameterized(size, dim, init, reset, surrogate) -> Quantizer:
    """A quantizer with a gradient codebook and no losses: the task's gradient is `surrogate`'s."""

    def safe(key, z_e, z_q, axis_name):  # rows that are not valid are 0, and so is their code
        valid = jnp.any((z_e != 0) | (z_q != 0), axis=-1, keepdims=True)
        return jnp.where(valid, surrogate(key, z_e, z_q, axis_name), 0)

    # A codebook loss would pull codes to the mean of their rows beside the task's own gradient.
    codebook = gradient(size, dim, init=init, reset=reset)
    return lookup_quantizer(codebook, lambda found: {}, safe, stochastic=True)


def length(x: Float[Array, "*rows D"]) -> Float[Array, "*rows 1"]:
    """Norm |x|, with gradient 0 at x = 0."""
    # The inner `where` as well: a NaN of sqrt at 0 times 0 would still be NaN in the gradient.
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
