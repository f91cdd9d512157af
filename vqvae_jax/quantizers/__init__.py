"""Parts of quantizers: assignments, bounds of scalar quantization, names of Flax collections."""

from vqvae_jax.quantizers.base import RNG as RNG
from vqvae_jax.quantizers.base import STATE as STATE
from vqvae_jax.quantizers.finite_scalar import Axis as Axis
from vqvae_jax.quantizers.finite_scalar import arctanh_bound as arctanh_bound
from vqvae_jax.quantizers.finite_scalar import normal_cdf as normal_cdf
from vqvae_jax.quantizers.finite_scalar import symmetric_bound as symmetric_bound
from vqvae_jax.quantizers.finite_scalar import tanh_bound as tanh_bound
from vqvae_jax.quantizers.finite_scalar import tanh_cdf as tanh_cdf
from vqvae_jax.quantizers.from_codebook import Assignment as Assignment
from vqvae_jax.quantizers.from_codebook import Lookup as Lookup
from vqvae_jax.quantizers.relaxed import hard as hard
from vqvae_jax.quantizers.relaxed import soft as soft
