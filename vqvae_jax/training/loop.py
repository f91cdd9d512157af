"""Training loop: runs a train step, calls hooks at intervals, stops cleanly on signals."""

import signal
import threading
from collections.abc import Callable, Iterable
from typing import Any

from vqvae_jax.training.step import TrainState

Hook = Callable[[int, TrainState, dict[str, Any]], Callable[[], None] | None]


class Interrupt:
    """Turns SIGINT and SIGTERM into a flag, so that the step under way is finished and saved.

    A second signal acts as it would have without this. `signal` is the one received, or None.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.signal: int | None = None
        self.before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupt":
        # Python lets only the main thread set handlers.
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
        state: where to begin; batch i of `batches` belongs to step `state.step + i`.
        step: compiled by `parallel`.
        batches: host batches, endless or long enough.
        last: the number of steps of the whole run.
        hooks: functions of (steps done, state, metrics) and after how many steps each is called;
            all are called after the last step too. Reading an array waits for the step, and then
            the device for the next one: what can be done later, as writing metrics can, a hook
            returns as a function, which is called once the next step runs. The state can't be
            read then.
        interrupted: asked between steps.
    """
    first = int(state.step)
    later: list[Callable[[], None] | None] = []
    for done, batch in zip(range(first + 1, last + 1), batches, strict=False):
        state, metrics = step(state, batch)
        # Dispatched, not finished: while the device works, the host writes the last metrics.
        call_each(later)
        due = [hook for hook, every in hooks.items() if done % every == 0 or done == last]
        # Hooks read the state now: the next step donates its buffers, and leaves only metrics.
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
