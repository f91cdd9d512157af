"""One training for all: any VQ-VAE under the same budget, and what it is worth on the test set."""

import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.arms import Arm, Diverged, Result
from experiments.codes import as_levels, by_stream, quantizers, streams
from experiments.evaluate import code_table
from experiments.recipe import load_data, make_optimizer
from vqvae_jax import psnr, ssim, to_json
from vqvae_jax.data.background import record_batches
from vqvae_jax.data.labels import open_labels
from vqvae_jax.data.pipeline import batches, preprocess, take_batches, to_pixels
from vqvae_jax.data.readers import DataError
from vqvae_jax.quantizers.schedules import Transformation
from vqvae_jax.quantizers.trials import FAST_COMPILE
from vqvae_jax.training.step import init_state, make_train_step

SHOWN = 8  # test images in the pictures
More = Callable[[Any, Any, np.ndarray], dict[str, float]]
CHUNK = 20  # steps between two looks at the clock and the loss
CURVE = ("mse", "perplexity_batch")


@dataclasses.dataclass(frozen=True)
class Budget:
    """What every model gets."""

    data: str
    steps: int = 1000
    batch_size: int = 32
    learning_rate: float = 4e-3
    warmup: int = 100
    test_images: int = 2000
    fast_compile: bool = False  # in a quarter of the time, to code that takes twice as long


def make_budget(config, rate: float, quick_images: int = 200) -> Budget:
    """What the options of a comparison give each arm; a tenth of the steps are warm-up."""
    return Budget(
        data=config.data,
        steps=config.steps,
        batch_size=config.batch_size,
        learning_rate=rate,
        warmup=config.steps // 10,
        test_images=quick_images if config.quick else 2000,
        fast_compile=config.quick,
    )


def make_arm(
    name: str, label: str, group: str, model, budget: Budget, more: More = lambda *_: {}
) -> Arm:
    """The arm of a model, defined by the model's JSON and the budget.

    `more(model, variables, test images)` gives further numbers.
    """
    definition = {"model": json.loads(to_json(model)), "budget": dataclasses.asdict(budget)}
    return Arm(name, label, definition, lambda: trainer(model, budget, more), group)


def compiler_options(fast: bool = True):
    """For `jax.jit`: those of `FAST_COMPILE`, which the CPU's compiler alone knows, or none."""
    return FAST_COMPILE if fast and jax.default_backend() == "cpu" else None


@cache
def images(data: str) -> tuple[np.ndarray, np.ndarray]:
    """(train, test), read once in a process."""
    return load_data(data, None)


