"""Embeddings and the names of their items, read from files."""

from pathlib import Path

import numpy as np
from jaxtyping import Float32

from vqvae_jax.data.readers import DataError, first_line, load_npy
from vqvae_jax.reductions import LARGEST_SQUARED_NORM


def read_embeddings(path: str | Path) -> Float32[np.ndarray, "N D"]:
    """Reads all rows of a .npy file.

    Raises:
        DataError: unless it has finite numbers `[N, D]`; the message names the first other row.
    """
    x = load_npy(path)
    if not isinstance(x, np.ndarray) or x.ndim != 2 or 0 in x.shape or x.dtype.kind not in "fiu":
        found = f"{x.dtype} {x.shape}" if isinstance(x, np.ndarray) else "an archive"
        raise DataError(f"{path}: expected numbers of shape [N, D], found {found}")
    with np.errstate(over="ignore"):  # found as infinite
        rows = np.ascontiguousarray(x, np.float32)
        bad = np.flatnonzero(~(np.einsum("nd,nd->n", rows, rows) < LARGEST_SQUARED_NORM))
    if len(bad):
        more = f", the first of {len(bad):,} such rows" if len(bad) > 1 else ""
        raise DataError(
            f"{path}: expected finite numbers below 1e15, found others in row {bad[0]}{more}"
        )
    return rows


def read_names(path: Path | None, n: int) -> list[str] | list[int]:
    """Reads the names of n items, one a line; without a file they are the numbers of the rows.

    Raises:
        DataError: unless there are n different names.
    """
    if path is None:
        return list(range(n))
    try:
        names = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected lines of UTF-8, found: {first_line(error)}") from error
    if len(names) != n:
        raise DataError(f"{path}: expected {n:,} names, one for each row, found {len(names):,}")
    lines: dict[str, int] = {}
    for line, name in enumerate(names, 1):
        first = lines.setdefault(name, line)
        if first != line:
            found = f"{name!r} in lines {first} and {line}"
            raise DataError(f"{path}: expected different names, found {found}")
    return names
