"""Combinators: residual, product, wrappers, schedules, freezing, and beam search."""

from vqvae_jax.quantizers.combinators.beam import beam_search as beam_search
from vqvae_jax.quantizers.combinators.dropout import quantizer_dropout as quantizer_dropout
from vqvae_jax.quantizers.combinators.schedules import Transformation as Transformation
from vqvae_jax.quantizers.combinators.schedules import from_optax as from_optax
