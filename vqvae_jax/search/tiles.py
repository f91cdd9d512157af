"""Padding to tiles and the call of Pallas, which the kernels of the search share."""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from vqvae_jax.search.scores import Nearest


def pad(z, e, half, slack, rows: int, codes: int, width: int):
    """Pads to whole tiles with zeros, which change no product, and codes that are never chosen."""
    n, k, d = -len(z) % rows, -len(e) % codes, -z.shape[1] % width
    half = jnp.pad(half, (0, k), constant_values=jnp.inf)
    z, e = jnp.pad(z, ((0, n), (0, d))), jnp.pad(e, ((0, k), (0, d)))
    return z, e, half, jnp.pad(slack, (0, n))


def tile_side(n: int, largest: int) -> int:
    """The least tile_side of two >= n, within 16 to `largest`."""
    return min(largest, max(16, 1 << (n - 1).bit_length()))


def none_yet(shape: tuple[int, ...]) -> Nearest:
    """The triple of an empty set of codes."""
    # Sure: an infinite best loses to any usable code, and must not make the winner unsure.
    best, index = jnp.full(shape, jnp.inf, jnp.float32), jnp.zeros(shape, jnp.int32)
    return Nearest(best, index, jnp.ones(shape, bool))


def launch(kernel, arrays, grid, specs, params, interpret: bool, n: int) -> Nearest:
    """Runs a kernel whose outputs have the shape and the varying mesh axes of the slack."""
    shape, axes = arrays[-1].shape, jax.typeof(arrays[-1]).manual_axis_type
    dtypes = jnp.float32, jnp.int32, jnp.int32
    best, index, sure = pl.pallas_call(
        kernel,
        [jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=axes) for dtype in dtypes],
        grid=grid,
        in_specs=specs,
        out_specs=[specs[-1]] * 3,
        compiler_params=params,
        interpret=interpret,
    )(*arrays)
    return Nearest(best.reshape(-1)[:n], index.reshape(-1)[:n], sure.reshape(-1)[:n] > 0)
