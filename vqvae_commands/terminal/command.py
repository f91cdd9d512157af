"""The frame of every command: it parses options, and turns errors into one line and exit code 2."""

import contextlib
import io
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax

from vqvae_commands.terminal.interrupts import STOPPED, as_usual, until_unread

Config = TypeVar("Config")
python_format = warnings.formatwarning


def run(
    main: Callable[[Config], object],
    config: type[Config],
    args: Sequence[str] | None = None,
    prog: str | None = None,
) -> None:
    """Parses the command line into a `config` and calls `main` with it; compilations are cached.

    A ValueError (every check of this package raises one, `DataError` and `BundleError` included)
    or an OSError is the user's to fix: one line on stderr, exit code 2. Ctrl-C gives 130. Any
    other exception is a mistake of the program and keeps its traceback; under `python -X dev`
    all of them do.

    Args:
        main: takes the parsed options.
        config: a dataclass whose docstrings explain the options.
        args: the command line, by default that of the process.
        prog: what was typed to call it, by default `python -m` and the module's name.
    """
    import tyro  # here, since images for accelerators lack it, and `guarded` works without

    with until_unread():
        options = parsed(partial(tyro.cli, config, prog=prog or program(), args=args))
        keep_compilations()
        warnings.formatwarning = in_one_line
        with as_usual():
            guarded(main, options)


def parsed(parse: Callable[[], Config]) -> Config:
    """Returns `parse()`; what it writes to stderr, a box of many lines, becomes one line."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return parse()
    except SystemExit as stop:
        inner = (line for line in said.getvalue().splitlines() if line[:1] not in "╭╰├")
        words = [line.strip("│─ ") for line in inner]
        kept = [line for line in words if line and "full helptext" not in line]
        if stop.code:
            print(f"error: {' '.join(kept)}; see --help", file=sys.stderr)
        raise


def guarded(main: Callable[[Any], object], options: Any) -> Any:
    """Returns `main(options)`; errors end the process as in `run`."""
    try:
        return main(options)
    except KeyboardInterrupt as stop:
        line, code = str(stop) or "stopped", STOPPED
    except BrokenPipeError:
        raise  # to `until_unread`
    except (ValueError, OSError) as error:
        if sys.flags.dev_mode:
            raise
        line, code = f"error: {one_line(error)}", 2
    # Here no traceback keeps objects, such as semaphores, from being cleaned up.
    print(line, file=sys.stderr)
    sys.exit(code)


def keep_compilations() -> None:
    """Keeps programs that took more than a second to compile in a folder, for the next command.

    The folder is the one that JAX_COMPILATION_CACHE_DIR names, else that of `cache_folder`.
    """
    if jax.config.jax_compilation_cache_dir is not None:
        return
    folder = cache_folder()
    if folder is not None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)  # for processes that this one starts


def cache_folder() -> Path | None:
    """~/.cache/vqvae_jax, or in XDG_CACHE_HOME; made if missing, None where it can't be written."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "vqvae_jax")
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # no right to make it, or no home
        return None
    return folder if os.access(folder, os.W_OK) else None


def in_one_line(message, category, filename, lineno, line=None) -> str:
    """Formats a warning for the user as a line, and one for programmers as Python does."""
    if category is UserWarning:
        return f"warning: {message}\n"
    return python_format(message, category, filename, lineno, line)


def program() -> str | None:
    """The command as the user typed it, `python -m experiments.train`, for the help text."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.name.removesuffix('.__main__')}" if spec else None


def one_line(error: Exception) -> str:
    """The error's message without line breaks; the file's name first where there is one."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
