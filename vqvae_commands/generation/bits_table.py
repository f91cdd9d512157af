"""Tables of the bits of an item's codes, and of what a prior saves of a histogram's bits."""

from vqvae_commands.terminal.terminal_table import print_lines

COLUMNS = {
    "uniform_bits": "uniform",
    "static_bits": "static",
    "test_bits": "test",
    "validation_bits": "held out",
    "train_bits": "train",
}


def print_bits(tables: list[dict[str, float]], title: str) -> None:
    """Prints the table of all levels, and their sums."""
    head = ["", *COLUMNS.values(), "test below static"]
    print_lines([head, *table_rows(tables)], f"{title}; bits an item")


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
