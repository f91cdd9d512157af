"""Ablations of whole models: the arms of comparisons, with rules for their results."""

import dataclasses
from collections.abc import Callable

from experiments.ablations.settings import Ablation, Setting, gain
from experiments.ablations.shared import CIFAR, IMAGENET
from experiments.ablations.verdicts import (
    Claim,
    above,
    below,
    best,
    difference_of,
    number,
    range_of,
    variance_ratio_of,
)
from experiments.compare.comparison import Comparison, shrunk
from experiments.compare.levels import LEVELS
from experiments.compare.likelihood import LIKELIHOOD
from experiments.compare.vae import RATES as LEARNING_RATES
from experiments.compare.vae import VAES
from experiments.sweep.arms import Arm

EARLIER = "Its rules were written after these arms had been run once, for another page."


def arms_of(comparison: Comparison) -> Callable[[Setting], list[Arm]]:
    """Makes the arms of a comparison with the options that a setting has as well."""

    def make_arms(setting: Setting) -> list[Arm]:
        fields = {field.name for field in dataclasses.fields(comparison.options)}
        known = {k: v for k, v in dataclasses.asdict(setting).items() if k in fields}
        options = comparison.options(quick=setting.fast_compile, **known)
        return comparison.make_arms(shrunk(comparison, options))

    return make_arms


def two_levels(bits: str, one: tuple[str, ...], two: tuple[str, ...]) -> Claim:
    """The claim that the best of two levels is better than the best of one, at so many bits."""
    text = f"PSNR of the best of {', '.join(two)} less that of the best of {', '.join(one)}"
    return Claim(
        f"At {bits} bits an image two levels are better than one.",
        (above(difference_of(text, best("psnr", *two), best("psnr", *one))),),
        "none: it has no such comparison at equal bits",
        "256 x 256 pixels, 64 x 64 and 32 x 32 codes of 512",
    )


def top_alone(arm: str):
    """The PSNR that is lost when the top alone is decoded."""
    text = f"PSNR of {arm} less that of its top alone"
    return difference_of(text, number("psnr", arm), number("top_psnr", arm))


HIERARCHY = Ablation(
    question="Are two levels of codes better than one, at equal bits?",
    papers=("1906.00446",),
    claims=(
        two_levels("441", ("441-1a",), ("441-2b",)),
        two_levels("784", ("784-1a", "784-1b", "784-1d"), ("784-2c", "784-2e")),
        two_levels("2,205", ("2205-1a",), ("2205-2b", "2205-2c")),
        Claim(
            "Without the codes of the bottom at least 3 dB are lost.",
            (above(top_alone("2205-2b"), 3.0),),
            "none: its pictures of the top alone are blurred",
            "256 x 256 pixels, three levels",
        ),
    ),
    columns=LEVELS.columns,
    make_arms=arms_of(LEVELS),
    paper=IMAGENET,
    about="The arms of the comparison of levels, the best of two against the best of one. "
    f"{EARLIER}",
)


def more_bits(first: str, total: str = "total"):
    """Measures how many more bits an element an arm needs than the VAE."""
    text = f"{total.replace('_', ', ')} of {first} less total of vae (bits an element)"
    return difference_of(text, number(total, first), number("total", "vae"))


BITS_PER_DIM = Ablation(
    question="How many bits do a VAE and a VQ-VAE need for an image?",
    papers=("1711.00937",),
    claims=tuple(
        Claim(
            f"VQ-VAE needs more bits than the VAE, {how}.",
            (above(more_bits(arm, total)),),
            "4.67 against 4.51 (1711.00937, section 4.1, which prior is not said)"
            + (
                "; 5.00 is the best that others reached in this setting, with a unigram prior "
                "(pytorch-vq-vae, issue 1)"
                if "grouped" in arm
                else ""
            ),
            "CIFAR-10, width 256, 250,000 steps",
        )
        for arm, total, how in (
            ("vqvae", "total_uniform", "with a uniform prior over codes"),
            ("vqvae", "total", "with a learnt prior over codes"),
            ("vqvae-grouped-categorical", "total", "in the authors' setting: ten codebooks at each "
             "place, a softmax over 256 levels, and a learnt prior"),
        )
    ),
    columns=LIKELIHOOD.columns,
    make_arms=arms_of(LIKELIHOOD),
    paper=CIFAR,
    about="The arms of the comparison of likelihoods. Bits an element can't be compared with "
    f"the paper's, which are for other data; their order can. PSNR is that of the "
    f"mean of p(x|z). {EARLIER}",
)  # fmt: skip

RATES = tuple(f"{rate:g}" for rate in LEARNING_RATES)
RATE = RATES[1]


def of_model(model: str) -> list:
    """The PSNR of a model at each learning rate."""
    return [number("psnr", f"{model}-{rate}") for rate in RATES]


NEARER = difference_of(
    "Frechet distance of vq-vae less that of vae",
    number("frechet", f"vq-vae-{RATE}"),
    number("frechet_independent", f"vae-{RATE}"),
)
STEADIER = variance_ratio_of(
    "variance of PSNR of vq-vae over that of vae", of_model("vq-vae"), of_model("vae")
)
NARROWER = difference_of(
    "range of PSNR over learning rates, vq-vae less vae",
    range_of("psnr", *(f"vq-vae-{rate}" for rate in RATES)),
    range_of("psnr", *(f"vae-{rate}" for rate in RATES)),
)

VAE = Ablation(
    question="Is a VQ-VAE better than a VAE, and more stable?",
    papers=("1711.00937",),
    claims=(
        Claim(
            "At equal rate a VQ-VAE reconstructs better than a VAE.",
            (above(gain("psnr", f"vq-vae-{RATE}", f"vae-{RATE}")),),
            "none",
        ),
        Claim(
            "Samples of a VQ-VAE, with a learnt prior, are nearer to real images.",
            (below(NEARER, 0),),
            "none",
        ),
        Claim(
            "A VQ-VAE is more stable over seeds: the variance of PSNR is smaller.",
            (below(STEADIER, 1),),
            "none",
        ),
        Claim(
            "A VQ-VAE is more stable over learning rates: the range of PSNR is smaller.",
            (below(NARROWER, 0),),
            "none",
        ),
    ),
    columns=VAES.columns,
    make_arms=arms_of(VAES),
    paper=CIFAR,
    about="The arms of the comparison with VAEs: the same encoder, decoder, grid and budget, at "
    f"three learning rates. {EARLIER}",
    caption="The first test images, and samples from each model with its first seed",
)
