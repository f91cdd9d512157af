"""Pieces of Markdown pages: each function returns one block or one phrase as text."""

from collections.abc import Iterable, Mapping, Sequence


def page(blocks: Iterable[str]) -> str:
    """Returns the blocks as one text, with an empty line between each two."""
    return "\n\n".join(blocks) + "\n"


def title(text: str) -> str:
    """Returns the heading of a page."""
    return f"# {text}"


def heading(text: str) -> str:
    """Returns the heading of a section."""
    return f"## {text}"


def bold(text: str) -> str:
    """Returns the text in bold."""
    return f"**{text}**"


def table(lines: Sequence[Sequence[str]], align: str) -> str:
    """Returns a table, whose first line is the head.

    Args:
        lines: equally many entries each.
        align: the rule below the heads of all columns but the first: "---" aligns left, "---:"
            right.

    Example:
        >>> print(table([["", "PSNR"], ["vq", "25.1"]], "---:"))
        |  | PSNR |
        | --- | ---: |
        | vq | 25.1 |
    """
    head, *body = lines
    rule = ["---"] + [align] * (len(head) - 1)
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *body))


def bullets(lines: Iterable[str]) -> str:
    """Returns a list with one item for each line."""
    return "\n".join(f"- {line}" for line in lines)


def facts(values: Mapping[str, object]) -> str:
    """Returns a list with one item "name: value" for each value."""
    return bullets(f"{name}: {value}" for name, value in values.items())


def code(text: str) -> str:
    """Returns the text as a block of code."""
    return f"```\n{text}\n```"


def picture(text: str, path: str) -> str:
    """Returns a picture by its path, with a text for readers who don't see it."""
    return f"![{text}]({path})"
