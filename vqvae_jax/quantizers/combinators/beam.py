"""Beam search: better codes than greedy ones, for quantizers whose streams add up."""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient as sg
from jaxtyping import Array, Bool, Float, Int

from vqvae_jax.checks import check_rows, check_size
from vqvae_jax.conversions import boundary
from vqvae_jax.quantizers.base import Quantizer
from vqvae_jax.reductions import usable_codes, valid_rows


@boundary
def beam_search(
    q: Quantizer, params, state, z: Float[Array, "*rows D"], width: int
) -> Int[Array, "*rows Q"]:
    """Encodes z by beam search: stream by stream, the `width` prefixes of least error survive.

    Among all extensions of the prefixes by one code, the `width` with the least |z - sum_i e_i|^2
    survive; the best one after the last stream is returned. Width 1 gives the greedy codes of
    `q.encode`, and a width of the product of all K gives the least possible error. In between, the
    mean error falls, though a single row may get worse. Each stage needs memory for
    K + width (D + width) floats per row.

    Args:
        q: quantizer whose `decode` is a sum over the streams, in which -1 adds 0: `residual`,
            `repeat` and `shared` of codebooks, also side by side or behind a linear map. This is
            not checked: for other quantizers the codes are valid but not good.
        params, state: params and state of q.
        z: rows, `[..., D]`.
        width: number of prefixes that survive each stream.

    Returns:
        int32 `[..., Q]`; -1 for a row that is not finite, or where a stream has no finite code.

    Raises:
        ValueError: if width is not an integer >= 1, or z is not `[..., D]`.

    Example:
        >>> import vqvae_jax as vj
        >>> q = vj.repeat(vj.vq(4, 1, init=vj.inits.normal()), 2)
        >>> params, state = q.init(jax.random.key(1))
        >>> codes = beam_search(q, params, state, jnp.ones((3, 1)), width=4)
        >>> codes.shape, float(abs(q.decode(params, state, codes) - 1).max()) < 0.5
        ((3, 2), True)
    """
    check_size(width=width)
    check_rows(z, q.dim)
    rows = valid_rows(sg(z))
    # Starts with one empty prefix; `extend` lets their number grow to `width`.
    r, error = rows.z[None], jnp.zeros((1, *rows.weights.shape), jnp.float32)
    codes = jnp.zeros((1, *rows.weights.shape, 0), jnp.int32)
    for stream in range(len(q.vocab)):
        e = sg(codebook_of(q, params, state, stream))
        r, error, codes = extend(r, error, codes, e, width)
    # Prefixes are in order of their error, so the first one is the best.
    found = (rows.weights > 0) & jnp.isfinite(error[0])
    return jnp.where(found[..., None], codes[0], -1)


def codebook_of(q: Quantizer, params, state, stream: int) -> Float[Array, "K D"]:
    """Codebook of one stream: its codes, decoded with -1 in all other streams."""
    # Uses `decode` alone, so that it works for any nesting.
    size = q.vocab[stream]
    indices = jnp.full((size, len(q.vocab)), -1, jnp.int32)
    return q.decode(params, state, indices.at[:, stream].set(jnp.arange(size, dtype=jnp.int32)))


def extend(
    r: Float[Array, "B *rows D"],
    error: Float[Array, "B *rows"],
    codes: Int[Array, "B *rows Q"],
    e: Float[Array, "K D"],
    width: int,
):
    """Extends prefixes by one code of e `[K, D]`; returns the best ones' r, errors and codes."""
    (usable, e), each = usable_codes(e), min(width, len(e))
    # No prefix can have more than `width` surviving children, so its `width` best ones are enough.
    # Prefixes are handled one after another, so that K scores per row exist at a time, not width K.
    k, children = jax.lax.map(lambda r: nearest_codes(r, e, usable, each), r)
    # A prefix without a usable code keeps an infinite error, whatever codes follow.
    children = jnp.where(jnp.isinf(error)[..., None], jnp.inf, children)
    children = jnp.moveaxis(children, 0, -2).reshape(*error.shape[1:], -1)
    # top_k sorts, and at ties takes the first: the child of the better prefix.
    least, child = jax.lax.top_k(-children, min(width, children.shape[-1]))
    # The children of a prefix lie side by side, so a child's place gives its parent.
    child = jnp.moveaxis(child, -1, 0)
    parent = (child // each)[..., None]
    k = jnp.moveaxis(k, 0, -2).reshape(*error.shape[1:], -1)
    k = jnp.take_along_axis(k[None], child[..., None], -1)
    r = jnp.take_along_axis(r, parent, 0) - e[k[..., 0]]
    codes = jnp.concatenate([jnp.take_along_axis(codes, parent, 0), k], -1)
    return r, jnp.moveaxis(-least, -1, 0), codes


def nearest_codes(
    r: Float[Array, "*rows D"], e: Float[Array, "K D"], usable: Bool[Array, "K"], n: int
) -> tuple[Int[Array, "*rows n"], Float[Array, "*rows n"]]:
    """The n codes nearest to each row and their |r - e_k|^2, infinite for unusable codes.

    Codes are chosen by the scores of `nearest`. The error, by which prefixes are compared, is
    |r - e_k|^2 itself, since |r|^2 + |e_k|^2 - 2 r.e_k loses the digits of a small difference.
    """
    centre = jnp.sum(e, axis=0) / jnp.maximum(jnp.sum(usable, dtype=jnp.int32), 1)
    centred = e - centre
    half = jnp.where(usable, 0.5 * jnp.sum(centred * centred, axis=-1), jnp.inf)
    products = jnp.dot(r - centre, centred.T, precision=jax.lax.Precision.HIGHEST)
    k = jax.lax.top_k(products - half, n)[1]
    error = jnp.sum(jnp.square(r[..., None, :] - e[k]), axis=-1)
    return k, jnp.where(usable[k], error, jnp.inf)
