"""The model, optimizer and batches that the options of a training run describe."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from vqvae_commands.run.optimizers import adam, cosine
from vqvae_commands.run.quantizer_choice import make_quantizer
from vqvae_commands.run.run_folder import open_run
from vqvae_jax import MLP, VQVAE, VQVAE2, Decoder, Encoder, Quantizer
from vqvae_jax.data.background import record_batches
from vqvae_jax.data.pipeline import Examples, batches
from vqvae_jax.models import Microbatched
from vqvae_jax.training.step import TrainState


def make_model(config, example: Examples) -> VQVAE | VQVAE2:
    """The model of the options for data like `example` [B, ..., C].

    Convolutions for grids, an MLP for vectors.

    Raises:
        ValueError: levels that the model can't have.
    """
    vectors = len(example.shape) == 2
    check_levels(config, vectors)
    channels = example.shape[-1]
    inner = {"width": config.width, "depth": config.depth, "dtype": config.dtype}
    levels = [make_quantizer(config, size) for size in config.codes]
    if config.model == "vqvae2":
        levels = levels * 2 if len(levels) == 1 else levels
        return hierarchy(channels, levels, config.downsamplings, **inner)
    if vectors:
        return VQVAE(MLP(levels[0].dim, **inner), levels[0], MLP(channels, **inner))
    encoder = Encoder(channels, levels[0].dim, downsamplings=config.downsamplings, **inner)
    decoder = Decoder(channels, levels[0].dim, upsamplings=config.downsamplings, **inner)
    return VQVAE(encoder, levels[0], decoder)


def hierarchy(
    channels: int, quantizers: Sequence[Quantizer], downsamplings: int, *, width: int, **inner
) -> VQVAE2:
    """A VQ-VAE-2 whose top has the grid of x halved so often; each level below has twice its side.

    Args:
        channels: the number of channels of x.
        quantizers: the top one first.
        downsamplings: from x to the top, at least one for each level.
        width, inner: arguments of `Encoder` and `Decoder`.
    """
    last = len(quantizers) - 1
    halvings = [1] * last + [downsamplings - last]
    encoders, decoders, above = [], [], 0
    for level, (q, halved) in enumerate(zip(quantizers, halvings, strict=True)):
        seen, made = (channels, channels) if level == last else (width, width)
        dim = q.dim if level == 0 else width
        encoders.append(Encoder(seen, dim, width, downsamplings=halved, **inner))
        decoders.append(Decoder(made, q.dim + above, width, upsamplings=halved, **inner))
        above = made
    return VQVAE2(tuple(encoders), tuple(quantizers), tuple(decoders))


def check_levels(config, vectors: bool) -> None:
    """Raises a ValueError unless the model can have the levels that the options ask for."""
    levels = len(config.codes)
    if config.model == "vqvae" and levels != 1:
        raise ValueError(f"vqvae has one size of codebook, got {levels}; use --model vqvae2")
    if config.model == "vqvae2":
        if vectors:
            raise ValueError("vqvae2 needs data with spatial axes, found vectors")
        if not isinstance(config.downsamplings, int):
            raise ValueError(
                f"vqvae2 halves all axes alike: expected one number of downsamplings, found "
                f"{config.downsamplings}"
            )
        if max(levels, 2) > config.downsamplings or levels == 0:
            raise ValueError(
                f"vqvae2 of {max(levels, 2)} levels needs a size of codebook for each and as many "
                f"downsamplings, found {levels} and {config.downsamplings}"
            )


def make_optimizer(
    config,
    make: Callable[..., optax.GradientTransformation] = adam,
    schedule: Callable[..., optax.Schedule] = cosine,
) -> optax.GradientTransformation:
    """Makes Adam, or another optimizer, with a schedule of the options' learning rate."""
    return make(schedule(config))


def started_from(source: Path, state: TrainState) -> TrainState:
    """Returns the state before the first step, with the weights and codes of a run or saved model.

    Raises:
        ValueError: if its variables are not those of this model.
    """
    bundle, _ = open_run(source)
    theirs, ours = shapes(bundle.variables), shapes(state.variables)
    for name in {**ours, **theirs}:
        if ours.get(name) != theirs.get(name):
            expected, found = (known.get(name, "nothing") for known in (ours, theirs))
            raise ValueError(f"--start {source}: expected {name} of {expected}, found {found}")
    collections = dict(bundle.variables)
    return state._replace(params=collections.pop("params"), collections=collections)


def shapes(variables: Any) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each array, by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {jax.tree_util.keystr(path): np.shape(x) for path, x in leaves}


def in_parts(model: VQVAE | VQVAE2, n: int | None) -> VQVAE | VQVAE2:
    """The model as it is trained: encoders and decoders see the batch in n parts, or whole."""
    if n is None:
        return model
    if isinstance(model, VQVAE):
        return model.clone(
            encoder=Microbatched(model.encoder, n), decoder=Microbatched(model.decoder, n)
        )
    encoders, decoders = (
        tuple(Microbatched(part, n) for part in parts) for parts in (model.encoders, model.decoders)
    )
    return model.clone(encoders=encoders, decoders=decoders)


def host_batches(config, data: Examples, start: int):
    """This process's share of each batch from step `start` on; records decode in the background."""
    make = batches if isinstance(data, np.ndarray) else record_batches
    process = {"process_index": config.process_id, "process_count": config.processes}
    return make(data, config.seed, config.batch_size, start, **process)
