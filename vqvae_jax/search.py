"""The nearest code: k = argmin_j |z_e - e_j|_2."""

import math

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient as sg
from jaxtyping import Array, Float, Int

from vqvae_jax.reductions import is_valid

# A block of scores of this size stays in the cache of a CPU core.
ROWS, CODES = 1024, 512


@jax.jit
def nearest(z: Float[Array, "*rows D"], codebook: Float[Array, "K D"]) -> Int[Array, "*rows"]:
    """Index of the code nearest to each row: k = argmin_j |z - e_j|_2.

    Computed in float32, whatever the dtypes, as argmin_j 1/2 |e_j|^2 - z.e_j with z and e
    relative to the mean of the codebook and every product in full precision: an offset shared by
    the codes costs no digits, and |z|^2, equal for all codes, is left out. The answer is that of
    float64 except where the two best scores agree to float32 rounding, which is relative to the
    largest code: one that has run away to 10^5 times the others costs the others their digits.
    Equal distances go to the lowest index. Only a block of the N x K scores exists at a time.

    Args:
        z: rows, `[..., D]`.
        codebook: the codes e, `[K, D]`. A code that is not finite is never chosen.

    Returns:
        int32 `[...]`; -1 for a row that is not finite (or whose square overflows), and for all rows
        where no code is finite.

    Raises:
        ValueError: if the codebook is not `[K, D]` with K >= 1 and the D of z.

    Example:
        >>> nearest(jnp.array([[0.1, 0.0], [0.9, 1.2]]), jnp.array([[0.0, 0.0], [1.0, 1.0]]))
        Array([0, 1], dtype=int32)
    """
    check_shapes(z.shape, codebook.shape)
    rows, valid = z.shape[:-1], is_valid(z)
    z, e = sg(z).astype(jnp.float32), sg(codebook).astype(jnp.float32)
    usable = is_valid(e)[:, None]
    e = jnp.where(usable, e, 0)
    centre = jnp.sum(e, axis=0) / jnp.maximum(jnp.sum(usable), 1)
    z, e = (z - centre).reshape(-1, z.shape[-1]), e - centre
    half = jnp.where(usable[:, 0], 0.5 * jnp.sum(e * e, axis=-1), jnp.inf)
    found = valid & jnp.any(usable)
    return jnp.where(found, search_rows(z, e, half).reshape(rows), -1)


def check_shapes(z: tuple, codebook: tuple) -> None:  # of ints, or symbolic (jax.export)
    """Raises a ValueError unless z `[..., D]` can be looked up in a codebook `[K, D]`."""
    if len(codebook) != 2 or codebook[0] < 1 or codebook[1] < 1:
        raise ValueError(f"codebook must be [K, D] with K, D >= 1, got shape {codebook}")
    if len(z) < 1 or z[-1] != codebook[1]:
        raise ValueError(f"z must be [..., {codebook[1]}] like the codebook {codebook}, got {z}")


def search_rows(z: Float[Array, "N D"], e: Float[Array, "K D"], half: Float[Array, "K"]):
    """argmin_j half_j - z.e_j of each row, a block of rows at a time.

    Rows are dealt to the blocks like cards, so a batch that is sharded over devices stays sharded
    in each block and no device waits for another.
    """
    n, d = z.shape
    if not isinstance(n, int) or n <= ROWS:  # a symbolic number of rows (jax.export) is one block
        return search_codes(z, e, half)
    blocks = deal(n)
    z = jnp.pad(z, ((0, -n % blocks), (0, 0))).reshape(-1, blocks, d)
    k = jax.lax.map(lambda z: search_codes(z, e, half), jnp.swapaxes(z, 0, 1))
    return jnp.swapaxes(k, 0, 1).reshape(-1)[:n]


def deal(n: int) -> int:
    """The least number of blocks of at most ROWS rows, or one near it that divides n."""
    least = -(-n // ROWS)
    return next((b for b in range(least, 2 * least) if n % b == 0), least)


def search_codes(z: Float[Array, "N D"], e: Float[Array, "K D"], half: Float[Array, "K"]):
    """argmin_j half_j - z.e_j of each row, a block of codes at a time."""
    size, d = e.shape
    index = jnp.arange(size, dtype=jnp.int32)
    if size <= 2 * CODES:
        return score(z, e, half, index)[1]
    blocks = math.ceil(size / CODES)
    spare = -size % blocks
    e, index = jnp.pad(e, ((0, spare), (0, 0))), jnp.pad(index, (0, spare))
    half = jnp.pad(half, (0, spare), constant_values=jnp.inf)
    block = (e.reshape(blocks, -1, d), half.reshape(blocks, -1), index.reshape(blocks, -1))
    scores, k = jax.lax.map(lambda block: score(z, *block), block)
    return lowest(scores.T, k.T)[1]


def score(z, e, half, index):
    """The best score of each row within a block of codes, and its index."""
    return lowest(half - jnp.dot(z, e.T, precision=jax.lax.Precision.HIGHEST), index)


def lowest(scores: Float[Array, "N K"], index: Int[Array, "*N K"]):
    """(min_j scores_j, the lowest index that attains it): two reductions, faster than argmin."""
    best = jnp.min(scores, axis=-1)
    equal = scores == best[:, None]
    return best, jnp.min(jnp.where(equal, index, jnp.iinfo(jnp.int32).max), axis=-1)
