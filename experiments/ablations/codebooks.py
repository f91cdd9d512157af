"""Ablations of a codebook's initialisation, moving averages and reset of dead codes."""

import dataclasses

import vqvae_jax as vj
from experiments.ablations.settings import (
    Ablation,
    Setting,
    arm_name,
    gain,
    quantizer_arm,
    quantizer_arms,
    times,
)
from experiments.ablations.shared import CIFAR, DRAWN, NUMBERS, SIZE
from experiments.ablations.verdicts import Claim, Values, above, difference_of, range_of
from experiments.sweep.arms import Arm
from experiments.sweep.metric_names import columns

EARLY = 200  # the step at which errors are compared
OPTIMIZERS = ("Adam, quarter rate", "Adam", "Adam, fourfold rate", "SGD")


def ema_arms(setting: Setting) -> list[Arm]:
    """Both codebooks with each optimizer."""
    size, dim, rate = SIZE, setting.dim, setting.learning_rate
    factors = dict(zip(OPTIMIZERS, (0.25, 1.0, 4.0, 1.0), strict=True))
    sgd = vj.combinators.from_optax("sgd", 0.1, momentum=0.9)
    return [
        quantizer_arm(
            dataclasses.replace(setting, learning_rate=factors[group] * rate),
            label,
            group,
            q,
            optimizer=sgd if group == "SGD" else None,
            marks=(EARLY,),
        )
        for group in OPTIMIZERS
        for label, q in {"gradient": vj.vq(size, dim), "EMA": vj.ema_vq(size, dim)}.items()
    ]


def over_optimizers(codebook: str) -> Values:
    """The range of a codebook's PSNR over the optimizers, of each seed."""
    return range_of("psnr", *(arm_name(codebook, group) for group in OPTIMIZERS))


EMA = Ablation(
    question="What do moving averages give over a codebook moved by gradient?",
    papers=("1711.00937", "1805.11063"),
    claims=(
        Claim(
            "Reconstructions are better with EMA.",
            (above(gain("psnr", "adam-ema", "adam-gradient")),),
            "PSNR 32.07 against 31.55 (CelebA 64 x 64, D = 64, visual-tokenizer-pytorch)",
            "500,000 steps of batch 256",
        ),
        Claim(
            "More codes are used with EMA.",
            (above(gain("used", "adam-ema", "adam-gradient"), 0.1),),
            "100 % against 56 % (CelebA 64 x 64, D = 64, visual-tokenizer-pytorch)",
            "500,000 steps of batch 256",
        ),
        Claim(
            f"EMA converges faster: after {EARLY} steps the error is at least a tenth lower.",
            (above(times(f"mse@{EARLY}", "adam-gradient", "adam-ema"), 1.1),),
            '"typically converges faster" (Sonnet\'s notebook; no numbers)',
        ),
        Claim(
            "EMA depends less on the optimizer.",
            (
                above(
                    difference_of(
                        "range of PSNR over optimizers, gradient less EMA",
                        over_optimizers("gradient"),
                        over_optimizers("EMA"),
                    )
                ),
            ),
            '"less dependent on choice of the optimizer" (Sonnet\'s notebook; no numbers)',
        ),
    ),
    columns=columns(
        "psnr", "ssim", f"mse@{EARLY}", "used", "perplexity", "ms_per_step",
        drawn=(*DRAWN, f"mse@{EARLY}"),
    ),
    make_arms=ema_arms,
    paper=CIFAR,
    about="512 codes from a uniform start. Adam has the learning rate of all other ablations, a "
    "quarter of it, or four times as much; SGD has momentum 0.9 and a rate of 0.1.",
)  # fmt: skip


def restart_arms(setting: Setting) -> list[Arm]:
    """Returns both codebooks, each with and without reset of dead codes."""
    size, dim, reset = SIZE, setting.dim, vj.codebooks.underused(0.1)
    found = {
        "Gradient": {
            "no restarts": vj.vq(size, dim),
            "restarts": vj.vq(size, dim, reset=reset),
        },
        "EMA": {
            "no restarts": vj.ema_vq(size, dim),
            "restarts": vj.ema_vq(size, dim, reset=reset),
        },
    }
    return quantizer_arms(setting, found)


RESTART = Ablation(
    question="Does it help to reset codes that no row chooses?",
    papers=("2005.00341",),
    claims=tuple(
        claim
        for codebook in ("gradient", "ema")
        for claim in (
            Claim(
                f"Restarts raise the perplexity at least 1.5 times ({codebook}).",
                (
                    above(
                        times("perplexity", f"{codebook}-restarts", f"{codebook}-no-restarts"), 1.5
                    ),
                ),
                "no number that could be verified",
                "music, K = 2,048, hierarchies of three levels",
            ),
            Claim(
                f"Restarts improve the reconstruction ({codebook}).",
                (above(gain("psnr", f"{codebook}-restarts", f"{codebook}-no-restarts")),),
                "no number that could be verified",
                "music, K = 2,048, hierarchies of three levels",
            ),
        )
    ),
    columns=NUMBERS,
    make_arms=restart_arms,
    paper=CIFAR,
    about="512 codes from a uniform start. A code whose moving-average count is below a tenth of "
    "the mean is reset to a row of the batch.",
)

INITS = {
    "uniform": vj.inits.uniform(),
    "normal": vj.inits.normal(),
    "samples": vj.inits.samples(),
    "k-means": vj.inits.kmeans(10),
}


def init_arms(setting: Setting) -> list[Arm]:
    """Each start of both codebooks."""
    size, dim = SIZE, setting.dim
    found = {
        "Gradient": {name: vj.vq(size, dim, init=init) for name, init in INITS.items()},
        "EMA": {name: vj.ema_vq(size, dim, init=init) for name, init in INITS.items()},
    }
    return quantizer_arms(setting, found)


INIT = Ablation(
    question="Should a codebook begin with data?",
    papers=("2005.08520",),
    claims=tuple(
        Claim(
            f"A start from {start} uses more codes than a uniform one ({codebook}).",
            (above(gain("used", f"{codebook}-{start}", f"{codebook}-uniform"), 0.05),),
            "no number that could be verified",
            "k-means again and again as training goes on, batch normalisation before it; speech, "
            "handwriting, CIFAR-10",
        )
        for codebook in ("gradient", "ema")
        for start in ("samples", "k-means")
    ),
    columns=NUMBERS,
    make_arms=init_arms,
    paper=CIFAR,
    about="512 codes, without reset: from U(-1/512, 1/512), from N(0, 1), from rows of the "
    "first batch, or from the centroids of 10 steps of k-means on it.",
)
