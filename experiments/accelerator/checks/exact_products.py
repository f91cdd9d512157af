"""Checks of products on the device: those that must be exact ask for full precision.

An accelerator rounds the operands of float32 products to TF32 or bfloat16 unless the product asks
for more. The checks run where the lowest precision is the default, so that a product which forgot
to ask is wrong by 1e-4 or more.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from experiments.accelerator import card
from experiments.accelerator.checks.exact_indices import in_precision
from experiments.accelerator.checks.kept_laws import ALL, QUICK
from experiments.accelerator.tasks import Found, Task
from vqvae_jax.quantizers.base import Quantizer
from vqvae_jax.reductions import sum_by_code

N, K, D = 4096, 512, 64
QUICK_SIZES = 256, 32, 16
CLOSE = 2e-5  # of the largest value: float32 rounds sums of N terms to less


def product_tasks(quick: bool) -> list[Task]:
    """Returns tasks for sums, for all products of some quantizers, and for the trap itself."""
    sizes = QUICK_SIZES if quick else (N, K, D)
    return [
        Task("sums by code", partial(prepare_sums, sizes)),
        Task("rounding of a product, by precision", partial(prepare_trap, sizes)),
        *(
            Task(f"products of {name}", partial(prepare_products, ALL[name]))
            for name in chosen(quick)
        ),
    ]


def chosen(quick: bool) -> tuple[str, ...]:
    """Returns names of quantizers that multiply matrices, each in another way."""
    return QUICK[:1] if quick else (
        "ema_vq", "project(residual(grouped, lfq))", "simvq", "gumbel_vq", "sinkhorn_vq",
        "normalize(rotate(scale))", "affine_vq", "sqvae", "bsq",
    )  # fmt: skip


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Returns the largest difference over the largest expected value; inf for NaN."""
    difference = np.max(np.abs(np.asarray(found, np.float64) - expected), initial=0.0)
    largest = np.max(np.abs(expected), initial=1e-30)
    return float(difference / largest) if np.isfinite(difference) else float("inf")


def rows_and_codes(sizes: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns normal rows and codes at offset 3, which a rounded product would feel."""
    n, k, d = sizes
    random = np.random.default_rng(2)
    z, e = (random.standard_normal(s, np.float32) + np.float32(3) for s in ((n, d), (k, d)))
    return z, e


def prepare_sums(sizes: tuple[int, int, int]) -> Callable[[], Found]:
    """Compares the sums of the rows of each code with those of float64."""
    z, e = rows_and_codes(sizes)
    k = np.random.default_rng(3).integers(-1, len(e), len(z))
    program = card.compile_fast(in_precision("bfloat16", partial(sum_by_code, size=len(e))), z, k)

    def compare() -> Found:
        expected = np.zeros(e.shape)
        np.add.at(expected, k[k >= 0], z[k >= 0].astype(np.float64))
        error = relative_error(program(z, k), expected)
        # Not a failure if not: a GPU adds in another order each time, unless it is told not to.
        again = bool(np.array_equal(program(z, k), program(z, k)))
        return {"error": error, "the same again": again, "passed": error <= CLOSE}

    return compare


def prepare_products(q: Quantizer) -> Callable[[], Found]:
    """Compiles a training step of a quantizer, where products are bfloat16 and where float32."""
    z = np.random.default_rng(4).standard_normal((96, q.dim), np.float32)
    params, state = q.init(jax.random.key(0))

    def train(params, state, z, key):
        def loss(params, z):
            out, new = q.apply(params, state, z, train=True, key=key)
            return out.loss + jnp.mean(jnp.square(out.quantized)), (out, new)

        gradients, (out, new) = jax.grad(loss, (0, 1), has_aux=True)(params, z)
        return out.indices, (out.quantized, out.loss, new, gradients)

    args = params, state, z, jax.random.key(1)
    precisions = "bfloat16", "highest"
    programs = [card.compile_fast(in_precision(name, train), *args) for name in precisions]

    def compare() -> Found:
        (k, rounded), (expected_k, exact) = (program(*args) for program in programs)
        different = int(np.sum(np.asarray(k) != np.asarray(expected_k)))
        pairs = zip(jax.tree.leaves(rounded), jax.tree.leaves(exact), strict=True)
        floats = [(a, b) for a, b in pairs if jnp.issubdtype(a.dtype, jnp.floating)]
        error = max(relative_error(a, np.asarray(b, np.float64)) for a, b in floats)
        return {"different": different, "error": error, "passed": not different and error <= CLOSE}

    return compare


def prepare_trap(sizes: tuple[int, int, int]) -> Callable[[], Found]:
    """Measures to what products of this device round, by the precision that they ask for."""
    z, e = rows_and_codes(sizes)
    names = "default", "high", "highest"
    programs = {name: card.compile_fast(partial(jnp.dot, precision=name), z, e.T) for name in names}

    def measure() -> Found:
        exact = z.astype(np.float64) @ e.T.astype(np.float64)
        errors = {name: relative_error(f(z, e.T), exact) for name, f in programs.items()}
        return {"errors": errors, "passed": errors["highest"] <= CLOSE}

    return measure
