"""Expected times of the contestants of the search, worked out before any measurement."""

from collections.abc import Mapping

import numpy as np

from experiments.accelerator import card
from experiments.accelerator.times.searches import (
    COMPILED,
    JAX_ARGMIN,
    OURS,
    PRODUCT,
    TORCH_ARGMIN,
    XLA_PRODUCT,
)
from experiments.bench.search import Problem
from vqvae_jax.search.tensor_cores import CHUNK, CODES, ROWS, WIDTH
from vqvae_jax.search.tiles import tile_side

FLOOR = "floor"
# Shares of the datasheet's rate that large products reach. In float32, cuBLAS comes close to what
# the units can do; on tensor cores the card's power limits its clock.
REACHED = {"float32": 0.85, "tf32": 0.7, "bfloat16": 0.7}
BANDWIDTH = 0.9  # share of the memory's rate that copies reach
# Our kernel, by the program that XLA compiles for an H200: three products of float16 for each tile,
# of which a multiprocessor multiplies FMA numbers in a clock.
FMA, PARTS = 2048, 3
CLOCK, MULTIPROCESSORS = 1.755e9, 132
CACHE = 24  # bytes that each multiprocessor reads from the L2 cache in a clock
SLACK = 1.15  # what is lost besides
LAUNCH = 2.5e-6  # seconds to start a kernel
OUR_LAUNCHES = 40  # around our kernel: centre, norms, parts of float16, near ties
WAIT = 15e-6  # seconds in which the host learns whether any row is left to the loop of near ties
LAUNCHES = 4  # of distances and argmin
PASSES = 2  # over the matrix by the operations between product and indices: one writes, one reads


def expected_seconds(problem: Problem) -> dict[str, float]:
    """Returns seconds by contestant, and the floor, which no search in float32 can beat."""
    products = {p: product_seconds(problem, p) for p in card.PRECISIONS}
    passes = PASSES * matrix_bytes(problem) / memory()
    argmin = {p: max(products[p] + passes, LAUNCHES * LAUNCH) for p in JAX_ARGMIN}
    named = {
        **by_name(PRODUCT, products),
        **by_name(XLA_PRODUCT, products),
        **by_name(JAX_ARGMIN, argmin),
        **by_name(TORCH_ARGMIN, argmin),
        **by_name(COMPILED, argmin),
    }
    return {FLOOR: floor_seconds(problem), OURS: our_seconds(problem), **named}


def by_name(names: Mapping[str, str], seconds: Mapping[str, float]) -> dict[str, float]:
    """Returns the seconds of each precision by the contestant's name."""
    return {name: seconds[precision] for precision, name in names.items()}


def floor_seconds(problem: Problem) -> float:
    """Returns the time of 2 N K D operations in float32, or of rows, codes and indices if longer.

    Example:
        >>> f"{1000 * floor_seconds(Problem(262144, 64, 8192)):.2f} ms"
        '4.10 ms'
    """
    return card.floor_seconds(operations(problem), least_bytes(problem))


def our_seconds(problem: Problem) -> float:
    """Returns the time of our search: its kernel, what is around it, and one wait."""
    n, d, k = problem
    groups, tiles = -(-n // ROWS), -(-k // CODES)
    waves = max(groups / MULTIPROCESSORS, 1.0)
    kernel = SLACK * waves * tiles * tile_cycles(d, alone=groups < 2 * MULTIPROCESSORS) / CLOCK
    around = max(OUR_LAUNCHES * LAUNCH, 6 * least_bytes(problem) / memory())
    return kernel + around + WAIT


def tile_cycles(d: int, alone: bool = False) -> float:
    """Returns the clocks of a tile: those of products, of instructions, or of reading its codes.

    Args:
        d: width of the codes.
        alone: whether a multiprocessor has one tile at a time, whose parts come after each other.
    """
    width = tile_side(d, WIDTH) if d <= WIDTH else CHUNK * -(-d // CHUNK)
    products = ROWS * CODES * PARTS * width / FMA
    # Instructions on each score, counted in the machine code at D = 16, 64, 128, 256 and 1,024.
    counted = (16, 64, 128, 256, 1024), (8.8, 10.0, 14.1, 25.5, 68.0)
    per_score = float(np.interp(width, *counted))
    instructions = per_score * ROWS * CODES / 128
    read = (4 * CODES + (4 * ROWS if d > WIDTH else 0)) * width / CACHE
    if alone or width == WIDTH:
        return max(products + instructions + 150, read)
    return max(products, instructions, read)


def product_seconds(problem: Problem, precision: str) -> float:
    """Returns the time of the product alone, whose result is written."""
    rate = REACHED[precision] * getattr(card.rates(), precision)
    width = 2 if precision == "bfloat16" else 4
    return max(operations(problem) / rate, width * problem.n * problem.k / memory(), LAUNCH)


def operations(problem: Problem) -> float:
    """Returns 2 N K D."""
    return 2.0 * problem.n * problem.k * problem.d


def least_bytes(problem: Problem) -> float:
    """Returns the bytes of rows, codes and indices."""
    return 4.0 * ((problem.n + problem.k) * problem.d + problem.n)


def matrix_bytes(problem: Problem) -> float:
    """Returns the bytes of all distances in float32."""
    return 4.0 * problem.n * problem.k


def memory() -> float:
    """Returns bytes a second that copies reach."""
    return BANDWIDTH * card.rates().memory
