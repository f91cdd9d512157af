"""Vector-quantized autoencoders as pure functions in JAX: the table of contents."""

from vqvae_jax.describe import described as described
from vqvae_jax.describe import from_json as from_json
from vqvae_jax.describe import to_json as to_json
from vqvae_jax.equations import lookup as lookup
from vqvae_jax.equations import quantize as quantize
from vqvae_jax.estimators import straight_through as straight_through
from vqvae_jax.losses import codebook_loss as codebook_loss
from vqvae_jax.losses import commitment_loss as commitment_loss
from vqvae_jax.metrics import code_counts as code_counts
from vqvae_jax.metrics import psnr as psnr
from vqvae_jax.metrics import ssim as ssim
from vqvae_jax.metrics import usage as usage
from vqvae_jax.quantizers.base import Output as Output
from vqvae_jax.quantizers.base import Quantizer as Quantizer
from vqvae_jax.quantizers.codebooks import Init as Init
from vqvae_jax.quantizers.codebooks import kmeans as kmeans
from vqvae_jax.quantizers.codebooks import normal as normal
from vqvae_jax.quantizers.codebooks import samples as samples
from vqvae_jax.quantizers.codebooks import underused as underused
from vqvae_jax.quantizers.codebooks import uniform as uniform
from vqvae_jax.quantizers.codebooks import zero_debiased as zero_debiased
from vqvae_jax.quantizers.vector import ema_update as ema_update
from vqvae_jax.quantizers.vector import ema_vq as ema_vq
from vqvae_jax.quantizers.vector import laplace_smoothing as laplace_smoothing
from vqvae_jax.quantizers.vector import vq as vq
from vqvae_jax.search import nearest as nearest
