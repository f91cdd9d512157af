"""Flax Linen and NNX modules: encoders, decoders, VQ-VAE, VQ-VAE-2, VAE, tokenizers."""

from vqvae_jax.models.blocks import ResidualStack as ResidualStack
from vqvae_jax.models.blocks import Upsample as Upsample
from vqvae_jax.models.discriminator import PatchDiscriminator as PatchDiscriminator
from vqvae_jax.models.identity import Identity as Identity
from vqvae_jax.models.microbatches import Microbatched as Microbatched
from vqvae_jax.models.pyramid import Phi as Phi
from vqvae_jax.models.tokenizers import Tokenizer as Tokenizer
from vqvae_jax.models.tokenizers import layer_norm as layer_norm
from vqvae_jax.models.tokenizers import random_projection as random_projection
from vqvae_jax.models.vae import gaussian_kl as gaussian_kl
from vqvae_jax.models.vqvae import Functions as Functions
from vqvae_jax.models.vqvae import Reconstruction as Reconstruction
from vqvae_jax.models.vqvae2 import Hierarchy as Hierarchy
