"""Codebooks: storage, moving averages, dead-code resets, transformed and sharded codes."""

from vqvae_jax.quantizers.codebooks.dead_codes import underused as underused
from vqvae_jax.quantizers.codebooks.moving_averages import ema_update as ema_update
from vqvae_jax.quantizers.codebooks.moving_averages import laplace_smoothing as laplace_smoothing
from vqvae_jax.quantizers.codebooks.sharding import sharded as sharded
from vqvae_jax.quantizers.codebooks.storage import Codebook as Codebook
from vqvae_jax.quantizers.codebooks.storage import ema as ema
from vqvae_jax.quantizers.codebooks.storage import fixed as fixed
from vqvae_jax.quantizers.codebooks.storage import gradient as gradient
from vqvae_jax.quantizers.codebooks.transforms import Transform as Transform
from vqvae_jax.quantizers.codebooks.transforms import affine as affine
from vqvae_jax.quantizers.codebooks.transforms import linear as linear
from vqvae_jax.quantizers.codebooks.transforms import mapped as mapped
from vqvae_jax.quantizers.codebooks.transforms import moment_matched as moment_matched
from vqvae_jax.quantizers.codebooks.transforms import partly_frozen as partly_frozen
from vqvae_jax.quantizers.codebooks.transforms import unit_codes as unit_codes
