"""The page of an ablation, and the table of what all of them found."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.ablations import ABLATIONS
from experiments.ablations.settings import Ablation, Setting
from experiments.ablations.verdicts import Finding, Interval, judge
from experiments.pages import markdown
from experiments.pages.study import Study
from experiments.sweep.arm_metrics import SHOWN
from experiments.sweep.arms import Row
from experiments.sweep.training_budget import described, images
from vqvae_commands.run.environment import version
from vqvae_commands.run.run_folder import write_text

HEAD = ("claim", "paper", "what differs there", "rule", "ours", "verdict")
SCALE = (
    "Each claim has a rule. It is reproduced if the 95 % interval over seeds lies within the "
    "rule's region, not reproduced if it lies outside, and is otherwise undecided."
)
QUICK = "A quick run of {} steps with one seed: its numbers say nothing about the claims."


def study_of(
    name: str,
    ablation: Ablation,
    setting: Setting,
    command: str,
    seeds: int,
    rows: Sequence[Row],
) -> Study:
    """The page without its results.

    Args:
        name, ablation: the ablation and its name.
        setting: the scale of its arms.
        command: the command that makes the page.
        seeds: the number of seeds for each arm.
        rows: the results, from which the findings follow.
    """
    claims = ablation.claims + (ablation.of_paper if setting.data == ablation.paper.data else ())
    found = judge(claims, rows)
    papers = ", ".join(f"arXiv:{paper}" for paper in ablation.papers)
    shown = next((len(p) for p in (row.pictures() for row in rows) if p is not None), SHOWN)
    return Study(
        title=ablation.question,
        about=f"{ablation.about} Arms share network, budget and data apart from what is compared. "
        f"{SCALE}",
        columns=ablation.columns,
        command=command,
        seeds=range(seeds),
        settings=described(setting),
        note=QUICK.format(setting.steps) if setting.fast_compile else "",
        originals=images(setting.data)[1][:shown],
        caption=ablation.caption,
        findings=(HEAD, *map(line, found)),
        figures=ablation.draw(rows),
        cite=f"vqvae_jax {version('vqvae_jax')}, ablation {name}: `{command}`; after {papers}.",
    )


def line(finding: Finding) -> tuple[str, ...]:
    """A line of the table of findings."""
    claim = finding.claim
    rules = "; ".join(map(str, claim.rules))
    ours = "; ".join(map(interval_text, finding.measured))
    return claim.text, claim.paper, claim.differs or "-", rules, ours, finding.verdict


def interval_text(measured: Interval) -> str:
    """The number with its interval."""
    if math.isnan(measured.value):
        return "-"
    if math.isnan(measured.low):
        return f"{measured.value:.3g}, no interval"
    return f"{measured.value:.3g} ({measured.low:.3g} to {measured.high:.3g})"


def write_summary(folder: Path, rows: Mapping[str, Sequence[Row]]) -> Path:
    """A table of all findings, of the ablations that have results; returns its path."""
    lines, counts = [], {}
    for name, found in rows.items():
        if not any(row.records for row in found):
            continue
        for finding in judge(ABLATIONS[name].claims, found):
            text, paper, _, _, ours, verdict = line(finding)
            lines.append((f"[{name}]({name}/report.md)", text, paper, ours, markdown.bold(verdict)))
            counts[verdict] = counts.get(verdict, 0) + 1
    head = ("ablation", "claim", "paper", "ours", "verdict")
    total = ", ".join(f"{n} {verdict}" for verdict, n in sorted(counts.items()))
    parts = [
        markdown.title("What the ablations found"),
        f"{len(lines)} claims: {total}. {SCALE} What differs in the paper's setting stands on each "
        "page, with its command.",
        markdown.table((head, *lines), "---"),
    ]
    write_text(folder / "README.md", markdown.page(parts))
    return folder / "README.md"
