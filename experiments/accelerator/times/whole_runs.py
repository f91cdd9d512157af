"""Section `runs`: what users wait for: a training, a prior, samples, codes of pictures and back."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.accelerator.tables import expected, grouped_tables, inner, value, verdict
from experiments.accelerator.tasks import Found, Section, Task
from experiments.accelerator.times import step_work
from experiments.accelerator.times.queued import Work, seconds_of
from experiments.bench import sampling
from experiments.bench.bench_page import Table
from experiments.bench.plain_flax import Sizes
from experiments.bench.timing import race
from experiments.generation.small_prior import Prior, make_fitted, quick_prior
from vqvae_commands.data.data_options import DataOptions, load_data
from vqvae_commands.run.autoencoder import Config
from vqvae_commands.run.batchwise import in_batches
from vqvae_commands.run.model_metrics import evaluate
from vqvae_commands.run.recipe import make_model, make_optimizer
from vqvae_jax import as_functions
from vqvae_jax.data.pipeline import batches
from vqvae_jax.data.scaling import preprocess
from vqvae_jax.training import loop, parallel
from vqvae_jax.training.step import init_state, make_train_step

DEFAULT = Config(optimizer="adam", steps=8000, beta=0.25, decay=0.99)
SMALL = Config(optimizer="adam", steps=20, batch_size=8, width=16, depth=1, codes=(64,), dim=16)
PRIOR = Prior(width=128, depth=3, steps=2000)
BATCHES, QUICK_BATCHES = (1, 16, 128, 1024, 4096), (1, 16)
GRIDS = tuple(sampling.PriorSizes(side, batch, pixelcnn_depth=0, rounds=3)
              for side, batch in ((7, 16), (7, 256), (16, 16)))  # fmt: skip
QUICK_GRIDS = (sampling.PriorSizes(2, 2, 16, 16, 1, 2, 0, 3),)
GROUPS = ("Training", "Sampling", "Codes of pictures, and back")


def tasks(quick: bool) -> list[Task]:
    """Returns the runs."""
    config = SMALL if quick else DEFAULT
    prior = quick_prior(dataclasses.replace(PRIOR, steps=5)) if quick else PRIOR
    started = cache(partial(start, config))
    trained = cache(partial(train, started))
    step = step_work.expected_seconds(sizes_of(config, config.batch_size), "tf32")
    took = {"training": config.steps * step}
    training = Task(
        f"training, {config.steps:,} steps",
        lambda: started() and partial(report, trained),
        took,
        GROUPS[0],
    )
    steps = f"prior, {prior.steps:,} steps"
    fitting = Task(steps, lambda: partial(fit, trained, prior), {}, GROUPS[0])
    drawn = [
        Task(sampling.sizes_text(s), partial(prepare_sampling, s), {}, GROUPS[1])
        for s in (QUICK_GRIDS if quick else GRIDS)
    ]
    served = [
        Task(f"batch {n:,}", partial(prepare_codec, config, n), codec_seconds(config, n), GROUPS[2])
        for n in (QUICK_BATCHES if quick else BATCHES)
    ]
    return [training, served[0], *drawn, *served[1:], fitting]


LAUNCHES = 40  # kernels of one direction, in the program that XLA compiles for this card


def sizes_of(config: Config, batch: int) -> Sizes:
    """Returns the sizes of the model and of a batch of the embedded pictures."""
    return Sizes(28, 1, config.width, config.depth, config.codes[0], config.dim, batch)


def codec_seconds(config: Config, n: int) -> dict[str, float]:
    """Returns the expected seconds to the codes of n pictures."""
    one = sum(c.operations for c in step_work.encoder(sizes_of(config, 1)))
    return {"seconds": step_work.seconds(n * one, "tf32", LAUNCHES)}


def start(config: Config) -> dict[str, Any]:
    """Compiles the train step of vqvae_commands.train, and takes two steps."""
    data, test = load_data(DataOptions(config.data))
    model, optimizer = make_model(config, data), make_optimizer(config)
    step = parallel.jit_step(make_train_step(model, optimizer), parallel.data_mesh())
    order = batches(data, config.seed, config.batch_size)
    begun = time.perf_counter()
    state = init_state(model, optimizer, jax.random.key(config.seed), data[:1])
    state = jax.block_until_ready(loop.run_steps(state, step, order, 2, {}))
    seconds = time.perf_counter() - begun
    return {"model": model, "train": data, "test": test, "start": seconds,
            "go on": lambda: loop.run_steps(state, step, order, config.steps, {})}  # fmt: skip


def train(started: Callable[[], dict]) -> dict[str, Any]:
    """Trains to the end, without checkpoints."""
    run = started()
    begun = time.perf_counter()
    state = jax.block_until_ready(run["go on"]())
    return {**run, "training": time.perf_counter() - begun, "variables": state.variables}


def report(trained: Callable[[], dict]) -> Found:
    """Returns times and quality of the training."""
    run = trained()
    table, _ = evaluate(run["model"], run["variables"], run["test"][:2000])
    return {"start": run["start"], "training": run["training"], "psnr": table["psnr"]}


def fit(trained: Callable[[], dict], prior: Prior) -> Found:
    """Fits a prior to the codes of the trained model, and returns time and bits a test picture."""
    run = trained()
    model = run["model"]
    to_codes = jax.jit(lambda x: as_functions(model).tokenize(run["variables"], preprocess(x)))
    maps = [(in_batches(to_codes, x),) for x in (run["train"], run["test"])]
    shown = maps[1][0][:2000]
    fitted = make_fitted(prior, model.quantizer.vocab, shown.shape[1:-1])
    begun = time.perf_counter()
    params = fitted.fit(maps[0], 0)
    seconds = time.perf_counter() - begun
    return {"training": seconds, "bits": float(np.mean(fitted.bits(params, (shown,))))}


def prepare_sampling(sizes: sampling.PriorSizes) -> Callable[[], Found]:
    """Compiles the ways to draw a batch of codes."""
    entries = sampling.contestants(sizes)

    def measure() -> Found:
        result = race(sampling.sizes_text(sizes), entries, sizes.rounds, sampling.CACHED)
        return {"milliseconds": {name: 1000 * result.time(name).median for name in result.seconds}}

    return measure


def prepare_codec(config: Config, n: int) -> Callable[[], Found]:
    """Compiles both directions for a batch of n pictures."""
    x = jnp.asarray(np.random.default_rng(0).uniform(-0.5, 0.5, (n, 28, 28, 1)), jnp.float32)
    model = make_model(config, x)
    variables = jax.jit(model.init)(jax.random.key(0), x[:1])
    f = as_functions(model)
    tokenize = jax.jit(f.tokenize).lower(variables, x).compile()
    codes = tokenize(variables, x)
    detokenize = jax.jit(f.detokenize).lower(variables, codes).compile()

    def measure() -> Found:
        there, back = (
            seconds_of(Work(name, lambda i, f=f, a=a: f(variables, a), jax.block_until_ready))
            for name, f, a in (("tokenize", tokenize, x), ("detokenize", detokenize, codes))
        )
        return {"tokenize": there, "detokenize": back, "to": n / there, "from": n / back}

    return measure


def tables(tasks: Sequence[Task], found: Mapping[str, Found]) -> list[Table]:
    """Returns a table for each kind of run."""
    ways = (sampling.CACHED, sampling.UNCACHED, sampling.MASKED)
    columns = {
        GROUPS[0]: {
            "seconds": value("training", "{:.1f}"), "*expected*": expected("training", "{:.1f}"),
            "compiling, seconds": value("start", "{:.1f}"),
            "test PSNR, dB": value("psnr", "{:.2f}"), "bits a picture": value("bits", "{:.1f}"),
        },
        GROUPS[1]: {f"{name}, ms": inner("milliseconds", name) for name in ways},
        GROUPS[2]: {
            "tokenize, ms": value("tokenize", "{:.3g}", 1000),
            "*expected* ms": expected("seconds", "{:.3g}", 1000),
            "images/s": value("to", "{:,.0f}"),
            "detokenize, ms": value("detokenize", "{:.3g}", 1000),
            "images/s back": value("from", "{:,.0f}"),
        },
    }  # fmt: skip
    return grouped_tables(tasks, found, {g: {**columns[g], "": verdict} for g in GROUPS})


SECTION = Section(
    "Whole runs",
    "The training of `vqvae train` without checkpoints and pages (before it: the "
    "first state, and compiling), a prior fitted to its codes, samples from priors with random "
    "weights, and pictures to codes and back.",
    30,
    tasks,
    tables,
    together=2,
)
