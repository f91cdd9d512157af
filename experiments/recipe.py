"""What the options of `experiments.train` mean: the model, the optimizer, the batches."""

import numpy as np
import optax

from vqvae_jax import MLP, VQVAE, Decoder, Encoder, InParts, ema_vq, kmeans, underused, vq
from vqvae_jax.data.background import record_batches
from vqvae_jax.data.pipeline import Examples, batches
from vqvae_jax.data.sources import DataError, open_source

PREPROCESSED = ("uint8", "float16", "float32")
QUANTIZERS = {"ema_vq": ema_vq, "vq": vq}


def load_data(data: str, crop: int | None) -> tuple[Examples, Examples]:
    """(train, test) of a source, with a `DataError` for a dtype that `preprocess` doesn't take."""
    source = open_source(data, size=crop)
    train, test = source("train"), source("test")
    if train.dtype not in PREPROCESSED:
        raise DataError(f"{data}: expected {' or '.join(PREPROCESSED)}, found {train.dtype}")
    return train, test


def make_model(config, example: Examples) -> VQVAE:
    """A VQ-VAE for data like `example` [B, ..., C]: convolutions for grids, an MLP for vectors."""
    quantizer = QUANTIZERS[config.quantizer](
        config.codes,
        config.dim,
        beta=config.beta,
        init=kmeans(10),
        revive=underused(config.revive) if config.revive else None,
    )
    channels = example.shape[-1]
    inner = {"width": config.width, "depth": config.depth, "dtype": config.dtype}
    if len(example.shape) == 2:
        return VQVAE(MLP(config.dim, **inner), quantizer, MLP(channels, **inner))
    encoder = Encoder(channels, config.dim, downsamplings=config.downsamplings, **inner)
    decoder = Decoder(channels, config.dim, upsamplings=config.downsamplings, **inner)
    return VQVAE(encoder, quantizer, decoder)


def in_parts(model: VQVAE, n: int | None) -> VQVAE:
    """The model as it is trained: encoder and decoder see the batch in n parts, or as they are."""
    if n is None:
        return model
    return model.clone(encoder=InParts(model.encoder, n), decoder=InParts(model.decoder, n))


def make_optimizer(config) -> optax.GradientTransformation:
    """Adam with warm-up and cosine decay."""
    rate = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, min(config.warmup, config.steps - 1), config.steps
    )
    return optax.adam(rate, b2=0.99)  # shorter memory than usual: +0.3 dB after 2,000 steps


def host_batches(config, data: Examples, start: int):
    """This process's share of each batch from step `start` on; records decode in the background."""
    make = batches if isinstance(data, np.ndarray) else record_batches
    process = {"process_index": config.process_id, "process_count": config.processes}
    return make(data, config.seed, config.batch_size, start, **process)
