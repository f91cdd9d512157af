"""Checks of the train step on the device: it equals the CPU's from the same state."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import optax

from experiments.accelerator.checks.exact_indices import in_precision
from experiments.accelerator.tasks import Found, Task
from experiments.bench.plain_flax import Sizes
from experiments.bench.step import our_model, our_step, pixels
from vqvae_jax import fast_compile
from vqvae_jax.data.scaling import preprocess
from vqvae_jax.training.step import TrainState

SIZES = {"default model": Sizes(batch=32), "width 128, 32 x 32 x 3": Sizes(32, 3, 128, batch=64)}
QUICK_SIZES = {"width 16": Sizes(width=16, depth=1, codes=64, dim=16, batch=8)}
PROMISED = 1e-4
"""The bound of docs/scale.md on differences, over the norm of what a step changes."""
BOUNDS = {"highest": PROMISED, "default": None}  # None: measured only


def step_tasks(quick: bool) -> list[Task]:
    """Returns a task for each model."""
    sizes = QUICK_SIZES if quick else SIZES
    return [Task(f"train step, {name}", partial(prepare, s)) for name, s in sizes.items()]


def prepare(sizes: Sizes) -> Callable[[], Found]:
    """Compiles the step for the device and for the CPU."""
    cpu, device = jax.devices("cpu")[0], jax.devices()[0]
    x = pixels(sizes)
    # Gradients themselves: Adam's first steps make a large update of a tiny gradient.
    step, state = our_step(sizes, x, optax.sgd(0.1))
    state = jax.device_put(state, cpu)
    program = compile_on(cpu, "highest", step, state, x)
    # Codes of the first step come from k-means of its batch; both devices start after it.
    state, _ = program(state, jax.device_put(x, cpu))
    others = {name: compile_on(device, name, step, state, x) for name in BOUNDS}
    look = partial(codes_and_rows, our_model(sizes))
    lookers = {at: compile_on(at, "highest", look, state, x) for at in (cpu, device)}

    def compare() -> Found:
        codes = [f(*jax.device_put((state, x), at)) for at, f in lookers.items()]
        flipped = flips(*jax.device_get(codes * (2 // len(codes))))  # cpu and device may be one
        expected = program(*jax.device_put((state, x), cpu))
        found = {
            name: differences(state, expected, other(*jax.device_put((state, x), device)))
            for name, other in others.items()
        }
        passed = flipped["wrong codes"] == 0 and all(
            error <= bound
            for name, bound in BOUNDS.items() if bound
            for error in found[name].values()
        )  # fmt: skip
        return {"differences": found, **flipped, "passed": passed}

    return compare


def codes_and_rows(model, state: TrainState, x: jax.Array) -> tuple[jax.Array, ...]:
    """The codes of the pictures, with the rows z_e and z_q that belong to them."""
    found = model.apply(state.variables, preprocess(x))
    return found.indices[..., 0], found.z_e, found.z_q


def flips(expected: tuple, found: tuple) -> dict[str, int]:
    """Counts codes that differ, and those among them that are no near ties.

    The rows of both differ by rounding. A near tie is a code that is farther from the expected row
    than the expected code by less than 1e-4 of that distance.
    """
    (k, z_e, z_q), (other, _, other_z_q) = expected, found
    distances = (np.linalg.norm(np.float64(z_e) - np.float64(e), axis=-1) for e in (z_q, other_z_q))
    least, chosen = distances
    different = k != other
    wrong = different & (chosen > (1 + PROMISED) * least)
    return {"different codes": int(different.sum()), "wrong codes": int(wrong.sum())}


def compile_on(device, precision: str, step: Callable, state: TrainState, x: np.ndarray):
    """Compiles a step for one device, with this precision of products."""
    args = jax.device_put((state, x), device)
    return jax.jit(in_precision(precision, step)).lower(*args).compile(fast_compile())


def differences(before: TrainState, expected: tuple, found: tuple) -> dict[str, float]:
    """Returns how much two steps differ: params and averages by their change, and the loss."""
    before, expected, found = jax.device_get((before, expected, found))
    parts = {"params": lambda s: s[0].params, "collections": lambda s: s[0].collections}
    errors = {
        name: change_error(part((before,)), part(expected), part(found))
        for name, part in parts.items()
    }
    loss = expected[1]["loss"], found[1]["loss"]
    return {**errors, "loss": float(abs(loss[1] - loss[0]) / abs(loss[0]))}


def change_error(before: Any, expected: Any, found: Any) -> float:
    """Returns |found - expected| over |expected - before|, each over all arrays.

    Example:
        >>> float(change_error([np.zeros(2)], [np.array([3.0, 4.0])], [np.array([3.0, 4.5])]))
        0.1
    """

    def norm(a, b) -> float:
        pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
        floats = [(p, q) for p, q in pairs if np.issubdtype(np.asarray(p).dtype, np.floating)]
        return float(
            np.sqrt(sum(np.sum(np.square(np.float64(p) - np.float64(q))) for p, q in floats))
        )

    return norm(found, expected) / max(norm(expected, before), 1e-30)
