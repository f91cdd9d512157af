"""Searches for the nearest code, by this library and by others; missing libraries are skipped.

Each function takes z `[N, D]` and a codebook `[K, D]` as NumPy arrays, and returns a contestant and
a function that gives the indices as a NumPy array.
"""

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.timing import Contestant, compiled
from vqvae_jax import nearest
from vqvae_jax.search import nearest_in_bfloat16

OURS, BOUND = "vqvae_jax.nearest", "matmul and min, no index"


class Search(NamedTuple):
    """A search for the nearest codes of some rows."""

    contestant: Contestant
    indices: Callable[[], np.ndarray]


def ours(z: np.ndarray, e: np.ndarray) -> Search:
    """Search of this library."""
    return jax_search(OURS, nearest, z, e)


def in_bfloat16(z: np.ndarray, e: np.ndarray, candidates: int = 8) -> Search:
    """Search of this library in low precision."""
    find = partial(nearest_in_bfloat16, candidates=candidates)
    return jax_search(f"vqvae_jax.search.nearest_in_bfloat16, {candidates} candidates", find, z, e)


one_in_bfloat16 = partial(in_bfloat16, candidates=1)


def bound(z: np.ndarray, e: np.ndarray) -> Search:
    """Products and their minimum, without an index: about the least work of any search."""

    def least(z, e):
        return jnp.min(jnp.sum(e * e, axis=1) - 2 * z @ e.T, axis=1)

    return jax_search(BOUND, least, z, e)


def argmin_of_all(z: np.ndarray, e: np.ndarray) -> Search:
    """Distance matrix and `jnp.argmin`, as most JAX code has it."""
    return jax_search("JAX distance matrix, argmin", plain_nearest, z, e)


def plain_nearest(z: jax.Array, e: jax.Array) -> jax.Array:
    """Returns argmin_j of |z|^2 - 2 z.e_j + |e_j|^2."""
    squares = jnp.sum(z * z, axis=1, keepdims=True), jnp.sum(e * e, axis=1)
    return jnp.argmin(squares[0] - 2 * z @ e.T + squares[1], axis=1)


def jax_search(name: str, function: Callable, z: np.ndarray, e: np.ndarray) -> Search:
    """Compiles a function of (z, e)."""
    contestant = compiled(name, function, jnp.asarray(z), jnp.asarray(e))
    return Search(contestant, lambda: np.asarray(contestant.call()))


def torch_cdist(z: np.ndarray, e: np.ndarray) -> Search:
    """PyTorch: torch.cdist and argmin."""
    import torch

    return torch_search("torch.cdist, argmin", lambda z, e: torch.cdist(z, e).argmin(1), z, e)


def torch_matmul(z: np.ndarray, e: np.ndarray) -> Search:
    """PyTorch: |e|^2 - 2 z.e and argmin."""

    def search(z, e):
        return (e.square().sum(1) - 2 * z @ e.T).argmin(1)

    return torch_search("torch matmul, argmin", search, z, e)


def torch_search(name: str, function: Callable, z: np.ndarray, e: np.ndarray) -> Search:
    """Wraps a function of tensors (z, e), without gradients."""
    import torch

    tensors = torch.from_numpy(z), torch.from_numpy(e)

    def call():
        with torch.inference_mode():
            return function(*tensors)

    return Search(Contestant(name, call), lambda: call().numpy())


def vector_quantize_pytorch(z: np.ndarray, e: np.ndarray) -> Search:
    """Forward pass of its VectorQuantize in eval mode, with this codebook."""
    import torch
    from vector_quantize_pytorch import VectorQuantize

    module = VectorQuantize(dim=e.shape[1], codebook_size=len(e)).eval()
    with torch.no_grad():
        module.codebook = torch.from_numpy(e)
    rows = torch.from_numpy(z)[None]

    def call():
        with torch.inference_mode():
            return module(rows)[1][0]

    return Search(Contestant("vector-quantize-pytorch, eval", call), lambda: call().numpy())


def haiku(z: np.ndarray, e: np.ndarray) -> Search:
    """Forward pass of dm-haiku's VectorQuantizer in eval mode: z_q and indices alone."""
    import haiku as hk

    def forward(z):
        out = hk.nets.VectorQuantizer(e.shape[1], len(e), 0.25)(z, is_training=False)
        return out["quantize"], out["encoding_indices"]

    module = hk.without_apply_rng(hk.transform(forward))
    params = module.init(jax.random.key(0), z[:1])
    ((scope, _),) = params.items()
    params = {scope: {"embeddings": jnp.asarray(e.T)}}
    contestant = compiled("dm-haiku VectorQuantizer, eval", module.apply, params, jnp.asarray(z))
    return Search(contestant, lambda: np.asarray(contestant.call()[1]))


PEERS: Mapping[str, tuple[Callable[[np.ndarray, np.ndarray], Search], ...]] = {
    "torch": (torch_cdist, torch_matmul),
    "vector_quantize_pytorch": (vector_quantize_pytorch,),
    "haiku": (haiku,),
}
"""Searches of other libraries, by the module that they need."""


def importable(names: Mapping[str, object] | tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Returns the modules that can be imported, and a line for each that can't."""
    found, skipped = [], []
    for name in names:
        try:
            import_module(name)
            found.append(name)
        except Exception as error:  # a broken installation may raise any error
            reason = " ".join(str(error).split())
            skipped.append(f"{name} skipped: {reason} (pip install 'vqvae_jax[bench]')")
    return found, skipped
