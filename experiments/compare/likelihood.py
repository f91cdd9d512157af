"""Likelihoods: bits an element of VAE, VQ-VAE and VQ-VAE-2 under one budget, with every term."""

import dataclasses
import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import vqvae_jax as vj
from experiments.compare import likelihood_training
from experiments.compare.comparison import Comparison, in_words
from experiments.compare.likelihood_training import CodedBudget, bits_of_codes, bits_of_draws
from experiments.generation.small_prior import Prior, quick_prior
from experiments.sweep import training_budget
from experiments.sweep.arms import Arm, Row
from experiments.sweep.launch import choose
from experiments.sweep.metric_names import columns
from experiments.sweep.options import RateOptions
from experiments.sweep.training_budget import described, images, make_arm
from vqvae_commands.run.recipe import hierarchy
from vqvae_jax import VAE, VQVAE, Decoder, Encoder, Quantizer
from vqvae_jax.likelihoods import Likelihood

DIM = 64  # of the codes
LATENT = 16  # of the VAE, at each place
GROUPS = 10


@dataclasses.dataclass(frozen=True)
class Config(RateOptions):
    """Measure how many bits an image takes with each kind of autoencoder."""

    prior_steps: int = 600
    """Number of training steps of each learned prior."""


def models(channels: int, width: int, depth: int) -> dict[str, tuple[object, Likelihood]]:
    """The models by name, each with the likelihood of its decoder's outputs."""
    inner = {"width": width, "depth": depth}
    logistic, categorical = vj.likelihoods.logistic(), vj.likelihoods.categorical()
    fitted = {"init": vj.inits.kmeans(10), "reset": vj.codebooks.underused(0.1)}

    def flat(q: Quantizer, likelihood: Likelihood):
        outputs = channels * likelihood.outputs
        encoder, decoder = Encoder(channels, q.dim, **inner), Decoder(outputs, q.dim, **inner)
        return VQVAE(encoder, q, decoder), likelihood

    one = vj.ema_vq(512, DIM, **fitted)
    ten = vj.grouped(*[vj.ema_vq(8, DIM // 8, **fitted)] * GROUPS)
    outputs = channels * logistic.outputs
    vae = VAE(Encoder(channels, 2 * LATENT, **inner), Decoder(outputs, LATENT, **inner))
    vqvae2 = hierarchy(channels, (one, vj.ema_vq(32, DIM, **fitted)), 2, **inner)
    top, bottom = vqvae2.decoders
    vqvae2 = vqvae2.clone(decoders=(top, bottom.clone(channels=outputs)))
    return {
        "vae": (vae, logistic),
        "vqvae-categorical": flat(one, categorical),
        "vqvae": flat(one, logistic),
        "vqvae-grouped": flat(ten, logistic),
        "vqvae-grouped-categorical": flat(ten, categorical),
        "vqvae2": (vqvae2, logistic),
    }


LABELS = {
    "vae": f"VAE, {LATENT} numbers a place",
    "vqvae": "VQ-VAE, 512 codes",
    "vqvae-categorical": "VQ-VAE, 512 codes, softmax",
    "vqvae-grouped": f"VQ-VAE, {GROUPS} x 8 codes",
    "vqvae-grouped-categorical": f"VQ-VAE, {GROUPS} x 8 codes, softmax",
    "vqvae2": "VQ-VAE-2, 512 and 32 codes",
}


def make_arms(config: Config) -> list[Arm]:
    """An arm for each model, or those of `only`."""
    channels = images(config.data)[0].shape[-1]
    found = models(channels, config.width, config.depth)
    arms = [likelihood_arm(config, name, *found[name]) for name in found]
    return choose(arms, config.only)


def likelihood_arm(config: Config, name: str, model, likelihood: Likelihood) -> Arm:
    """The arm of a model and the likelihood of its decoder's outputs."""
    budget, prior = coded_budget(config), make_prior(config)
    bits = bits_of_draws if isinstance(model, VAE) else partial(bits_of_codes, prior=prior)
    return make_arm(
        name,
        LABELS[name],
        "",
        model,
        budget,
        lambda: likelihood_training.trainer(model, likelihood, budget, bits),
        likelihood=json.loads(vj.to_json(likelihood)),
        prior=dataclasses.asdict(prior),
    )


def coded_budget(config: Config) -> CodedBudget:
    """The budget of each model."""
    shared = dataclasses.asdict(training_budget.make_budget(config))
    return CodedBudget(**shared, coded_images=500 if config.quick else 8000)


def make_prior(config: Config) -> Prior:
    """The prior of each level of codes."""
    found = Prior(config.prior_steps, warmup=config.prior_steps // 10)
    return quick_prior(found) if config.quick else found


def settings(config: Config) -> dict[str, Any]:
    """The settings that all arms share."""
    return described(coded_budget(config)) | {
        "width": config.width,
        "depth": config.depth,
        "prior": in_words(make_prior(config)),
    }


def about(config: Config, rows: Sequence[Row]) -> str:
    """The paragraph below the title."""
    return (
        "The numbers are the bits of a test image whose codes are sent first, and then the image "
        "given its codes, in bits an element (a pixel of one channel). A pixel's distribution is a "
        "discretised logistic whose scale the decoder gives, or a softmax over the 256 levels. "
        "Models are trained for the same small number of steps; rates count all codes of an image, "
        "on all levels. The VAE's total is its evidence bound, a mean over draws of z. With ten "
        "codebooks of 8 codes at each of 7 x 7 places codes take 1.875 bits an element, as many "
        "as 8 x 8 x 10 codes of 512 take on 32 x 32 x 3 pixels (arXiv:1711.00937); with one of "
        "512 they take 0.5625. PSNR is that of the mean of p(x|z)."
    )


LIKELIHOOD = Comparison(
    options=Config,
    title="Bits of an image",
    about=about,
    columns=columns(
        "distortion", "rate_uniform", "rate_static", "rate", "rate_train", "total_uniform",
        "total_static", "total", "psnr", "ms_per_step", drawn=("distortion", "rate", "total"),
    ),
    make_arms=make_arms,
    settings=settings,
    quick={"seeds": 1, "steps": 20, "prior_steps": 20},
)  # fmt: skip
