"""Models that nobody trained, random images, and the models as coders."""

import jax
import jax.numpy as jnp
import numpy as np

import vqvae_jax as vj
from vqvae_commands.code_meaning.coder import Coder

RNG = np.random.default_rng


def random_variables(model, *shape: int):
    """Without running `init`, which would compile for seconds."""
    rng = RNG(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *shape)))
    return jax.tree.map(lambda s: rng.normal(0, 0.4, s.shape).astype(s.dtype), shapes)


def coder_of(model, *shape: int) -> Coder:
    return Coder(model, random_variables(model, *shape))


def plain_model(quantizer, channels: int = 1):
    encoder = vj.Encoder(channels, quantizer.dim, width=8, depth=1, downsamplings=1)
    decoder = vj.Decoder(channels, quantizer.dim, width=8, depth=1, upsamplings=1)
    return vj.VQVAE(encoder, quantizer, decoder)


def noise(*shape: int) -> np.ndarray:
    return RNG(1).integers(0, 256, shape).astype(np.uint8)


IMAGES = noise(12, 8, 8, 1)
