"""Ablations of the terms of the loss: which are needed, and whether beta matters."""

from jax.lax import stop_gradient as sg

import vqvae_jax as vj
from experiments.ablations.curves import over
from experiments.ablations.settings import Ablation, Setting, gain, quantizer_arms, range_over
from experiments.ablations.shared import CIFAR, FITTED, NUMBERS, OTHER, SIZE
from experiments.ablations.verdicts import Claim, above, below
from experiments.sweep.arms import Arm


def blocked(z_e, z_q):
    """An estimator that gives the encoder no gradient."""
    return sg(z_q)


def loss_arms(setting: Setting) -> list[Arm]:
    """All terms, and each one left out."""
    size, dim = SIZE, setting.dim
    found = {
        "all terms": vj.vq(size, dim),
        "no codebook term": vj.codebook_vq(vj.codebooks.fixed(size, dim)),
        "no commitment": vj.vq(size, dim, beta=0),
        "no straight-through": vj.vq(size, dim, estimator=blocked),
    }
    return quantizer_arms(setting, {"": found}, names={"blocked": blocked})


LOSSES = Ablation(
    question="Which of its terms does a VQ-VAE need?",
    papers=("1711.00937",),
    claims=tuple(
        Claim(
            f"Training needs {what}.",
            (above(gain("psnr", "all-terms", arm), 0.1),),
            "none: section 3.2 gives the reason in words",
        )
        for what, arm in (
            ("the codebook term", "no-codebook-term"),
            ("the commitment term", "no-commitment"),
            ("the straight-through gradient", "no-straight-through"),
        )
    ),
    columns=NUMBERS,
    make_arms=loss_arms,
    paper=CIFAR,
    about="512 codes moved by gradient. Without the codebook term they stand still, as the "
    "straight-through estimator gives codes no gradient; without the straight-through gradient "
    "the encoder learns from the commitment term alone.",
)

BETAS = (0.1, 0.25, 0.5, 1.0, 2.0)


def beta_arms(setting: Setting) -> list[Arm]:
    """Each beta with both kinds of codebook."""
    size, dim = SIZE, setting.dim
    found = {
        "Gradient": {f"beta {b:g}": vj.vq(size, dim, beta=b) for b in BETAS},
        "EMA, re-seeded": {f"beta {b:g}": vj.ema_vq(size, dim, beta=b, **FITTED) for b in BETAS},
    }
    return quantizer_arms(setting, found)


BETA = Ablation(
    question="Does the weight of the commitment term matter between 0.1 and 2?",
    papers=("1711.00937",),
    claims=tuple(
        Claim(
            f"Results do not vary for beta from 0.1 to 2, with {codebook}.",
            (below(range_over("psnr", *(f"{kind}-beta-{b:g}" for b in BETAS)), 0.3),),
            '"the results did not vary" (1711.00937, section 3.2; no numbers)',
            OTHER,
        )
        for kind, codebook in (
            ("gradient", "a codebook moved by gradient"),
            ("ema-re-seeded", "an EMA codebook whose dead codes are re-seeded"),
        )
    ),
    columns=NUMBERS,
    make_arms=beta_arms,
    paper=CIFAR,
    about="512 codes, moved by gradient from a uniform start, or by averages from k-means with "
    "reset of codes that are chosen less often than a tenth of the mean.",
    draw=over("beta", {f"beta {b:g}": b for b in BETAS}, "psnr", "perplexity"),
)
