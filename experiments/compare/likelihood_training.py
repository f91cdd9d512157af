"""The length of an image's code, term by term: one training for every model, then its bits.

-log2 p(x) <= -log2 p(x|z) + R(z), distortion and rate. For codes the rate is that of a uniform
prior, of the histogram of the training codes, or of a Transformer that predicts one code after
another. For a VAE it is KL(q(z|x) | p(z)), and the distortion a mean over draws of z.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.generation.small_prior import Prior, learned_bits
from experiments.sweep import training_budget
from experiments.sweep.arm_metrics import SHOWN
from experiments.sweep.arms import Result
from experiments.sweep.training_budget import fitter, images, over_set
from vqvae_commands.run.code_streams import as_levels, quantizers
from vqvae_jax.data.scaling import preprocess, to_pixels
from vqvae_jax.likelihoods import Likelihood, task_loss
from vqvae_jax.metrics import code_counts, psnr
from vqvae_jax.models import gaussian_kl
from vqvae_jax.quantizers import RNG
from vqvae_jax.rates import bits_per_dim, static_bits, uniform_bits
from vqvae_jax.training.step import squared_error

DRAWS = 4  # of z for each test image, where z is drawn


@dataclasses.dataclass(frozen=True)
class CodedBudget(training_budget.Budget):
    """Options of training and measuring, the same for all models."""

    coded_images: int = 8000  # training images whose codes give histogram and prior


def trainer(model, likelihood: Likelihood, budget: CodedBudget, bits) -> Callable[[int], Result]:
    """Returns `run(seed)`: trains the model, and measures it by `bits`."""
    fit = fitter(model, budget, task_loss(likelihood), likelihood.mean)
    measure = bits(model, likelihood, budget)

    def run(seed: int) -> Result:
        variables, counters = fit(seed)
        numbers, pictures = measure(variables, seed)
        return Result(numbers | counters, pictures)

    return run


def bits_of_draws(model, likelihood: Likelihood, budget: CodedBudget):
    """Returns `measure(variables, seed)` of a VAE: the evidence bound on test images."""

    def look(variables, key, x):
        apply = partial(model.apply, variables)
        x = preprocess(x)
        kl = gaussian_kl(*apply(x, method="posterior"))
        rates = jnp.sum(kl, axis=range(1, kl.ndim)) / math.log(2)

        def nats(key):
            return -likelihood.log_prob(x, apply(x, train=True, rngs={RNG: key}).x)

        drawn = jax.lax.map(nats, jax.random.split(key, DRAWS))
        return seen(likelihood, x, apply(x).x) | {"nats": drawn.mean(0), "rate": rates}

    over = over_set(look, budget.fast_compile)

    def measure(variables, seed: int):
        _, test = images(budget.data)
        test = test[: budget.test_images]
        found = over(test, variables, jax.random.key(seed))
        return bit_numbers(found, test, {"": found["rate"]}), found["pictures"][:SHOWN]

    return measure


def bits_of_codes(model, likelihood: Likelihood, budget: CodedBudget, *, prior: Prior):
    """Returns `measure(variables, seed)` of a model with codes: the bits of test images."""
    vocabs = [q.vocab for q in quantizers(model)]

    def look(variables, x):
        x = preprocess(x)
        rec = model.apply(variables, x)
        codes = {"nats": -likelihood.log_prob(x, rec.x), "maps": as_levels(rec.indices)}
        return seen(likelihood, x, rec.x) | codes

    over = over_set(look, budget.fast_compile)

    def measure(variables, seed: int):
        train, test = images(budget.data)
        train, test = train[: budget.coded_images], test[: budget.test_images]
        found = over(test, variables)
        known, maps = over(train, variables)["maps"], found["maps"]
        learned = [
            learned_bits(prior, vocabs, level, known, maps, seed) for level in range(len(maps))
        ]
        static = [
            static_bits(code_counts(vocab, jnp.asarray(k)), jnp.asarray(codes))
            for vocab, k, codes in zip(vocabs, known, maps, strict=True)
        ]
        rates = {
            "": sum(bits for _, bits in learned),
            "_train": sum(bits for bits, _ in learned),
            "_uniform": sum(map(uniform_bits, vocabs, map(jnp.asarray, maps))),
            "_static": sum(static),
        }
        return bit_numbers(found, test, rates), found["pictures"][:SHOWN]

    return measure


def seen(likelihood: Likelihood, x, y) -> dict[str, jax.Array]:
    """The reconstruction as pixels, and its squared error."""
    mean = likelihood.mean(y)
    error = squared_error(x, mean)["reconstruction"]
    return {"error": error, "pictures": to_pixels(mean)}


def bit_numbers(found: dict[str, Any], x: np.ndarray, rates: dict[str, Any]) -> dict[str, float]:
    """Means over images of distortion, rates and totals, in bits an element; by suffix."""

    def mean(values) -> float:
        return float(np.mean(np.asarray(values, np.float64)))

    result = {"psnr": float(psnr(mean(found["error"])))}
    for suffix, rate in rates.items():
        bits = bits_per_dim(mean(found["nats"]), mean(rate), math.prod(x.shape[1:]))
        result["distortion"] = float(bits.distortion)
        result |= {f"rate{suffix}": float(bits.rate), f"total{suffix}": float(bits.total)}
    return result
