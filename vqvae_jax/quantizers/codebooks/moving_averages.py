"""Moving averages of an EMA codebook, and their repair after codes were written by hand."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vqvae_jax.checks import Number
from vqvae_jax.conversions import boundary
from vqvae_jax.reductions import is_valid


def by_hand(state: dict, eps: Number) -> Bool[Array, "K"]:
    """Marks the codes of an `ema` codebook that were written by hand without their sums.

    They are finite, differ from what the last update left, and are neither M_j / N_j nor
    M_j / N'_j. Where counts and sums were written as well, as from a checkpoint of another library,
    they fit the codes and nothing is marked.
    """
    e, counts, sums = state["codebook"], state["counts"], state["sums"]
    smoothed = laplace_smoothing(counts, eps * state.get("weight", 1))

    # By both counts, since libraries differ in whether they smooth them. The tolerance is for sums
    # that were computed in another order or stored with fewer digits.
    def fits(n):
        off = jnp.abs(sums - n[:, None] * e)
        return (n > 0) & jnp.all(off <= 1e-3 * jnp.abs(n[:, None] * e), axis=-1)

    # Bit by bit: `written` is a copy of what the update made, so that any change is somebody's.
    own = jnp.any(e != state.get("written", e), axis=-1) & is_valid(e)
    return own & ~fits(counts) & ~fits(smoothed)


def put_in(state: dict, own: Bool[Array, "K"]) -> dict:
    """State of an `ema` codebook after codes were put in, with averages that fit them.

    N_j = mean N, M_j = N_j e_j, so that M_j / N'_j = e_j. The zero bias of averages that began at 0
    is removed at once (weight 1), and no first batch is waited for.
    """
    e, weight = state["codebook"], state.get("weight", 1)
    counts, sums = (state[name] / jnp.where(weight > 0, weight, 1) for name in ("counts", "sums"))
    # With the mean count a new code moves neither faster nor slower than the others on average; a
    # count of 0 would let the next row replace it.
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
    """One step of an exponential moving average: decay * average + (1 - decay) * value.

    Example:
        >>> ema_update(jnp.ones(2), 3.0, decay=0.75)
        Array([1.5, 1.5], dtype=float32)
    """
    return decay * average + (1 - decay) * value


@boundary
def laplace_smoothing(counts: Float[Array, "K"], eps: float | Array) -> Float[Array, "K"]:
    """Smoothed counts N'_j = (N_j + eps) / (N + K eps) N, N = sum_j N_j: none is 0, the sum stays.

    Example:
        >>> laplace_smoothing(jnp.array([3.0, 1.0, 0.0]), eps=1.0)
        Array([2.2857144, 1.1428572, 0.5714286], dtype=float32)
    """
    total = jnp.sum(counts)
    return (counts + eps) / (total + counts.size * eps) * total
