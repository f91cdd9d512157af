"""Kernel of the nearest-code search for GPU (Triton): products of float16 on tensor cores.

x = x_1 + x_2 + a rest, with x_1 and x_2 in float16, and z.e is z_2.e_1 + z_1.e_2 + z_1.e_1, summed
in float32. That is several times faster than products of float32 and nearly as exact; `error` is
the bound by which the search knows which rows it must settle by pairs.
"""

import functools
import warnings

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from vqvae_jax.search.pairs import power_of_two
from vqvae_jax.search.scores import Error, Nearest, merge
from vqvae_jax.search.tiles import launch, none_yet, pad, tile_side

try:
    from jax.experimental.pallas import triton
except ImportError:  # jaxlib for Windows lacks it, and JAX 0.12 announces its removal
    triton = None  # type: ignore[assignment]

# Users can do nothing about it. It comes when their own `jit` is lowered, outside of any function
# here, so that no narrower filter would do.
warnings.filterwarnings("ignore", "The Pallas Triton backend is deprecated", DeprecationWarning)

# Largest tiles of Triton, whose sides must be powers of two, at least 16: their scores, 64 a
# thread, stay in registers. Up to WIDTH a tile of rows stays in shared memory, beside two tiles of
# codes; wider ones come in chunks.
ROWS, CODES, WIDTH, CHUNK = 128, 64, 128, 64
ALONE = 1024  # more than CODES


def on_gpu(z, e, half, slack, interpret: bool = False) -> Nearest:
    """Triton form: each program takes a tile of rows and loops over the codes."""
    # The loop is inside the program, because the programs of a Triton grid run in no fixed order: a
    # grid over tiles of codes could not merge into the same outputs.
    n, rows, codes = len(z), tile_side(len(z), ROWS), tile_side(len(e), CODES)
    width = tile_side(z.shape[1], WIDTH) if z.shape[1] <= WIDTH else CHUNK
    z, e, half, slack = pad(z, e, half, slack, rows, codes, width)
    # A unit for each row: rows may be far from codes that are close together. One for all codes,
    # since another multiplication of each score would cost more than it gives.
    units = unit_of(jnp.max(jnp.abs(z), axis=1, keepdims=True)), unit_of(jnp.max(jnp.abs(e)))
    unit = (units[0] * units[1])[:, 0]
    arrays = *split(z / units[0]), *split(e / units[1]), half, unit, slack
    row, rest = pl.BlockSpec((rows,), lambda i: (i,)), pl.BlockSpec(half.shape, lambda i: (0,))
    z_tile, e_all = ((rows, z.shape[1]), lambda i: (i, 0)), (e.shape, lambda i: (0, 0))
    specs = [*[pl.BlockSpec(*z_tile)] * 2, *[pl.BlockSpec(*e_all)] * 2, rest, row, row]
    # Without parameters JAX would choose Mosaic for GPU, which takes another kind of kernel.
    params = triton and triton.CompilerParams(num_warps=8 if width == WIDTH else 4, num_stages=2)
    kernel = functools.partial(gpu_kernel, codes=codes, width=width)
    return launch(kernel, arrays, (len(z) // rows,), specs, params, interpret, n)


def gpu_kernel(z1, z2, e1, e2, half, unit, slack, best, index, sure, *, codes: int, width: int):
    """Kernel of `on_gpu` for a tile of rows, all codes and half; writes the rows' triples."""
    (rows, d), units, margin = z1.shape, unit[:][:, None], slack[:][:, None]
    whole = (z1[:], z2[:]) if d == width else None  # stays in shared memory

    def product(tile):
        def add(i, sums):
            at = pl.ds(i * width, width)
            z_1, z_2 = whole or (z1[:, at], z2[:, at])
            e_1, e_2 = e1[tile, at], e2[tile, at]
            # What is small is summed apart or first, else each of its terms would be cut off at
            # the last bit of a large sum.
            return sums[0] + dot(z_2, e_1) + dot(z_1, e_2), sums[1] + dot(z_1, e_1)

        none = (jnp.zeros((rows, codes), jnp.float32),) * 2
        small, large = add(0, none) if whole else jax.lax.fori_loop(0, d // width, add, none)
        return small + large

    def step(i, found):
        tile = pl.ds(i * codes, codes)
        scores = half[tile][None] - units * product(tile)
        return merge(found, lowest_if_alone(scores, i * codes, margin), margin)

    found = jax.lax.fori_loop(0, len(e1) // codes, step, none_yet(margin.shape))
    best[:], index[:] = found.best[:, 0], found.k[:, 0]
    sure[:] = found.sure[:, 0].astype(jnp.int32)


def dot(z: Float[Array, "N D"], e: Float[Array, "K D"]) -> Float[Array, "N K"]:
    """Products of float16, which are exact in float32, summed in float32."""
    over_d = ((1,), (1,)), ((), ())
    return jax.lax.dot_general(z, e, over_d, preferred_element_type=jnp.float32)


def lowest_if_alone(scores: Float[Array, "N K"], first, slack: Float[Array, "N 1"]) -> Nearest:
    """The triple `[N, 1]` of codes whose indices begin at `first`; the index only where sure."""
    best = jnp.min(scores, axis=1, keepdims=True)
    # One sum, of small integers, tells how many come near and, if only the best does, its place:
    # instructions on each score are what limits the kernel beside its products.
    place = jax.lax.broadcasted_iota(jnp.int32, (1, scores.shape[1]), 1)
    marks = (ALONE + place).astype(jnp.float32)
    near = jnp.sum(jnp.where(scores <= best + slack, marks, 0), axis=1, keepdims=True)
    alone = near < 2 * ALONE
    return Nearest(best, first + jnp.where(alone, near.astype(jnp.int32) - ALONE, 0), alone)


def split(x: Float[Array, "N D"]) -> tuple[Float[Array, "N D"], Float[Array, "N D"]]:
    """Two float16 arrays whose sum is x to 22 bits."""
    # Not `astype` there and back, which XLA may take for x itself; the rest would then be 0.
    first = jax.lax.reduce_precision(x, 5, 10)
    return first.astype(jnp.float16), (x - first).astype(jnp.float16)


def unit_of(largest: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """A power of two that brings |x| <= largest below 2^15, within the range of float16."""
    # Not less than 2^-54, so that nothing overflows. Rows for which it would be less change no
    # score by more than the slack, since the largest |e_jd| is about 1.
    return jnp.maximum(power_of_two(largest), 2.0**-40) * 2.0**-14


def error(d: int, least: float) -> Error:
    """Bound on the error of `on_gpu`.

    With u = 2^-11, `split` leaves u^2 |x| of x, and |x_2| <= u |x|. These rests and z_2.e_2, which
    is left out, come to 3 u^2 = 12 2^-24 of |z||e|. Tensor cores align the terms of a sum, 8 or
    more products and what was summed before, to the largest one and cut them off below 2^-23 of it
    (doi:10.7717/peerj-cs.330): (5/4 D + 2) 2^-23 for z_1.e_1, which is summed apart or last. The
    rest of the bound, (D / 2 + 16) 2^-24, is for z_2.e_1 + z_1.e_2, for roundings around the sums
    and for underflow, by sqrt(D) 2^-39 (sqrt(D) 2^-28 where subnormal numbers count as 0) of the
    largest |e_jd|, hence `least`, and of the largest |z_d|.
    """
    return Error((3 * d + 32) * 2.0**-24, least)
