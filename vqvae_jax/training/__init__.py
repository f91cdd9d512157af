"""Train steps as pure functions, their compilation for one device or many, and the loop."""

from vqvae_jax.training.adversarial import AdversarialLosses as AdversarialLosses
from vqvae_jax.training.adversarial import adaptive_weight as adaptive_weight
from vqvae_jax.training.adversarial import adversarial_loss as adversarial_loss
from vqvae_jax.training.adversarial import adversarial_optimizer as adversarial_optimizer
from vqvae_jax.training.adversarial import adversarial_state as adversarial_state
from vqvae_jax.training.adversarial import discriminator_loss as discriminator_loss
from vqvae_jax.training.adversarial import model_variables as model_variables
from vqvae_jax.training.adversarial import with_features as with_features
from vqvae_jax.training.loop import Interrupt as Interrupt
from vqvae_jax.training.loop import run_steps as run_steps
from vqvae_jax.training.parallel import data_mesh as data_mesh
from vqvae_jax.training.parallel import jit_step as jit_step
from vqvae_jax.training.parallel import pmap_step as pmap_step
from vqvae_jax.training.parallel import shard_map_step as shard_map_step
from vqvae_jax.training.step import Aux as Aux
from vqvae_jax.training.step import Batch as Batch
from vqvae_jax.training.step import TrainState as TrainState
from vqvae_jax.training.step import gradient_step as gradient_step
from vqvae_jax.training.step import squared_error as squared_error
from vqvae_jax.training.step import start_state as start_state
from vqvae_jax.training.step import step_key as step_key
