"""The model, optimizer and batches that the options of a training run describe."""

from collections.abc import Callable, Sequence

import numpy as np
import optax

from vqvae_commands.run.optimizers import adam
from vqvae_jax import MLP, VQVAE, VQVAE2, Decoder, Encoder, Quantizer, ema_vq, vq
from vqvae_jax.data.background import record_batches
from vqvae_jax.data.pipeline import Examples, batches
from vqvae_jax.models import Microbatched
from vqvae_jax.quantizers.codebooks import underused
from vqvae_jax.quantizers.codebooks.inits import kmeans


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
        return VQVAE(MLP(config.dim, **inner), levels[0], MLP(channels, **inner))
    encoder = Encoder(channels, config.dim, downsamplings=config.downsamplings, **inner)
    decoder = Decoder(channels, config.dim, upsamplings=config.downsamplings, **inner)
    return VQVAE(encoder, levels[0], decoder)


def make_quantizer(config, size: int) -> Quantizer:
    """The quantizer of the options, with this many codes."""
    reset = underused(config.reset) if config.reset else None
    options = {"beta": config.beta, "init": kmeans(10), "reset": reset}
    if config.quantizer == "vq":
        return vq(size, config.dim, **options)
    return ema_vq(size, config.dim, config.decay, **options)


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
        if max(levels, 2) > config.downsamplings or levels == 0:
            raise ValueError(
                f"vqvae2 of {max(levels, 2)} levels needs a size of codebook for each and as many "
                f"downsamplings, found {levels} and {config.downsamplings}"
            )


def learning_rate(config) -> optax.Schedule:
    """Linear warm-up to the learning rate of the options, then cosine decay to 0."""
    return optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, min(config.warmup, config.steps - 1), config.steps
    )


def make_optimizer(
    config, make: Callable[..., optax.GradientTransformation] = adam
) -> optax.GradientTransformation:
    """Makes Adam, or another optimizer, with the learning rate of the options."""
    return make(learning_rate(config))


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
