"""Training of any VQ-VAE under one budget, with measurements on the test set."""

import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import jax
import numpy as np
import optax

from experiments.sweep.arm_metrics import SHOWN, arm_numbers, measure_arm
from experiments.sweep.arms import Arm, Diverged, Result
from vqvae_commands.data.data_options import DataOptions, load_data
from vqvae_commands.run.batchwise import in_batches
from vqvae_commands.run.code_streams import quantizers
from vqvae_commands.run.recipe import make_optimizer
from vqvae_jax import fast_compile, to_json
from vqvae_jax.data.background import record_batches
from vqvae_jax.data.labels import open_labels
from vqvae_jax.data.pipeline import batches
from vqvae_jax.data.readers import DataError
from vqvae_jax.data.sources import EMBEDDED
from vqvae_jax.quantizers.combinators.schedules import Transformation
from vqvae_jax.training import loop
from vqvae_jax.training.step import init_state, make_train_step

More = Callable[[Any, Any, np.ndarray], dict[str, float]]
Run = Callable[[int], Result]
CHUNK = 20  # steps between two looks at the clock and the loss
CURVE = ("mse", "perplexity_batch")


@dataclasses.dataclass(frozen=True)
class Budget:
    """The data and the training that every model gets."""

    data: str = EMBEDDED
    steps: int = 1000
    batch_size: int = 32
    learning_rate: float = 4e-3
    test_images: int = 2000
    fast_compile: bool = False  # in a quarter of the time, to code that takes twice as long

    @property
    def warmup(self) -> int:
        """Steps of warm-up: a tenth of all, but no more than 1,000."""
        return min(self.steps // 10, 1000)


def described(budget: Budget) -> dict[str, Any]:
    """The fields of a budget with its warm-up, as definitions and pages hold them."""
    return dataclasses.asdict(budget) | {"warmup": budget.warmup}


def make_budget(config, rate: float | None = None) -> Budget:
    """The budget that the options of a comparison give each arm.

    Args:
        config: the options.
        rate: the learning rate, where it is not that of the options.
    """
    return Budget(
        data=config.data,
        steps=config.steps,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate if rate is None else rate,
        test_images=200 if config.quick else 2000,
        fast_compile=config.quick,
    )


def make_arm(
    name: str,
    label: str,
    group: str,
    model,
    budget: Budget,
    prepare: Callable[[], Run] | None = None,
    names: Mapping[str, Any] | None = None,
    **further: Any,
) -> Arm:
    """The arm of a model under a budget; both are its definition.

    Args:
        name, label, group: see `Arm`.
        model: a module that `to_json` takes.
        budget: the budget of its training.
        prepare: see `Arm`; without it, `trainer` of model and budget.
        names: functions in the model that are not public in `vqvae_jax`.
        further: JSON values in the definition, on which the result depends as well.
    """
    definition = {"model": json.loads(to_json(model, names)), "budget": described(budget)}
    prepare = prepare or (lambda: trainer(model, budget))
    return Arm(name, label, definition | further, prepare, group)


def compiler_options(fast: bool = True):
    """The options of `jax.jit`: those of `fast_compile`, or none."""
    return fast_compile() if fast else {}


@cache
def images(data: str) -> tuple[np.ndarray, np.ndarray]:
    """(train, test), read once in a process."""
    return load_data(DataOptions(data))


@cache
def labelled(data: str) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """(images, labels) of training, and of the test.

    Raises:
        DataError: the data have no labels.
    """
    labels = open_labels(data)
    if labels is None:
        raise DataError(f"{data}: expected data with labels, found none")
    train, test = images(data)
    return (train, labels.read("train")), (test, labels.read("test"))


def fitter(
    model,
    budget: Budget,
    *losses,
    optimizer: optax.GradientTransformation | Transformation | None = None,
    marks: Sequence[int] = (),
) -> Callable[[int], tuple[dict, dict[str, float]]]:
    """Returns `fit(seed) -> (variables, counters)`; all seeds share what is compiled.

    Args:
        model: a module that `make_train_step` takes.
        budget: the budget of the training.
        losses: arguments of `make_train_step`; without them, its own.
        optimizer: in place of Adam as the budget has it.
        marks: see `run_steps`; the curve is among the counters.
    """
    train, _ = images(budget.data)
    optimizer = optax.GradientTransformation(*(optimizer or make_optimizer(budget)))
    order = batches if isinstance(train, np.ndarray) else record_batches
    start = jax.jit(  # runs once for each seed
        lambda key: init_state(model, optimizer, key, train[:1]),
        compiler_options=compiler_options(),
    )
    step = jax.jit(
        make_train_step(model, optimizer, *losses),
        donate_argnums=0,
        compiler_options=compiler_options(budget.fast_compile),
    )

    def fit(seed: int):
        state, milliseconds, curve = run_steps(
            step,
            start(jax.random.key(seed)),
            order(train, seed, budget.batch_size),
            budget.steps,
            marks,
        )
        if int(state.skipped) == budget.steps:
            raise Diverged("every step was skipped: no valid example, or no finite gradient")
        counters = {"ms_per_step": milliseconds, "skipped": int(state.skipped)}
        return state.variables, counters | curve

    return fit


def trainer(
    model, budget: Budget, more: More = lambda *_: {}, **options
) -> Callable[[int], Result]:
    """Returns `run(seed)`: trains the model, and measures it; all seeds share what is compiled.

    Args:
        model, budget: see `fitter`.
        more: `(model, variables, test images)` to further numbers.
        options: further arguments of `fitter`.
    """
    fit = fitter(model, budget, **options)
    test = images(budget.data)[1][: budget.test_images]
    look = over_set(partial(measure_arm, model), budget.fast_compile)

    def run(seed: int) -> Result:
        variables, counters = fit(seed)
        found = look(test, variables)
        numbers = arm_numbers(found, quantizers(model)) | counters
        return Result(numbers | more(model, variables, test), found["pictures"][:SHOWN])

    return run


def over_set(measure: Callable[..., Any], fast: bool) -> Callable[..., Any]:
    """Returns `(x, *given) -> measure(*given, batch)` of all of x, batch by batch, compiled once.

    Args:
        measure: from its last argument, a batch, to a tree of arrays with a row for each example.
        fast: compiles in less time, to slower programs.
    """
    look = jax.jit(measure, compiler_options=compiler_options(fast))
    return lambda x, *given: in_batches(partial(look, *given), x)


def run_steps(step, state, order, steps: int, marks: Sequence[int] = ()):
    """The state after the steps, the milliseconds of one, and the curve.

    A Python loop: XLA runs convolutions inside `lax.scan` on one thread and several times slower
    on a CPU.

    Args:
        step, state, order: the train step, its first state, and its batches.
        steps: how many.
        marks: multiples of `CHUNK`. The curve holds, for each, the means of the `CURVE` metrics
            over the `CHUNK` steps before it, as "mse@100".

    Returns:
        The milliseconds are the median over chunks of steps.

    Raises:
        Diverged: at the first look at a loss that is not finite.
    """
    clock, curve, seen, begun = [], {}, [], time.perf_counter()

    def look(done: int, _, metrics) -> None:
        nonlocal begun
        seen.append(metrics)
        if done % CHUNK and done != steps:
            return
        loss = float(metrics["loss"])  # waits for the chunk
        clock.append(1000 * (time.perf_counter() - begun) / len(seen))
        if not np.isfinite(loss):
            raise Diverged(f"the loss is {loss} after {done} steps")
        if done in marks:
            kept = {name: np.mean([m[name] for m in seen]) for name in CURVE if name in metrics}
            curve.update({f"{name}@{done}": float(mean) for name, mean in kept.items()})
        seen.clear()
        if done < steps:
            begun = time.perf_counter()

    state = loop.run_steps(state, step, order, steps, {look: 1})
    return state, statistics.median(clock[1:] or clock), curve  # the first chunk compiles
