"""The loop: what is called when."""

import itertools

import jax.numpy as jnp
import pytest

from vqvae_jax.training.loop import run_steps
from vqvae_jax.training.step import TrainState

START = TrainState(jnp.zeros((), jnp.int32), *[None] * 5)


def run(events: list, last: int, stop_after: int | None = None, **every: int) -> TrainState:
    """Steps whose hooks note when they are called, and what they left to do."""

    def step(state, batch):
        events.append(f"step {batch + 1}")
        return state._replace(step=state.step + 1), {}

    def hook(name):
        def call(done, state, metrics):
            assert done == state.step
            events.append(f"{name} {done}")
            return (lambda: events.append(f"{name} {done}, rest")) if name == "log" else None

        return call

    hooks = {hook(name): n for name, n in every.items()}
    ends = itertools.count(1)
    return run_steps(START, step, itertools.count(), last, hooks, lambda: next(ends) == stop_after)


def test_what_hooks_leave_to_do_is_done_once_the_next_step_runs():
    events: list[str] = []
    assert run(events, 4, save=3, log=2).step == 4
    assert events == [
        *("step 1", "step 2", "log 2"),
        *("step 3", "log 2, rest", "save 3"),
        *("step 4", "save 4", "log 4", "log 4, rest"),
    ]


@pytest.mark.parametrize("stop_after", [1, 3])
def test_nothing_is_left_undone_at_a_stop(stop_after):
    events: list[str] = []
    assert run(events, 9, stop_after, log=1).step == stop_after
    assert events[-1] == f"log {stop_after}, rest"
    assert len(events) == 3 * stop_after
