"""What every command does around its `main`: options in, one line and an exit code out."""

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro

Config = TypeVar("Config")


def run(
    main: Callable[[Config], object], config: type[Config], args: Sequence[str] | None = None
) -> None:
    """Parses the command line into a `config` and calls `main` with it.

    A ValueError (every check of this package raises one, `DataError` and `BundleError` included)
    or an OSError is the user's to mend: one line on stderr, exit code 2. Ctrl-C gives 130. Any
    other exception is a mistake of the program and keeps its traceback; under `python -X dev`
    all of them do.

    Args:
        main: takes the parsed options.
        config: a dataclass whose docstrings explain the options.
        args: the command line, by default that of the process.
    """
    options = tyro.cli(config, prog=program(), args=args)
    try:
        main(options)
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError) as error:
        if sys.flags.dev_mode:
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)


def program() -> str | None:
    """The command as the user typed it, `python -m experiments.train`, for the help text."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.name}" if spec else None


def one_line(error: Exception) -> str:
    """The error's message without line breaks; the file's name first where there is one."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
