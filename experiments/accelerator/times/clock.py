"""Time of calls whose work a device does in the background."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import jax


def seconds_a_call(call: Callable[[], Any], count: int, rounds: int = 3) -> float:
    """Returns the median over rounds of the mean seconds of `count` calls.

    A round waits once, for the result of its last call, so that the device never waits for Python
    unless Python is the slower of the two.

    Args:
        call: begins the work, and returns arrays that are ready when it is done.
        count: number of calls in a round.
        rounds: number of rounds, after one call that is not counted.
    """
    jax.block_until_ready(call())
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        for _ in range(count):
            result = call()
        jax.block_until_ready(result)
        times.append((time.perf_counter() - begun) / count)
    return median(times)


class Steps:
    """Calls a train step, each time on the state that the last one left."""

    def __init__(self, step: Callable, state: Any, batch: Any):
        self.step, self.state, self.batch = step, state, jax.device_put(batch)

    def __call__(self) -> Any:
        self.state, metrics = self.step(self.state, self.batch)
        return metrics
