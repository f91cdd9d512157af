"""Dead-code reset: the codes that rows of the batch replace."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vqvae_jax.checks import check_range
from vqvae_jax.reductions import AxisName, is_valid
from vqvae_jax.saving.describe import Function, described

Reset = Callable[[Array], Array] | None  # from moving-average counts [K] to bools: which are dead


@described
def underused(share: float = 0.1, shards: AxisName = None) -> Function:
    """Criterion for dead codes: a moving-average count below `share` of the codebook's mean count.

    It is an argument for `reset` of `vq` and `ema_vq`, and does not depend on the batch size. With
    `shards`, the mesh axis of a `sharded` codebook, the mean is that of all codes.

    Example:
        >>> underused(0.5)(jnp.array([1.0, 0.1, 1.0]))
        Array([False,  True, False], dtype=bool)
    """
    check_range(0, 1, share=share)

    def dead(counts: Float[Array, "K"]) -> Bool[Array, "K"]:
        mean = jnp.mean(counts)
        return counts < share * (mean if shards is None else jax.lax.pmean(mean, shards))

    return Function(dead)


def find_dead(
    reset: Callable[[Array], Array],
    counts: Float[Array, "K"],
    hits: Float[Array, "K"],
    codebook: Float[Array, "K D"],
) -> Bool[Array, "K"]:
    """Marks codes to re-seed: dead or not finite ones, unless chosen in this batch."""
    # A rare code may have a small count for a long time, but one that was just chosen is in use.
    return (reset(counts) | ~is_valid(codebook)) & (hits == 0)
