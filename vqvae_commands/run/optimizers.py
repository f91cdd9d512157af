"""The optimizers, and the schedules of learning rates, that a run may ask for by name."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Muon's a, b and c, with which five iterations bring singular values to 0.7 to 1.2."""


def adam(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """Adam."""
    # A shorter memory than usual: +0.3 dB after 2,000 steps.
    return optax.adam(learning_rate, b2=0.99)


def muon(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """Muon for all kernels (Jordan, https://kellerjordan.github.io/posts/muon), Adam for the rest.

    A kernel moves along the orthogonal matrix that is nearest to its momentum. The kernel of a
    convolution is one matrix, from all its taps and input channels to the output channels. Kernels
    decay as well, by a tenth of the learning rate a step (arXiv:2502.16982).
    """
    # optax.contrib.muon needs a newer optax than the package does to take kernels as matrices.
    along = optax.chain(
        optax.trace(decay=0.95, nesterov=True),
        optax.stateless(lambda updates, params: jax.tree.map(orthogonal, updates)),
        optax.add_decayed_weights(0.1),
        optax.scale_by_learning_rate(learning_rate),
    )
    return optax.partition({"kernel": along, "other": adam(learning_rate)}, label)


def label(params):
    """Labels each array of params "kernel" or "other"."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "kernel" if path[-1] == jax.tree_util.DictKey("kernel") else "other",
        params,
    )


# Fewer bits, the default of GPUs, would not do: iterations enlarge errors of X'X by up to 485^2.
@jax.default_matmul_precision("highest")
def orthogonal(update: Float[Array, "*inputs F"], steps: int = 5) -> Float[Array, "*inputs F"]:
    """Returns about the orthogonal matrix nearest to an update, times 0.2 sqrt(its longer side).

    Its entries then are about as large as Adam's updates (arXiv:2502.16982), whatever its shape.
    Newton-Schulz, X <- X (a + b X'X + c (X'X)^2), keeps X_k = X_0 P_k with P_k a polynomial of the
    small matrix X_0'X_0; so only small matrices are iterated.
    """
    matrix = update.reshape(-1, update.shape[-1])
    wide = matrix.shape[0] < matrix.shape[1]
    x = matrix.T if wide else matrix
    x = x / (jnp.linalg.norm(x) + 1e-12)
    a, b, c = NEWTON_SCHULZ
    gram, p = x.T @ x, jnp.eye(x.shape[1])
    for _ in range(steps):
        square = p @ gram @ p  # X_k'X_k
        p = (a * p) + (b * square + c * square @ square) @ p
    y = x @ p
    return 0.2 * len(x) ** 0.5 * (y.T if wide else y).reshape(update.shape)


OPTIMIZERS = {"adam": adam, "muon": muon}


def cosine(config) -> optax.Schedule:
    """Linear warm-up to the learning rate of the options, then cosine decay to 0."""
    return optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, min(config.warmup, config.steps - 1), config.steps
    )


def constant(config) -> optax.Schedule:
    """Linear warm-up to the learning rate of the options, which then stays, however long."""
    return optax.warmup_constant_schedule(0.0, config.learning_rate, config.warmup)


SCHEDULES = {"cosine": cosine, "constant": constant}
