"""Training of an autoencoder with codes: the options, and the run."""

import dataclasses
import json
import math
import warnings
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import optax

from vqvae_commands.pages import run_report
from vqvae_commands.pages.html import Page
from vqvae_commands.run import code_streams, kinds, remarks, resumable, run_folder
from vqvae_commands.run.data_options import data_options, load_data
from vqvae_commands.run.earlier_runs import as_begun
from vqvae_commands.run.kinds import Facts, Kind
from vqvae_commands.run.model_metrics import evaluate, number_or_words, print_table
from vqvae_commands.run.optimizers import OPTIMIZERS
from vqvae_commands.run.progress import Display, describe_start, measured
from vqvae_commands.run.recipe import host_batches, in_parts, make_model, make_optimizer
from vqvae_jax import load_model, save_model, to_json
from vqvae_jax.checks import check_size
from vqvae_jax.data.pipeline import Examples, batch_of
from vqvae_jax.data.sources import EMBEDDED
from vqvae_jax.training.step import TrainState, init_state, make_train_step


@dataclasses.dataclass(frozen=True)
class Config:
    """Train a VQ-VAE or a VQ-VAE-2, and write a report to RUNS/NAME/report.html."""

    name: str = "fashion"
    """The run's name, and its folder in `runs`."""
    runs: Path = Path("runs")
    """Folder of all runs."""
    data: str = EMBEDDED
    """The embedded set, a TFDS name, a folder of records, images or IDX files, or a .npy file."""
    crop: int | None = None
    """Crop size in pixels; required for a folder of images."""
    kind: Kind | None = None
    """Kind of the data; needed only if shape and range are ambiguous."""

    model: Literal["vqvae", "vqvae2"] = "vqvae"
    """One level of codes (vqvae), or several (vqvae2):
    the grid of each level has half the side of the one below it."""
    quantizer: Literal["ema_vq", "vq"] = "ema_vq"
    """Quantizer: the codebook follows moving averages (ema_vq) or the gradient (vq)."""
    codes: tuple[int, ...] = (512,)
    """K, the size of the codebook; with vqvae2 the size at each level, top first."""
    dim: int = 64
    """D, the width of the codes."""
    beta: float = 0.5
    """Weight of the commitment term."""
    decay: float = dataclasses.field(default=0.97, metadata={"before": 0.99})
    """Decay of the moving averages that the codebook follows (ema_vq)."""
    reset: float = 0.1
    """Codes used less often than this share of the mean are reset to encoder outputs;
    0 turns this off."""
    width: int = 64
    """Channels in the encoder and in the decoder."""
    depth: int = 2
    """Residual blocks in the encoder and in the decoder."""
    downsamplings: int = 2
    """How often each side is halved between data and codes (with vqvae2, the top codes)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the activations."""

    steps: int = 4000
    """Number of training steps."""
    batch_size: int = 32
    """Examples per step, over all devices and processes."""
    optimizer: Literal["adam", "muon"] = dataclasses.field(
        default="muon", metadata={"before": "adam"}
    )
    """Optimizer: Muon for kernels, with Adam for biases and codes (muon), or Adam for all."""
    learning_rate: float = 4e-3
    """Learning rate at the end of the warm-up; it falls to 0 along a cosine."""
    warmup: int = 200
    """Steps in which the learning rate rises from 0."""
    seed: int = 0
    """Seed of the initial parameters, the order of the data and the reset of codes."""

    parallel: Literal["jit", "shard_map", "pmap"] = "jit"
    """Parallelism of the train step over several devices."""
    parts: int | None = None
    """Split a device's batch into this many parts, processed in turn, to save memory.
    Activations are recomputed for the gradient (remat), even with 1 part."""
    log_every: int = 50
    """Steps between two lines of metrics.jsonl."""
    eval_every: int = 1000
    """Steps between two evaluations on the whole test set."""
    save_every: int = 1000
    """Steps between two checkpoints."""
    processes: int = 1
    """Number of processes in the training (jax.distributed)."""
    process_id: int = 0
    """Index of this process, from 0."""
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


def check_options(config: Config) -> None:
    """Raises a ValueError naming an option that is out of range."""
    resumable.check_training(config)
    check_size(processes=config.processes)
    if config.parts is not None:
        check_size(parts=config.parts)


