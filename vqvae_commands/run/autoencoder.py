"""Training of an autoencoder with codes: the options, and the run."""

import dataclasses
import json
import math
import warnings
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import jax
import tyro

from vqvae_commands.pages import run_facts, run_pictures, run_report
from vqvae_commands.pages.html import Page
from vqvae_commands.run import code_streams, kinds, remarks, resumable, run_folder
from vqvae_commands.run.command_line import command_line
from vqvae_commands.run.data_checks import check_options_of_pictures, check_sides
from vqvae_commands.run.data_options import data_options, load_data, open_data
from vqvae_commands.run.first_codes import first_batches, with_first_codes
from vqvae_commands.run.kinds import Facts, Kind
from vqvae_commands.run.model_metrics import evaluate, number_or_words, print_table
from vqvae_commands.run.padded import parts
from vqvae_commands.run.picture_counts import count_pictures
from vqvae_commands.run.progress import Display, Pictures, describe_start, measured
from vqvae_commands.run.quantizer_choice import help_text
from vqvae_commands.run.recipe import (
    SCHEDULES,
    host_batches,
    in_parts,
    make_model,
    make_optimizer,
    started_from,
)
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
    """The embedded set, a TFDS name, a folder of records, images, WAV files, videos or
    IDX files, or a .npy file."""
    crop: int | None = None
    """Side of tiles in pixels, for a folder of pictures or videos: each picture is cut into a grid
    of them, and of a frame the middle one is kept."""
    resize: int | None = None
    """Side in pixels, for a folder of pictures or videos: the shorter side of each is scaled to it,
    and the middle square is kept; with `--crop` as well, tiles are cut of the scaled pictures."""
    grey: bool = False
    """Read a folder of pictures or videos as one channel."""
    window: int | None = None
    """Number of samples of a window; required for a folder of WAV files."""
    frames: int | None = None
    """Number of frames of a clip; required for a folder of videos, or of folders of frames."""
    lengths: str | None = None
    """A .npy file of the length of each example, of those padded to one length."""
    kind: Kind | None = None
    """Kind of the data; needed only if shape and range are ambiguous."""

    model: Literal["vqvae", "vqvae2"] = "vqvae"
    """One level of codes (vqvae), or several (vqvae2):
    the grid of each level has half the side of the one below it."""
    quantizer: Annotated[str, tyro.conf.arg(metavar="NAME", help=help_text())] = "ema_vq"
    codes: tuple[int, ...] = (512,)
    """K, the size of a codebook; with vqvae2 the size at each level, top first."""
    dim: int = 64
    """D, the width of the codes; scalars and signs have their own."""
    levels: tuple[int, ...] | None = None
    """Number of values of each scalar (fsq, fsp, latent_vq); by default 8 5 5 5."""
    bits: int | None = None
    """Number of signs (lfq, bsq); by default 9."""
    stages: int | None = None
    """Number of codebooks (residual, grouped); by default 4."""
    beta: float = 0.25
    """Weight of the commitment term."""
    reset: float = 0.1
    """Codes used less often than this share of the mean are reset to encoder outputs;
    0 turns this off."""
    width: int = 64
    """Channels in the encoder and in the decoder."""
    depth: int = 2
    """Residual blocks in the encoder and in the decoder."""
    downsamplings: int | tuple[int, ...] = 2
    """How often each side is halved between data and codes (with vqvae2, the top codes);
    or a number for each axis, such as 1 2 2 for videos of few frames."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the activations."""

    steps: int = 8000
    """Number of training steps."""
    batch_size: int = 32
    """Examples per step, over all devices and processes."""
    learning_rate: float = 4e-3
    """Learning rate of Adam at the end of the warm-up."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate after the warm-up: it falls to 0 along a cosine, or stays as it is, so that the
    run can be lengthened by a larger --steps."""
    warmup: int = 200
    """Steps in which the learning rate rises from 0."""
    seed: int = 0
    """Seed of the initial parameters, the order of the data and the reset of codes."""
    start: Path | None = None
    """Run, or saved model, whose weights and codes the training starts from."""

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
    check_options(config)
    if config.processes > 1:
        jax.distributed.initialize(config.coordinator, config.processes, config.process_id)
    options = data_options(vars(config))
    source = open_data(options)
    check_options_of_pictures(options, source, config.downsamplings)
    train, test = load_data(options, source)
    facts = kinds.look_at_data(config.data, train, test, config.kind)
    facts = dataclasses.replace(facts, pictures=count_pictures(source))
    check_sides(options, train.shape[1:-1], config.downsamplings)
    model = make_model(config, train).clone(domain=facts.domain())
    optimizer = make_optimizer(config, SCHEDULES[config.schedule])
    state = init_state(model, optimizer, jax.random.key(config.seed), parts(train[:1])[0])
    if config.start:
        state = started_from(config.start, state)
    load = batch_of(train, config.seed, config.batch_size)
    first = first_batches(model, state, load, len(train) // config.batch_size)
    odd = facts.remarks() + remarks.of_test_size(len(test))
    odd += remarks.of_first_batches(model, state, first)
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
            lambda state: with_first_codes(model, state, first),
            chief=config.process_id == 0,
        )
    return finish(folder, config, train, test, facts, odd) if config.process_id == 0 else None


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
    draw = partial(draw_test, model, test) if facts.kind == "pictures" else lambda state: {}
    title = "\n".join([title, *facts.origin(), *odd])
    return Display(folder, config.steps, start, title, read, look, draw)


def read_metrics(
    batch_size: int, kind: str, metrics: dict[str, float]
) -> tuple[dict[str, float], list[str]]:
    """Returns (values to log, texts to show) for the metrics of a step, with PSNR for pixels."""
    values = measured(metrics, batch_size)
    if "mse" not in values:
        return values, ["no valid example"]
    words = [f"loss {values['loss']:.4f}"]
    if kind in kinds.PIXELS:
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


def draw_test(model, test: Examples, state: TrainState) -> Pictures:
    """Returns a picture of the first test pictures above their reconstructions."""
    variables = jax.device_get(state.variables)
    return {"test/reconstructions": run_pictures.strip_of(model, variables, test)}


def quality_text(table: dict[str, float]) -> str:
    """Returns the PSNR of pixels, or the explained variance of other data, as text."""
    if "psnr" in table:
        return f"PSNR {number_or_words(table['psnr'], '.2f')} dB"
    return f"explained variance {number_or_words(table['explained_variance'], '.2%')}"


def finish(
    folder: Path, config: Config, train: Examples, test: Examples, facts: Facts, odd: list[str]
) -> tuple[dict, Page]:
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
        results=run_facts.beside_training(table, model, variables, train, len(test), facts.kind),
        metrics=metrics,
        figures=run_report.make_figures(model, variables, test, counts, metrics, facts.kind, train),
        command=command_line(config, ["vqvae", "train"]),
        facts=run_facts.about(folder, model, variables, config.data, facts, table),
        use=run_facts.use(folder, facts),
        units=kinds.units(facts.kind, facts.dtype),
        remarks=odd,
    )
    many = kinds.NOUNS[facts.kind][1]
    title = f"{folder}, model {digest[:16]}, {len(test):,} test {many}"
    print_table(table, title, facts.kind, facts.dtype)
    print(*odd, folder / "report.html", sep="\n")
    return table, page
