"""Orbax checkpoints of the whole `TrainState`, from which a run resumes bit for bit."""

from pathlib import Path

import jax
import orbax.checkpoint as ocp

from vqvae_jax.training.step import TrainState


class Checkpoints:
    """Context manager for the checkpoints in a folder, of which the newest two are kept.

    Every process of a distributed run must make the same calls of `save` and `restore`.
    """

    def __init__(self, folder: Path, keep: int = 2):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
        self.manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self.manager.close()

    def latest(self) -> int | None:
        """Returns the step of the newest complete checkpoint, or None."""
        return self.manager.latest_step()

    def save(self, state: TrainState) -> None:
        """Writes the state under its step, unless it is there already."""
        step = int(state.step)
        if step != self.latest():
            arrays = jax.tree.map(one_copy, state._asdict())
            self.manager.save(step, args=ocp.args.StandardSave(arrays), force=True)

    def restore(self, like: TrainState) -> TrainState:
        """Reads the newest state, placed on devices like `like`."""
        # Shardings come from `like`, since a run may resume on other devices than it began on.
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like._asdict())
        restored = self.manager.restore(self.latest(), args=ocp.args.StandardRestore(target))
        return TrainState(**restored)


def one_copy(x):
    """Returns the copy on one device of an array that all devices of this process hold.

    Orbax would write a slice of each device's copy, and compile each slice.
    """
    copied = isinstance(x, jax.Array) and x.is_fully_replicated and x.is_fully_addressable
    return x.addressable_data(0) if copied else x
