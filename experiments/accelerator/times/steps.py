"""Train steps that are timed: ours, and the same model in PyTorch.

Each maker takes the sizes of a model, the precision of its products and compiler options, and
returns what is to be timed. Batches are on the device, and each step goes on from the last one.
"""

import contextlib
import itertools
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.accelerator.times import torch_side
from experiments.accelerator.times.queued import Ways, Work, trial
from experiments.bench.plain_flax import Sizes
from experiments.bench.step import our_step, pixels

BATCHES = 4  # that take turns
SCANNED = 10  # steps of one call of `lax.scan`
OURS, SCAN, TORCH, COMPILED = "vqvae_jax", "vqvae_jax by lax.scan", "torch", "torch.compile"
# Of products of float32, by the precision of a step: those that remain in a step in bfloat16 too.
IN_JAX = {"float32": "highest", "tf32": "default", "bfloat16": "default"}
IN_TORCH = {"float32": "float32", "tf32": "tf32", "bfloat16": "tf32"}
DTYPES = {"float32": "float32", "tf32": "float32", "bfloat16": "bfloat16"}


class Prepared(NamedTuple):
    """Steps that are ready to be timed.

    Attributes:
        ways: ways to take them, of which the quickest counts.
        steps: steps of one call.
        compile_seconds: of compiling, while other tasks compile as well.
        memory: bytes of one call beside state and batches, where they are known beforehand.
    """

    ways: Ways
    steps: int
    compile_seconds: float | None
    memory: int | None


def batches(sizes: Sizes, count: int) -> np.ndarray:
    """Returns batches of random pixels."""
    several = pixels(sizes._replace(batch=count * sizes.batch))
    return several.reshape(count, sizes.batch, *several.shape[1:])


class Chain:
    """Calls of a compiled step, each on the state that the last one left."""

    def __init__(self, program: Callable, state: Any, xs: list[jax.Array]):
        self.program, self.state, self.xs = program, state, xs

    def __call__(self, i: int):
        self.state, metrics = self.program(self.state, self.xs[i % len(self.xs)])
        return metrics


def ours(sizes: Sizes, precision: str, options: Mapping | None) -> Prepared:
    """One step a call."""
    xs = list(jnp.asarray(batches(sizes, BATCHES)))
    return jax_steps(OURS, lambda step: step, 1, sizes, precision, xs, options)


def scanned(sizes: Sizes, precision: str, options: Mapping | None) -> Prepared:
    """Several steps a call, in a loop on the device."""
    xs = [jnp.asarray(batches(sizes, SCANNED))]
    return jax_steps(
        SCAN, lambda step: partial(jax.lax.scan, step), SCANNED, sizes, precision, xs, options
    )


def jax_steps(
    name: str, over: Callable, steps: int, sizes: Sizes, precision: str, xs: list, options
) -> Prepared:
    """Compiles `over(step)`, which may reuse the memory of its state."""
    first = xs[0].reshape(-1, *xs[0].shape[-3:])[: sizes.batch]
    with jax.default_matmul_precision(IN_JAX[precision]):
        adam = optax.adam(1e-3, b2=0.99)
        step, state = our_step(sizes, first, adam, dtype=DTYPES[precision])
        begun = time.perf_counter()
        lowered = jax.jit(over(step), donate_argnums=0).lower(state, xs[0])
        program = lowered.compile(options)
    seconds = time.perf_counter() - begun
    plan = program.memory_analysis()
    memory = plan and plan.temp_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
    work = Work(name, Chain(program, state, xs), jax.block_until_ready)
    return Prepared([work], steps, seconds, memory)


def eager(sizes: Sizes, precision: str, options: Mapping | None) -> Prepared:
    """PyTorch, one operation after another, in both layouts of pictures."""
    torch_side.load()
    from experiments.bench import plain_torch

    layouts = (lambda model: model), plain_torch.channels_last
    ways = [torch_steps(TORCH, sizes, precision, layout) for layout in layouts]
    return Prepared(ways, 1, None, None)


def compiled(sizes: Sizes, precision: str, options: Mapping | None) -> Prepared:
    """PyTorch with `torch.compile`, channels last."""
    torch_side.load()
    from experiments.bench import plain_torch

    def prepare(model):
        return plain_torch.compiled(plain_torch.channels_last(model))

    torch_side.allow_recompilations()
    work = torch_steps(COMPILED, sizes, precision, prepare)
    begun = time.perf_counter()
    trial(work)
    return Prepared([work], 1, time.perf_counter() - begun, None)


def torch_steps(name: str, sizes: Sizes, precision: str, prepare: Callable) -> Work:
    """Returns the steps of PyTorch; bfloat16 is that of autocast."""
    import torch

    from experiments.bench import plain_torch

    device = torch_side.device()
    low = partial(torch.autocast, device, torch.bfloat16)
    within = low if precision == "bfloat16" else contextlib.nullcontext
    step = plain_torch.make(sizes, prepare, device, within)
    turn = itertools.cycle([torch_side.tensor(x) for x in batches(sizes, BATCHES)])
    switches = partial(torch_side.float32_products, IN_TORCH[precision])
    return Work(name, lambda i: step(next(turn)), torch_side.wait, None, switches)


MAKERS: Mapping[str, Callable[[Sizes, str, Mapping | None], Prepared]] = {
    OURS: ours,
    SCAN: scanned,
    TORCH: eager,
    COMPILED: compiled,
}
