"""Codes set by hand: `set_codes` replaces codes together with their statistics."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from vqvae_jax.quantizers.base import Quantizer
from vqvae_jax.reductions import is_valid


class NoCodes(ValueError):
    """Raised for a quantizer whose codes are computed and can't be set."""


def set_codes(q: Quantizer, params, state, codes, stream: int = 0):
    """Returns params and state with the codes of one stream replaced, for training to go on from.

    The codes may come from k-means, from another model, or from editing. What belongs to the
    codebook changes with it: moving averages continue from the new codes, each with the mean count;
    offsets and maps of a whole codebook (`affine`, `moment_matched`) are reset; a pending
    first-batch initialisation is cancelled. `decode` of this stream alone (-1 in the others) then
    returns the codes; the other streams keep theirs.

    | in                   | codes                                                               |
    |----------------------|---------------------------------------------------------------------|
    | `residual`, `repeat` | those of one stage                                                  |
    | `shared`, `heads`    | those of all streams that share this codebook                       |
    | `grouped`, `heads`   | those of the slice, `[K, D_i]`                                      |
    | `project`            | those in the narrow space, `[K, q.dim]`                             |
    | `scale`, `rotate`    | as decoded, up to rounding; within a slice, before the map          |
    | cosine codebooks     | directions, which are scaled to length 1                            |
    | `partly_frozen`      | all codes, including those that are frozen                          |
    | `gumbel_vq`          | the codes alone; weight and bias, which choose among them, stay     |
    | `sharded`            | those of all devices, equal on each, within `jax.shard_map`         |

    An optimizer's moments of the old codes stay, including those of `alternated`.

    Args:
        q: the quantizer, of any nesting.
        params, state: params and state of q, which are not modified.
        codes: array or nested lists `[K, D]` of any real dtype, as in the table.
        stream: number of the stream, from 0 to Q - 1.

    Returns:
        (params, state) of the same structure, shapes and dtypes. Works under jit.

    Raises:
        ValueError: if the stream's codes are computed (`fsq`, `grid`, `lfq`, `latent_vq`, `simvq`,
            `mapped`), the shape is wrong, the stream is out of range, or a code is not finite
            (under jit such a code is never chosen instead).
        TypeError: if codes are not real numbers, or stream is not an integer.

    Example:
        >>> import vqvae_jax as vj
        >>> q = vj.residual(vj.vq(2, 1), vj.ema_vq(3, 1, init=vj.inits.kmeans()))
        >>> params, state = q.init(jax.random.key(0))
        >>> params, state = set_codes(q, params, state, [[-1], [0], [1]], stream=1)
        >>> q.decode(params, state, jnp.array([[-1, 0], [-1, 2]]))
        Array([[-1.],
               [ 1.]], dtype=float32)
    """
    check_stream(stream, len(q.vocab))
    new = as_codes(codes)

    # The shape is checked innermost: only the member that holds the codes knows their width.
    def replace(old):
        if new.shape != old.shape:
            raise ValueError(
                f"codes of stream {stream} must be {old.shape}, got shape {new.shape}: {q!r}"
            )
        return new

    return edit_codes(q, params, state, replace, stream)


def edit_codes(q: Quantizer, params, state, fn: Callable, stream: int):
    """Calls `q.edit`, which replaces the codes e of a stream by fn(e); returns params and state.

    Raises:
        NoCodes: if q computes its codes.
    """
    if q.edit is None:
        raise NoCodes(f"{q!r} computes its codes, which can't be set")
    return q.edit(params, state, fn, stream)


def as_codes(codes) -> jax.Array:
    """Returns codes as float32; raises unless they are real and, where known, finite."""
    traced = isinstance(codes, jax.core.Tracer)
    codes = codes if traced else np.asarray(codes)
    kinds = jnp.floating, jnp.integer
    if not any(jnp.issubdtype(codes.dtype, kind) for kind in kinds):
        raise TypeError(f"codes must be real numbers [K, D], got dtype {codes.dtype}")
    e = jnp.asarray(codes).astype(jnp.float32)
    if not traced and e.ndim and not jnp.all(is_valid(e)):
        bad = np.flatnonzero(~np.asarray(is_valid(e)))
        raise ValueError(f"codes must be finite, got {codes[bad[0]]} as code {bad[0]}")
    return e


def check_stream(stream, n: int) -> None:
    """Raises unless stream is an int from 0 to n - 1."""
    if not isinstance(stream, int | np.integer) or isinstance(stream, bool):
        raise TypeError(f"stream must be an integer, got {stream!r}")
    if not 0 <= stream < n:
        raise ValueError(f"stream must be from 0 to {n - 1}, got {stream}")
