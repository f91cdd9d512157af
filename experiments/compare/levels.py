"""One level of codes against two, at the same number of bits an image.

python -m experiments.compare.levels --quick          a minute, to see that it works
python -m experiments.compare.levels                  all arms; the same command continues
python -m experiments.compare.levels --list

Writes tables with intervals over seeds, a plot and pictures to runs/levels/report.html (and .md).
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
import numpy as np

import vqvae_jax as vj
from experiments.pages.study import Column, Study
from experiments.run.codes import as_levels
from experiments.run.command import run
from experiments.run.recipe import hierarchy
from experiments.sweep.arms import Arm, Row
from experiments.sweep.comparison import choose, command_line, compare
from experiments.sweep.intervals import difference
from experiments.sweep.measuring import SHOWN, psnr_of_parts
from experiments.sweep.trial import images, make_arm, make_budget
from vqvae_jax import VQVAE, VQVAE2, Decoder, Encoder, Quantizer
from vqvae_jax.checks import check_size
from vqvae_jax.data.sources import EMBEDDED

DIM = 8  # of the codes: small codebooks do better in few dimensions

COLUMNS = (
    Column("psnr", "PSNR", "{:.2f}", "dB, of the mean squared error of all test images", max, True),
    Column("ssim", "SSIM", "{:.4f}", "mean over test images", max),
    Column("top_psnr", "PSNR, top only", "{:.2f}", "dB, decoded from the codes of the top level, "
           "with zeros for those below"),
    Column("used", "used", "{:.3f}", "share of the codes that occur in the test set, mean over "
           "levels and streams"),
    Column("bits_uniform", "bits", "{:,.1f}", "of one image, log2 K for each code", constant=True),
    Column("bits_entropy", "bits, entropy", "{:,.1f}", "of one image, at the entropy of the codes"),
    Column("parameters", "parameters", "{:,.0f}", "of encoders and decoders", constant=True),
    Column("ms_per_step", "ms/step", "{:.1f}", "median over chunks of training steps"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
    """Train autoencoders with one level of codes and with two, at equal bits, and compare them."""

    only: tuple[str, ...] = ()
    """Arms, as --list names them, or all of one number of bits."""
    list: bool = False
    """Name the arms and stop."""
    quick: bool = False
    """Two arms, 1 seed, 20 steps, 200 test images: says nothing about quality."""
    output: Path | None = None
    """Folder of results and pages; runs/levels, or runs/levels-quick."""
    seeds: int = 5
    """How many for each arm."""
    steps: int = 1000
    """Of training."""
    batch_size: int = 32
    """Images a step."""
    learning_rate: float = 4e-3
    """Of Adam, after a warm-up and before a cosine to 0."""
    width: int = 32
    """Channels of encoders and decoders."""
    depth: int = 1
    """Residual blocks in each."""
    data: str = EMBEDDED
    """Images: the embedded set, a TFDS name, a folder of IDX files, or a .npy file."""
    processes: int | None = None
    """How many arms at a time; without it, one for each core."""


def codebook(size: int) -> Quantizer:
    """The quantizer of every arm that looks codes up."""
    return vj.ema_vq(size, DIM, init=vj.kmeans(10), revive=vj.underused(0.1))


def models(channels: int, **inner) -> dict[str, dict[str, VQVAE | VQVAE2]]:
    """What is compared on images of 28 x 28, by the bits of an image and by label."""

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
            arms.append(make_arm(name, label, group, model, budget, top_only))
    return choose(arms[:2] if config.quick else arms, config.only)


def top_only(model, variables, test: np.ndarray) -> dict[str, float]:
    """The number of parameters; for two levels the PSNR of what the top alone decodes to."""
    parts = [v for k, v in variables["params"].items() if not k.startswith("codes")]
    numbers = {"parameters": float(sum(np.size(leaf) for leaf in jax.tree.leaves(parts)))}
    if not isinstance(model, VQVAE2):
        return numbers

    (alone,) = psnr_of_parts(model, variables, test, lambda maps: [(maps[0], None)])
    return numbers | {"top_psnr": alone}


def shrunk(config: Config) -> Config:
    """The options of a quick run."""
    return dataclasses.replace(config, seeds=1, steps=min(config.steps, 20))


def main(config: Config) -> Path | None:
    """Runs what is missing, then writes the pages."""
    check_size(seeds=config.seeds, steps=config.steps, batch_size=config.batch_size)
    command = command_line(config, "experiments.compare.levels")
    config = shrunk(config) if config.quick else config
    return compare(config, make_arms, partial(study, command), "levels")


def study(command: str, config: Config, rows: Sequence[Row]) -> Study:
    """The page without its results."""
    quick = f"A quick run of {config.steps} steps: its numbers say nothing about the models."
    return Study(
        title="One level of codes or two",
        about="The same budget, data and seeds, and in each table the same number of bits an image "
        "if each code takes log2 K. In a VQ-VAE-2 (arXiv:1906.00446) the bottom sees what the top "
        "decodes to. Two levels are 7 x 7 codes above 14 x 14; one level is 7 x 7 codes of 512, or "
        "two residual stages of 256, and else 14 x 14. Codebooks (ema_vq) have "
        f"{DIM} dimensions; fsq has 4 x 4 levels, and 8 at the bottom. {findings(rows)}",
        columns=COLUMNS,
        command=command,
        seeds=range(config.seeds),
        settings={
            **dataclasses.asdict(make_budget(config)),
            "width": config.width,
            "depth": config.depth,
        },
        note=quick if config.quick else "",
        originals=images(config.data)[1][:SHOWN],
    )


def findings(rows: Sequence[Row]) -> str:
    """For each number of bits, whether the best two levels beat the best one level, and by what."""
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


if __name__ == "__main__":
    run(main, Config)