def train_autoencoder(config: Config) -> tuple[dict[str, float], Page] | None:
    """Trains, evaluates and writes the report; returns the table of the test set, and the report.

    Process 0 alone evaluates: the others return None.
    """
    config = as_begun(config)
    check_options(config)
    if config.processes > 1:
        jax.distributed.initialize(config.coordinator, config.processes, config.process_id)
    train, test = load_data(data_options(vars(config)))
    facts = kinds.look_at_data(config.data, train, test, config.kind)
    model = make_model(config, train).clone(domain=facts.domain())
    optimizer = optimizer_of(config)
    state = init_state(model, optimizer, jax.random.key(config.seed), train[:1])
    first = batch_of(train, config.seed, config.batch_size)(0)
    odd = facts.remarks() + remarks.of_first_batch(model, state.variables, first)
    folder = config.runs / config.name
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"\d+ rows for \d+ codes")  # a remark says it better
        resumable.run_training(
            folder,
            config,
            model,
            make_train_step(in_parts(model, config.parts), optimizer),
            state,
            partial(host_batches, config, train),
            # The model as it is now, for evaluate, reconstruct and export.
            lambda state: save_model(folder / "model", model, state.variables),
            partial(make_display, folder, config, model, test, facts, odd),
            FREE,
            chief=config.process_id == 0,
        )
    return finish(folder, test, facts, odd) if config.process_id == 0 else None


def optimizer_of(config: Config) -> optax.GradientTransformation:
    """Returns the optimizer that the options name."""
    return make_optimizer(config, OPTIMIZERS[config.optimizer])


def make_display(
    folder: Path, config: Config, model, test: Examples, facts: Facts, odd: list[str], start: int
) -> Display:
    """Keeps the facts about the data in data.json; returns the run's display."""
    run_folder.write_text(
        folder / "data.json", run_folder.strict_json(dataclasses.asdict(facts), indent=1)
    )
    title = describe_start(config, f"{config.data}, {facts}", start)
    read = partial(read_metrics, config.batch_size, facts.kind)
    look = partial(look_at_test, model, test, facts.kind)
    return Display(folder, config.steps, start, "\n".join([title, *odd]), read, look)


def read_metrics(
    batch_size: int, kind: str, metrics: dict[str, float]
) -> tuple[dict[str, float], list[str]]:
    """Returns (values to log, texts to show) for the metrics of a step, with PSNR for pictures."""
    values = measured(metrics, batch_size)
    if "mse" not in values:
        return values, ["no valid example"]
    words = [f"loss {values['loss']:.4f}"]
    if kind == "pictures":
        decibels = -10 * math.log10(values["mse"]) if values["mse"] > 0 else math.inf
        values = values | {"psnr": decibels}
        words.append(f"PSNR {decibels:.2f} dB")
    perplexities = [value for name, value in values.items() if "perplexity_batch" in name]
    return values, words + [f"perplexity {value:.0f}" for value in perplexities[:1]]


def look_at_test(model, test: Examples, kind: str, state: TrainState):
    """Returns the table of the whole test set, and a line of text about it."""
    table, _ = evaluate(model, jax.device_get(state.variables), test, kind=kind)
    text = f"test {quality_text(table)}"
    if "used" in table:
        text += f", perplexity {table['perplexity']:.0f}, {table['used']:.0%} of the codes used"
    return {f"test/{name}": value for name, value in table.items()}, text


def quality_text(table: dict[str, float]) -> str:
    """Returns the PSNR of pictures, or the explained variance of other data, as text."""
    if "psnr" in table:
        return f"PSNR {number_or_words(table['psnr'], '.2f')} dB"
    return f"explained variance {number_or_words(table['explained_variance'], '.2%')}"


def finish(folder: Path, test: Examples, facts: Facts, odd: list[str]) -> tuple[dict, Page]:
    """Evaluates the saved model over the whole test set, and writes the report; returns both."""
    model, variables, digest = load_model(folder / "model")
    table, counts = evaluate(model, variables, test, kind=facts.kind)
    run_folder.write_text(folder / "evaluation.json", run_folder.strict_json(table, indent=1))
    metrics = run_folder.read_lines(folder / "metrics.jsonl")
    odd = odd + remarks.of_training(metrics)
    odd += remarks.of_results(table, code_streams.streams(code_streams.quantizers(model)))
    page = run_report.write_report(
        folder,
        config=json.loads((folder / "config.json").read_text()),
        description=to_json(model, indent=1),
        results=table,
        metrics=metrics,
        figures=run_report.make_figures(model, variables, test, counts, metrics, facts.kind),
        data=str(facts),
        units=kinds.units(facts.kind, facts.dtype),
        remarks=odd,
    )
    many = kinds.NOUNS[facts.kind][1]
    title = f"{folder}, model {digest[:16]}, {len(test):,} test {many}"
    print_table(table, title, facts.kind, facts.dtype)
    print(*odd, folder / "report.html", sep="\n")
    return table, page
