"""Approximate nearest-code search: scores in bfloat16, the best candidates compared in float32."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient as sg
from jaxtyping import Array, Float, Int

from vqvae_jax.checks import check_size
from vqvae_jax.conversions import boundary
from vqvae_jax.reductions import is_valid
from vqvae_jax.search.exact import centred, check_shapes, first_of_nearest
from vqvae_jax.search.scores import Codes, code_blocks, in_blocks, ordered


@boundary
@partial(jax.jit, static_argnames="candidates")
def nearest_in_bfloat16(
    z: Float[Array, "*rows D"], codebook: Float[Array, "K D"], candidates: int = 8
) -> Int[Array, "*rows"]:
    """Index of the code nearest to each row, or of one that is hardly farther away.

    The codes are divided into `candidates` shares (the scheme of arXiv:2206.14286). The candidate
    of a share is its code with the least 1/2 |e_j|^2 - z.e_j, where z and e are relative to the
    mean of the codebook, rounded to bfloat16, and products are summed in float32. The result is the
    candidate with the least sum_d (z_d - e_jd)^2 in float32. Rounding is relative to the largest
    |e_j - mean|, so a single code that is far away makes codes that are close together
    indistinguishable. Use it on accelerators whose products are much faster in bfloat16, where a
    few second-nearest codes do no harm; `nearest` is exact.

    Args:
        z: rows, `[..., D]`.
        codebook: the codes e, `[K, D]`. A code that is not finite is never chosen.
        candidates: number of shares, >= 1; more shares make fewer errors.

    Returns:
        int32 `[...]`; -1 as in `nearest`.

    Raises:
        ValueError: if the shapes don't fit, or candidates < 1.

    Example:
        >>> e = jnp.array([[0.0, 0.0], [1.0, 1.0]])
        >>> nearest_in_bfloat16(jnp.array([[0.1, 0.0], [0.9, 1.2]]), e)
        Array([0, 1], dtype=int32)
    """
    check_size(candidates=candidates)
    check_shapes(z.shape, codebook.shape)
    if 0 in z.shape:
        return jnp.zeros(z.shape[:-1], jnp.int32)
    # Centred before rounding: a common offset would use up the 8 bits that bfloat16 keeps.
    codes = centred(sg(codebook).astype(jnp.float32))
    some = jnp.any(codes.half < jnp.inf)
    shares = min(candidates, codes.half.shape[0])

    def find(z):
        valid = is_valid(z) & some
        y = jnp.where(valid[:, None], codes.place(z)[0], 0)
        k = best_of_shares(y, code_blocks(codes.y, codes.half, z.shape[0], shares), shares)
        # A share may hold nothing but padding, and its best place is then beyond the codes.
        k = jnp.minimum(k, codes.half.shape[0] - 1)
        # Scores in bfloat16 only propose candidates; their order among these is not reliable.
        k_nearest = first_of_nearest(z, codes.e[k], codes.half[k] < jnp.inf, k)
        return jnp.where(valid, k_nearest, -1)

    return in_blocks(find, sg(z).astype(jnp.float32).reshape(-1, z.shape[-1])).reshape(z.shape[:-1])


def best_of_shares(y: Float[Array, "N D"], blocks: Codes, shares: int) -> Int[Array, "N S"]:
    """The code with the least score in each share over all blocks."""

    def step(found, block):
        best, k = share_scores(y, block, shares)
        wins = best < found[0]
        return (jnp.where(wins, best, found[0]), jnp.where(wins, k, found[1])), None

    like = jnp.broadcast_to(y[:, 0], (shares, y.shape[0]))  # varies over mesh axes as y does
    # Greater than the integer of inf, so that the first block wins even without a usable code.
    worst = jnp.iinfo(jnp.int32).max
    nothing = jnp.full_like(like, worst, jnp.int32), jnp.zeros_like(like, jnp.int32)
    return jax.lax.scan(step, nothing, blocks)[0][1].T


def share_scores(y: Float[Array, "N D"], codes: Codes, shares: int):
    """The least score of each share in a block, as an integer, and its code, `[S, N]` each.

    The integers are ordered like the scores, except for the last bits, which hold the place of the
    code in its share.
    """
    low = jnp.bfloat16
    products = jnp.dot(codes.e.astype(low), y.astype(low).T, preferred_element_type=jnp.float32)
    scores = (codes.half[:, None] - products).reshape(shares, -1, y.shape[0])
    place = jnp.arange(scores.shape[1], dtype=jnp.int32)[:, None]
    mask = (1 << (len(place) - 1).bit_length()) - 1
    # One minimum finds both score and code; argmin would be a slower reduction of pairs. The place
    # overwrites as many of the 24 bits as it needs, 6 with 8 shares and many rows, while rounding
    # to bfloat16 has left only 8 that mean something.
    least = jnp.min(ordered(scores) & ~mask | place, axis=1)
    share = jnp.arange(shares, dtype=jnp.int32)[:, None]
    return least, codes.first + share * len(place) + (least & mask)
