"""The network, data and budget that all arms of an ablation share, and the arms made with them."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from experiments.ablations.verdicts import (
    Claim,
    Measure,
    difference_of,
    mean_of,
    number,
    range_of,
    ratio_of,
)
from experiments.pages.study import Column, Study
from experiments.sweep.arms import Arm, Row
from experiments.sweep.metric_names import metric
from experiments.sweep.training_budget import Budget, More, images, make_arm, trainer
from vqvae_jax import VQVAE, Decoder, Encoder, Quantizer
from vqvae_jax.quantizers.combinators.schedules import Transformation


@dataclasses.dataclass(frozen=True)
class Setting(Budget):
    """The scale of an ablation: by default that of two CPU cores, seconds to a minute a seed.

    Attributes, beside those of the budget:
        width, depth: channels and residual blocks of encoder and decoder.
        halvings: how often each side of an image is halved, down to the grid of codes.
        dim: D of quantizers that look codes up, unless D is what is compared.
    """

    width: int = 32
    depth: int = 1
    halvings: int = 2
    dim: int = 64

    def budget(self) -> Budget:
        """The budget of each arm."""
        names = [field.name for field in dataclasses.fields(Budget)]
        return Budget(**{name: getattr(self, name) for name in names})


def quick(setting: Setting) -> Setting:
    """Makes a setting as small as it runs."""
    steps, shown = min(setting.steps, 20), min(setting.test_images, 200)
    return dataclasses.replace(setting, steps=steps, test_images=shown, fast_compile=True)


@dataclasses.dataclass(frozen=True)
class Ablation:
    """One question to runs of the same network and budget.

    Attributes:
        question: in one sentence.
        papers: the arXiv ids of those who answered it.
        claims: the papers' claims, with the rules by which they are judged.
        columns: the numbers in the tables.
        make_arms: `(setting) -> arms`; their names are those in the claims.
        paper: the paper's scale, for an accelerator.
        about: a paragraph for the page that says which arms there are.
        default: the scale of two cores.
        of_paper: claims that only the paper's own data can bear out.
        draw: further figures of the rows, by caption.
        caption: the caption of the arms' pictures.
    """

    question: str
    papers: tuple[str, ...]
    claims: tuple[Claim, ...]
    columns: tuple[Column, ...]
    make_arms: Callable[[Setting], list[Arm]]
    paper: Setting
    about: str
    default: Setting = Setting()
    of_paper: tuple[Claim, ...] = ()
    draw: Callable[[Sequence[Row]], Mapping[str, Figure]] = lambda rows: {}
    caption: str = Study.caption


def make_autoencoder(setting: Setting, q: Quantizer) -> VQVAE:
    """The VQ-VAE of the setting around a quantizer."""
    channels = images(setting.data)[0].shape[-1]
    inner = {"width": setting.width, "depth": setting.depth}
    return VQVAE(
        Encoder(channels, q.dim, downsamplings=setting.halvings, **inner),
        q,
        Decoder(channels, q.dim, upsamplings=setting.halvings, **inner),
    )


def quantizer_arms(
    setting: Setting,
    groups: Mapping[str, Mapping[str, Quantizer]],
    **options: Any,
) -> list[Arm]:
    """An arm for each quantizer, by the titles of its table and its line; see `quantizer_arm`."""
    return [
        quantizer_arm(setting, label, group, q, **options)
        for group, members in groups.items()
        for label, q in members.items()
    ]


def quantizer_arm(
    setting: Setting,
    label: str,
    group: str,
    q: Quantizer,
    *,
    optimizer: Transformation | None = None,
    marks: Sequence[int] = (),
    more: More = lambda *_: {},
    names: Mapping[str, Any] | None = None,
) -> Arm:
    """The arm of a quantizer, in the setting's autoencoder.

    Args:
        setting: the scale of all arms.
        label: in tables and plots.
        group: the title of its table.
        q: the quantizer.
        optimizer: in place of the budget's.
        marks: the steps at which the training loss is noted.
        more: `(model, variables, test images)` to further numbers.
        names: functions that are not public in `vqvae_jax`, by name.
    """
    model, budget = make_autoencoder(setting, q), setting.budget()
    return make_arm(
        arm_name(label, group),
        label,
        group,
        model,
        budget,
        partial(trainer, model, budget, more, optimizer=optimizer, marks=marks),
        names,
        optimizer=None if optimizer is None else repr(optimizer),
        marks=list(marks),
    )


def arm_name(label: str, group: str = "") -> str:
    """The name of an arm on the command line and in claims: words of its titles.

    Example:
        >>> arm_name("beta 0.25", "EMA codebook, re-seeded")
        'ema-codebook-re-seeded-beta-0.25'
    """
    text = f"{group} {label}".lower()
    kept = "".join(c if c.isalnum() or c in ".-" else " " for c in text)
    return "-".join(kept.split())


def gain(name: str, first: str, second: str) -> Measure:
    """The difference of a number between two arms."""
    text = f"{metric(name).title} of {first} less that of {second}"
    return difference_of(text, number(name, first), number(name, second))


def times(name: str, first: str, second: str) -> Measure:
    """The ratio of a number of two arms."""
    text = f"{metric(name).title} of {first} over that of {second}"
    return ratio_of(text, number(name, first), number(name, second))


def level(name: str, arm: str) -> Measure:
    """A number of one arm."""
    return mean_of(f"{metric(name).title} of {arm}", number(name, arm))


def range_over(name: str, *arms: str) -> Measure:
    """The range of a number over arms, for each seed."""
    text = f"range of {metric(name).title} over {len(arms)} arms, {arms[0]} to {arms[-1]}"
    return mean_of(text, range_of(name, *arms))
