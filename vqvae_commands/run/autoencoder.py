"""Training of an autoencoder with codes."""

import dataclasses
import json
import math
import warnings
from functools import partial
from pathlib import Path

import jax
import optax

from vqvae_commands.data import kinds
from vqvae_commands.data.data_checks import check_before_reading, check_sides
from vqvae_commands.data.data_options import data_options, load_data, open_data
from vqvae_commands.data.kinds import Facts
from vqvae_commands.data.padded import parts
from vqvae_commands.data.picture_counts import count_pictures
from vqvae_commands.pages import run_facts, run_pictures, run_report
from vqvae_commands.pages.html import Page
from vqvae_commands.run import code_streams, remarks, resumable, run_folder
from vqvae_commands.run.changes import as_begun
from vqvae_commands.run.first_codes import first_batches, with_first_codes
from vqvae_commands.run.model_metrics import evaluate, number_or_words, print_table
from vqvae_commands.run.optimizers import OPTIMIZERS, SCHEDULES
from vqvae_commands.run.progress import Display, Pictures, describe_start, measured
from vqvae_commands.run.recipe import (
    host_batches,
    in_parts,
    make_model,
    make_optimizer,
    started_from,
)
from vqvae_commands.run.train_options import Config, check_options
from vqvae_commands.terminal.command_line import command_line
from vqvae_jax import load_model, save_model, to_json
from vqvae_jax.data.pipeline import Examples, batch_of
from vqvae_jax.training.step import TrainState, init_state, make_train_step


def train_autoencoder(config: Config) -> tuple[dict[str, float], Page] | None:
    """Trains, evaluates and writes the report; returns the table of the test set, and the report.

    Process 0 alone evaluates: the others return None.
    """
    config = as_begun(config)
    check_options(config)
    if config.processes > 1:
        jax.distributed.initialize(config.coordinator, config.processes, config.process_id)
    train, test, facts = read_data(config)
    model, optimizer = make_model(config, train).clone(domain=facts.domain()), optimizer_of(config)
    state = first_state(config, model, optimizer, train)
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


def read_data(config: Config) -> tuple[Examples, Examples, Facts]:
    """Returns the data of the options, (train, test), and the facts about them, all checked."""
    options = data_options(vars(config))
    source = open_data(options)
    check_before_reading(options, source, config.downsamplings)
    train, test = load_data(options, source)
    facts = kinds.look_at_data(config.data, train, test, config.kind)
    check_sides(options, train.shape[1:-1], config.downsamplings)
    return train, test, dataclasses.replace(facts, pictures=count_pictures(source))


def first_state(
    config: Config, model, optimizer: optax.GradientTransformation, train: Examples
) -> TrainState:
    """Returns the state before the first step, with the weights of another run if one is given."""
    state = init_state(model, optimizer, jax.random.key(config.seed), parts(train[:1])[0])
    return started_from(config.start, state) if config.start else state


def optimizer_of(config: Config) -> optax.GradientTransformation:
    """Returns the optimizer that the options name."""
    return make_optimizer(config, OPTIMIZERS[config.optimizer], SCHEDULES[config.schedule])


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
