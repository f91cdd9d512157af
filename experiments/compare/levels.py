"""Levels: one level of codes against two, at the same number of bits an image."""

import dataclasses
from collections.abc import Sequence
from functools import partial

import jax
import numpy as np

import vqvae_jax as vj
from experiments.compare.comparison import Comparison
from experiments.sweep.arm_metrics import psnr_of_parts
from experiments.sweep.arms import Arm, Row
from experiments.sweep.intervals import difference
from experiments.sweep.launch import choose
from experiments.sweep.metric_names import columns
from experiments.sweep.options import RateOptions
from experiments.sweep.training_budget import images, make_arm, make_budget, trainer
from vqvae_commands.run.code_streams import as_levels
from vqvae_commands.run.recipe import hierarchy
from vqvae_jax import VQVAE, VQVAE2, Decoder, Encoder, Quantizer

DIM = 8  # of the codes: small codebooks do better in few dimensions


@dataclasses.dataclass(frozen=True)
class Config(RateOptions):
    """Train autoencoders with one level of codes and with two, at equal bits, and compare them."""

    seeds: int = 5
    """Number of seeds for each arm."""


def codebook(size: int) -> Quantizer:
    """The quantizer of every arm that looks codes up."""
    return vj.ema_vq(size, DIM, init=vj.inits.kmeans(10), reset=vj.codebooks.underused(0.1))


def models(channels: int, **inner) -> dict[str, dict[str, VQVAE | VQVAE2]]:
    """The models for images of 28 x 28, by the bits of an image and by label."""

    def one(q: Quantizer, halvings: int) -> VQVAE:
        return VQVAE(
            Encoder(channels, q.dim, downsamplings=halvings, **inner),
            q,
            Decoder(channels, q.dim, upsamplings=halvings, **inner),
        )

    def two(top: Quantizer, bottom: Quantizer) -> VQVAE2:
        return hierarchy(channels, (top, bottom), 2, **inner)

    return {
        "441 bits": {
            "1 level, 512": one(codebook(512), 2),
            "2 levels, 32 + 2": two(codebook(32), codebook(2)),
        },
        "784 bits": {
            "1 level, 16": one(codebook(16), 1),
            "1 level, 256 + 256": one(vj.residual(codebook(256), codebook(256)), 2),
            "2 levels, 16 + 8": two(codebook(16), codebook(8)),
            "1 level, fsq 16": one(vj.fsq([4, 4]), 1),
            "2 levels, fsq 16 + 8": two(vj.fsq([4, 4]), vj.fsq([8])),
        },
        "2205 bits": {
            "1 level, 2435": one(codebook(2435), 1),  # 2204.95 bits
            "2 levels, 512 + 512": two(codebook(512), codebook(512)),
            "2 levels, 32 + 1024": two(codebook(32), codebook(1024)),
        },
    }


def make_arms(config: Config) -> list[Arm]:
    """An arm for each model, or those of `only`; two in a quick run."""
    budget = make_budget(config)
    channels = images(config.data)[0].shape[-1]
    arms = []
    for group, members in models(channels, width=config.width, depth=config.depth).items():
        bits = group.split()[0]
        for i, (label, model) in enumerate(members.items()):
            levels = len(as_levels(getattr(model, "quantizers", model)))
            name = f"{bits}-{levels}{'abcde'[i]}"
            prepare = partial(trainer, model, budget, top_only)
            arms.append(make_arm(name, label, group, model, budget, prepare))
    return choose(arms[:2] if config.quick else arms, config.only)


def top_only(model, variables, test: np.ndarray) -> dict[str, float]:
    """The number of parameters; for two levels the PSNR of what the top alone decodes to."""
    parts = [v for k, v in variables["params"].items() if not k.startswith("codes")]
    numbers = {"parameters": float(sum(np.size(leaf) for leaf in jax.tree.leaves(parts)))}
    if not isinstance(model, VQVAE2):
        return numbers

    (alone,) = psnr_of_parts(model, variables, test, lambda maps: [(maps[0], None)])
    return numbers | {"top_psnr": alone}


def about(config: Config, rows: Sequence[Row]) -> str:
    """The paragraph below the title."""
    return (
        "All arms share budget, data and seeds, and in each table the number of bits an image, at "
        "log2 K bits a code. In a VQ-VAE-2 (arXiv:1906.00446) the bottom sees what the top "
        "decodes to. Two levels are 7 x 7 codes above 14 x 14; one level is 7 x 7 codes of 512, or "
        "of two residual stages of 256, and otherwise 14 x 14. Codebooks (ema_vq) have "
        f"{DIM} dimensions; fsq has 4 x 4 levels, and 8 at the bottom. {findings(rows)}"
    )


def findings(rows: Sequence[Row]) -> str:
    """Compares, for each number of bits, the best model of two levels with the best of one."""
    found = []
    for group in dict.fromkeys(row.arm.group for row in rows):
        members = [row for row in rows if row.arm.group == group and row.values("psnr")]
        best = [
            max(
                (row for row in members if row.arm.label.startswith(levels)),
                key=lambda row: float(np.mean(row.values("psnr"))),
                default=None,
            )
            for levels in ("2", "1")
        ]
        if None not in best:
            mean, half = difference(*(row.values("psnr") for row in best if row))
            sure = "better" if mean - half > 0 else "worse" if mean + half < 0 else "undecided"
            found.append(f"{group}: {mean:+.2f} ± {half:.2f} dB, {sure}")
    return f"The best with two levels against the best with one: {'; '.join(found)}."


LEVELS = Comparison(
    options=Config,
    title="One level of codes or two",
    about=about,
    columns=columns(
        "psnr", "ssim", "top_psnr", "used", "bits_uniform", "bits_entropy", "parameters",
        "ms_per_step", drawn=("psnr",),
    ),
    make_arms=make_arms,
    quick={"seeds": 1, "steps": 20},
)  # fmt: skip
