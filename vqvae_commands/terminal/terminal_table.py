"""Tables on the terminal, which fit its width: 80 columns where there is none."""

from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

FRAME = 3  # columns that the frame takes for each column of the table, and one more
NAME = 24  # a first column may be folded down to this width


def print_lines(
    lines: Sequence[Sequence[str]], title: str = "", note: str = "", justify: str = "right"
) -> None:
    """Prints a table whose first line is the head; no number is cut.

    Entries too wide for the terminal are wrapped between words. Where even that does not fit, the
    columns left over follow in tables of their own, with the same first column.

    Args:
        lines: equally many entries each, all of them plain text.
        title, note: sentences above and below the table.
        justify: `left` or `right`, of all columns but the first.
    """
    console = Console()
    say(console, title)
    for columns in fitting(list(zip(*lines, strict=True)), console.width):
        table = Table()
        for column, width in zip(columns, widths(columns, console.width), strict=True):
            side = justify if table.columns else "left"
            table.add_column(Text(column[0]), width=width, justify=side, overflow="fold")
        for row in list(zip(*columns, strict=True))[1:]:
            table.add_row(*map(Text, row))
        console.print(table)
    say(console, note)


def say(console: Console, text: str) -> None:
    """Prints a sentence, wrapped between words; none where it is empty."""
    if text:
        console.print(Text(text))


def fitting(columns: list[Sequence[str]], width: int) -> list[list[Sequence[str]]]:
    """Returns groups of columns, each with the first one, whose words fit side by side."""
    first, *rest = columns
    groups = [[first]]
    for column in rest:
        wider = [*groups[-1], column]
        if len(wider) > 2 and sum(least(wider)) > room(width, wider):
            groups.append([first])
        groups[-1].append(column)
    return groups


def widths(columns: Sequence[Sequence[str]], width: int) -> list[int]:
    """Returns the width of each column: of its longest word, with more room of whole entries."""
    found = least(columns)
    for part in ([column[1:] for column in columns], columns):  # titles come last
        lacks = [max(map(cell_len, c), default=0) - n for c, n in zip(part, found, strict=True)]
        while sum(found) < room(width, columns) and max(lacks) > 0:
            i = lacks.index(max(lacks))
            found[i], lacks[i] = found[i] + 1, lacks[i] - 1
    return found


def least(columns: Sequence[Sequence[str]]) -> list[int]:
    """Returns the length of the longest word of each column; the first one may fold its words."""
    found = [max(cell_len(w) for text in c for w in text.split() or [""]) for c in columns]
    return [min(found[0], NAME), *found[1:]]


def room(width: int, columns: Sequence[object]) -> int:
    """Returns the width that the frame of these columns leaves for their entries."""
    return width - FRAME * len(columns) - 1
