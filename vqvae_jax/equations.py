"""VQ-VAE as its paper states it (arXiv:1711.00937), equation by equation.

| equation                                     | in the code                                |
|----------------------------------------------|--------------------------------------------|
| z_e = enc(x)                                 | `VQVAE.encode`                             |
| k = argmin_j |z_e - e_j|_2                   | `nearest`                                  |
| z_q = e_k                                    | `lookup`                                   |
| x' = dec(z_q), dL_rec/dz_e := dL_rec/dz_q    | `VQVAE.decode`, `straight_through`         |
| |sg[z_e] - z_q|^2 + beta |z_e - sg[z_q]|^2   | `codebook_loss`, `beta * commitment_loss`  |
| L = L_rec + both                             | `training.step`: task loss + `Output.loss` |

Nothing is sampled and there is no KL term: the same input always gives the same codes.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vqvae_jax.boundary import boundary
from vqvae_jax.estimators import straight_through
from vqvae_jax.losses import codebook_loss, commitment_loss
from vqvae_jax.reductions import AxisName, in_shard, psum
from vqvae_jax.search import nearest


@boundary
def lookup(
    codebook: Float[Array, "K D"], k: Int[Array, "*rows"], axis_name: AxisName = None
) -> Float[Array, "*rows D"]:
    """z_q = e_k, and 0 for k = -1: a code that was not sent, or lies outside the codebook.

    With `axis_name`, as in `nearest`, of a codebook that is sharded over this mesh axis.

    Example:
        >>> lookup(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([1, -1]))
        Array([[3., 4.],
               [0., 0.]], dtype=float32)
    """
    k = in_shard(k, codebook.shape[0], axis_name)
    known = (k >= 0) & (k < codebook.shape[0])
    return psum(jnp.where(known[..., None], codebook[jnp.where(known, k, 0)], 0), axis_name)


class Quantized(NamedTuple):
    """What `quantize` returns."""

    z_q: Float[Array, "*rows D"]  # value e_k, gradient of the straight-through estimator
    indices: Int[Array, "*rows"]
    losses: dict[str, Float[Array, ""]]  # "codebook" and "commitment", beta included


@boundary
def quantize(
    z_e: Float[Array, "*rows D"], codebook: Float[Array, "K D"], beta: float = 0.25
) -> Quantized:
    """The quantizer of VQ-VAE, arXiv:1711.00937.

    The `Quantizer` records add to it what training needs: masks, replicas, moving averages, codes
    that die; `vq(K, D)` gives exactly these values.

    Args:
        z_e: the encoder's outputs, `[..., D]`.
        codebook: the codes e, `[K, D]`.
        beta: weight of the commitment term.

    Raises:
        ValueError: if the shapes do not fit.

    Example:
        >>> e = jnp.array([[0.0, 0.0], [1.0, 1.0]])
        >>> z_q, k, losses = quantize(jnp.array([[0.9, 0.7]]), e, beta=0.25)
        >>> k, losses["commitment"] / losses["codebook"]
        (Array([1], dtype=int32), Array(0.25, dtype=float32))
    """
    k = nearest(z_e, codebook)
    z_q = lookup(codebook, k)
    losses = {
        "codebook": codebook_loss(z_e, z_q),
        "commitment": beta * commitment_loss(z_e, z_q),
    }
    return Quantized(straight_through(z_e, z_q), k, losses)
