"""Moving averages of the rows that choose each code, and codes that somebody put in their place."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vqvae_jax.boundary import boundary
from vqvae_jax.checks import Number
from vqvae_jax.reductions import is_valid


def by_hand(state: dict, eps: Number) -> Bool[Array, "K"]:
    """Which codes of an `averaged` codebook were written by hand, their sums left as they were.

    Those that are finite, other than the last update left them, and neither M_j / N_j nor
    M_j / N'_j: whoever writes counts and sums too, as from a checkpoint of another library, is
    taken at his word.
    """
    e, counts, sums = state["codebook"], state["counts"], state["sums"]
    smoothed = laplace_smoothing(counts, eps * state.get("weight", 1))

    def fits(n):
        off = jnp.abs(sums - n[:, None] * e)
        return (n > 0) & jnp.all(off <= 1e-3 * jnp.abs(n[:, None] * e), axis=-1)

    own = jnp.any(e != state.get("written", e), axis=-1) & is_valid(e)
    return own & ~fits(counts) & ~fits(smoothed)


def put_in(state: dict, own: Bool[Array, "K"]) -> dict:
    """The state of an `averaged` codebook after codes were put in: its averages are theirs too.

    N_j = mean N, M_j = N_j e_j, so that M_j / N'_j = e_j. Averages that began at 0 are corrected
    for it once and for all; no first batch is waited for.
    """
    e, weight = state["codebook"], state.get("weight", 1)
    counts, sums = (state[name] / jnp.where(weight > 0, weight, 1) for name in ("counts", "sums"))
    mean = jnp.where(jnp.any(counts > 0), jnp.mean(counts), 1)
    new = {
        "written": jnp.copy(e),  # a buffer of its own, which may be donated
        "counts": jnp.where(own, mean, counts),
        "sums": jnp.where(own[:, None], mean * e, sums),
        "weight": jnp.ones((), jnp.float32),
        "initialized": jnp.array(True),
    }
    return {name: new.get(name, value) for name, value in state.items()}


@boundary
def ema_update(average: Array, value: Number, decay: Number) -> Array:
    """decay * average + (1 - decay) * value.

    Example:
        >>> ema_update(jnp.ones(2), 3.0, decay=0.75)
        Array([1.5, 1.5], dtype=float32)
    """
    return decay * average + (1 - decay) * value


@boundary
def laplace_smoothing(counts: Float[Array, "K"], eps: float | Array) -> Float[Array, "K"]:
    """N'_j = (N_j + eps) / (N + K eps) N with N = sum_j N_j: no count is 0, their sum stays.

    Example:
        >>> laplace_smoothing(jnp.array([3.0, 1.0, 0.0]), eps=1.0)
        Array([2.2857144, 1.1428572, 0.5714286], dtype=float32)
    """
    total = jnp.sum(counts)
    return (counts + eps) / (total + counts.size * eps) * total
