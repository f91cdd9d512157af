"""Results for papers: CSV, a LaTeX table, and figures as PDF."""

import csv
import io
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from experiments.sweep.arms import Row

ESCAPES = str.maketrans(
    {c: rf"\{c}" for c in "&%$#_{}"} | {"±": r"$\pm$", "~": r"\~{}", "^": r"\^{}", "\\": "/"}
)


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
