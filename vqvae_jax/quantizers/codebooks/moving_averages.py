"""Moving averages of an EMA codebook, and their repair after codes were written by hand."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vqvae_jax.checks import Number
from vqvae_jax.conversions import boundary
from vqvae_jax.reductions import is_valid


def by_hand(state: dict, eps: Number) -> Bool[Array, "K"]:
    """Marks the codes of an `ema` codebook that were written by hand without their sums.

    Such codes are finite, differ from what the last update left, and equal neither M_j / N_j nor
    M_j / N'_j. If counts and sums were written too, as from a checkpoint of another library, they
    fit the codes and nothing is marked.
    """
    e, counts, sums = state["codebook"], state["counts"], state["sums"]
    smoothed = laplace_smoothing(counts, eps * state.get("weight", 1))

    # Compared with both counts, since libraries differ in whether they smooth them. The tolerance
    # allows for sums that were computed in another order or stored with fewer digits.
    def fits(n):
        off = jnp.abs(sums - n[:, None] * e)
        return (n > 0) & jnp.all(off <= 1e-3 * jnp.abs(n[:, None] * e), axis=-1)

    # An exact comparison: `written` is a copy of what the update made, so any difference was made
    # by somebody else.
    own = jnp.any(e != state.get("written", e), axis=-1) & is_valid(e)
    return own & ~fits(counts) & ~fits(smoothed)


def put_in(state: dict, own: Bool[Array, "K"]) -> dict:
    """State of an `ema` codebook after its codes `own` were set, with averages that fit them.

    N_j = mean N and M_j = N_j e_j, so that M_j / N_j = e_j. The bias of averages that started at 0
    is removed (weight 1), and a pending first-batch initialisation is cancelled.
    """
    e, weight = state["codebook"], state.get("weight", 1)
    counts, sums = (state[name] / jnp.where(weight > 0, weight, 1) for name in ("counts", "sums"))
    # With the mean count a new code moves as fast as the others do on average; with a count of 0
    # the next row would replace it.
    mean = jnp.where(jnp.any(counts > 0), jnp.mean(counts), 1)
    new = {
        "written": jnp.copy(e),  # `jit` refuses to donate one buffer twice
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
    """Laplace-smoothed counts N'_j = (N_j + eps) / (N + K eps) N with N = sum_j N_j.

    No count is 0, and their sum is unchanged.

    Example:
        >>> laplace_smoothing(jnp.array([3.0, 1.0, 0.0]), eps=1.0)
        Array([2.2857144, 1.1428572, 0.5714286], dtype=float32)
    """
    total = jnp.sum(counts)
    return (counts + eps) / (total + counts.size * eps) * total
