"""Ways to train one autoencoder of labelled images, measured by a classifier.

The classifier took part in none of the trainings.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import UInt8

import vqvae_jax as vj
from experiments.sweep.arm_metrics import SHOWN, arm_numbers, measure_arm
from experiments.sweep.arms import Result
from experiments.sweep.training_budget import (
    compiler_options,
    images,
    labelled,
    make_budget,
    over_set,
    run_steps,
)
from vqvae_commands.quality.classifier import STEPS, Classifier, kept_classifier, perceptual
from vqvae_commands.quality.image_quality import frechet, recognised
from vqvae_commands.run.code_streams import quantizers
from vqvae_commands.run.recipe import make_optimizer
from vqvae_jax.data.pipeline import batches
from vqvae_jax.data.scaling import preprocess
from vqvae_jax.training.adversarial import (
    adaptive_weight,
    adversarial_loss,
    adversarial_optimizer,
    adversarial_state,
    model_variables,
    with_features,
)
from vqvae_jax.training.step import (
    TaskLoss,
    gradient_step,
    init_state,
    make_train_step,
    squared_error,
)

LAST_LAYER = ("decoder", "Upsample_1")
TEACHER, JUDGE = 1, 0  # seeds of two classifiers: the one in a loss must not measure as well


class Training(NamedTuple):
    """A way to train the model."""

    start: Callable[[Any], Any]  # key -> state
    step: Callable[..., Any]  # (state, batch) -> (state, metrics)
    variables: Callable[[Any], dict]  # state -> variables of the model


def images_and_labels(config):
    """Returns (images, labels) of the training set and of the test set."""
    train, test = labelled(config.data)
    n = make_budget(config).test_images
    return train, (test[0][:n], test[1][:n])


def make_classifier(config, seed: int) -> Classifier:
    """Returns the classifier of a seed, trained or loaded."""
    train, _ = images_and_labels(config)
    return kept_classifier(*train, classifier_steps(config), seed, folder=config.classifiers)


def classifier_steps(config) -> int:
    """Returns the steps of each classifier."""
    return 60 if config.quick else STEPS


def make_networks(config) -> tuple[vj.VQVAE, vj.models.PatchDiscriminator]:
    """Returns the autoencoder, 7 x 7 codes for 28 x 28 pixels, and the discriminator."""
    channels = images(config.data)[0].shape[-1]
    inner = {"width": config.width, "depth": config.depth}
    model = vj.VQVAE(
        vj.Encoder(channels, **inner),
        vj.vq(512, 64, init=vj.inits.kmeans(10), reset=vj.codebooks.underused(0.1)),
        vj.Decoder(channels, **inner),
    )
    return model, vj.models.PatchDiscriminator(config.discriminator_width)


def without_discriminator(config, task_loss: TaskLoss) -> Training:
    """Returns the training without a discriminator."""
    model, _ = make_networks(config)
    optimizer, example = make_optimizer(make_budget(config)), images(config.data)[0][:1]
    return Training(
        lambda key: init_state(model, optimizer, key, example),
        make_train_step(model, optimizer, task_loss),
        lambda state: state.variables,
    )


def with_discriminator(config, task_loss: TaskLoss) -> Training:
    """Returns the training with a discriminator from half of the steps on."""
    model, discriminator = make_networks(config)
    optimizer = adversarial_optimizer(
        make_optimizer(make_budget(config)),
        optax.adam(config.discriminator_rate, b1=0.5, b2=0.9),
    )
    loss = adversarial_loss(
        model,
        discriminator,
        config.steps // 2,
        LAST_LAYER,
        task_loss=task_loss,
        balance=lambda rec, gen: config.generator_weight * adaptive_weight(rec, gen),
        r1=config.r1,
    )
    example = images(config.data)[0][:1]
    return Training(
        lambda key: adversarial_state(model, discriminator, optimizer, key, example),
        gradient_step(loss, optimizer),
        model_variables,
    )


def trainer(config, train: Callable[..., Training], features: bool) -> Callable[[int], Result]:
    """Returns `run(seed)`: trains one way, and measures; all seeds share what is compiled."""
    task_loss = squared_error
    if features:
        distance = perceptual(make_classifier(config, TEACHER))
        task_loss = with_features(lambda x, y: config.features_weight * distance(x, y))
    options = compiler_options(config.quick)
    model, _ = make_networks(config)
    training = train(config, task_loss)
    step = jax.jit(training.step, donate_argnums=0, compiler_options=options)
    look = over_set(partial(measure_arm, model), config.quick)
    judge = make_classifier(config, JUDGE)
    (pixels, _), (test, labels) = images_and_labels(config)

    def run(seed: int) -> Result:
        order = batches(pixels, seed, config.batch_size)
        state, ms, _ = run_steps(step, training.start(jax.random.key(seed)), order, config.steps)
        found = look(test, training.variables(state))
        made = found["pictures"]
        numbers = arm_numbers(found, quantizers(model)) | {
            "sharpness": sharpness(made) / sharpness(test),
            "frechet": frechet(judge, test, made),
            "recognised": recognised(judge, made, labels),
            "ms_per_step": ms,
        }
        return Result(numbers, made[:SHOWN])

    return run


def sharpness(pixels: UInt8[np.ndarray, "N H W C"]) -> float:
    """Returns the mean sharpness of images."""
    return float(jnp.mean(vj.metrics.sharpness(preprocess(pixels))))
