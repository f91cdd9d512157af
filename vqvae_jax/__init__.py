"""Vector-quantized autoencoders as pure functions in JAX.

The root exports the names that a first script needs. All others are in namespaces: `vj.x` is the
module or folder named x, wherever it lies in the package.
"""

from vqvae_jax import data as data
from vqvae_jax import estimators as estimators
from vqvae_jax import likelihoods as likelihoods
from vqvae_jax import losses as losses
from vqvae_jax import metrics as metrics
from vqvae_jax import models as models
from vqvae_jax import priors as priors
from vqvae_jax import quantizers as quantizers
from vqvae_jax import rates as rates
from vqvae_jax import search as search
from vqvae_jax import testing as testing
from vqvae_jax import training as training
from vqvae_jax.compiling import fast_compile as fast_compile
from vqvae_jax.data.scaling import preprocess as preprocess
from vqvae_jax.data.value_range import pixels as pixels
from vqvae_jax.data.value_range import values as values
from vqvae_jax.equations import quantize as quantize
from vqvae_jax.estimators import rotation_trick as rotation_trick
from vqvae_jax.estimators import straight_through as straight_through
from vqvae_jax.models.blocks import MLP as MLP
from vqvae_jax.models.blocks import Decoder as Decoder
from vqvae_jax.models.blocks import Encoder as Encoder
from vqvae_jax.models.linen import Quantize as Quantize
from vqvae_jax.models.masks import sequence_mask as sequence_mask
from vqvae_jax.models.nnx import QuantizeNNX as QuantizeNNX
from vqvae_jax.models.pyramid import Pyramid as Pyramid
from vqvae_jax.models.vae import VAE as VAE
from vqvae_jax.models.vae import Autoencoder as Autoencoder
from vqvae_jax.models.vqvae import VQVAE as VQVAE
from vqvae_jax.models.vqvae import as_functions as as_functions
from vqvae_jax.models.vqvae2 import VQVAE2 as VQVAE2
from vqvae_jax.quantizers import codebooks as codebooks
from vqvae_jax.quantizers import combinators as combinators
from vqvae_jax.quantizers.base import Output as Output
from vqvae_jax.quantizers.base import Quantizer as Quantizer
from vqvae_jax.quantizers.codebooks import assignments as assignments
from vqvae_jax.quantizers.codebooks import inits as inits
from vqvae_jax.quantizers.codebooks import regularizers as regularizers
from vqvae_jax.quantizers.codebooks.editing import set_codes as set_codes
from vqvae_jax.quantizers.combinators.freezing import alternated as alternated
from vqvae_jax.quantizers.combinators.freezing import frozen as frozen
from vqvae_jax.quantizers.combinators.freezing import frozen_after as frozen_after
from vqvae_jax.quantizers.combinators.product import grouped as grouped
from vqvae_jax.quantizers.combinators.product import heads as heads
from vqvae_jax.quantizers.combinators.residual_quantization import repeat as repeat
from vqvae_jax.quantizers.combinators.residual_quantization import residual as residual
from vqvae_jax.quantizers.combinators.residual_quantization import shared as shared
from vqvae_jax.quantizers.combinators.schedules import scheduled as scheduled
from vqvae_jax.quantizers.combinators.wrappers import normalize as normalize
from vqvae_jax.quantizers.combinators.wrappers import project as project
from vqvae_jax.quantizers.combinators.wrappers import rotate as rotate
from vqvae_jax.quantizers.combinators.wrappers import scale as scale
from vqvae_jax.quantizers.derived_codebooks import affine_vq as affine_vq
from vqvae_jax.quantizers.derived_codebooks import cosine_ema_vq as cosine_ema_vq
from vqvae_jax.quantizers.derived_codebooks import cosine_vq as cosine_vq
from vqvae_jax.quantizers.derived_codebooks import simvq as simvq
from vqvae_jax.quantizers.finite_scalar import fsp as fsp
from vqvae_jax.quantizers.finite_scalar import fsq as fsq
from vqvae_jax.quantizers.finite_scalar import grid as grid
from vqvae_jax.quantizers.finite_scalar import latent_vq as latent_vq
from vqvae_jax.quantizers.from_codebook import codebook_vq as codebook_vq
from vqvae_jax.quantizers.lookup_free import bsq as bsq
from vqvae_jax.quantizers.lookup_free import lfq as lfq
from vqvae_jax.quantizers.noise_substitution import diveq as diveq
from vqvae_jax.quantizers.noise_substitution import nsvq as nsvq
from vqvae_jax.quantizers.relaxed import gumbel_vq as gumbel_vq
from vqvae_jax.quantizers.relaxed import sqvae as sqvae
from vqvae_jax.quantizers.vector_quantization import ema_vq as ema_vq
from vqvae_jax.quantizers.vector_quantization import sinkhorn_vq as sinkhorn_vq
from vqvae_jax.quantizers.vector_quantization import stochastic_vq as stochastic_vq
from vqvae_jax.quantizers.vector_quantization import vq as vq
from vqvae_jax.reductions import lookup as lookup
from vqvae_jax.saving.as_json import from_json as from_json
from vqvae_jax.saving.as_json import to_json as to_json
from vqvae_jax.saving.bundle import load_model as load_model
from vqvae_jax.saving.bundle import save_model as save_model
from vqvae_jax.saving.describe import described as described
from vqvae_jax.saving.weights import BundleError as BundleError
from vqvae_jax.search.exact import nearest as nearest
from vqvae_jax.testing.laws import check_quantizer as check_quantizer
from vqvae_jax.training.step import init_state as init_state
from vqvae_jax.training.step import make_train_step as make_train_step

NAMESPACES = (
    "assignments",
    "codebooks",
    "combinators",
    "data",
    "estimators",
    "inits",
    "likelihoods",
    "losses",
    "metrics",
    "models",
    "priors",
    "quantizers",
    "rates",
    "regularizers",
    "search",
    "testing",
    "training",
)
"""Modules and folders whose public names are not in the root."""
