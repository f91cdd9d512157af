"""The page of the command: tables and plots of all sections, with what isn't measured yet."""

import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from experiments.accelerator.record import Record
from experiments.accelerator.tables import NOT_YET
from experiments.accelerator.tasks import Found, Section, Task, failed
from experiments.pages import markdown as md
from vqvae_commands.pages.html import save
from vqvae_commands.pages.plots import png_bytes
from vqvae_commands.run.run_folder import write_text

ABOUT = (
    "All of this comes from `python -m experiments.accelerator`, in the calls that are listed at "
    "the end. Columns headed *expected* were worked out before any measurement, from operations, "
    "bytes and the compiled program, for one {card}: a measured time far from its expectation is a "
    "finding. What was compiled and counted is in docs/accelerator.md."
)


def write_page(
    folder: Path,
    record: Record,
    sections: Mapping[str, Section],
    plans: Mapping[str, Sequence[Task]],
) -> Path:
    """Writes report.md with its plots, and returns its path.

    Args:
        folder: folder for both.
        record: what was found.
        sections: all sections, by name.
        plans: the tasks of each.

    Raises:
        Exception: the first error of a section's tables or figures. The page is there all the same.
    """
    last = record.calls[-1]
    where = f"{last['machine'].get('card') or last['device']}, {last['date']}."
    pieces = [
        md.title("On an accelerator, measured"),
        ABOUT.format(card=last["machine"]["rates of"]),
        md.code(last["command"]),
        where if any(record.found.values()) else "Nothing was measured yet: no card was at hand.",
    ]
    errors = []
    for name, section in sections.items():
        found, clocks = record.of(name), record.clocks.get(name, "")
        try:
            pieces += section_blocks(section, plans[name], found, clocks)
            pieces += pictures(folder, section.figures(plans[name], found))
        except Exception as error:  # one section must not cost the page of all others
            errors.append(error)
            shown = "".join(traceback.format_exception(error))
            pieces += [md.heading(section.title), error_block("The table", {"failure": shown})]
    if any(record.found.values()):
        pieces += [md.heading("Machine and versions"), *map(call_block, record.calls)]
    write_text(folder / "report.md", md.page(pieces))
    if errors:
        raise errors[0]
    return folder / "report.md"


def pictures(folder: Path, figures: Mapping[str, Figure]) -> list[str]:
    """Saves figures by file name, and returns the lines that show them."""
    for file, figure in figures.items():
        save(folder / f"{file}.png", png_bytes(figure))
    return [md.picture(file, f"{file}.png") for file in figures]


def section_blocks(
    section: Section, plan: Sequence[Task], found: Mapping[str, Found], clocks: str
) -> list[str]:
    """Returns heading, tables and errors of a section."""
    pieces = [md.heading(section.title), section.about, counts(plan, found)]
    pieces += [f"Clocks just after: {clocks}."] if clocks else []
    for table in section.tables(plan, found):
        pieces += [md.bold(table.title)] if table.title else []
        pieces += [md.table([table.head, *table.rows], "---:")]
        pieces += [table.note] if table.note else []
    wrong = [task.name for task in plan if "failure" in found.get(task.name, {})]
    return pieces + [error_block(name, found[name]) for name in wrong]


def call_block(facts: Mapping[str, Any]) -> str:
    """Returns the facts on one call of the command."""
    flat = {"date": facts["date"], **facts["machine"], **facts["versions"]}
    known = {name: value for name, value in flat.items() if value not in ("", None)}
    return md.page([f"`{facts['command']}`", md.facts(known)]).rstrip()


def counts(plan: Sequence[Task], found: Mapping[str, Found]) -> str:
    """Returns in words how many tasks are done.

    Example:
        >>> tasks = [Task("a", print), Task("b", print), Task("c", print)]
        >>> counts(tasks, {"a": {"passed": True}, "b": {"failure": "no memory"}})
        '3 tasks: 1 done, 1 failed (b), 1 not measured.'
    """
    there = [task.name for task in plan if task.name in found]
    wrong = [name for name in there if failed(found[name])]
    named = f" ({'; '.join(wrong)})" if wrong else ""
    return (
        f"{len(plan)} tasks: {len(there) - len(wrong)} done, {len(wrong)} failed{named}, "
        f"{len(plan) - len(there)} {NOT_YET}."
    )


def error_block(name: str, found: Found) -> str:
    """Returns the whole error of a task."""
    text = found.get("traceback") or found["failure"]
    return f"{name} failed:\n\n{md.code(str(text).rstrip())}"
