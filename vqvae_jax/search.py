"""The nearest code: k = argmin_j |z_e - e_j|_2."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient as sg
from jaxtyping import Array, Float, Int

from vqvae_jax.near_ties import Rows, Scored, join, settle
from vqvae_jax.reductions import LARGEST_SQUARED_NORM, AxisName, is_valid, pmax, psum, vary
from vqvae_jax.scores import Nearest, search

SAMPLE = 256  # codes that make the centre


@partial(jax.jit, static_argnames="axis_name")
def nearest(
    z: Float[Array, "*rows D"], codebook: Float[Array, "K D"], axis_name: AxisName = None
) -> Int[Array, "*rows"]:
    """Index of the code nearest to each row: k = argmin_j |z - e_j|_2.

    Computed in float32, whatever the dtypes, in two steps. First all scores 1/2 |e_j|^2 - z.e_j,
    with z and e relative to the mean of the codebook, products in full precision, and a bound of
    their rounding. Where a second code is within the bound, those codes are compared in pairs, by
    |z - e_i|^2 - |z - e_j|^2 = (e_j - e_i).((z - e_i) + (z - e_j)). So the index is that of
    float64, whatever the codebook, unless the least two distances agree to a relative
    (D + 8) 2^-22. Equal distances go to the lowest index. Only a block of the N x K scores exists
    at a time.

    Args:
        z: rows, `[..., D]`.
        codebook: the codes e, `[K, D]`. A code that is not finite is never chosen.
        axis_name: within `jax.shard_map`, the mesh axis over which a codebook `[n K, D]` is
            sharded: each device searches its K codes, and all get the index among the n K.

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
    if 0 in z.shape:
        return jnp.zeros(z.shape[:-1], jnp.int32)
    rows, valid = z.shape[:-1], is_valid(z).reshape(-1)
    z = jnp.where(valid[:, None], sg(z).astype(jnp.float32).reshape(-1, z.shape[-1]), 0)
    codes, centre, some = centred(sg(codebook).astype(jnp.float32), axis_name)
    found, y = valid & some, z - centre
    slack = rounding(y, codes.half, axis_name)
    here, margin = vary((y, slack), axis_name)
    best, k, sure = join(best_search(z)(here, codes.y, codes.half, margin), slack, codes, axis_name)
    squared = jnp.sum(jnp.square(y), axis=-1) + 2 * best  # |z - e_k|^2
    inexact = slack > (z.shape[-1] + 8) * 2.0**-22 * squared
    unsure = Rows(k, found & ~sure, inexact, best + slack, z, y)
    return jnp.where(found, settle(unsure, codes, axis_name), -1).reshape(rows)


def centred(e: Float[Array, "K D"], axis_name: AxisName = None):
    """The codes as they are scored, relative to their centre; it; whether one of them is finite.

    Any centre would do; the mean of some codes spares most rows a comparison in pairs.
    """
    some = e[:: max(e.shape[0] // SAMPLE, 1)]
    finite = is_valid(some)[:, None]
    total, n = psum((jnp.sum(jnp.where(finite, some, 0), axis=0), jnp.sum(finite)), axis_name)
    centre = total / jnp.maximum(n, 1)
    y = e - centre
    squared = jnp.sum(y * y, axis=-1)
    usable = squared < LARGEST_SQUARED_NORM  # False for NaN as well
    half = jnp.where(usable, 0.5 * squared, jnp.inf)
    codes = Scored(e, jnp.where(usable[:, None], y, 0), half)
    return codes, centre, pmax(jnp.any(usable), axis_name)


def best_search(z: Float[Array, "N D"]) -> Callable[..., Nearest]:
    """Blocks on a CPU; on GPU and TPU a kernel, where the compiler need not partition it.

    That is on one device, or within `jax.shard_map` and `jax.pmap`; and for a known number of rows.
    """
    mesh = jax.sharding.get_abstract_mesh()
    whole = jax.device_count() == 1 or (not mesh.empty and mesh.are_all_axes_manual)
    if jax.default_backend() == "cpu" or not isinstance(z.shape[0], int) or not whole:
        return search
    from vqvae_jax import kernel  # which takes a while to import

    accelerators = dict.fromkeys(("cuda", "rocm", "tpu"), kernel.search)
    return partial(jax.lax.platform_dependent, default=search, **accelerators)


def rounding(
    z: Float[Array, "N D"], half: Float[Array, "K"], axis_name: AxisName = None
) -> Float[Array, "N"]:
    """By how much rounding may change the difference of two scores that may be the least.

    A sum of D products is off by D 2^-24 |z||e|, a difference of two by twice that. The nearest
    code is at most |z| + |e_j| away, for any j, and so no longer than 2 |z| + min_j |e_j|.
    """
    length = jnp.sqrt(2 * half)
    longest = pmax(jnp.max(jnp.where(length < jnp.inf, length, 0)), axis_name)
    shortest = -pmax(-jnp.min(length), axis_name)
    norm = jnp.sqrt(jnp.sum(z * z, axis=-1))
    e = jnp.minimum(longest, 2 * norm + shortest)
    return 2 * (z.shape[-1] + 8) * 2.0**-24 * e * (norm + 0.5 * e)


def check_shapes(z: tuple, codebook: tuple) -> None:  # of ints, or symbolic (jax.export)
    """Raises a ValueError unless z `[..., D]` can be looked up in a codebook `[K, D]`."""
    if len(codebook) != 2 or codebook[0] < 1 or codebook[1] < 1:
        raise ValueError(f"codebook must be [K, D] with K, D >= 1, got shape {codebook}")
    if len(z) < 1 or z[-1] != codebook[1]:
        raise ValueError(f"z must be [..., {codebook[1]}] like the codebook {codebook}, got {z}")
