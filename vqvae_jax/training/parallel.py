"""Data parallelism: one train step compiled by `jit` over a mesh, `shard_map`, or `pmap`.

Each function here takes a pure `train_step(state, batch, *, axis_name=None)` and returns a compiled
`Step`, `(state, batch) -> (state, metrics)`. Its batches are this process's share of the global
batch, which it splits over its devices. State and metrics are replicated. All modes give the
results of one device.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXIS = "data"
"""The mesh axis over which batches are split."""


class Step(NamedTuple):
    """A compiled train step, in two parts so that batches can be placed ahead of time."""

    place: Callable[[Any], Any]  # host batch -> the batch on the devices
    run: Callable[[Any, Any], tuple[Any, Any]]  # (state, placed batch) -> (state, metrics)

    def __call__(self, state, batch):
        return self.run(state, self.place(batch))


def prefetch(batches: Iterable, place: Callable[[Any], Any], ahead: int = 2) -> Iterator:
    """Yields the batches on the devices, each placed while the steps before it run.

    Args:
        batches: host batches.
        place: `place` of a `Step`.
        ahead: number of batches that wait on the devices, at least 1, besides those in use.

    >>> list(prefetch([1, 2, 3], lambda batch: -batch))
    [-1, -2, -3]
    """
    batches = iter(batches)
    placed = deque(map(place, islice(batches, ahead)))
    while placed:
        # Execution resumes here when the next batch is requested, after the step for this one was
        # dispatched, so that the next transfer overlaps with that step.
        yield placed.popleft()
        placed.extend(map(place, islice(batches, 1)))


def data_mesh(devices=None) -> Mesh:
    """Makes a mesh of all devices, or of the given ones, along the single axis `AXIS`."""
    devices = jax.devices() if devices is None else devices
    # Auto axes, because gathers, scatters and cumulative sums fail with JAX's default, Explicit
    # ones.
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def jit_step(train_step: Callable, mesh: Mesh) -> Step:
    """Compiles by `jit`, in which the compiler splits the work as the batch is split."""
    # Without axis_name, since the step sees the global batch here, and its sums are global already.
    step = jax.jit(
        train_step,
        in_shardings=(NamedSharding(mesh, P()), NamedSharding(mesh, P(AXIS))),
        out_shardings=NamedSharding(mesh, P()),
        donate_argnums=0,
    )
    return Step(partial(split, mesh=mesh), lambda state, batch: step(replicate(state, mesh), batch))


def shard_map_step(train_step: Callable, mesh: Mesh) -> Step:
    """Compiles by `shard_map`: each device runs the step on its part, and sums cross `AXIS`."""
    mapped = jax.shard_map(
        partial(train_step, axis_name=AXIS),
        mesh=mesh,
        in_specs=(P(), P(AXIS)),
        out_specs=(P(), P()),
    )
    step = jax.jit(mapped, donate_argnums=0)
    return Step(partial(split, mesh=mesh), lambda state, batch: step(replicate(state, mesh), batch))


def pmap_step(train_step: Callable, mesh: Mesh) -> Step:
    """Compiles by `pmap`: like `shard_map`, with an axis of devices in front of the batch."""
    local = [d for d in mesh.devices.flat if d.process_index == jax.process_index()]
    # The state is broadcast and one copy of the results is kept, since all replicas agree.
    step = jax.pmap(
        partial(train_step, axis_name=AXIS),
        axis_name=AXIS,
        in_axes=(None, 0),
        out_axes=None,
        donate_argnums=0,
        devices=None if jax.process_count() > 1 else local,
    )
    # Batches are placed as pmap wants them before the step; else it would copy them within the
    # step.
    each = NamedSharding(Mesh(local, (AXIS,)), P(AXIS))
    return Step(
        lambda batch: jax.tree.map(
            lambda x: jax.device_put(split_leading_axis(x, len(local)), each), batch
        ),
        step,
    )


def check_batch(size: int, devices: int) -> None:
    """Raises a ValueError unless a batch can be split equally over the devices."""
    if size < 1 or size % devices:
        raise ValueError(f"a batch of {size} can't be split over {devices} devices")


def split_leading_axis(batch, devices: int):
    """Reshapes a batch [B, ...] to [devices, B / devices, ...]."""
    check_batch(batch.shape[0], devices)
    return batch.reshape(devices, -1, *batch.shape[1:])


def replicate(state, mesh: Mesh):
    """Puts the state on every device of the mesh; returns it as is if it is there already."""
    everywhere = NamedSharding(mesh, P())
    found = (getattr(x, "sharding", None) for x in jax.tree.leaves(state))
    if all(sharding == everywhere for sharding in found):
        return state  # `device_put` would take several times as long as dispatching the step
    if jax.process_count() > 1:
        state = jax.device_get(state)  # arrays on local devices can't be moved to all devices
    return jax.device_put(state, everywhere)


def split(batch, mesh: Mesh):
    """Puts this process's rows on its devices, as part of one global batch split over the mesh."""
    sharding = NamedSharding(mesh, P(AXIS))
    local = max(sum(d.process_index == jax.process_index() for d in mesh.devices.flat), 1)

    def put(x):
        check_batch(x.shape[0], local)
        # No process holds or sends rows of another; only the sharding is global.
        return jax.make_array_from_process_local_data(sharding, np.asarray(x))

    return jax.tree.map(put, batch)
