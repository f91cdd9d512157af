"""DiVeQ and NSVQ: noise of the length of the error carries the gradient to rows and codes."""

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

    arXiv:2509.26469. The gradient reaches z_e and, through the length, e_k, so there are no losses
    besides that of the task. In training, which needs a key, `quantized` is close to the code for
    small sigma, but not equal to it; in eval mode it is the code. Under `residual` use
    estimator=None.

    Args:
        size: K.
        dim: D.
        sigma: standard deviation of the noise, in units of z_e; 0 gives the code itself.
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
        # The direction depends on z_e and e_k, hence sg; that of `nsvq` is noise alone.
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
    The gradient reaches z_e and, through the length, e_k, so there are no losses. In training,
    which needs a key, `quantized` is not a code; in eval mode it is. Under `residual` use
    estimator=None.

    Args:
        size, dim: K and D.
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
    """Makes a quantizer without losses, whose codebook the task's gradient moves by `surrogate`."""
    # No losses: a codebook loss would pull codes to the mean of their rows, against the task.
    codebook = gradient(size, dim, init=init, reset=reset)
    return lookup_quantizer(codebook, lambda found: {}, surrogate, stochastic=True)


def length(x: Float[Array, "*rows D"]) -> Float[Array, "*rows 1"]:
    """Norm |x|, with gradient 0 at x = 0."""
    # The inner `where` is needed too: the infinite slope of sqrt at 0, times 0, would be NaN.
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
