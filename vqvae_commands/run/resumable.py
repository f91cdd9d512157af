"""Training of any model: a run that resumes where it stopped, logged and saved."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from pathlib import Path

import jax

from vqvae_commands.run import run_folder
from vqvae_commands.run.progress import Display
from vqvae_jax.checks import check_range, check_size
from vqvae_jax.training import parallel
from vqvae_jax.training.checkpoint import Checkpoints
from vqvae_jax.training.loop import Hook, Interrupt, run_steps
from vqvae_jax.training.step import TrainState, TrainStep

PATIENCE = 25  # steps in a row that change nothing, before a run is given up

COMPILERS = {
    "jit": parallel.jit_step,
    "shard_map": parallel.shard_map_step,
    "pmap": parallel.pmap_step,
}


class NothingLearnt(ValueError):
    """Many steps in a row changed nothing: the run ends, and its last checkpoint stays as it is."""


class Guard:
    """A hook of the loop that ends a run which skips its steps.

    Args:
        start, skipped: the step to begin after, and how many before it changed nothing.
        last: the last step.

    Raises:
        NothingLearnt: `PATIENCE` steps in a row changed nothing, or none of the whole run did.
    """

    def __init__(self, start: int, skipped: int, last: int):
        self.since, self.skipped, self.last = start, skipped, last

    def look(self, done: int, state, metrics) -> Callable[[], None]:
        """Reads the counter while the next step runs."""
        jax.copy_to_host_async(metrics["skipped"])
        return lambda: self.check(done, int(metrics["skipped"]))

    def check(self, done: int, skipped: int) -> None:
        """Raises a NothingLearnt if `skipped` of the first `done` steps are too many."""
        if skipped - self.skipped < done - self.since:
            self.since, self.skipped = done, skipped
        elif done - self.since >= PATIENCE or skipped == done == self.last:
            raise NothingLearnt(
                f"no step from {self.since + 1} to {done} changed anything: the examples are "
                "not valid, or the gradients not finite; see docs/when-training-looks-wrong.md"
            )


def check_training(config) -> None:
    """Raises a ValueError naming an option that is out of range."""
    check_size(steps=config.steps, batch_size=config.batch_size)
    check_size(log_every=config.log_every, eval_every=config.eval_every)
    check_size(save_every=config.save_every)
    check_range(0, float("inf"), learning_rate=config.learning_rate, warmup=config.warmup)


def run_training(
    folder: Path,
    config,
    model,
    train_step: TrainStep,
    state: TrainState,
    batches: Callable[[int], Iterable],
    keep: Callable[[TrainState], object],
    display: Callable[[int], Display],
    begin: Callable[[TrainState], TrainState] = lambda state: state,
    chief: bool = True,
) -> None:
    """Runs all steps from the newest checkpoint on, and saves the last state.

    Args:
        folder: the run's folder.
        config: a dataclass of its options.
        model: the model that `keep` saves.
        train_step: made by `gradient_step`.
        state: before the first step.
        batches: from the number of a step to the host's batches from there on.
        keep: saves the model of a state in `folder / "model"`.
        display: from the first step of this run to its display.
        begin: changes the state of a run that begins, and does not continue.
        chief: whether this process is the one that writes.

    Raises:
        ConfigChanged: if the folder holds another run.
        NothingLearnt: see `Guard`.
        SystemExit: after SIGINT or SIGTERM, when the state is saved.
    """
    mesh = parallel.data_mesh()
    parallel.check_batch(config.batch_size, mesh.size)
    step = COMPILERS[config.parallel](train_step, mesh)
    if chief:
        run_folder.prepare_folder(folder, config)
    with ExitStack() as stack:
        interrupt = stack.enter_context(Interrupt())
        checkpoints = stack.enter_context(Checkpoints(folder / "checkpoints"))
        start = checkpoints.latest() or 0
        state = parallel.replicate(state if start else begin(state), mesh)
        if start:
            run_folder.check_model(folder, model)
            state = checkpoints.restore(state)

        guard = Guard(start, int(state.skipped), config.steps)

        def save(done, state, metrics):
            guard.check(int(state.step), int(state.skipped))
            if chief:
                keep(state)
            # After it: where there is a checkpoint, there is a model. `pmap` leaves local arrays.
            checkpoints.save(parallel.replicate(state, mesh))

        hooks: dict[Hook, int] = {guard.look: PATIENCE}
        if chief:
            shown = stack.enter_context(closing(display(start)))
            hooks |= {shown.log: config.log_every, shown.evaluate: config.eval_every}
        hooks[save] = config.save_every  # last: no checkpoint misses the evaluation of its step
        placed = parallel.prefetch(batches(start), step.place)
        state = run_steps(
            state, step.run, placed, config.steps, hooks, lambda: bool(interrupt.signal)
        )
        if chief:
            shown.stop(int(state.step))
        save(config.steps, state, {})
    if interrupt.signal and chief:
        print(f"stopped at step {int(state.step)} of {config.steps}: the same command continues")
        raise SystemExit(128 + interrupt.signal)
