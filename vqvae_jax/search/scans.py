"""Scans: ways to compute the best scores of rows, and which of them is used where."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float

from vqvae_jax.search.scores import Error, Nearest, error, in_blocks, search_codes


class Scan(NamedTuple):
    """A way to compute the best scores of rows.

    Attributes:
        search: `(y [N, D], codes [K, D], half [K], slack [N]) -> Nearest`.
        error: bound on the error of its scores, for D.
        over: `(function, z)` applies a function to all rows, or to some at a time.
    """

    search: Callable[..., Nearest]
    error: Callable[[int], Error]
    over: Callable[[Callable[[Array], Any], Array], Any] = lambda function, z: function(z)


BLOCKS = Scan(search_codes, error, in_blocks)
SCAN: ContextVar[Scan | None] = ContextVar("SCAN", default=None)


@contextmanager
def scanned_by(scan: Scan) -> Iterator[None]:
    """Within it, `nearest` computes its scores by this scan, whatever the platform."""
    token = SCAN.set(scan)
    try:
        yield
    finally:
        SCAN.reset(token)


def on_platform(best: Callable[..., Any], z: Float[Array, "N D"]) -> Any:
    """Calls best(scan, z) with the scan of the platform.

    That is `BLOCKS` on a CPU. On GPU and TPU it is the Pallas kernel, provided that the compiler
    need not partition it (one device, or within `jax.shard_map` and `jax.pmap`) and that the number
    of rows is known.
    """
    mesh = jax.sharding.get_abstract_mesh()
    local = jax.device_count() == 1 or (not mesh.empty and mesh.are_all_axes_manual)
    if jax.default_backend() == "cpu" or not isinstance(z.shape[0], int) or not local:
        return best(BLOCKS, z)
    from vqvae_jax.search import kernel  # imported here, since CPUs never need Pallas

    # Chosen at lowering: `jax.export` on this machine may target another platform.
    accelerators = {p: partial(best, scan) for p, scan in kernel.SCANS.items()}
    return jax.lax.platform_dependent(z, default=partial(best, BLOCKS), **accelerators)
