"""Training loop: runs a train step, calls hooks at intervals, stops cleanly on signals."""

import signal
import threading
from collections.abc import Callable, Iterable
from typing import Any

from vqvae_jax.training.step import TrainState

Hook = Callable[[int, TrainState, dict[str, Any]], Callable[[], None] | None]


class Interrupt:
    """Turns SIGINT and SIGTERM into a flag, so that the current step is finished and saved.

    A second signal has its ordinary effect. `signal` is the signal received, or None.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.signal: int | None = None
        self.before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupt":
        # Python lets only the main thread set signal handlers.
        if threading.current_thread() is threading.main_thread():
            self.before = {s: signal.signal(s, self.receive) for s in self.SIGNALS}
        return self

    def receive(self, number: int, frame) -> None:
        self.signal = number
        self.restore()

    def restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def __exit__(self, *_) -> None:
        self.restore()


def run_steps(
    state: TrainState,
    step: Callable[[TrainState, Any], tuple[TrainState, dict[str, Any]]],
    batches: Iterable,
    last: int,
    hooks: dict[Hook, int],
    interrupted: Callable[[], bool] = lambda: False,
) -> TrainState:
    """Runs steps until `last`, or until `interrupted`, and returns the state.

    Args:
        state: initial state; batch i of `batches` belongs to step `state.step + i`.
        step: train step compiled by `parallel`.
        batches: host batches, endless or long enough.
        last: number of steps of the whole run.
        hooks: functions of (steps done, state, metrics), each with the interval of steps at which
            it is called; all are called after the last step too. Reading an array waits for the
            step, during which the device gets no new work. Work that can wait, such as writing
            metrics, a hook returns as a function, to be called once the next step runs. That
            function must not read the state.
        interrupted: function called between steps; True ends the run.
    """
    first = int(state.step)
    later: list[Callable[[], None] | None] = []
    for done, batch in zip(range(first + 1, last + 1), batches, strict=False):
        state, metrics = step(state, batch)
        # The step is dispatched, not finished: while the device works, the host writes old metrics.
        call_each(later)
        due = [hook for hook, every in hooks.items() if done % every == 0 or done == last]
        # Hooks must read the state now, since the next step donates its buffers and leaves only
        # metrics.
        later = [hook(done, state, metrics) for hook in due]
        if interrupted():
            break
    call_each(later)
    return state


def call_each(functions: Iterable[Callable[[], None] | None]) -> None:
    """Calls the functions that are not None, in order."""
    for function in functions:
        if function is not None:
            function()
