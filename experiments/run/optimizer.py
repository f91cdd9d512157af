"""The optimizer of a training run and its learning-rate schedule."""

import optax


def learning_rate(config) -> optax.Schedule:
    """Linear warm-up to the learning rate of the options, then cosine decay to 0."""
    return optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, min(config.warmup, config.steps - 1), config.steps
    )


def make_optimizer(config) -> optax.GradientTransformation:
    """Adam with warm-up and cosine decay."""
    return optax.adam(
        learning_rate(config), b2=0.99
    )  # shorter memory than usual: +0.3 dB after 2,000 steps
