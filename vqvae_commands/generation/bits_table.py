"""Tables of the bits of an item's codes, and of what a prior saves of a histogram's bits."""

from rich.console import Console
from rich.table import Table

COLUMNS = {
    "uniform_bits": "uniform",
    "static_bits": "static",
    "test_bits": "test",
    "validation_bits": "held out",
    "train_bits": "train",
}


def print_bits(tables: list[dict[str, float]], title: str) -> None:
    """Prints the table of all levels, and their sums."""
    view = Table(title=f"{title}; bits an item", title_justify="left")
    view.add_column("")
    for text in (*COLUMNS.values(), "test below static"):
        view.add_column(text, justify="right")
    for name, *numbers in table_rows(tables):
        view.add_row(name, *numbers)
    Console().print(view)


def table_rows(tables: list[dict[str, float]]) -> list[list[str]]:
    """Returns the row of each level, and of all together where there are several."""
    named = {f"level {i}": table for i, table in enumerate(tables)}
    if len(tables) > 1:
        named["all"] = {name: sum(t[name] for t in tables) for name in COLUMNS}
    return [
        [name, *(f"{table[column]:,.1f}" for column in COLUMNS), f"{saved(table):.1%}"]
        for name, table in named.items()
    ]


def saved(table: dict[str, float]) -> float:
    """Returns the share of the static bits of the test set that the prior saves."""
    return 1 - table["test_bits"] / table["static_bits"]
