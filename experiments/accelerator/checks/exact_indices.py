"""Checks of the nearest-code search on the device: its indices are those of float64.

Distances in float64 are computed on the host, by NumPy. An index is wrong if its distance exceeds
the least one by more than (D + 8) 2^-22 of it.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from experiments.accelerator import card
from experiments.accelerator.tasks import Found, Task
from experiments.bench.exactness import count_errors, data_sets, distances64
from experiments.bench.search import Problem
from vqvae_jax import nearest
from vqvae_jax.search import exact, kernel, scans

Data = Mapping[str, tuple[np.ndarray, np.ndarray]]


# N is a multiple of nothing. N K stays near 2^23, as float64 on the host takes most of the time.
PROBLEMS = (
    Problem(1031, 64, 8192),
    Problem(16381, 64, 512),
    Problem(131, 64, 65536),
    Problem(8209, 256, 1000),
    Problem(1021, 1024, 8192),
    Problem(131, 8, 65536),
    Problem(677, 100, 12345),
    Problem(1009, 4, 1),
    Problem(1009, 5, 3),
    Problem(130, 4, 65536),
    Problem(131, 1024, 65536),
    Problem(262147, 16, 32),
)
QUICK_PROBLEMS = (Problem(131, 20, 300), Problem(70, 4, 1))
WAYS_PROBLEM, QUICK_WAYS_PROBLEM = Problem(4096, 64, 1000), Problem(96, 20, 300)


def data(problem: Problem) -> Data:
    """Returns (rows, codes) by name: moved, stretched, nearly equal, and not finite."""
    n, d, k = problem
    random = np.random.default_rng(1)
    z, e = (random.standard_normal(shape, np.float32) for shape in ((n, d), (k, d)))
    close = np.resize(e[:: min(k, 16)].repeat(16, axis=0), (k, d))
    close = close + 1e-6 * random.standard_normal((k, d), np.float32)
    holes = z.copy(), e.copy()
    holes[0][::7, 0], holes[1][1::5, -1] = np.nan, np.inf
    # All that moves and stretches takes seconds to make for the largest codebook.
    moved = data_sets(n, k, d) if k * d <= 2**24 else {"offset 1,000": (z + 1000, e + 1000)}
    return {"16 codes within 1e-6": (z, close), "rows and codes not finite": holes, **moved}


NAMES = ("nearest", "kernel", "blocks", "differences")


def finders() -> Mapping[str, Callable]:
    """Returns the ways to search, by name; the kernel is interpreted where there is no card."""
    backend = jax.default_backend()
    scan = kernel.SCANS.get({"gpu": "cuda"}.get(backend, backend), kernel.SCANS["cuda"])
    if backend == "cpu":
        scan = scan._replace(search=partial(kernel.search, interpret=True))
    by_kernel, by_blocks = (partial(exact.by_scores, scan=s) for s in (scan, scans.BLOCKS))
    return dict(zip(NAMES, (nearest, by_kernel, by_blocks, exact.by_differences), strict=True))


def search_tasks(quick: bool) -> list[Task]:
    """Returns a task for each size of problem."""
    problems = QUICK_PROBLEMS if quick else PROBLEMS
    return [Task(f"indices, {p}", partial(prepare, p)) for p in problems]


def prepare(problem: Problem) -> Callable[[], Found]:
    """Compiles all searches of one size."""
    n, d, k = problem
    shapes = jax.ShapeDtypeStruct((n, d), jnp.float32), jax.ShapeDtypeStruct((k, d), jnp.float32)
    # Differences of all pairs exist at once.
    chosen = {
        name: f for name, f in finders().items() if name != "differences" or n * k * d < 2**29
    }
    programs = {name: card.compile_fast(f, *shapes) for name, f in chosen.items()}
    return partial(count, problem, programs, cases(problem))


class Case(NamedTuple):
    """Data with what is known of them: which rows are finite, and all distances in float64."""

    z: np.ndarray
    e: np.ndarray
    rows: np.ndarray
    distances: np.ndarray


def cases(problem: Problem) -> list[Case]:
    """Returns all data of a problem; distances take seconds, so tasks compute them side by side."""
    return [case(z, e) for z, e in data(problem).values()]


def case(z: np.ndarray, e: np.ndarray) -> Case:
    """Returns rows and codes with their distances; inf where one of the two is not finite."""
    rows, codes = np.isfinite(z).all(1), np.isfinite(e).all(1)
    distances = np.full((len(z), len(e)), np.inf)
    distances[np.ix_(rows, codes)] = distances64(z[rows], e[codes])
    return Case(z, e, rows, distances)


def count(problem: Problem, programs: Mapping[str, Callable], known: Sequence[Case]) -> Found:
    """Counts wrong indices of each search over all data."""
    totals = {name: {"rows": 0, "different": 0, "wrong": 0} for name in programs}
    for z, e, rows, distances in known:
        for name, program in programs.items():
            k = np.asarray(program(z, e))
            found = count_errors(k[rows], distances[rows], problem.d)
            found["wrong"] += int(np.sum(k[~rows] != -1))
            for what in totals[name]:
                totals[name][what] += found[what]
    wrong = sum(total["wrong"] for total in totals.values())
    return {"searches": totals, "passed": wrong == 0}


def way_tasks(quick: bool) -> list[Task]:
    """Returns a task for each transformation under which the search is called."""
    problem = QUICK_WAYS_PROBLEM if quick else WAYS_PROBLEM
    return [Task(f"under {name}", partial(prepare_way, problem, way)) for name, way in WAYS.items()]


def prepare_way(problem: Problem, way: Callable) -> Callable[[], Found]:
    """Compiles the search under a transformation, and by itself."""
    z, e = data_sets(problem.n, problem.k, problem.d)["offset 10"]
    plain = card.compile_fast(nearest, z, e)
    call = way(z, e)

    def compare() -> Found:
        expected, k = np.asarray(plain(z, e)), np.asarray(call()).reshape(-1)
        different = int(np.sum(k != expected))
        return {"rows": len(k), "different": different, "passed": different == 0}

    return compare


def compiled(function: Callable, *args, **options) -> Callable[[], jax.Array]:
    """Compiles a call."""
    program = card.compile_fast(function, *args, **options)
    return lambda: program(*map(jnp.array, args))  # copies, as it may take over its arguments


def in_halves(z):
    """Reshapes `[N, D]` to `[2, N / 2, D]`."""
    return z.reshape(2, -1, z.shape[-1])


def through_gradient(z, e):
    """Indices that the gradient of |z - e_k|^2 shows: z - e_k is half of it."""
    half = 0.5 * jax.grad(lambda z: jnp.sum((z - e[nearest(z, e)]) ** 2))(z)
    return jnp.argmin(jnp.sum((z[:, None] - half[:, None] - e) ** 2, axis=-1), axis=1)


def sharded(z, e):
    """One shard of rows for each device."""
    mesh = Mesh(np.array(jax.devices()[: 2 if len(jax.devices()) % 2 == 0 else 1]), ("data",))
    specs = {"in_specs": (P("data"), P()), "out_specs": P("data")}
    return compiled(jax.shard_map(nearest, mesh=mesh, **specs), z, e)


def replicated(z, e):
    """`jax.pmap` over one device."""
    call = jax.pmap(nearest, in_axes=(0, None), devices=jax.devices()[:1])
    return lambda: call(z[None], e)


WAYS: Mapping[str, Callable] = {
    "jit": lambda z, e: compiled(nearest, z, e),
    "vmap over rows": lambda z, e: compiled(jax.vmap(nearest, (0, None)), in_halves(z), e),
    "vmap over codebooks": lambda z, e: compiled(
        jax.vmap(nearest), in_halves(z), jnp.stack([e, e])
    ),
    "grad": lambda z, e: compiled(through_gradient, z, e),
    "scan": lambda z, e: compiled(
        lambda z, e: jax.lax.scan(lambda c, z: (c, nearest(z, e)), 0, z)[1], in_halves(z), e
    ),
    "shard_map": sharded,
    "pmap": replicated,
    "donated buffers": lambda z, e: compiled(
        lambda z, e: (nearest(z, e), z + 1)[0], z, e, donate_argnums=0
    ),
    "default products in bfloat16": lambda z, e: compiled(in_precision("bfloat16", nearest), z, e),
}


def in_precision(precision: str, function: Callable) -> Callable:
    """Traces a function where products have this precision unless they ask for another."""

    def traced(*args):
        with jax.default_matmul_precision(precision):
            return function(*args)

    return traced
