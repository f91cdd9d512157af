"""Time of Python in a train step, measured by calls of a step that computes nothing.

The empty step has the arguments and results of a train step, and its state is donated too. The
time of the computation is not counted, and no computation competes for the cores.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.bench_page import LEGEND, Table
from experiments.bench.timing import Contestant, Race, race
from vqvae_jax.data.pipeline import batches
from vqvae_jax.training import parallel
from vqvae_jax.training.loop import run_steps
from vqvae_jax.training.step import TrainState

STEPS = 100  # steps in one call of a contestant
LOG_EVERY = 50  # as in vqvae_commands.train
SHORT_STEP = 0.03  # seconds
WAYS = {
    "jax.jit": lambda function, mesh: parallel.Step(
        jax.device_put, jax.jit(function, donate_argnums=0)
    ),
    "parallel.jit_step": parallel.jit_step,
    "parallel.shard_map_step": parallel.shard_map_step,
    "parallel.pmap_step": parallel.pmap_step,
}
LOOP = "the loop of vqvae_commands.train, data in memory"


def nothing(train_step: Callable, state: TrainState, x: np.ndarray) -> Callable:
    """Returns a step of the same signature: it counts, leaves the state as it is, gives zeros."""
    _, metrics = jax.eval_shape(train_step, state, x)

    def same(state, batch, axis_name=None):
        zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), metrics)
        return state._replace(step=state.step + 1), zeros

    return same


def time_loop(train_step: Callable, state: TrainState, x: np.ndarray, rounds: int) -> Race:
    """Times STEPS calls in each way to compile, and the loop around them.

    Args:
        train_step: result of `make_train_step`.
        state: the first state.
        x: a batch.
        rounds: rounds of the race.
    """
    same, mesh = nothing(train_step, state, x), parallel.data_mesh()
    entries = [Contestant(name, Calls(way(same, mesh), state, x)) for name, way in WAYS.items()]
    entries.append(Contestant(LOOP, Loop(parallel.jit_step(same, mesh), state, x)))
    arrays = len(jax.tree.leaves(state))
    return race(f"a state of {arrays} arrays", entries, rounds, sizes={"batch": len(x)})


class Calls:
    """STEPS calls on a batch that is in place, each on the state that the last one left."""

    def __init__(self, compiled: parallel.Step, state: TrainState, x: np.ndarray):
        self.compiled, self.x = compiled, compiled.place(x)
        # A copy: the step donates its state, and all contestants start from the same one.
        self.state = jax.tree.map(jnp.array, state)

    def __call__(self) -> None:
        for _ in range(STEPS):
            self.state, _ = self.compiled.run(self.state, self.x)
        jax.block_until_ready(self.state)


class Loop:
    """STEPS steps of `run_steps`: batches made and placed ahead, metrics fetched now and then."""

    def __init__(self, compiled: parallel.Step, state: TrainState, x: np.ndarray):
        self.compiled = compiled
        self.state = jax.tree.map(jnp.array, state)
        self.data = batches(np.concatenate([x] * 10), seed=0, batch_size=len(x))

    def __call__(self) -> None:
        ahead = parallel.prefetch(self.data, self.compiled.place)
        last = int(self.state.step) + STEPS
        self.state = run_steps(self.state, self.compiled.run, ahead, last, {fetch: LOG_EVERY})
        jax.block_until_ready(self.state)


def fetch(done: int, state: TrainState, metrics) -> Callable[[], None]:
    """Fetches the metrics as `Display.log` does, without writing them."""
    jax.copy_to_host_async(metrics)
    return lambda: jax.device_get(metrics)


def table(result: Race) -> Table:
    """Returns the milliseconds of one step, and their share of a short one."""
    rows = []
    for name in result.seconds:
        median, low, high = (1000 * t / STEPS for t in result.time(name))
        share = median / (1000 * SHORT_STEP)
        rows.append([name, f"{median:.3f} [{low:.3f}, {high:.3f}]", f"{share:.1%}"])
    head = ["", "ms a step", f"share of {1000 * SHORT_STEP:.0f} ms"]
    note = (
        "A step that computes nothing, with the arguments and results of a train step, and its "
        f"state given away: means over {STEPS} steps. {LEGEND}"
    )
    return Table(f"What Python takes, {result.title}", head, rows, note)