@cache
def labelled(data: str) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """(images, labels) of training, and of the test.

    Raises:
        DataError: of data without labels.
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
        model: what `make_train_step` takes.
        budget: of the training.
        losses: those of `make_train_step`; without them, its own.
        optimizer: in place of Adam as the budget has it.
        marks: as in `run_steps`; its curve is among the counters.
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
        counters = {"ms_per_step": milliseconds, "skipped": int(state.skipped)}
        return {"params": state.params, **state.collections}, counters | curve

    return fit


def trainer(
    model, budget: Budget, more: More = lambda *_: {}, **options
) -> Callable[[int], Result]:
    """Returns `run(seed)`: trains the model, and measures it; all seeds share what is compiled.

    Args:
        model, budget: as in `fitter`.
        more: `(model, variables, test images)` to further numbers.
        options: of `fitter`.
    """
    fit = fitter(model, budget, **options)
    test = images(budget.data)[1][: budget.test_images]
    options = compiler_options(budget.fast_compile)
    look = jax.jit(lambda variables, x: measure(model, variables, x), compiler_options=options)

    def run(seed: int) -> Result:
        variables, counters = fit(seed)
        numbers, pictures = evaluate(look, variables, test, quantizers(model))
        return Result(numbers | counters | more(model, variables, test), pictures)

    return run


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
    clock, curve = [], {}
    for first in range(0, steps, CHUNK):
        chunk = min(CHUNK, steps - first)
        begun, seen = time.perf_counter(), []
        for _ in range(chunk):
            state, metrics = step(state, next(order))
            seen.append(metrics)
        loss = float(metrics["loss"])  # waits for the chunk
        clock.append(1000 * (time.perf_counter() - begun) / chunk)
        if not np.isfinite(loss):
            raise Diverged(f"the loss is {loss} after {first + chunk} steps")
        if first + chunk in marks:
            kept = {name: np.mean([m[name] for m in seen]) for name in CURVE if name in metrics}
            curve |= {f"{name}@{first + chunk}": float(mean) for name, mean in kept.items()}
    return state, statistics.median(clock[1:] or clock), curve  # the first chunk compiles


def measure(model, variables, x) -> dict[str, jax.Array]:
    """All that is needed of one batch of the test set."""
    x = preprocess(x)
    rec = model.apply(variables, x)
    return {
        "error": jnp.mean(jnp.square(x - rec.x), axis=(1, 2, 3)),
        "ssim": ssim(x, rec.x),
        "pictures": to_pixels(rec.x),
        "indices": as_levels(rec.indices),
        "z_e": as_levels(rec.z_e),
        "z_q": as_levels(rec.z_q),
    }


def evaluate(look, variables, test: np.ndarray, levels) -> tuple[dict[str, float], np.ndarray]:
    """The numbers over the test set, and the first reconstructions."""
    found = whole(partial(look, variables), test)
    mse = float(np.mean(found["error"], dtype=np.float64))
    numbers = {
        "psnr": float(psnr(mse)),
        "ssim": float(np.mean(found["ssim"], dtype=np.float64)),
        **code_numbers(levels, found["indices"]),
        **quantization_error(found["z_e"], found["z_q"]),
    }
    return numbers, found["pictures"][:SHOWN]


def whole(look: Callable[[np.ndarray], Any], x: np.ndarray, at_once: int = 100) -> Any:
    """What `look` makes of all rows of x, so many at a time: arrays or a tree of them."""
    parts = []
    for batch, mask in take_batches(x, min(at_once, len(x))):
        out = jax.device_get(look(batch))
        parts.append(jax.tree.map(lambda array, real=mask > 0: array[real], out))
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def code_numbers(levels, maps: Sequence[np.ndarray]) -> dict[str, float]:
    """How the codes of all images are used: means over streams, bits of one image.

    Args:
        levels: the quantizer of each level.
        maps: the indices `[N, ..., Q]` of each level.
    """
    sizes = streams(levels)
    counts = {
        prefix: np.bincount(k[k >= 0], minlength=sizes[prefix])
        for prefix, k in by_stream(levels, maps).items()
    }
    table = code_table(counts, len(maps[0]))

    def mean(kind: str) -> float:
        return statistics.fmean(v for name, v in table.items() if name.split("/")[-1] == kind)

    return {
        "codes": float(np.prod([float(size) for size in sizes.values()])),
        "used": mean("used"),
        "perplexity": mean("perplexity"),
        "bits_uniform": table["bits_uniform"],
        "bits_entropy": table["bits_entropy"],
    }


def quantization_error(z_e: Sequence[np.ndarray], z_q: Sequence[np.ndarray]) -> dict[str, float]:
    """The mean of (z_e - z_q)^2 over elements, and its share of the variance of z_e.

    Means over levels. The variance is around the mean of each channel, averaged over channels: a
    single code at the mean has a share of 1.
    """
    errors, shares = [], []
    for z, q in zip(z_e, z_q, strict=True):
        error = float(np.mean((z.astype(np.float64) - q) ** 2))
        variance = float(np.mean(np.var(z, axis=tuple(range(z.ndim - 1)), dtype=np.float64)))
        errors.append(error)
        shares.append(error / variance if variance else float("nan"))
    return {
        "quantization_error": statistics.fmean(errors),
        "quantization_share": statistics.fmean(shares),
    }
