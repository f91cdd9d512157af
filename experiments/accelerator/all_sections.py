"""Sections of the command by name, the most worthy first."""

from collections.abc import Mapping

from experiments.accelerator.checks import correct, kept_laws
from experiments.accelerator.tasks import Section
from experiments.accelerator.times import paper_scale, search_times, step_times, whole_runs

SECTIONS: Mapping[str, Section] = {
    "correct": correct.SECTION,
    "laws": kept_laws.SECTION,
    "search": search_times.SECTION,
    "step": step_times.SECTION,
    "runs": whole_runs.SECTION,
    "paper": paper_scale.SECTION,
}
