"""The page on what the codes of a run mean, with its pictures and numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vqvae_commands.code_meaning.probes import Score
from vqvae_commands.code_meaning.representations import MEANING
from vqvae_commands.code_meaning.sections import Section
from vqvae_commands.pages import html
from vqvae_commands.pages.plots import png_bytes
from vqvae_commands.run import code_streams
from vqvae_commands.run.run_folder import strict_json, write_text

NO_LABELS = "The data have no labels, so there are no probes."


def write_page(
    folder: Path,
    name: str,
    data: str,
    results: Mapping[str, Any],
    found: Sequence[Section],
    probes: Mapping[str, tuple[int, dict[str, Score]]],
) -> html.Page:
    """Writes pictures/*.png, results.json, and the page with all of them in it; returns it.

    Args:
        folder: the folder to write to.
        name, data: the run's name, and the source of its data.
        results: the numbers.
        found: the parts, each a figure with its caption.
        probes: dimension and scores of each representation; none without labels.
    """
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    sections = [html.headline(headline(results))]
    for part in found:
        png = png_bytes(part.figure)
        html.save(folder / "pictures" / f"{part.name}.png", png)
        sections.append(html.picture(part.title, part.caption, png))
    sections.append(html.section(probe_table(probes) if probes else html.text(NO_LABELS)))
    write_text(folder / "results.json", strict_json(results, indent=1))
    title = f"{name}: what the codes mean"
    lead = f"{data} · {results['images']:,} test images"
    page = html.Page(title, lead, "\n".join(sections))
    page.save(folder / "report.html")
    return page


def headline(results: Mapping[str, Any]) -> dict[str, str]:
    """The most important numbers, by their names."""
    shown = {}
    for prefix, s in results["streams"].items():
        if "used" in s:
            where = f", {code_streams.title(prefix)}" if prefix else ""
            shown[f"codes used{where}"] = f"{s['used']:,} of {s['size']:,}"
            shown[f"bits of a code{where}"] = f"{s['entropy']:.2f}"
    for name, reach in results["reach"].items():
        where = f", {name}" if len(results["reach"]) > 1 else ""
        shown[f"of a change lie in its cell{where}"] = f"{reach['share'][0]:.0%}"
    for name, scores in results.get("probes", {}).items():
        if name in ("pixels", "z_q", "histogram"):
            shown[f"linear probe of {name}"] = f"{scores['linear']['accuracy']:.1%}"
    return shown


def probe_table(probes: Mapping[str, tuple[int, dict[str, Score]]]) -> str:
    """Table of the probes: dimension and accuracies, with a line about each representation."""
    lines = [["", "dimension", "linear probe", "nearest neighbours"]]
    lines += [
        [name, f"{dim:,}", *map(accuracy_cell, s.values())] for name, (dim, s) in probes.items()
    ]
    return html.scroll(html.table(lines)) + html.note(html.terms({n: MEANING[n] for n in probes}))


def accuracy_cell(s: Score) -> str:
    """Accuracy with its interval, as HTML."""
    return f"{s.accuracy:.1%} " + html.small(f"{s.low:.1%} to {s.high:.1%}")
