"""Ctrl-C, and readers of the output that leave: a command ends in a line or none, no traceback."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

STOPPED, UNREAD = 130, 141  # exit codes, those of a shell after SIGINT and SIGPIPE


def end_in_one_line() -> None:
    """Makes Ctrl-C end the process at once, with exit code 130, until `as_usual`.

    Nothing has been written by then. A shell's background job, which ignores Ctrl-C, goes on to.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end)


def end(number: int = signal.SIGINT, frame: object = None) -> None:
    """Ends the process; as a KeyboardInterrupt, a module being imported might swallow it."""
    os.write(2, b"stopped\n")
    os._exit(STOPPED)


@contextmanager
def as_usual() -> Iterator[None]:
    """Makes Ctrl-C raise a KeyboardInterrupt within the context, and then again end the process.

    A process that was stopped ends without the interpreter's last steps, in which threads that
    still compile or compute would crash.
    """
    early = signal.getsignal(signal.SIGINT) is end
    try:
        if early:
            sys.unraisablehook = end_if_lost
            signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
    except KeyboardInterrupt:
        if early:
            end()
        raise
    except SystemExit as stop:
        if early and stop.code == STOPPED:
            print(end="", flush=True)
            os._exit(STOPPED)
        raise
    finally:
        if early:
            signal.signal(signal.SIGINT, end)


def end_if_lost(lost: "sys.UnraisableHookArgs") -> None:
    """Ends the process where a callback, as of the garbage collector, lost a KeyboardInterrupt."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        end()
    sys.__unraisablehook__(lost)


@contextmanager
def held_back() -> Iterator[None]:
    """Keeps Ctrl-C from processes that are started within the context, for as long as they live."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def until_unread() -> Iterator[None]:
    """Ends the process where nobody reads what it prints, as in `vqvae evaluate RUN | head -1`."""
    try:
        try:
            yield
        finally:
            print(end="", flush=True)
    except BrokenPipeError:
        os._exit(UNREAD)  # the interpreter would try to write what is left
    except OSError as error:  # a full disk, say, which `guarded` may have told already
        if not isinstance(error.__context__, SystemExit):
            os.write(2, f"error: {error}\n".encode())
        os._exit(2)
