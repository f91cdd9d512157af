"""Priors over codes: autoregressive and masked networks, their losses, sampling, likelihood."""

from vqvae_jax.priors.autoregressive import TransformerPrior as TransformerPrior
from vqvae_jax.priors.conditioning import Condition as Condition
from vqvae_jax.priors.losses import CodeBatch as CodeBatch
from vqvae_jax.priors.losses import masked_prior_loss as masked_prior_loss
from vqvae_jax.priors.losses import prior_loss as prior_loss
from vqvae_jax.priors.masked import MaskedPrior as MaskedPrior
from vqvae_jax.priors.masked_decoding import sample_masked as sample_masked
from vqvae_jax.priors.pixelcnn import PixelCNN as PixelCNN
from vqvae_jax.priors.sampling import cached as cached
from vqvae_jax.priors.sampling import free_codes as free_codes
from vqvae_jax.priors.sampling import log_likelihood as log_likelihood
from vqvae_jax.priors.sampling import sample_codes as sample_codes
from vqvae_jax.priors.sampling import temperature as temperature
from vqvae_jax.priors.sampling import top_k as top_k
from vqvae_jax.priors.sampling import top_p as top_p
from vqvae_jax.priors.sampling import uncached as uncached
