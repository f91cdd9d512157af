"""Our EMA VQ-VAE in the configuration of Sonnet's notebook, beside the curve that it logged."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

import vqvae_jax as vj
from experiments.ablations.curves import Figures, legend, panel
from experiments.ablations.settings import Ablation, Setting, quantizer_arm
from experiments.ablations.shared import DRAWN
from experiments.ablations.verdicts import Claim, Measure, above, mean_of, number, ratio_of, within
from experiments.sweep.arms import Arm, Result, Row
from experiments.sweep.intervals import interval
from experiments.sweep.metric_names import columns
from experiments.sweep.training_budget import images
from vqvae_commands.pages.plots import new_figure

LOGGED = {
    100: (0.483, 10.4), 500: (0.147, 34.3), 1000: (0.105, 71.8), 2000: (0.081, 154.0),
    5000: (0.061, 326.7), 10_000: (0.056, 326.3),
}  # fmt: skip
"""The curve of CIFAR-10: by step, squared error over the pixels' variance, batch perplexity."""
ARM = "sonnet"
NOTEBOOK = "Sonnet's notebook vqvae_example"


def make_arms(setting: Setting) -> list[Arm]:
    """The one arm."""
    q = vj.ema_vq(512, 64, 0.99, beta=0.25, init=vj.inits.zero_debiased())
    adam = vj.combinators.from_optax("adam", 3e-4)
    marks = [step for step in LOGGED if step <= setting.steps]
    arm = quantizer_arm(setting, "Sonnet", "", q, optimizer=adam, marks=marks)
    return [dataclasses.replace(arm, prepare=partial(prepare, arm.prepare, setting.data))]


def prepare(make_run: Callable[[], Callable[[int], Result]], data: str) -> Callable[[int], Result]:
    """`run(seed)`, with errors over the variance of the training pixels as well."""
    run, train = make_run(), images(data)[0]
    variance = float(np.var(np.asarray(train[:10_000]), dtype=np.float64)) / 255**2

    def normalised(seed: int) -> Result:
        result = run(seed)
        curve = {k: v for k, v in result.numbers.items() if k.startswith("mse@")}
        shares = {f"n{name}": value / variance for name, value in curve.items()}
        return dataclasses.replace(result, numbers={**result.numbers, **shares})

    return normalised


def change(name: str, title: str, first: int, second: int) -> Measure:
    """The ratio of a number of training at two steps."""
    text = f"{title} at step {first:,} over that at step {second:,}"
    return ratio_of(text, number(f"{name}@{first}", ARM), number(f"{name}@{second}", ARM))


def logged(step: int) -> Claim:
    """The claim that the error is the notebook's, to a tenth."""
    error = LOGGED[step][0]
    measure = mean_of(f"error over variance at step {step:,}", number(f"nmse@{step}", ARM))
    return Claim(
        f"On CIFAR-10 the error at step {step:,} is the notebook's, to a tenth.",
        (within(measure, 0.9 * error, 1.1 * error),),
        f"{error:g} ({NOTEBOOK})",
    )


def draw(rows: Sequence[Row]) -> Figures:
    """Our curves and the notebook's, over steps."""
    figure = new_figure(2.6)
    kinds = {"nmse": "error over variance", "perplexity_batch": "perplexity of a batch"}
    cells = figure.subplots(1, 2)
    for i, (axes, (name, text)) in enumerate(zip(cells, kinds.items(), strict=True)):
        ours = {step: interval(row.values(f"{name}@{step}")) for row in rows for step in LOGGED}
        known = {step: pair for step, pair in ours.items() if np.isfinite(pair[0])}
        theirs = {step: (found[i], 0.0) for step, found in LOGGED.items()}
        lines = {"ours": known, "notebook, CIFAR-10": theirs}
        panel(axes, text, "step", {label: points for label, points in lines.items() if points})
        axes.set_xscale("log")
    cells[0].set_yscale("log")
    legend(cells[0])
    return {"Our curve, and the one that Sonnet's notebook logged": figure}


STEPS = (100, 500, 1000)
DIFFERS = "CIFAR-10; residual blocks of 32 channels"

SONNET = Ablation(
    question="Does our EMA VQ-VAE learn like Sonnet's?",
    papers=("1711.00937",),
    claims=(
        Claim(
            "From step 100 to step 1,000 the error falls to less than half.",
            (above(change("mse", "error", 100, 1000), 2.0),),
            f"4.6 times, .483 to .105 ({NOTEBOOK})",
            DIFFERS,
        ),
        Claim(
            "Meanwhile the perplexity of a batch grows at least 3 times.",
            (above(change("perplexity_batch", "perplexity", 1000, 100), 3.0),),
            f"6.9 times, 10.4 to 71.8 ({NOTEBOOK})",
            DIFFERS,
        ),
    ),
    columns=columns(
        "psnr",
        "ssim",
        *(f"nmse@{step}" for step in STEPS),
        *(f"perplexity_batch@{step}" for step in STEPS),
        "used",
        "ms_per_step",
        drawn=DRAWN,
    ),
    make_arms=make_arms,
    default=Setting(width=128, depth=2),
    paper=Setting("cifar10", 10_000, 32, 3e-4, test_images=10_000, width=128, depth=2),
    of_paper=tuple(logged(step) for step in (1000, 5000, 10_000)),
    draw=draw,
    about="512 codes of 64 dimensions, decay 0.99, averages that start at 0 with bias "
    "correction, beta 0.25, width 128, 2 residual blocks, batches of 32, Adam at a constant 3e-4.",
)  # fmt: skip
