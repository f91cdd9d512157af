"""Ablations of the number of codes, and of their dimensions."""

from functools import partial

import vqvae_jax as vj
from experiments.ablations.curves import over
from experiments.ablations.settings import (
    Ablation,
    Setting,
    gain,
    level,
    quantizer_arms,
    times,
)
from experiments.ablations.shared import CODES, IMAGENET
from experiments.ablations.verdicts import Claim, above, below
from experiments.sweep.arms import Arm

BENCHMARK = "ImageNet 64 x 64, D = 64, 500,000 steps of batch 256"
LEVELS = {64: (8, 8), 512: (8, 8, 8), 4096: (7, 5, 5, 5, 5), 16384: (8, 8, 8, 6, 5)}


def size_arms(setting: Setting) -> list[Arm]:
    """Four quantizers at each size."""
    found = {
        "vq": partial(vj.vq, dim=setting.dim),
        "cosine": partial(vj.cosine_vq, dim=setting.dim),
        "SimVQ": partial(vj.simvq, dim=setting.dim),
        "FSQ": lambda size: vj.fsq(LEVELS[size]),
    }
    groups = {make: {f"{size}": found[make](size) for size in LEVELS} for make in found}
    return quantizer_arms(setting, groups)


CODEBOOK_SIZE = Ablation(
    question="Which quantizers make use of more codes?",
    papers=("2309.15505", "2411.02038", "2205.07547"),
    claims=(
        Claim(
            "A codebook moved by gradient saturates: 16,384 codes gain less than 0.2 dB over 512.",
            (below(gain("psnr", "vq-16384", "vq-512"), 0.2),),
            "PSNR 26.86 against 26.89 (visual-tokenizer-pytorch)",
            BENCHMARK,
        ),
        Claim(
            "Less than half of 4,096 such codes are used.",
            (below(level("used", "vq-4096"), 0.5),),
            "under 50 % above 2^11 codes (2309.15505, figure 3)",
            "ImageNet 128 x 128, with an entropy loss",
        ),
        Claim(
            "FSQ gains from more codes.",
            (above(gain("psnr", "fsq-16384", "fsq-512")),),
            "PSNR 27.71 against 26.08 (visual-tokenizer-pytorch)",
            BENCHMARK,
        ),
        Claim(
            "FSQ uses more than nine tenths of about 16,384 codes.",
            (above(level("used", "fsq-16384"), 0.9),),
            "almost all of 2^14 (2309.15505, figure 3)",
            "ImageNet 128 x 128",
        ),
        Claim(
            "At 64 codes a learnt codebook is better than FSQ.",
            (above(gain("psnr", "vq-64", "fsq-64")),),
            "slightly better (2309.15505, figure 3; no numbers)",
            "ImageNet 128 x 128, with an entropy loss",
        ),
        Claim(
            "SimVQ gains from more codes.",
            (above(gain("psnr", "simvq-16384", "simvq-512")),),
            "PSNR 29.04 against 26.70 (visual-tokenizer-pytorch)",
            BENCHMARK,
        ),
        Claim(
            "SimVQ uses more than nine tenths of 16,384 codes.",
            (above(level("used", "simvq-16384"), 0.9),),
            "100 % (2411.02038)",
            "ImageNet 128 x 128, 65,536 codes",
        ),
        Claim(
            "Codes of length 1 are used more: of 4,096 at least twice as many.",
            (above(times("used", "cosine-4096", "vq-4096"), 2.0),),
            "83 % against 29 % of 2,048 (visual-tokenizer-pytorch)",
            BENCHMARK,
        ),
    ),
    columns=CODES,
    make_arms=size_arms,
    paper=IMAGENET,
    about="Codebooks have the dimensions of the setting; FSQ has the levels that its paper "
    "recommends, which make about as many codes.",
    draw=over("codes", {f"{size}": size for size in LEVELS}, "psnr", "used"),
)

DIMS = (2, 4, 8, 16, 64, 256)


def dim_arms(setting: Setting) -> list[Arm]:
    """Euclidean and normalised codes of each dimension."""
    found = {
        "Euclidean": {f"D = {d}": vj.vq(512, d) for d in DIMS},
        "Length 1": {f"D = {d}": vj.cosine_vq(512, d) for d in DIMS},
    }
    return quantizer_arms(setting, found)


CODE_DIM = Ablation(
    question="How many dimensions should codes have?",
    papers=("2110.04627",),
    claims=(
        Claim(
            "Codes of 8 dimensions are used more than codes of 256.",
            (above(gain("used", "euclidean-d-8", "euclidean-d-256"), 0.1),),
            "100 % of D = 8 against 56 % of D = 64 (CelebA, visual-tokenizer-pytorch)",
            "CelebA 64 x 64, 500,000 steps of batch 256",
        ),
        Claim(
            "Codes of 8 dimensions reconstruct better than codes of 256.",
            (above(gain("psnr", "euclidean-d-8", "euclidean-d-256")),),
            "PSNR 32.24 of D = 8 against 31.55 of D = 64 (CelebA, visual-tokenizer-pytorch)",
            "CelebA 64 x 64, 500,000 steps of batch 256",
        ),
        Claim(
            "At D = 64 more codes of length 1 are used.",
            (above(gain("used", "length-1-d-64", "euclidean-d-64"), 0.1),),
            "98 % against 56 % (CelebA, visual-tokenizer-pytorch)",
            "CelebA 64 x 64, 500,000 steps of batch 256",
        ),
        Claim(
            "At D = 64 codes of length 1 reconstruct no better.",
            (below(gain("psnr", "length-1-d-64", "euclidean-d-64"), 0),),
            "PSNR 31.33 against 31.55 (CelebA, visual-tokenizer-pytorch)",
            "CelebA 64 x 64, 500,000 steps of batch 256",
        ),
    ),
    columns=CODES,
    make_arms=dim_arms,
    paper=IMAGENET,
    about="512 codes moved by gradient. The encoder ends with as many channels as codes have "
    "dimensions; codes of length 1 are compared with rows of length 1.",
    draw=over("D", {f"D = {d}": d for d in DIMS}, "psnr", "used"),
)
