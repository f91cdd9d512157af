"""Training of priors over the codes of a run: the options, and a run for each level."""

import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from vqvae_commands.generation.augmented_codes import Maps, make_views
from vqvae_commands.generation.bits_table import print_bits
from vqvae_commands.generation.code_bits import prior_bits, static, uniform
from vqvae_commands.generation.code_files import Codes
from vqvae_commands.generation.codes_of_data import codes_of
from vqvae_commands.generation.prior_recipe import (
    held_out,
    items,
    prior_model,
    prior_optimizer,
    take_items,
)
from vqvae_commands.run import resumable, run_folder
from vqvae_commands.run.progress import Display, describe_start, measured
from vqvae_jax import load_model, save_model
from vqvae_jax.checks import check_range
from vqvae_jax.data.pipeline import batches
from vqvae_jax.priors.losses import CodeBatch, masked_prior_loss, prior_loss
from vqvae_jax.training.step import TrainState, gradient_step, start_state


@dataclasses.dataclass(frozen=True)
class Config:
    """Train a prior over the codes of a run, in RUN/NAME/level0, level1, ..."""

    run: Annotated[Path, tyro.conf.Positional]
    """The folder of the run, or of the saved model, that makes the codes."""
    data: str | None = None
    """Source of the data; by default the run's own."""
    name: str = "prior"
    """Folder for the priors, inside the run's folder."""

    prior: Literal["transformer", "pixelcnn", "masked"] = "transformer"
    """Kind of prior: `transformer` and `pixelcnn` predict codes one by one;
    `masked` predicts masked codes (MaskGIT)."""
    width: int = 128
    """Width of the tokens (transformer, masked), or number of channels (pixelcnn)."""
    depth: int = 3
    """Number of layers."""
    heads: int = 4
    """Number of attention heads."""
    dropout: float = 0.1
    """Dropout rate in training."""
    views: int = 8
    """Number of randomly flipped and shifted copies of the training images whose codes are also
    trained on; use 0 if mirrored images make no sense."""

    steps: int = 2000
    """Number of steps at each level."""
    batch_size: int = 32
    """Number of items per step, over all devices."""
    learning_rate: float = 2e-3
    """Learning rate of AdamW at the end of the warm-up."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate after the warm-up: it falls to 0 along a cosine, or stays as it is, so that the
    run can be lengthened by a larger --steps."""
    warmup: int = 100
    """Steps in which the learning rate rises from 0."""
    weight_decay: float = 0.05
    """Weight decay of AdamW."""
    unconditional: float = 0.1
    """Share of the items trained on without their label, for guidance in sampling."""
    seed: int = 0
    """Seed of the initial parameters, the order of the data, dropout and the views."""

    parallel: Literal["jit", "shard_map", "pmap"] = "jit"
    """Parallelism of the train step over several devices."""
    log_every: int = 50
    """Steps between two lines of metrics.jsonl."""
    eval_every: int = 250
    """Steps between two evaluations on the held-out items, the last tenth of each class;
    model/ has the prior that was best on them."""
    save_every: int = 500
    """Steps between two checkpoints."""


@dataclasses.dataclass(frozen=True)
class LevelConfig(Config):
    """The options of one level's run, kept in its config.json."""

    level: int = 0
    """The number of the level, from the top."""
    model: str = ""
    """SHA-256 of the model that made the codes."""


def train_priors(config: Config) -> list[dict[str, float]]:
    """Makes the codes, trains one prior after the other, and returns the table of each level."""
    check_options(config)
    bundle, _ = run_folder.open_run(config.run)
    codes = codes_of(config.run, bundle, data=config.data)
    views = make_views(config, bundle, codes)
    tables = [train_level(config, codes, views, level) for level in range(len(codes.levels))]
    print_bits(tables, f"{config.run / config.name}: {config.prior}")
    return tables


def check_options(config: Config) -> None:
    """Raises a ValueError naming an option that is out of range."""
    run_folder.check_name(config.name)
    resumable.check_training(config)
    check_range(0, float("inf"), views=config.views, weight_decay=config.weight_decay)


