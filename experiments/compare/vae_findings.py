"""Findings of `experiments.compare vae`: each claim with the numbers for or against it."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import fdtr

from experiments.sweep.arms import Row
from experiments.sweep.intervals import difference, pooled

OURS, OTHER = "VQ-VAE", "VAE"


def findings(rows: Sequence[Row]) -> str:
    """Returns differences at equal rate and of samples, and stability over seeds and rates."""
    if not any(row.records for row in rows):
        return ""
    parts = [
        difference_text(rows, "psnr", "PSNR", "dB", higher=True),
        difference_text(
            rows, "frechet", "Frechet distance of samples", "", OTHER_SAMPLES, higher=False
        ),
        difference_text(
            rows, "frechet_independent", "the same without a learnt prior", "", higher=False
        ),
        difference_text(rows, "trained_on", "accuracy of a classifier of samples", "", higher=True),
        *(stability(rows, label) for label in dict.fromkeys(row.arm.label for row in rows)),
        steadier(rows),
    ]
    return " ".join(part for part in parts if part)


OTHER_SAMPLES = "frechet_independent"


def difference_text(
    rows: Sequence[Row], name: str, what: str, unit: str, other: str = "", *, higher: bool
) -> str:
    """Returns one number of VQ-VAE minus that of VAE, at each learning rate where both have it."""
    found = []
    for group in dict.fromkeys(row.arm.group for row in rows):
        members = {row.arm.label: row for row in rows if row.arm.group == group}
        if OURS not in members or OTHER not in members:
            continue
        ours, theirs = members[OURS].values(name), members[OTHER].values(other or name)
        if ours and theirs:
            mean, half = difference(ours, theirs)
            gain = mean if higher else -mean
            word = "undecided" if not abs(mean) > half else "better" if gain > 0 else "worse"
            found.append(f"{mean:+.3g} ± {half:.2g} {unit}".strip() + f" ({group.lower()}, {word})")
    return f"{what}, {OURS} less {OTHER}: {'; '.join(found)}." if found else ""


def values(rows: Sequence[Row], label: str) -> list[list[float]]:
    """Returns the PSNRs of a model at each learning rate."""
    return [row.values("psnr") for row in rows if row.arm.label == label]


def steadier(rows: Sequence[Row]) -> str:
    """Returns the ratio of the variances over seeds, with the verdict of an F-test."""
    (ours, n), (theirs, m) = pooled(values(rows, OURS)), pooled(values(rows, OTHER))
    if not min(n, m) or not min(ours, theirs):
        return ""
    below = float(fdtr(n, m, ours / theirs))
    p = 2 * min(below, 1 - below)
    word = "undecided" if p > 0.05 else "steadier" if ours < theirs else "less steady"
    return (
        f"The variance over seeds of {OURS} is {ours / theirs:.2f} times that of {OTHER} (F-test, "
        f"p = {p:.2f}, {word})."
    )


def stability(rows: Sequence[Row], label: str) -> str:
    """Returns one model's deviation over seeds, range over learning rates and diverged runs."""
    mine = [row for row in rows if row.arm.label == label]
    known = [v for v in values(rows, label) if v]
    if not known:
        return ""
    means = [float(np.mean(v)) for v in known]
    spread = math.sqrt(pooled(known)[0])
    lost, total = sum(row.count("diverged") for row in mine), sum(len(row.records) for row in mine)
    return (
        f"{label}: the PSNR deviates by {spread:.3f} dB over seeds, and its means over learning "
        f"rates differ by up to {max(means) - min(means):.2f} dB; {lost} of {total} runs diverged."
    )
