"""Ctrl-C while a command starts: one line instead of a traceback through half-imported modules."""

import os
import signal


def end_in_one_line() -> None:
    """Makes Ctrl-C end the process at once, with exit code 130, until `as_usual`.

    Nothing has been written by then. A shell's background job, which ignores Ctrl-C, goes on to.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end)


def end(number: int, frame: object) -> None:
    """Ends the process; as a KeyboardInterrupt, a module being imported might swallow it."""
    os.write(2, b"stopped\n")
    os._exit(130)


def as_usual() -> None:
    """Makes Ctrl-C raise a KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is end:
        signal.signal(signal.SIGINT, signal.default_int_handler)