def train_level(config: Config, codes: Codes, views: list[Maps], level: int) -> dict[str, float]:
    """Trains the prior of a level, and measures the best one."""
    folder = config.run / config.name / f"level{level}"
    options = {**vars(config), "level": level, "model": codes.model, "data": codes.source}
    label = codes.label("train")
    train = items(codes.maps["train"], label, level)
    held = held_out(label, len(train.codes))
    seen, validation = take_items(train, ~held), take_items(train, held)
    parts = [seen, *(take_items(items(view, label, level), ~held) for view in views)]
    prior, optimizer = prior_model(config, codes, level), prior_optimizer(config)
    loss = masked_prior_loss if config.prior == "masked" else prior_loss
    example = jax.tree.map(jnp.asarray, take_items(train, np.arange(1)))
    resumable.run_training(
        folder,
        LevelConfig(**options),
        prior,
        gradient_step(loss(prior, config.unconditional), optimizer),
        start_state(lambda k: prior.init(k, *example[:2]), optimizer, jax.random.key(config.seed)),
        partial(code_batches, config, concatenated(parts)),
        partial(keep_first, folder, prior),
        partial(make_display, folder, config, prior, validation, f"level {level}"),
    )
    test = items(codes.maps["test"], codes.label("test"), level)
    return finish(folder, codes, level, {"train": seen, "validation": validation, "test": test})


def concatenated(parts: list[CodeBatch]) -> CodeBatch:
    """Concatenates the parts."""
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def code_batches(config: Config, data: CodeBatch, start: int) -> Iterator[CodeBatch]:
    """The batches of steps start, start + 1, ..."""
    order = batches(np.arange(len(data.codes)), config.seed, config.batch_size, start)
    return (take_items(data, rows) for rows in order)


def keep_first(folder: Path, prior, state: TrainState) -> None:
    """Saves the prior where there is none: the display saves the best one."""
    if not (folder / "model").exists():
        save_model(folder / "model", prior, state.variables)


def make_display(
    folder: Path, config: Config, prior, validation: CodeBatch, what: str, start: int
) -> Display:
    """The display of the run, which also keeps the prior that is best on the items held out."""
    best = min(validation_bits(folder, start), default=float("inf"))

    def look(state: TrainState):
        nonlocal best
        variables = jax.device_get(state.variables)
        bits = prior_bits(prior, variables, validation)
        if bits < best:
            best = bits
            save_model(folder / "model", prior, variables)
        text = f"{bits:.1f} bits per held-out item, {best:.1f} at best"
        return {"validation/bits": bits}, text

    title = describe_start(config, f"{config.prior} of {what}", start)
    return Display(
        folder, config.steps, start, title, partial(read_metrics, config.batch_size), look
    )


def validation_bits(folder: Path, last: int) -> list[float]:
    """The validation bits logged up to a step."""
    lines = run_folder.read_lines(folder / "metrics.jsonl")
    return [
        x["validation/bits"]
        for x in lines
        if x["step"] <= last and x.get("validation/bits") is not None
    ]


def read_metrics(batch_size: int, metrics: dict[str, float]) -> tuple[dict[str, float], list[str]]:
    """Returns (values to log, texts to show) of the metrics of a step."""
    metrics = measured(metrics, batch_size)
    if "bits" not in metrics:
        return metrics, ["no valid example"]
    return metrics, [f"{metrics['bits']:.1f} bits", f"{metrics['accuracy']:.1%} right"]


def finish(
    folder: Path, codes: Codes, level: int, splits: dict[str, CodeBatch]
) -> dict[str, float]:
    """Measures the prior that was best, and writes the table."""
    prior, variables, _ = load_model(folder / "model")
    table = {f"{split}_bits": prior_bits(prior, variables, x) for split, x in splits.items()}
    table |= {"static_bits": static(codes, level), "uniform_bits": uniform(codes, level)}
    run_folder.write_text(folder / "evaluation.json", run_folder.strict_json(table, indent=1))
    return table
