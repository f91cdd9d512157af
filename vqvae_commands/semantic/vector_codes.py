"""The codes that a model of vectors gives embeddings, and its codebooks."""

from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64, Int
from scipy.spatial.distance import cdist

from vqvae_commands.code_meaning.coder import Coder, Seen
from vqvae_commands.run.code_streams import vectors
from vqvae_commands.run.run_folder import open_run
from vqvae_jax import VQVAE
from vqvae_jax.data.readers import DataError

BATCH = 1024


def open_coder(run: Path) -> Coder:
    """Opens the model of a run, a saved model, or the model of earlier ids.

    Raises:
        BundleError: if there is none, or a damaged one.
        DataError: if it is no VQVAE.
    """
    model, variables, _ = open_run(run)[0]
    if not isinstance(model, VQVAE):
        raise DataError(f"{run}: expected a VQVAE of vectors, found {type(model).__name__}")
    return Coder(model, variables)


def look(coder: Coder, x: Float32[np.ndarray, "N D"]) -> Seen:
    """Returns the codes `[N, Q]` of all rows, as `indices[0]`, and what the model makes of them.

    Raises:
        DataError: if a row has no codes; the message names the first.
        ValueError: if the model takes other data.
    """
    seen = coder.look(x, BATCH)
    without = np.flatnonzero((seen.indices[0] < 0).any(axis=1))
    if len(without):
        raise DataError(
            f"expected rows in the range of the model's data, found {len(without):,} others, "
            f"the first is row {without[0]}"
        )
    return seen


def codebooks(coder: Coder) -> Float32[np.ndarray, "Q K D"]:
    """Returns the vectors of all codes of each stage; NaN where one has fewer than the largest."""
    sizes, dim = coder.model.quantizer.vocab, coder.model.quantizer.dim
    found = np.full((len(sizes), max(sizes), dim), np.nan, np.float32)
    for stream in coder.streams:
        found[stream.q, : stream.size] = coder.vectors(stream, np.arange(stream.size))
    return found


def squared_distances(
    coder: Coder, seen: Seen, rows: Int[np.ndarray, "n"]
) -> Float64[np.ndarray, "n K"]:
    """Squared distances of z_e of rows that share all codes but the last to each last code."""
    size = coder.model.quantizer.vocab[-1]
    codes = np.repeat(seen.indices[0][rows[:1]], size, axis=0)
    codes[:, -1] = np.arange(size)
    z_q = vectors(coder.model, 0, coder.variables, codes)
    return cdist(seen.z_e[0][rows], np.asarray(z_q), "sqeuclidean")
