"""What an experiment of `arms` leaves: report.md, report.html (whole in one file), results.json.

For papers also results.csv, table.tex and every figure as PDF, see `exports`.
"""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from experiments.pages import charts, exports
from experiments.pages.figures import png_bytes
from experiments.pages.report import document, picture, save
from experiments.pages.report import rows as html_rows
from experiments.pages.study import Study, groups, legend, means, table
from experiments.run.runs import strict_json, write_text
from experiments.sweep.arms import Row

INTERVALS = "Means and 95 % intervals"
FILES = (
    "For your own paper: all numbers as [CSV](results.csv) and [JSON](results.json), the tables in "
    "[LaTeX](table.tex), each picture as PDF beside its PNG."
)


def write_pages(folder: Path, study: Study, rows: Sequence[Row]) -> Path:
    """Writes the pages, the tables and pictures/*, and returns the path of report.html."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    figures = make_figures(study, rows)
    pictures = {name: (caption, png_bytes(f)) for name, (caption, f) in figures.items()}
    for name, (_, png) in pictures.items():
        save(folder / "pictures" / f"{name}.png", png)
        save(folder / "pictures" / f"{name}.pdf", exports.pdf_bytes(figures[name][1]))
    write_text(folder / "results.json", strict_json(results(study, rows), indent=1))
    write_text(folder / "results.csv", exports.csv_text(rows))
    tables = {group: table(study, members, str) for group, members in groups(rows).items()}
    write_text(folder / "table.tex", exports.latex(tables))
    captions = [(name, caption) for name, (caption, _) in pictures.items()]
    write_text(folder / "report.md", markdown(study, rows, captions))
    save(folder / "report.html", html(study, rows, dict(pictures.values())).encode())
    return folder / "report.html"


def make_figures(study: Study, rows: Sequence[Row]) -> dict[str, tuple[str, Figure]]:
    """Captions and figures by file name: the plot, pictures of arms that have any, the study's."""
    panels = {c.title: means(c, rows) for c in study.columns if c.drawn}
    made = {"intervals": (INTERVALS, charts.intervals(panels))}
    for i, (caption, figure) in enumerate(study.figures.items()):
        made[f"figure{i + 1}"] = (caption, figure)
    shown = {}
    for group, members in groups(rows).items():
        found = {row.arm.label: row.pictures() for row in members}
        shown[group] = {name: images for name, images in found.items() if images is not None}
    if study.originals is not None and any(shown.values()):
        made["pictures"] = (study.caption, charts.mosaics(study.originals, shown))
    return made


def markdown(study: Study, rows: Sequence[Row], pictures: Sequence[tuple[str, str]] = ()) -> str:
    """The page as Markdown, with pictures by their names and captions."""
    note = [f"**{study.note}**"] if study.note else []
    parts = [f"# {study.title}", *note, study.about, f"```\n{study.command}\n```"]
    if study.findings:
        parts += ["## Findings", markdown_table(study.findings, "---")]
    for group, members in groups(rows).items():
        lines = table(study, members, lambda text: f"**{text}**")
        parts += [f"## {group or 'Results'}", markdown_table(lines, "---:")]
    parts.append(legend(study))
    parts.append("\n".join(f"- {column.title}: {column.meaning}" for column in study.columns))
    parts += [f"{text}:\n\n![{text}](pictures/{name}.png)" for name, text in pictures]
    facts = provenance(study, rows).items()
    parts += ["## Settings", "\n".join(f"- {name}: {value}" for name, value in facts)]
    parts.append(FILES)
    parts += [f"Cite: {study.cite}"] if study.cite else []
    return "\n\n".join(parts) + "\n"


def markdown_table(lines: Sequence[Sequence[str]], align: str) -> str:
    """Head and lines; the columns after the first are aligned as said."""
    head, *body = lines
    rule = ["---"] + [align] * (len(head) - 1)
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *body))


def html(study: Study, rows: Sequence[Row], pictures: Mapping[str, bytes]) -> str:
    """The page as one HTML file, with pictures by caption and the definition of every arm."""
    parts = [f"<section><b>{escape(study.note)}</b></section>"] if study.note else []
    parts.append(f"<section><pre>{escape(study.command)}</pre></section>")
    if study.findings:
        head, *body = study.findings
        whole = html_table([head, *([first, *map(escape, rest)] for first, *rest in body)])
        parts.append(f'<section><h2>Findings</h2><div class="scroll">{whole}</div></section>')
    for group, members in groups(rows).items():
        lines = table(study, members, lambda text: f"<b>{text}</b>")
        title = f"<h2>{escape(group or 'Results')}</h2>"
        parts.append(f'<section>{title}<div class="scroll">{html_table(lines)}</div></section>')
    meanings = [f"<b>{escape(c.title)}</b>: {escape(c.meaning)}" for c in study.columns]
    parts.append(f"<section><p>{escape(legend(study))}</p>{'<br>'.join(meanings)}</section>")
    parts += [picture(caption, "", png) for caption, png in pictures.items()]
    facts = html_rows((escape(k), escape(v)) for k, v in provenance(study, rows).items())
    parts.append(f'<section><h2>Settings</h2><table class="options">{facts}</table></section>')
    for row in rows:
        definition = escape(json.dumps(row.arm.definition, indent=1))
        name = escape(row.arm.name)
        parts.append(f"<details><summary>{name}</summary><pre>{definition}</pre></details>")
    parts += [f"<section>Cite: {escape(study.cite)}</section>"] if study.cite else []
    return document(study.title, study.about, "\n".join(parts))


def html_table(lines: Sequence[Sequence[str]]) -> str:
    """A table with a head; the first entries of the lines are plain text, the others HTML."""
    head, *body = lines
    titles = "".join(f"<td><small>{escape(title)}</small></td>" for title in head)
    entries = [
        f"<tr><th scope=row>{escape(first)}</th>{''.join(f'<td>{x}</td>' for x in rest)}</tr>"
        for first, *rest in body
    ]
    return f"<table><tr>{titles}</tr>{''.join(entries)}</table>"


def provenance(study: Study, rows: Sequence[Row]) -> dict[str, str]:
    """How the results came about: settings, seeds, dates, versions, device, time."""
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
    """All numbers of all seeds, without the pictures."""
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
        "settings": provenance(study, rows),
        "arms": arms,
    }
