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

from jaxtyping import Array, Float, Int

from vqvae_jax.conversions import boundary
from vqvae_jax.estimators import straight_through
from vqvae_jax.losses import codebook_loss, commitment_loss
from vqvae_jax.reductions import lookup
from vqvae_jax.search.exact import nearest


class Quantized(NamedTuple):
    """The result of `quantize`: z_q, indices and losses."""

    z_q: Float[Array, "*rows D"]  # value e_k, gradient of the straight-through estimator
    indices: Int[Array, "*rows"]
    losses: dict[str, Float[Array, ""]]  # "codebook" and "commitment", beta included


@boundary
def quantize(
    z_e: Float[Array, "*rows D"], codebook: Float[Array, "K D"], beta: float = 0.25
) -> Quantized:
    """The quantizer of VQ-VAE (arXiv:1711.00937).

    `Quantizer` records add what training needs: masks, replicas, moving averages, dead-code resets.
    `vq(K, D)` gives exactly these values.

    Args:
        z_e: the encoder's outputs, `[..., D]`.
        codebook: the codes e, `[K, D]`.
        beta: weight of the commitment term.

    Raises:
        ValueError: if the shapes do not fit.

    Example:
        >>> e = [[0.0, 0.0], [1.0, 1.0]]
        >>> z_q, k, losses = quantize([[0.9, 0.7]], e, beta=0.25)
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
