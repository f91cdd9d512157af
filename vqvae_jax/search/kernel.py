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

from vqvae_jax.search import scores, tensor_cores
from vqvae_jax.search.scans import Scan
from vqvae_jax.search.scores import Nearest, merge, product
from vqvae_jax.search.tensor_cores import on_gpu
from vqvae_jax.search.tiles import launch, none_yet, pad


def search(
    z: Float[Array, "N D"],
    e: Float[Array, "K D"],
    half: Float[Array, "K"],
    slack: Float[Array, "N"],
    *,
    interpret: bool = False,
) -> Nearest:
    """Finds min_j half_j - z.e_j of each row, the index that attains it, and whether it is sure.

    The arithmetic is float32, with products in full precision on TPU (Mosaic) and of 22 bits of
    each factor on GPU (Triton); `SCANS` has bounds of the error. There is no gradient. The compiler
    cannot partition the kernel: where rows are on several devices, call it under `jax.shard_map`.
    `jax.export` takes it for one platform at a time.

    Args:
        z: rows, `[N, D]`; N must be known during tracing.
        e: codes, `[K, D]`, finite.
        half: 1/2 |e_j|^2, `[K]`; inf for a code that must not be chosen.
        slack: bound on the error in the difference of two scores of a row, `[N]`, >= 0.
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


def on_tpu(z, e, half, slack, interpret: bool = False) -> Nearest:
    """Mosaic form: for each tile of rows the grid goes over the tiles of codes in order."""
    # Mosaic loads the next tiles during the current ones, so two of rows and two of codes must fit
    # into 16 MiB: they do up to D = 6144.
    size = 256 if z.shape[1] <= 1024 else 128
    *vectors, h, margin = pad(z, e, half, slack, size, size, 128)
    arrays = *vectors, h[:, None], margin[None]
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
    here = lowest(half[:] - product(e[:], z[:]), tile * len(half), margin)
    write(merge(Nearest(best[:], index[:], sure[:] > 0), here, margin))


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


SCANS = {"tpu": Scan(search, scores.error)}
"""The kernel with the bound on its error, by the platform."""
if tensor_cores.triton:
    # MI200 counts subnormal numbers of float16 as 0; CUDA does not.
    for platform, least in {"cuda": 2.0**-16, "rocm": 2.0**-5}.items():
        SCANS[platform] = Scan(search, functools.partial(tensor_cores.error, least=least))
