"""Training of an autoencoder with or without codes, and its measures.

The measures are reconstruction, bits, and the quality of samples according to classifiers.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import vqvae_jax as vj
from experiments.generation.autoencoder_samples import Images, sample_images
from experiments.generation.small_prior import Prior
from experiments.sweep.arms import Result
from experiments.sweep.training_budget import Budget, fitter, labelled, over_set
from vqvae_commands.quality.classifier import Classifier
from vqvae_commands.quality.image_quality import frechet, trained_on
from vqvae_jax import VAE, VQVAE
from vqvae_jax.data.scaling import preprocess
from vqvae_jax.training.step import squared_error

SHOWN = 16  # samples in the pictures


class Judging(NamedTuple):
    """Options of judging the samples of a model."""

    samples: int  # number of samples
    prior: Prior  # prior of codes
    classifier: Classifier  # trained on real training images
    steps: int  # steps of the classifier that is trained on samples


def trainer(model, budget: Budget, judging: Callable[[], Judging] | None):
    """Returns `run(seed)`: trains the model, and measures it; all seeds share what is compiled.

    Args:
        model: a `VQVAE`, `VAE` or `Autoencoder`.
        budget: options of the training.
        judging: returns the options of judging samples; None to draw no samples.
    """
    (train, _), (test, labels) = labelled(budget.data)
    test, labels = test[: budget.test_images], labels[: budget.test_images]
    fit, look = fitter(model, budget), over_set(partial(measure_rate, model), budget.fast_compile)

    def run(seed: int) -> Result:
        variables, counters = fit(seed)
        numbers = set_means(look(test, variables)) | counters
        if judging is None:
            return Result(numbers)
        how = judging()
        fast = budget.fast_compile
        found = sample_images(model, variables, train, how.samples, seed, how.prior, fast)
        best = found.get("prior", found["independent"])
        return Result(numbers | worth(how, found, best, (test, labels), seed), best[:SHOWN])

    return run


def measure_rate(model, variables, x) -> dict[str, jax.Array]:
    """Measures each image of one batch of the test set."""
    x = preprocess(x)
    rec = model.apply(variables, x)
    found = {
        "error": squared_error(x, rec.x)["reconstruction"],
        "ssim": vj.metrics.ssim(x, rec.x),
    }
    if isinstance(model, VQVAE):
        bits = vj.rates.uniform_bits(model.quantizer.vocab, rec.indices)
        return found | {"bits": bits}
    if isinstance(model, VAE):
        kl = vj.models.gaussian_kl(*model.apply(variables, x, method="posterior"))
        return found | {"bits": jnp.sum(kl, axis=range(1, kl.ndim)) / math.log(2)}
    return found


def set_means(found: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Returns the means over the test set."""
    means = {name: float(np.mean(v, dtype=np.float64)) for name, v in found.items()}
    return {"psnr": float(vj.metrics.psnr(means.pop("error"))), **means}


def worth(
    how: Judging, found: dict[str, Images], best: Images, real: tuple[Images, np.ndarray], seed: int
) -> dict[str, float]:
    """Measures samples by a classifier of real images, and by another that is trained on them.

    Samples have no labels: for that training they get the first classifier's answers.
    """
    test, labels = real
    seen = how.classifier.predict(best)
    names = {"independent": "frechet_independent", "prior": "frechet"}
    distances = {names[k]: frechet(how.classifier, test, x) for k, x in found.items()}
    return distances | {"trained_on": trained_on(best, seen, test, labels, how.steps, seed)}
