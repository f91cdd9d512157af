"""The command line that gives the same options again."""

import dataclasses
import shlex
from collections.abc import Container, Iterator, Sequence
from typing import Any


def command_line(config: Any, words: Sequence[str], without: Container[str] = ()) -> str:
    """Returns a command with the options that differ from their defaults.

    Args:
        config: the options, a dataclass.
        words: the command, and the words that follow it.
        without: names of options that are left out.

    Example:
        >>> from vqvae_commands.tokenize import Config
        >>> command_line(Config("runs/my run", data="mnist"), ["vqvae", "tokenize"])
        "vqvae tokenize 'runs/my run' --data mnist"
    """
    found = list(words)
    for field in sorted(dataclasses.fields(config), key=has_default):
        value = getattr(config, field.name)
        if value != default(field) and field.name not in without:
            found += written(field, value)
    return shlex.join(found)


def has_default(field: dataclasses.Field) -> bool:
    """Returns whether it is an option; what has no default has its place before all options."""
    return default(field) is not dataclasses.MISSING


def default(field: dataclasses.Field) -> Any:
    """Returns the default of an option."""
    made = field.default_factory
    return field.default if made is dataclasses.MISSING else made()


def written(field: dataclasses.Field, value: Any) -> Iterator[str]:
    """Yields the words of an option."""
    name = field.name.replace("_", "-")
    if has_default(field):  # else it has no name in the line
        yield f"--no-{name}" if value is False else f"--{name}"
    if not isinstance(value, bool):
        yield from map(str, value if isinstance(value, tuple) else (value,))
