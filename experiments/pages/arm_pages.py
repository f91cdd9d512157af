"""Pages of an experiment of `arms`: report.md, report.html (whole in one file), results.json.

results.csv, table.tex and all figures as PDF are for papers.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from experiments.pages import arm_figures
from experiments.pages import markdown as md
from experiments.pages.study import Study, entries, groups, legend_text, means
from experiments.sweep.arms import Row
from vqvae_commands.pages import html as web
from vqvae_commands.pages.plots import png_bytes
from vqvae_commands.run.run_folder import strict_json, write_text

ESCAPES = str.maketrans(
    {c: rf"\{c}" for c in "&%$#_{}"} | {"±": r"$\pm$", "~": r"\~{}", "^": r"\^{}", "\\": "/"}
)
INTERVALS = "Means and 95 % intervals"
FILES = (
    "For your own paper: all numbers as [CSV](results.csv) and [JSON](results.json), the tables in "
    "[LaTeX](table.tex), each picture as PDF beside its PNG."
)


def write_arm_pages(folder: Path, study: Study, rows: Sequence[Row]) -> Path:
    """Writes the pages, the tables and pictures/*, and returns the path of report.html."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    figures = make_figures(study, rows)
    pictures = {name: (caption, png_bytes(f)) for name, (caption, f) in figures.items()}
    for name, (_, png) in pictures.items():
        web.save(folder / "pictures" / f"{name}.png", png)
        web.save(folder / "pictures" / f"{name}.pdf", pdf_bytes(figures[name][1]))
    write_text(folder / "results.json", strict_json(results(study, rows), indent=1))
    write_text(folder / "results.csv", csv_text(rows))
    tables = {group: entries(study, members, str) for group, members in groups(rows).items()}
    write_text(folder / "table.tex", latex(tables))
    captions = [(name, caption) for name, (caption, _) in pictures.items()]
    write_text(folder / "report.md", arm_markdown(study, rows, captions))
    arm_html(study, rows, dict(pictures.values())).save(folder / "report.html")
    return folder / "report.html"


def make_figures(study: Study, rows: Sequence[Row]) -> dict[str, tuple[str, Figure]]:
    """Returns captions and figures by file name: the plot, the study's, pictures of the arms."""
    panels = {c.title: means(c, rows) for c in study.columns if c.drawn}
    made = {"intervals": (INTERVALS, arm_figures.interval_figure(panels))}
    for i, (caption, figure) in enumerate(study.figures.items()):
        made[f"figure{i + 1}"] = (caption, figure)
    shown = {}
    for group, members in groups(rows).items():
        found = {row.arm.label: row.pictures() for row in members}
        shown[group] = {name: images for name, images in found.items() if images is not None}
    if study.originals is not None and any(shown.values()):
        made["pictures"] = (study.caption, arm_figures.mosaics(study.originals, shown))
    return made


def arm_markdown(
    study: Study, rows: Sequence[Row], pictures: Sequence[tuple[str, str]] = ()
) -> str:
    """Returns the page as Markdown, with pictures by their names and captions."""
    note = [md.bold(study.note)] if study.note else []
    parts = [md.title(study.title), *note, study.about, md.code(study.command)]
    if study.findings:
        parts += [md.heading("Findings"), md.table(study.findings, "---")]
    for group, members in groups(rows).items():
        lines = entries(study, members, md.bold)
        parts += [md.heading(group or "Results"), md.table(lines, "---:")]
    parts += [legend_text(study), md.facts({c.title: c.meaning for c in study.columns})]
    parts += [f"{text}:\n\n{md.picture(text, f'pictures/{name}.png')}" for name, text in pictures]
    parts += [md.heading("Settings"), md.facts(settings_shown(study, rows)), FILES]
    parts += [f"Cite: {study.cite}"] if study.cite else []
    return md.page(parts)


def arm_html(study: Study, rows: Sequence[Row], pictures: Mapping[str, bytes]) -> web.Page:
    """Returns the page for one HTML file, with pictures by caption and every arm's definition."""
    parts = [web.section(web.bold(study.note))] if study.note else []
    parts.append(web.section(web.preformatted(study.command)))
    parts += [findings_section(study.findings)] if study.findings else []
    for group, members in groups(rows).items():
        lines = web.table(entries(study, members, web.bold))
        parts.append(web.section(web.heading(group or "Results"), web.scroll(lines)))
    meanings = web.terms({column.title: column.meaning for column in study.columns})
    parts.append(web.section(web.paragraph(legend_text(study)), meanings))
    parts += [web.picture(caption, "", png) for caption, png in pictures.items()]
    parts.append(web.section(web.heading("Settings"), web.facts(settings_shown(study, rows))))
    parts += [web.folded(row.arm.name, json.dumps(row.arm.definition, indent=1)) for row in rows]
    parts += [web.section(web.text(f"Cite: {study.cite}"))] if study.cite else []
    return web.Page(study.title, study.about, "\n".join(parts))


def findings_section(findings: Sequence[Sequence[str]]) -> str:
    """Returns each verdict with its claim, and the entries between them below."""
    (_, *names, _), *body = findings
    lines = []
    for claim, *texts, verdict in body:
        between = [f"{name}: {text}" for name, text in zip(names, texts, strict=True)]
        shown = f"{web.bold(verdict)}: {web.text(claim)}", *map(web.small, between)
        lines.append(("".join(shown),))
    return web.section(web.heading("Findings"), web.unheaded(lines))


def settings_shown(study: Study, rows: Sequence[Row]) -> dict[str, str]:
    """Returns settings, seeds, dates, versions, device and time of the results."""
    records = [record for row in rows for record in row.records]
    dates = sorted({record["date"] for record in records})
    found: dict[str, set[str]] = {}
    for record in records:
        for name, version in record["versions"].items():
            found.setdefault(name, set()).add(version)
    return {
        **{name: str(value) for name, value in study.settings.items()},
        "seeds": ", ".join(map(str, study.seeds)),
        "date": " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else "",
        "versions": ", ".join(f"{k} {' or '.join(sorted(v))}" for k, v in found.items()),
        "device": " or ".join(sorted({record["device"] for record in records})),
        "time": f"{sum(record['seconds'] for record in records) / 60:.0f} min over all processes",
    }


def results(study: Study, rows: Sequence[Row]) -> dict[str, Any]:
    """Returns all numbers of all seeds, without the pictures."""
    arms = [
        {
            "arm": row.arm.name,
            "label": row.arm.label,
            "group": row.arm.group,
            "definition": row.arm.definition,
            "seeds": [
                {k: record[k] for k in ("seed", "status", "reason", "numbers", "seconds")}
                for record in row.records
            ],
        }
        for row in rows
    ]
    return {
        "command": study.command,
        "note": study.note,
        "settings": settings_shown(study, rows),
        "arms": arms,
    }


def csv_text(rows: Sequence[Row]) -> str:
    """Returns all numbers, one line for each arm and seed; empty where there is none."""
    records = [(row.arm, record) for row in rows for record in row.records]
    names = list(dict.fromkeys(name for _, record in records for name in record["numbers"]))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["arm", "label", "group", "seed", "status", *names])
    for arm, record in records:
        numbers = [record["numbers"].get(name, "") for name in names]
        start = [arm.name, arm.label, arm.group, record["seed"], record["status"]]
        writer.writerow([*start, *numbers])
    return text.getvalue()


def latex(tables: Mapping[str, Sequence[Sequence[str]]]) -> str:
    """Returns tables by title, each a head and lines, as one tabular of the package booktabs."""
    found = list(tables.items())
    columns = len(found[0][1][0]) if found else 1
    lines = [rf"\begin{{tabular}}{{l{'r' * (columns - 1)}}}", r"\toprule"]
    lines += [latex_line(found[0][1][0])] if found else []
    for title, (_, *body) in found:
        lines.append(r"\midrule")
        if title:
            lines.append(rf"\multicolumn{{{columns}}}{{l}}{{{title.translate(ESCAPES)}}} \\")
        lines += [latex_line(line) for line in body]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def latex_line(entries: Sequence[str]) -> str:
    """Returns a line of a LaTeX table.

    Example:
        >>> latex_line(["a_1", "2 ± 1"])
        'a\\\\_1 & 2 $\\\\pm$ 1 \\\\\\\\'
    """
    return " & ".join(entry.translate(ESCAPES) for entry in entries) + r" \\"


def pdf_bytes(figure: Figure) -> bytes:
    """Returns the figure as a PDF file, without a date: equal figures give equal files."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="pdf", metadata={"CreationDate": None})
    return buffer.getvalue()
