"""Data: sources of examples, their order and scale, and records larger than memory."""

from vqvae_jax.data.labels import open_labels as open_labels
from vqvae_jax.data.pipeline import batches as batches
from vqvae_jax.data.pipeline import take_batches as take_batches
from vqvae_jax.data.readers import DataError as DataError
from vqvae_jax.data.scaling import to_pixels as to_pixels
from vqvae_jax.data.sequences import videos as videos
from vqvae_jax.data.sequences import waves as waves
from vqvae_jax.data.sources import array as array
from vqvae_jax.data.sources import embedded as embedded
from vqvae_jax.data.sources import folder as folder
from vqvae_jax.data.sources import idx as idx
from vqvae_jax.data.sources import open_source as open_source
from vqvae_jax.data.sources import tfds_name as tfds_name
from vqvae_jax.data.value_range import Domain as Domain
