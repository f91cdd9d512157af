"""Ablations of the gradient across the quantizer: estimators, and the parts of VQ-STE++."""

import vqvae_jax as vj
from experiments.ablations.settings import Ablation, Setting, gain, quantizer_arms, times
from experiments.ablations.shared import CIFAR, ERRORS, FITTED, IMAGENET, SIZE
from experiments.ablations.verdicts import Claim, above, within
from experiments.sweep.arms import Arm

ROTATION = "ImageNet 256 x 256, 32 x 32 codes of D = 32, K = 1,024, 100 epochs"


def estimator_arms(setting: Setting) -> list[Arm]:
    """Returns each estimator with a codebook that starts from data and resets dead codes."""
    args = SIZE, setting.dim
    rotation = vj.rotation_trick
    found = {
        "EMA codebook": {
            "straight-through": vj.ema_vq(*args, **FITTED),
            "rotation": vj.ema_vq(*args, **FITTED, estimator=rotation),
        },
        "Gradient codebook": {
            "straight-through": vj.vq(*args, **FITTED),
            "rotation": vj.vq(*args, **FITTED, estimator=rotation),
            "NSVQ": vj.nsvq(*args, **FITTED),
            "DiVeQ": vj.diveq(*args, **FITTED),
        },
    }
    return quantizer_arms(setting, found)


EMA_STE, EMA_ROTATION = "ema-codebook-straight-through", "ema-codebook-rotation"

ESTIMATOR = Ablation(
    question="Which gradient should cross the quantizer?",
    papers=("2410.06424", "2509.26469"),
    claims=(
        Claim(
            "The rotation trick at least halves the quantization error.",
            (above(times("quantization_error", EMA_STE, EMA_ROTATION), 2.0),),
            "5.9e-3 against 5.1e-4 (2410.06424, table 1)",
            ROTATION,
        ),
        Claim(
            "The rotation trick changes the reconstruction error by less than a tenth.",
            (within(gain("psnr", EMA_ROTATION, EMA_STE), -0.41, 0.46),),
            "validation error .122 against .115 (2410.06424, table 1)",
            ROTATION,
        ),
        Claim(
            "The rotation trick uses no fewer codes, to 5 %.",
            (above(gain("used", EMA_ROTATION, EMA_STE), -0.05),),
            "97 % against 100 % of each batch (2410.06424, table 1)",
            ROTATION,
        ),
        Claim(
            "DiVeQ, trained by the reconstruction error alone, is no worse than an EMA codebook, "
            "to 0.1 dB.",
            (above(gain("psnr", "gradient-codebook-diveq", EMA_STE), -0.1),),
            "no table that could be read (2509.26469)",
            "256 x 256 pixels, D = 512, K = 1,024, 100 epochs",
        ),
        Claim(
            "NSVQ is better than straight-through.",
            (above(gain("psnr", "gradient-codebook-nsvq", "gradient-codebook-straight-through")),),
            "no number that could be verified (doi:10.1109/ACCESS.2022.3147670)",
            "speech, images and noise",
        ),
    ),
    columns=ERRORS,
    make_arms=estimator_arms,
    paper=IMAGENET,
    about="512 codes that start from k-means, with reset of dead codes. The quantization error "
    "depends on the scale of z_e; its share of the variance does not.",
)


def ste_plus_arms(setting: Setting) -> list[Arm]:
    """Each part of VQ-STE++ alone, and all together."""
    args, init = (SIZE, setting.dim), {"init": vj.inits.kmeans(10)}
    reset, synchronized = vj.codebooks.underused(0.1), vj.estimators.synchronized(0.2)
    sgd = vj.combinators.from_optax("sgd", 50.0, momentum=0.9)
    options = {**init, "reset": reset, "estimator": synchronized}
    together = vj.affine_vq(*args, rate=1.0, **options)  # 10 under that SGD: codes explode
    found = {
        "plain": vj.vq(*args, **init),
        "affine": vj.affine_vq(*args, **init),
        "alternated": vj.alternated(vj.vq(*args, **init), sgd),
        "synchronized": vj.vq(*args, **init, estimator=synchronized),
        "replacement": vj.vq(*args, **init, reset=reset),
        "all": vj.alternated(together, sgd),
    }
    return quantizer_arms(setting, {"": found})


STE_PLUS = Ablation(
    question="What does each part of VQ-STE++ give?",
    papers=("2305.08842",),
    claims=tuple(
        claim
        for arm, name in (
            ("affine", "The affine reparameterisation"),
            ("alternated", "Alternated optimisation"),
            ("synchronized", "The synchronised update"),
            ("replacement", "Replacement of dead codes"),
            ("all", "All of it together"),
        )
        for claim in (
            Claim(
                f"{name} raises the perplexity at least 1.5 times.",
                (above(times("perplexity", arm, "plain"), 1.5),),
                "its table 3 could not be read",
                "CIFAR-10 and CelebA, 1,024 codes, 90 epochs, options tuned for each row",
            ),
            Claim(
                f"{name} improves the reconstruction.",
                (above(gain("psnr", arm, "plain")),),
                "its table 3 could not be read",
                "CIFAR-10 and CelebA, 1,024 codes, 90 epochs, options tuned for each row",
            ),
        )
    ),
    columns=ERRORS,
    make_arms=ste_plus_arms,
    paper=CIFAR,
    about="512 codes moved by gradient from k-means. The learning rate of the affine map is "
    "multiplied by 10, or by 1 in the arm with all parts, where 10 makes the codes explode; "
    "alternated codes move by SGD of rate 50 and momentum 0.9, a step for each batch, and at the "
    "same time as the encoder; nu of the synchronised update is 0.2.",
)
