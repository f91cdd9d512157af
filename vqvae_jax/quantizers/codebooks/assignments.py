"""Assignments for training: sampled codes, optimal transport, or nearest codes in bfloat16."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vqvae_jax.checks import Number, check_positive, check_size
from vqvae_jax.quantizers.base import local_key
from vqvae_jax.quantizers.from_codebook import Assignment
from vqvae_jax.reductions import mean, psum, row_mean, usable_codes
from vqvae_jax.saving.describe import described
from vqvae_jax.search.bfloat16 import nearest_in_bfloat16


def squared_distances(
    z: Float[Array, "*rows D"], e: Float[Array, "K D"]
) -> Float[Array, "*rows K"]:
    """Squared distance |z - e_j|^2 of each row to each code; inf for a code that is not finite.

    Computed relative to the codebook's mean. All N x K numbers exist at once, unlike in `nearest`.

    Example:
        >>> squared_distances(jnp.array([[0.0, 0.0]]), jnp.array([[3.0, 4.0], [0.0, 1.0]]))
        Array([[25.,  1.]], dtype=float32)
    """
    usable, e = usable_codes(e)
    # Centred, since |z|^2 + |e|^2 - 2 z.e loses digits if rows and codes share a large offset.
    centre = jnp.sum(e, axis=0) / jnp.maximum(jnp.sum(usable, dtype=jnp.int32), 1)
    z, e = z - centre, e - centre
    product = jnp.dot(z, e.T, precision=jax.lax.Precision.HIGHEST)
    squares = jnp.sum(z * z, axis=-1, keepdims=True) + jnp.sum(e * e, axis=-1)
    return jnp.where(usable, jnp.maximum(squares - 2 * product, 0), jnp.inf)


@described
def sampled(temperature: Number = 1.0, top: int | None = None) -> Assignment:
    """Samples k ~ softmax_j(-|z_e - e_j|^2 / temperature) (RQ-VAE, arXiv:2203.01941, section 3.1).

    Args:
        temperature: > 0, in units of squared distance.
        top: number of nearest codes to sample from, None for all.

    Raises:
        ValueError: if an argument is out of range, or training has no key.
    """
    check_positive(temperature=temperature)
    if top is not None:
        check_size(top=top)

    def choose(key, rows, e, axis_name):
        logits = -squared_distances(rows.z, e) / temperature
        if top is not None:
            # A threshold keeps the codes in their places, so that no index must be mapped back.
            least = jax.lax.top_k(logits, min(top, len(e)))[0][..., -1:]
            logits = jnp.where(logits >= least, logits, -jnp.inf)
        noise = jax.random.gumbel(
            local_key(key, axis_name, "codes are sampled"), logits.shape, jnp.float32
        )
        # The largest of logits plus Gumbel noise is a sample of their softmax.
        return jnp.argmax(logits + noise, axis=-1).astype(jnp.int32)

    return Assignment(choose, stochastic=True)


@described
def sinkhorn(epsilon: Number = 0.1, iterations: int = 5) -> Assignment:
    """Assigns codes by optimal transport, so that each code takes an equal part of the batch.

    k = argmax_j P_ij, where the plan P minimises sum_ij P_ij |z_i - e_j|^2 - epsilon c H(P) with
    equal mass on all rows of the batch and equal mass on all codes (OptVQ, arXiv:2412.15195). c,
    the mean of |2 (z_i - mean z).(e_j - mean e)|, makes epsilon independent of units and of
    offsets. Sinkhorn's algorithm runs for `iterations` in the log domain, over the rows of all
    replicas. A row's code depends on its batch; eval mode takes the nearest code.

    Raises:
        ValueError: if an argument is out of range.
    """
    check_positive(epsilon=epsilon)
    check_size(iterations=iterations)

    def choose(key, rows, e, axis_name):
        plan = transport(rows.z, rows.weights, e, epsilon, iterations, axis_name)
        return jnp.argmax(plan, axis=-1).astype(jnp.int32)

    return Assignment(choose, stochastic=False)


def transport(
    z: Float[Array, "*rows D"],
    weights: Float[Array, "*rows"],
    e: Float[Array, "K D"],
    epsilon: Number,
    iterations: int,
    axis_name=None,
) -> Float[Array, "*rows K"]:
    """The plan of `sinkhorn` as log P: rows sum to their weights, codes to about 1 / K.

    The terms of |z - e|^2 other than -2 (z - mean z).(e - mean e) depend only on the row or only on
    the code, so they cost the same in every plan and are left out.
    """
    (usable, e), total = usable_codes(e), jnp.maximum(psum(jnp.sum(weights), axis_name), 1e-30)
    n = jnp.maximum(jnp.sum(usable, dtype=jnp.int32), 1)
    e = jnp.where(usable[:, None], e - jnp.sum(e, axis=0) / n, 0)
    z = z - row_mean(z, weights, axis_name)
    gain = 2 * jnp.dot(z, e.T, precision=jax.lax.Precision.HIGHEST)
    # `mean` averages over all K columns, in which unusable codes are 0: hence K / n.
    scale = mean(jnp.abs(gain), weights, axis_name) * len(e) / n
    log_kernel = gain / (epsilon * jnp.where(scale > 0, scale, 1))
    # A row that does not count has log weight -inf, and so no part in any sum over rows.
    log_rows = jnp.log(weights / total)[..., None]

    # Runs in the log domain, because exp(gain / epsilon) over- and underflows for a small epsilon.
    def step(f, _):
        # Codes first, rows last: after any number of steps each row sums exactly to its weight.
        g = -jnp.log(n) - over_rows(log_kernel + f, axis_name)
        g = jnp.where(usable, g, -jnp.inf)
        return log_rows - jax.nn.logsumexp(log_kernel + g, axis=-1, keepdims=True), g

    f, g = jax.lax.scan(step, log_rows, length=iterations)
    return log_kernel + f + g[-1]


def over_rows(x: Float[Array, "*rows K"], axis_name) -> Float[Array, "K"]:
    """Logsumexp over the rows of all replicas."""
    # `jax.nn.logsumexp` reduces over axes of an array, not over replicas. `top` starts at a finite
    # value, so that x - top is not inf - inf if no row counts.
    x = x.reshape(-1, x.shape[-1])
    top = jnp.max(x, axis=0, initial=-1e30)
    top = top if axis_name is None else jax.lax.pmax(top, axis_name)
    return top + jnp.log(psum(jnp.sum(jnp.exp(x - top), axis=0), axis_name))


@described
def in_bfloat16(candidates: int = 8) -> Assignment:
    """Assigns codes by `nearest_in_bfloat16` in training; eval mode takes the nearest code.

    Raises:
        ValueError: if candidates < 1.

    Example:
        >>> import vqvae_jax as vj
        >>> vj.codebook_vq(vj.codebooks.ema(1024, 64), assign=in_bfloat16()).stochastic
        False
    """
    check_size(candidates=candidates)

    def choose(key, rows, e, axis_name):
        return nearest_in_bfloat16(rows.z, e, candidates)

    return Assignment(choose, stochastic=False)
