"""Pallas kernel of the nearest-code search for GPU (Triton) and TPU (Mosaic).

With z and e relative to a common centre, the score of code j for a row z is
s_j = 1/2 |e_j|^2 - z.e_j: half the squared distance, less 1/2 |z|^2. Each tile of scores is reduced
to one triple per row (`Nearest`) before the next one is computed, so the N x K scores never exist
in memory.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu
from jaxtyping import Array, ArrayLike, Float

from vqvae_jax.search.scores import Nearest, merge

try:
    from jax.experimental.pallas import triton
except ImportError:  # jaxlib for Windows lacks it, and JAX 0.12 announces its removal
    triton = None  # type: ignore[assignment]

PLATFORMS = ("cuda", "rocm", "tpu") if triton else ("tpu",)

# Largest tiles of Triton, whose sides must be powers of two, at least 16: their scores, 64 a
# thread, stay in registers. Products are summed over chunks of the width.
ROWS, CODES, CHUNK = 64, 128, 16


def search(
    z: Float[Array, "N D"],
    e: Float[Array, "K D"],
    half: Float[Array, "K"],
    slack: Float[Array, "N"],
    *,
    interpret: bool = False,
) -> Nearest:
    """Finds min_j half_j - z.e_j of each row, the lowest index that attains it, and if it is sure.

    The arithmetic is float32, with products in full precision, on GPU (Triton) and TPU (Mosaic).
    There is no gradient. The compiler cannot partition the kernel: where rows are on several
    devices, call it under `jax.shard_map`. `jax.export` takes it for one platform at a time.

    Args:
        z: rows, `[N, D]`; N must be known during tracing.
        e: codes, `[K, D]`, finite.
        half: 1/2 |e_j|^2, `[K]`; inf for a code that must not be chosen.
        slack: bound on the rounding error in the difference of two scores of a row, `[N]`, >= 0.
        interpret: whether to interpret the kernel, slowly, on any platform.

    Returns:
        `Nearest`, `[N]` each; (inf, 0, False) for a row of NaNs, or if half is inf for all codes.

    Example:
        >>> z, e = jnp.array([[0.75, 0.25], [0.5, 0.0]]), jnp.array([[0.0, 0.0], [1.0, 0.0]])
        >>> search(z, e, jnp.array([0.0, 0.5]), jnp.full(2, 1e-6), interpret=True)
        Nearest(best=Array([-0.25,  0.  ], dtype=float32), k=Array([1, 0], dtype=int32),
                sure=Array([ True, False], dtype=bool))
    """
    if z.shape[0] == 0:
        return Nearest(slack, slack.astype(jnp.int32), slack > 0)
    gpu, tpu = (functools.partial(f, interpret=interpret) for f in (on_gpu, on_tpu))
    # Triton is the default, not "cuda" alone: ROCm needs it too, and a CPU to interpret it.
    return jax.lax.platform_dependent(*vary_alike(z, e, half, slack), tpu=tpu, default=gpu)


def vary_alike(*arrays: Array) -> list[Array]:
    """Marks all arrays as varying over every mesh axis that one varies over (`shard_map`)."""
    # `launch` declares that outputs vary as the slack does, so the slack must vary over all axes.
    axes = [jax.typeof(x).manual_axis_type.varying for x in arrays]
    missing = [tuple(frozenset().union(*axes) - own) for own in axes]
    return [jax.lax.pcast(x, m, to="varying") for x, m in zip(arrays, missing, strict=True)]


def on_gpu(z, e, half, slack, interpret: bool = False) -> Nearest:
    """Triton form: each program takes a tile of rows and loops over the codes."""
    # The loop is inside the program, because the programs of a Triton grid run in no fixed order: a
    # grid over tiles of codes could not merge into the same outputs.
    rows, codes = tile_side(len(z), ROWS), tile_side(len(e), CODES)
    arrays = pad(z, e, half, slack, rows, codes, CHUNK)
    whole = [pl.BlockSpec(x.shape, lambda i: (0, 0)) for x in arrays[1:3]]
    row = pl.BlockSpec((1, rows), lambda i: (0, i))
    specs = [pl.BlockSpec((rows, arrays[0].shape[1]), lambda i: (i, 0)), *whole, row]
    # Without parameters JAX would choose Mosaic for GPU, which takes another kind of kernel.
    params = triton and triton.CompilerParams(num_warps=4, num_stages=3)
    kernel, grid = functools.partial(gpu_kernel, codes=codes), (-(-len(z) // rows),)
    return launch(kernel, arrays, grid, specs, params, interpret, len(z))


def gpu_kernel(z, e, half, slack, best, index, sure, *, codes: int):
    """Kernel of `on_gpu` for a tile of rows, all codes and half; writes the rows' triples."""
    (rows, d), margin = z.shape, slack[:]

    # The width goes in chunks, since Triton's blocks need powers of two as sides, and D may be
    # none.
    def product(tile):
        def add(i, total):
            chunk = pl.ds(i * CHUNK, CHUNK)
            return total + dot(e[tile, chunk], z[:, chunk])

        return jax.lax.fori_loop(0, d // CHUNK, add, jnp.zeros((codes, rows), jnp.float32))

    def step(i, found):
        tile = pl.ds(i * codes, codes)
        return merge(found, lowest(half[tile, :] - product(tile), i * codes, margin), margin)

    found = jax.lax.fori_loop(0, len(e) // codes, step, none_yet(slack.shape))
    best[:], index[:], sure[:] = found.best, found.k, found.sure.astype(jnp.int32)


def on_tpu(z, e, half, slack, interpret: bool = False) -> Nearest:
    """Mosaic form: for each tile of rows the grid goes over the tiles of codes in order."""
    # Mosaic loads the next tiles during the current ones, so two of rows and two of codes must fit
    # into 16 MiB: they do up to D = 6144.
    size = 256 if z.shape[1] <= 1024 else 128
    arrays = pad(z, e, half, slack, size, size, 128)
    d, row = arrays[0].shape[1], pl.BlockSpec((1, size), lambda i, j: (0, i))
    rows, codes = (pl.BlockSpec((size, d), at) for at in (lambda i, j: (i, 0), lambda i, j: (j, 0)))
    specs = [rows, codes, pl.BlockSpec((size, 1), lambda i, j: (j, 0)), row]
    # "arbitrary" keeps the tiles of codes in order: the outputs of a tile of rows stay in place
    # between them and hold the best so far.
    params = tpu.CompilerParams(dimension_semantics=("parallel", "arbitrary"))
    grid = (-(-len(z) // size), -(-len(e) // size))
    return launch(tpu_kernel, arrays, grid, specs, params, interpret, len(z))


def tpu_kernel(z, e, half, slack, best, index, sure):
    """Kernel of `on_tpu` for a tile of rows and one of codes; updates the rows' triples."""
    tile, margin = pl.program_id(1), slack[:]

    def write(found):
        best[:], index[:], sure[:] = found.best, found.k, found.sure.astype(jnp.int32)

    pl.when(tile == 0)(lambda: write(none_yet(slack.shape)))
    here = lowest(half[:] - dot(e[:], z[:]), tile * len(half), margin)
    write(merge(Nearest(best[:], index[:], sure[:] > 0), here, margin))


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
    return Nearest(best[0, :n], index[0, :n], sure[0, :n] > 0)


def dot(e: Float[Array, "K D"], z: Float[Array, "N D"]) -> Float[Array, "K N"]:
    """Products in full precision: TF32 or bfloat16 would find other codes."""
    return jax.lax.dot_general(e, z, (((1,), (1,)), ((), ())), precision=jax.lax.Precision.HIGHEST)


def lowest(scores: Float[Array, "K N"], first: ArrayLike, slack: Float[Array, "1 N"]) -> Nearest:
    """The triple `[1, N]` of codes whose indices begin at `first`."""
    best = jnp.min(scores, axis=0, keepdims=True)
    # The lowest index at ties, as everywhere in the search.
    index = first + jax.lax.broadcasted_iota(jnp.int32, scores.shape, 0)
    index = jnp.where(scores == best, index, jnp.iinfo(jnp.int32).max)
    # The best is close to itself: a count of 1 is the best alone. Unusable codes only (all inf)
    # give more than 1, NaN gives 0, so that neither is sure.
    close = jnp.sum(scores <= best + slack, axis=0, keepdims=True, dtype=jnp.int32)
    return Nearest(best, jnp.min(index, axis=0, keepdims=True), close == 1)


def none_yet(shape: tuple[int, ...]) -> Nearest:
    """The triple of an empty set of codes."""
    # Sure: an infinite best loses to any usable code, and must not make the winner unsure.
    best, index = jnp.full(shape, jnp.inf, jnp.float32), jnp.zeros(shape, jnp.int32)
    return Nearest(best, index, jnp.ones(shape, bool))


def pad(z, e, half, slack, rows: int, codes: int, width: int):
    """Pads to whole tiles with zeros, which change no product, and codes that are never chosen."""
    n, k, d = -len(z) % rows, -len(e) % codes, -z.shape[1] % width
    half = jnp.pad(half, (0, k), constant_values=jnp.inf)
    z, e = jnp.pad(z, ((0, n), (0, d))), jnp.pad(e, ((0, k), (0, d)))
    return z, e, half[:, None], jnp.pad(slack, (0, n))[None]


def tile_side(n: int, largest: int) -> int:
    """The least tile_side of two >= n, within 16 to `largest`."""
    return min(largest, max(16, 1 << (n - 1).bit_length()))
