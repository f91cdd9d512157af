"""Results of a benchmark: tables on the terminal, results.json, pictures and report.md."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from experiments.bench.timing import Race, Spread
from experiments.pages import markdown as md
from vqvae_commands.pages.html import save
from vqvae_commands.pages.plots import png_bytes
from vqvae_commands.run.run_folder import strict_json, write_text
from vqvae_commands.terminal.terminal_table import print_lines


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        title: line above the table.
        head: titles of the columns.
        rows: entries of each row, as many as the head has.
        note: paragraph below the table.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Part:
    """Results of one benchmark.

    Attributes:
        name: subcommand of the benchmark.
        about: paragraph on what is measured.
        tables: tables of the page.
        data: all numbers, as JSON values.
        figures: plots by file name.
        skipped: a line for each contestant that couldn't run.
    """

    name: str
    about: str
    tables: Sequence[Table]
    data: Mapping[str, Any]
    figures: Mapping[str, Figure] = dataclasses.field(default_factory=dict)
    skipped: Sequence[str] = ()


def print_part(part: Part) -> None:
    """Prints the tables and the skipped contestants."""
    for table in part.tables:
        print_lines([table.head, *table.rows], table.title, table.note)
    print(*(f"{line}\n" for line in part.skipped), sep="", end="")


def write_part(folder: Path, part: Part, facts: Mapping[str, Any]) -> Path:
    """Writes NAME/results.json, NAME/*.png and NAME/report.md, and returns the path of the page.

    Args:
        folder: folder of all benchmarks.
        part: results of one benchmark.
        facts: result of `machine.provenance`.
    """
    home = folder / part.name
    home.mkdir(parents=True, exist_ok=True)
    for name, figure in part.figures.items():
        save(home / f"{name}.png", png_bytes(figure))
    found = {**facts, "benchmark": part.name, "skipped": list(part.skipped), **part.data}
    write_text(home / "results.json", strict_json(found, indent=1))
    write_text(home / "report.md", part_markdown(part, facts))
    return home / "report.md"


def part_markdown(part: Part, facts: Mapping[str, Any]) -> str:
    """Returns the page of a benchmark as Markdown."""
    pieces = [md.title(f"Benchmark: {part.name}"), part.about, md.code(facts["command"])]
    for table in part.tables:
        pieces += [md.heading(table.title), md.table([table.head, *table.rows], "---:")]
        pieces += [table.note] if table.note else []
    pieces += [md.picture(name, f"{name}.png") for name in part.figures]
    pieces += [md.bullets(part.skipped)] if part.skipped else []
    flat = {"date": facts["date"], **facts["machine"], **facts["versions"]}
    known = {name: value for name, value in flat.items() if value not in ("", None)}
    return md.page([*pieces, md.heading("Machine and versions"), md.facts(known)])


LEGEND = (
    "Medians over rounds in which the contestants take turns, quartiles in brackets; a ratio is "
    "that of two times of the same round."
)


def race_json(race: Race) -> dict[str, Any]:
    """Returns all times of a race, with medians and ratios, as JSON values."""
    return {
        **dataclasses.asdict(race),
        "median_seconds": {name: race.time(name).median for name in race.seconds},
        "ratio_to_baseline": {name: race.ratio(name)._asdict() for name in race.seconds},
    }


def race_table(
    race: Race, title: str, columns: Mapping[str, Callable[[str], str]], note: str = ""
) -> Table:
    """Returns a table with a line for each contestant.

    Args:
        race: results.
        title: line above the table.
        columns: functions from the name of a contestant to its entry, by the title of the column.
        note: paragraph below the table.
    """
    rows = [[name, *(entry(name) for entry in columns.values())] for name in race.seconds]
    return Table(title, ["", *columns], rows, note)


def spread_text(values: Spread, form: str = "{:.2f}", scale: float = 1.0) -> str:
    """Returns `median [first quartile, third quartile]`.

    Example:
        >>> spread_text(Spread(0.5, 0.25, 0.75), "{:.0f}", 1000)
        '500 [250, 750]'
    """
    median, low, high = (form.format(scale * value) for value in values)
    return f"{median} [{low}, {high}]"


def time_text(values: Spread) -> str:
    """Returns a time in milliseconds, with quartiles."""
    return spread_text(values, "{:.3g}", 1000)


def compile_text(race: Race, name: str) -> str:
    """Returns the seconds of compiling; empty where nothing compiles ahead."""
    seconds = race.compile_seconds.get(name)
    return "" if seconds is None else f"{seconds:.2f}"


def rate(race: Race, name: str) -> Spread:
    """Returns examples a second; `race.sizes` must have the batch."""
    median, low, high = race.time(name)
    return Spread(*(race.sizes["batch"] / seconds for seconds in (median, high, low)))
