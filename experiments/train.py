"""Train a VQ-VAE or a VQ-VAE-2.

python -m experiments.train                                   on the embedded images
python -m experiments.train --name levels --model vqvae2 --codes 512 512
python -m experiments.train --name photos --data DIR --crop 64
python -m experiments.train --help

The same command continues a run that was stopped.
"""

import dataclasses
import json
import math
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax

from experiments import evaluate, report, runs, training
from experiments.command import run
from experiments.progress import Display, describe_start
from experiments.recipe import host_batches, in_parts, load_data, make_model, make_optimizer
from vqvae_jax import load_model, save_model, to_json
from vqvae_jax.data.pipeline import Examples
from vqvae_jax.data.sources import EMBEDDED
from vqvae_jax.quantizers.base import check_size
from vqvae_jax.training.step import TrainState, init_state, make_train_step


@dataclasses.dataclass(frozen=True)
class Config:
    """Train a VQ-VAE or a VQ-VAE-2, and write what it learnt to RUNS/NAME/report.html."""

    name: str = "fashion"
    """The run's name, and its folder in `runs`."""
    runs: Path = Path("runs")
    """Where the folders of runs are."""
    data: str = EMBEDDED
    """The embedded set, a TFDS name, a folder of records, images or IDX files, or a .npy file."""
    crop: int | None = None
    """Side of the crops from a folder of images."""

    model: Literal["vqvae", "vqvae2"] = "vqvae"
    """One level of codes, or several: each above the last one has half its side."""
    quantizer: Literal["ema_vq", "vq"] = "ema_vq"
    """How the codebooks move: by moving averages or by gradient."""
    codes: tuple[int, ...] = (512,)
    """K, the size of the codebook; of each level, the top one first, with vqvae2."""
    dim: int = 64
    """D, the width of the codes."""
    beta: float = 0.25
    """Weight of the commitment term."""
    revive: float = 0.1
    """Codes used less than this share of the mean become rows of the batch."""
    width: int = 64
    """Channels of encoder and decoder."""
    depth: int = 2
    """Residual blocks in each."""
    downsamplings: int = 2
    """How often each side is halved from the data to the codes, to the top ones with vqvae2."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the activations."""

    steps: int = 8000
    """Length of the run."""
    batch_size: int = 32
    """Examples a step, over all devices and processes."""
    learning_rate: float = 4e-3
    """Of Adam, at the end of the warm-up; it falls to 0 along a cosine."""
    warmup: int = 200
    """Steps in which the learning rate rises from 0."""
    seed: int = 0
    """Of the initial parameters, the order of the data and the codes that are revived."""

    parallel: Literal["jit", "shard_map", "pmap"] = "jit"
    """How the train step is compiled for several devices."""
    parts: int | None = None
    """To save memory, encoder and decoder work on so many parts of a device's batch in turn, and
    compute activations again for the gradient (remat); 1: do the latter alone."""
    log_every: int = 50
    """Steps between two lines of metrics.jsonl."""
    eval_every: int = 1000
    """Steps between two looks at the whole test set."""
    save_every: int = 1000
    """Steps between two checkpoints."""
    processes: int = 1
    """Number of processes that train together (jax.distributed)."""
    process_id: int = 0
    """Which of them this one is."""
    coordinator: str = "localhost:12345"
    """Address of process 0."""


FREE = (
    "name",
    "runs",
    "parallel",
    "parts",
    "log_every",
    "save_every",
    "processes",
    "process_id",
    "coordinator",
)


def check(config: Config) -> None:
    """Raises a ValueError naming an option that is out of range."""
    training.check(config)
    check_size(processes=config.processes)
    if config.parts is not None:
        check_size(parts=config.parts)


def main(config: Config) -> dict[str, float] | None:
    """Data, model, state, loop, report."""
    check(config)
    if config.processes > 1:
        jax.distributed.initialize(config.coordinator, config.processes, config.process_id)
    train, test = load_data(config.data, config.crop)
    model, optimizer = make_model(config, train), make_optimizer(config)
    folder = config.runs / config.name
    training.train(
        folder,
        config,
        model,
        make_train_step(in_parts(model, config.parts), optimizer),
        init_state(model, optimizer, jax.random.key(config.seed), train[:1]),
        partial(host_batches, config, train),
        # The model as it is now, for evaluate, reconstruct and export.
        lambda state: save_model(folder / "model", model, as_variables(state)),
        partial(make_display, folder, config, model, test),
        FREE,
        chief=config.process_id == 0,
    )
    return finish(folder, test) if config.process_id == 0 else None


def as_variables(state: TrainState) -> dict[str, Any]:
    """Of the model, as `apply` takes them, on the host."""
    return jax.device_get({"params": state.params, **state.collections})


def make_display(folder: Path, config: Config, model, test: Examples, start: int) -> Display:
    """What the run shows and logs."""
    shape = " x ".join(map(str, test.shape[1:]))
    title = describe_start(config, f"{config.data}, {shape}", start)
    look = partial(look_at_test, model, test)
    return Display(folder, config.steps, start, title, read_metrics, look)


def read_metrics(metrics: dict[str, float]) -> tuple[dict[str, float], list[str]]:
    """Those of a step and its PSNR; what of them is shown."""
    values = metrics | {"psnr": -10 * math.log10(max(metrics["mse"], 1e-12))}
    words = [f"loss {values['loss']:.4f}", f"PSNR {values['psnr']:.2f} dB"]
    perplexities = [value for name, value in values.items() if "perplexity_batch" in name]
    return values, words + [f"perplexity {value:.0f}" for value in perplexities[:1]]


def look_at_test(model, test: Examples, state: TrainState) -> tuple[dict[str, float], str]:
    """The table of the whole test set, and a line of it."""
    table, _ = evaluate.evaluate(model, as_variables(state), test)
    text = f"test PSNR {table['psnr']:.2f} dB"
    if "used" in table:
        text += f", perplexity {table['perplexity']:.0f}, {table['used']:.0%} of the codes used"
    return {f"test/{name}": value for name, value in table.items()}, text


def finish(folder: Path, test: Examples) -> dict[str, float]:
    """Evaluates the saved model over the whole test set, and writes the report."""
    model, variables, digest = load_model(folder / "model")
    table, counts = evaluate.evaluate(model, variables, test)
    runs.write_text(folder / "evaluation.json", json.dumps(table, indent=1))
    metrics = runs.read_lines(folder / "metrics.jsonl")
    report.write_report(
        folder,
        config=json.loads((folder / "config.json").read_text()),
        description=to_json(model, indent=1),
        results=table,
        metrics=metrics,
        figures=report.make_figures(model, variables, test, counts, metrics),
    )
    evaluate.show(table, f"{folder}, model {digest[:16]}, {len(test):,} test images")
    print(folder / "report.html")
    return table


if __name__ == "__main__":
    run(main, Config)
