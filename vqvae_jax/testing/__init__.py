"""The contract of `Quantizer` as laws that a quantizer is tested against."""

from vqvae_jax.testing.laws import LAWS as LAWS
from vqvae_jax.testing.trials import begin_trial as begin_trial
