"""Ablations of the entropy term of binary codes, and of codes drawn at random."""

import math

import jax

import vqvae_jax as vj
from experiments.ablations.curves import over
from experiments.ablations.settings import Ablation, Setting, gain, level, quantizer_arms, times
from experiments.ablations.shared import CIFAR, ERRORS, IMAGENET
from experiments.ablations.verdicts import Claim, above, below, within
from experiments.sweep.arms import Arm
from experiments.sweep.metric_names import columns

BITS = 9
LFQ = {"temperature": 4.0, "beta": 0.01}


def entropy_arms(setting: Setting) -> list[Arm]:
    """LFQ and BSQ without the entropy term, with its factorised form, and with the exact one."""
    found = {
        "LFQ": {
            "no entropy": vj.lfq(BITS, entropy=0, **LFQ),
            "factorised": vj.lfq(BITS, entropy=0.003, **LFQ),
            "exact": vj.lfq(BITS, entropy=0.003, group=BITS, **LFQ),
        },
        "BSQ": {
            "no entropy": vj.bsq(BITS, entropy=0),
            "factorised": vj.bsq(BITS),
            "exact": vj.bsq(BITS, group=BITS),
        },
    }
    return quantizer_arms(setting, found)


ENTROPY = Ablation(
    question="Do binary codes need an entropy term, and must it be exact?",
    papers=("2310.05737", "2406.07548"),
    claims=(
        *(
            Claim(
                f"Without the entropy term {name.upper()} uses far fewer codes.",
                (above(times("used", f"{name}-exact", f"{name}-no-entropy"), 1.5),),
                paper,
                "18 bits; ImageNet at 128 x 128 and 256 x 256",
            )
            for name, paper in (
                ("lfq", '"quickly collapses without it" (visual-tokenizer-pytorch)'),
                ("bsq", "none"),
            )
        ),
        *(
            Claim(
                f"The factorised term reconstructs as the exact one does ({name.upper()}).",
                (within(gain("psnr", f"{name}-factorised", f"{name}-exact"), -0.6, 0.6),),
                "PSNR 25.36 factorised, 24.79 exact (BSQ's repository)",
                "18 bits; ImageNet at 256 x 256",
            )
            for name in ("lfq", "bsq")
        ),
    ),
    columns=ERRORS,
    make_arms=entropy_arms,
    paper=IMAGENET,
    about=f"{BITS} bits at each place. LFQ's softmax has temperature 4, its entropy term the "
    "weight 0.003, its commitment 0.01; BSQ has its defaults.",
)

SIZES = (64, 128, 256, 512)
VARIANCE = 0.1  # of SQ-VAE at first


def stochastic_arms(setting: Setting) -> list[Arm]:
    """SQ-VAE and VQ-VAE at each size."""
    dim = setting.dim
    sq = {"init": vj.inits.normal(0.1), "variance": VARIANCE, "weight": 0.01}
    found = {
        "SQ-VAE": {f"{size}": vj.sqvae(size, dim, **sq) for size in SIZES},
        "VQ-VAE": {f"{size}": vj.vq(size, dim) for size in SIZES},
    }
    return quantizer_arms(setting, found, more=variance)


def variance(model, variables, test) -> dict[str, float]:
    """SQ-VAE's variance at the end, over that at the start."""
    paths = jax.tree_util.tree_leaves_with_path(variables["params"])
    logs = [leaf for path, leaf in paths if "log_variance" in jax.tree_util.keystr(path)]
    return {"variance": math.exp(float(logs[0])) / VARIANCE} if logs else {}


STOCHASTIC = Ablation(
    question="Do stochastic codes make use of a larger codebook?",
    papers=("2205.07547",),
    claims=(
        Claim(
            "The perplexity of SQ-VAE grows at least 4 times from 64 codes to 512.",
            (above(times("perplexity", "sq-vae-512", "sq-vae-64"), 4.0),),
            "59.5 to 434.8, 7.3 times (CIFAR-10, measured by VQ-WAE)",
            "CIFAR-10, one network for all",
        ),
        Claim(
            "That of VQ-VAE does not: less than 4 times.",
            (below(times("perplexity", "vq-vae-512", "vq-vae-64"), 4.0),),
            "24.3 to 69.8, 2.9 times (CIFAR-10, measured by VQ-WAE)",
            "CIFAR-10, one network for all",
        ),
        Claim(
            "With 512 codes SQ-VAE reconstructs better.",
            (above(gain("psnr", "sq-vae-512", "vq-vae-512")),),
            "PSNR 26.11 against 23.14 (CIFAR-10, measured by VQ-WAE)",
            "CIFAR-10, one network for all",
        ),
        Claim(
            "The variance anneals itself: it falls to less than half.",
            (below(level("variance", "sq-vae-512"), 0.5),),
            "falls all through the training (2205.07547; no numbers)",
            "100 epochs of batch 32",
        ),
    ),
    columns=(*ERRORS, *columns("variance")),
    make_arms=stochastic_arms,
    paper=CIFAR,
    about="SQ-VAE's variance starts at 0.1, its codes from N(0, 0.01); its terms have the weight "
    "0.01. VQ-VAE's codebook is moved by gradient from a uniform start.",
    draw=over("codes", {f"{size}": size for size in SIZES}, "psnr", "perplexity"),
)
