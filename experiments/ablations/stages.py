"""Ablations of residual stages: few large codebooks or many small ones, one model for all rates."""

import numpy as np

import vqvae_jax as vj
from experiments.ablations.settings import Ablation, Setting, arm_name, gain, quantizer_arms
from experiments.ablations.shared import CODES, FITTED, IMAGENET
from experiments.ablations.verdicts import Claim, above, difference_of, number
from experiments.sweep.arm_metrics import psnr_of_parts
from experiments.sweep.arms import Arm
from experiments.sweep.metric_names import columns

SPLITS = {"1 x 4096": (1, 4096), "2 x 64": (2, 64), "4 x 8": (4, 8), "12 x 2": (12, 2)}
DEPTHS = (1, 2, 4)  # of the stages of 64 codes


def equal_stages(setting: Setting, n: int, size: int, dropout=None):
    """n equal stages."""
    q = vj.ema_vq(size, setting.dim, **FITTED)
    return vj.repeat(q, n, dropout=dropout)


def residual_arms(setting: Setting) -> list[Arm]:
    """12 bits in stages of several sizes; 6, 12 and 24 bits by one model or by three."""
    dropped = equal_stages(setting, DEPTHS[-1], 64, vj.combinators.quantizer_dropout())
    bits = {label: equal_stages(setting, *split) for label, split in SPLITS.items()}
    rates = {f"{n} stages": equal_stages(setting, n, 64) for n in DEPTHS} | {"dropout": dropped}
    found = quantizer_arms(setting, {"12 bits a place": bits})
    return found + quantizer_arms(setting, {"Stages of 64": rates}, more=truncated)


def truncated(model, variables, test: np.ndarray) -> dict[str, float]:
    """The PSNR of what the first stages alone decode to."""
    found = psnr_of_parts(
        model, variables, test, lambda codes: [codes.at[..., n:].set(-1) for n in DEPTHS]
    )
    known = zip(DEPTHS, found, strict=True)
    return {f"psnr_{n}": value for n, value in known if n <= len(model.quantizer.vocab)}


def near_alone(depth: int) -> Claim:
    """The claim that dropout costs little at a depth."""
    arm = "stages-of-64-" + arm_name(f"{depth} stages")
    text = f"PSNR of the first {depth} stages of dropout less that of a model of {depth}"
    measure = difference_of(
        text, number(f"psnr_{depth}", "stages-of-64-dropout"), number("psnr", arm)
    )
    return Claim(
        f"With dropout {'the first stage loses' if depth == 1 else f'{depth} of 4 stages lose'} "
        f"less than 10 % against a model that has no more.",
        (above(measure, -0.46),),
        '"negligible loss" (2107.03312, abstract)',
        "speech and music at 3 to 18 kbit/s, ViSQOL",
    )


RESIDUAL = Ablation(
    question="Few large codebooks or many small ones, and one model for all rates?",
    papers=("2107.03312",),
    claims=(
        Claim(
            "At equal bits few large codebooks are a little better than many small ones.",
            (above(gain("psnr", "12-bits-a-place-2-x-64", "12-bits-a-place-12-x-2")),),
            "ViSQOL 4.01 of 8 x 1,024, 3.98 of 16 x 32, 3.92 of 80 x 2 (2107.03312, table 1)",
            "speech and music at 6 kbit/s",
        ),
        near_alone(1),
        near_alone(2),
        Claim(
            "Without dropout the first of 4 stages alone is at least 1 dB worse than with it.",
            (
                above(
                    difference_of(
                        "PSNR of the first stage, with dropout less without",
                        number("psnr_1", "stages-of-64-dropout"),
                        number("psnr_1", "stages-of-64-4-stages"),
                    ),
                    1.0,
                ),
            ),
            "none",
        ),
        Claim(
            "Each further stage gives more.",
            (
                above(gain("psnr", "stages-of-64-2-stages", "stages-of-64-1-stages")),
                above(gain("psnr", "stages-of-64-4-stages", "stages-of-64-2-stages")),
            ),
            "no number that could be verified",
            "speech and music",
        ),
    ),
    columns=(*CODES, *columns(*(f"psnr_{n}" for n in DEPTHS[:-1]))),
    make_arms=residual_arms,
    paper=IMAGENET,
    about="Residual stages of EMA codebooks, which start from k-means and reset dead codes. With "
    "dropout an image uses the first 1, 2, 3 or 4 stages in training, equally often.",
)
