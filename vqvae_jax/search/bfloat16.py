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
    """Index of the code nearest to each row, or of one that is hardly farther.

    The codes are divided into `candidates` shares. The best code of a share is that of least
    1/2 |e_j|^2 - z.e_j, with z and e relative to the mean of the codebook and rounded to bfloat16,
    summed in float32; the nearest of the best ones, by sum_d (z_d - e_jd)^2 in float32, is taken
    (the scheme of arXiv:2206.14286). Rounding is relative to the largest |e_j - mean|: a single
    code that is far away makes codes that are close together indistinguishable. For accelerators
    whose products are much faster in bfloat16, where a few second-nearest codes do no harm;
    `nearest` is exact.

    Args:
        z: rows, `[..., D]`.
        codebook: the codes e, `[K, D]`. A code that is not finite is never chosen.
        candidates: number of shares, >= 1; the more, the fewer errors.

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
    # Centred before it is rounded: bfloat16 keeps 8 bits, which an offset common to all would fill.
    codes = centred(sg(codebook).astype(jnp.float32))
    some = jnp.any(codes.half < jnp.inf)
    hands = min(candidates, codes.half.shape[0])

    def find(z):
        valid = is_valid(z) & some
        y = jnp.where(valid[:, None], codes.place(z)[0], 0)
        k = best_of_hands(y, code_blocks(codes.y, codes.half, z.shape[0], hands), hands)
        # A share may hold nothing but the padding of its block: its best is no code.
        k = jnp.minimum(k, codes.half.shape[0] - 1)
        # Scores in bfloat16 only propose: their order among the candidates is not to be trusted.
        k_nearest = first_of_nearest(z, codes.e[k], codes.half[k] < jnp.inf, k)
        return jnp.where(valid, k_nearest, -1)

    return in_blocks(find, sg(z).astype(jnp.float32).reshape(-1, z.shape[-1])).reshape(z.shape[:-1])


def best_of_hands(y: Float[Array, "N D"], blocks: Codes, hands: int) -> Int[Array, "N H"]:
    """The code of the least score of each share (`hand`), over all blocks."""

    def step(found, block):
        best, k = hand_scores(y, block, hands)
        wins = best < found[0]
        return (jnp.where(wins, best, found[0]), jnp.where(wins, k, found[1])), None

    like = jnp.broadcast_to(y[:, 0], (hands, y.shape[0]))  # varies over mesh axes as y does
    # Above the integer of inf, so that the first block always wins, even with no usable code.
    worst = jnp.iinfo(jnp.int32).max
    nothing = jnp.full_like(like, worst, jnp.int32), jnp.zeros_like(like, jnp.int32)
    return jax.lax.scan(step, nothing, blocks)[0][1].T


def hand_scores(y: Float[Array, "N D"], codes: Codes, hands: int):
    """The least score of each share in a block, as an integer, and its code, `[H, N]` each.

    The integers are ordered as the scores are, but for the last bits, which hold the place of the
    code in its share.
    """
    low = jnp.bfloat16
    products = jnp.dot(codes.e.astype(low), y.astype(low).T, preferred_element_type=jnp.float32)
    scores = (codes.half[:, None] - products).reshape(hands, -1, y.shape[0])
    place = jnp.arange(scores.shape[1], dtype=jnp.int32)[:, None]
    mask = (1 << (len(place) - 1).bit_length()) - 1
    # One minimum finds score and code, where argmin would be a slower reduction of pairs. The place
    # overwrites as many bits as it needs: 6 of 24 with 8 shares and many rows, while bfloat16 has
    # rounded after 8.
    least = jnp.min(ordered(scores) & ~mask | place, axis=1)
    hand = jnp.arange(hands, dtype=jnp.int32)[:, None]
    return least, codes.first + hand * len(place) + (least & mask)
