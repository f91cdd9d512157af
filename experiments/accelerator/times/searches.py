"""Contestants of the search in JAX: ways to find nearest codes, and the product alone.

Each maker takes `Inputs` and returns the ways of one contestant, which differ in the number of rows
that they work on at a time: a matrix of all distances may not fit.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments.accelerator.card import PRECISIONS
from experiments.accelerator.times.queued import Ways, Work
from experiments.bench import peers
from experiments.bench.search import Problem
from vqvae_jax import nearest
from vqvae_jax.search import exact, nearest_in_bfloat16, scans

CACHE = 2**26  # bytes of rows in all sets together, more than a cache of the card holds
SETS = 4, 16  # fewest and most sets
LARGEST = 16e9  # bytes of a matrix of distances
PARTS = LARGEST, 2.0**30, 2.0**27  # bytes of the matrices that are tried; the last stays in caches
FEWEST = 128  # rows at a time

TITLES = {"float32": "float32", "tf32": "TF32", "bfloat16": "bfloat16"}
OURS = peers.OURS
BLOCKS = "vqvae_jax.nearest, XLA's blocks"
LOW = "nearest_in_bfloat16, 8 candidates"
JAX_ARGMIN = {p: f"JAX matrix and argmin, {TITLES[p]}" for p in ("float32", "tf32")}
TORCH_ARGMIN = {p: f"torch matrix and argmin, {TITLES[p]}" for p in ("float32", "tf32")}
COMPILED = {p: f"torch.compile of it, {TITLES[p]}" for p in ("float32", "tf32")}
CDIST = "torch.cdist and argmin, float32"
PRODUCT = {p: f"product alone, {TITLES[p]}, torch" for p in PRECISIONS}
XLA_PRODUCT = {p: f"product alone, {TITLES[p]}, XLA" for p in PRECISIONS}
MODULE = "vector-quantize-pytorch, eval"


class Inputs(NamedTuple):
    """Rows in several sets, and codes."""

    zs: Sequence[jax.Array]  # of which contestants take the next one in each call
    e: jax.Array

    @property
    def problem(self) -> Problem:
        """Their sizes."""
        return Problem(*self.zs[0].shape, len(self.e))


def make_inputs(problem: Problem) -> Inputs:
    """Returns normal rows and codes; so many sets of rows that they don't stay in a cache."""
    fewest, most = SETS
    sets = min(max(-(-CACHE // (4 * problem.n * problem.d)), fewest), most)
    keys = jax.random.split(jax.random.key(0), sets + 1)
    zs = [jax.random.normal(key, (problem.n, problem.d)) for key in keys[1:]]
    return Inputs(zs, jax.random.normal(keys[0], (problem.k, problem.d)))


def row_choices(problem: Problem) -> list[int]:
    """Returns numbers of rows at a time, the largest first, whose matrices have sizes of `PARTS`.

    Example:
        >>> row_choices(Problem(262144, 64, 8192)), row_choices(Problem(16384, 64, 512))
        ([262144, 32768, 4096], [16384])
    """
    fitting = [max(int(size / (4 * problem.k)), FEWEST) for size in PARTS]
    powers = [1 << (rows.bit_length() - 1) for rows in fitting]  # so that they divide N
    return list(dict.fromkeys(min(problem.n, rows) for rows in powers))


def exact_plain(z: jax.Array, e: jax.Array) -> jax.Array:
    """Distance matrix and argmin with full precision."""
    with jax.default_matmul_precision("highest"):
        return peers.plain_nearest(z, e)


def rows_at_a_time(find: Callable, rows: int) -> Callable:
    """Returns `find(z, e)` that works on so many rows at a time; they divide those of z."""

    def all_rows(z, e):
        if rows >= len(z):
            return find(z, e)
        return jax.lax.map(lambda part: find(part, e), z.reshape(-1, rows, z.shape[1])).reshape(-1)

    return all_rows


def jax_work(name: str, find: Callable, inputs: Inputs, rows: int | None = None) -> Work:
    """Compiles a function of (z, e)."""
    zs, e = inputs
    whole = find if rows is None else rows_at_a_time(find, rows)
    program = jax.jit(whole).lower(zs[0], e).compile()
    return Work(name, lambda i: program(zs[i % len(zs)], e), jax.block_until_ready, rows)


def ours(inputs: Inputs) -> Ways:
    """The search of this library."""
    return [jax_work(OURS, nearest, inputs)]


def blocks(inputs: Inputs) -> Ways:
    """The search of this library without the kernel."""
    return [jax_work(BLOCKS, partial(exact.by_scores, scan=scans.BLOCKS), inputs)]


def low(inputs: Inputs) -> Ways:
    """The approximate search of this library."""
    return [jax_work(LOW, nearest_in_bfloat16, inputs)]


def jax_argmin(precision: str, inputs: Inputs) -> Ways:
    """Distance matrix and argmin; the default precision is TF32 on a GPU that has it."""
    find = {"float32": exact_plain, "tf32": peers.plain_nearest}[precision]
    return [jax_work(JAX_ARGMIN[precision], find, inputs, row_choices(inputs.problem)[0])]


class Overwriting:
    """Calls of a product whose result takes the place of the last one.

    Otherwise the results of all products in a queue might be in memory at a time.
    """

    def __init__(self, precision: str, zs: Sequence[jax.Array], e: jax.Array):
        def product(z, e, out):
            return jnp.dot(z, e.T, precision=precision)

        self.zs, self.e, self.out = zs, e, None
        self.shape = jax.ShapeDtypeStruct((len(zs[0]), len(e)), e.dtype)
        overwriting = jax.jit(product, donate_argnums=2, keep_unused=True)
        self.program = overwriting.lower(zs[0], e, self.shape).compile()

    def __call__(self, i: int) -> jax.Array:
        if self.out is None:  # not before it is needed: other tasks are measured first
            self.out = jnp.zeros(self.shape.shape, self.shape.dtype)
        self.out = self.program(self.zs[i % len(self.zs)], self.e, self.out)
        return self.out


def xla_product(precision: str, inputs: Inputs) -> Ways:
    """The product of rows and codes, if it fits."""
    if row_choices(inputs.problem)[0] < inputs.problem.n:
        raise ValueError("the product does not fit into memory")
    dtype = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
    zs, e = [z.astype(dtype) for z in inputs.zs], inputs.e.astype(dtype)
    start = Overwriting("highest" if precision == "float32" else "default", zs, e)
    return [Work(XLA_PRODUCT[precision], start, jax.block_until_ready)]


OF_THIS_LIBRARY = (ours, blocks, low)
"""Makers whose failure is one of the task."""
OTHERS = {
    **{name: partial(jax_argmin, precision) for precision, name in JAX_ARGMIN.items()},
    XLA_PRODUCT["float32"]: partial(xla_product, "float32"),
}
"""Makers of the others, by the contestant's name."""
