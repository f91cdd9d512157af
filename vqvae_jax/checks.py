"""Checks of arguments, with errors that name the argument, its expected and its actual value."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

Number = float | Array
"""A hyper-parameter: a Python number, or a traced scalar under `scheduled`."""


def check_same_shape(name: str, x, other_name: str, y) -> None:
    """Raises a ValueError unless shapes are equal: (8, 1) - (8,) would broadcast silently."""
    if x.shape != y.shape:
        raise ValueError(
            f"{name} and {other_name} must have equal shapes, got {x.shape}, {y.shape}"
        )


def check_float(name: str, x: Array) -> None:
    """Raises a TypeError unless x is float: integers may be unscaled pixels."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{name} must be float, got {x.dtype}: use vqvae_jax.preprocess")


def check_size(**sizes: int) -> None:
    """Raises a ValueError naming the argument unless each is an int >= 1."""
    for name, value in sizes.items():
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be an integer >= 1, got {value!r}")


def check_range(low: float, high: float, **values: Number) -> None:
    """Raises a ValueError naming the argument unless low <= value < high.

    A traced value, as under `scheduled`, is not known yet and passes.
    """
    for name, value in values.items():
        if not isinstance(value, jax.core.Tracer) and not low <= value < high:
            raise ValueError(f"{name} must be in [{low}, {high}), got {value!r}")


def check_positive(**values: Number) -> None:
    """Raises a ValueError naming the argument unless value > 0; a traced value passes."""
    for name, value in values.items():
        if not isinstance(value, jax.core.Tracer) and not value > 0:
            raise ValueError(f"{name} must be > 0, got {value!r}")


def check_rows(z: Array, dim: int) -> None:
    """Raises unless z is a float array [..., D]."""
    if not jnp.issubdtype(z.dtype, jnp.floating):
        raise TypeError(f"z must be a float array [..., {dim}], got dtype {z.dtype}")
    if z.ndim < 1 or z.shape[-1] != dim:
        raise ValueError(f"z must be [..., {dim}], got shape {z.shape}")


def check_indices(indices: Array, vocab: tuple[int, ...]) -> None:
    """Raises unless indices are ints [..., Q] from -1 to K - 1.

    Under jit values are not known; an index outside the codebook then decodes to zeros.
    """
    if not jnp.issubdtype(indices.dtype, jnp.integer):
        raise TypeError(f"indices must be integers [..., {len(vocab)}], got dtype {indices.dtype}")
    if indices.ndim < 1 or indices.shape[-1] != len(vocab):
        raise ValueError(
            f"indices must be [..., {len(vocab)}], got shape {indices.shape}"
            + streams_hint(indices.shape, len(vocab))
        )
    if isinstance(indices, jax.core.Tracer):
        return
    values = np.asarray(indices).reshape(-1, len(vocab)).astype(np.int64)
    for q, size in enumerate(vocab):
        stream = values[:, q]
        if stream.size and (stream.min() < -1 or stream.max() >= size):
            bounds = f"{stream.min()} to {stream.max()}"
            raise ValueError(f"indices of stream {q} must be from -1 to {size - 1}, got {bounds}")


def streams_hint(shape: tuple[int, ...], streams: int) -> str:
    """Returns a hint for the error about indices whose shape doesn't fit the streams."""
    if streams == 1:
        return ": the axis of streams is missing, use indices[..., None]"
    missing = streams - shape[-1] if shape else 0
    if missing <= 0:
        return f": the last axis must hold the {streams} streams"
    pads = f"[(0, 0)] * {len(shape) - 1} + [(0, {missing})]"
    return f": -1 stands for what was not sent, jnp.pad(indices, {pads}, constant_values=-1)"


def check_mask(mask: tuple, rows: tuple) -> None:
    """Raises a ValueError unless a mask of this shape fits rows of that shape."""
    fits = len(mask) == len(rows) and all(m in (1, n) for m, n in zip(mask, rows, strict=True))
    if not fits:
        raise ValueError(
            f"mask must have the shape z.shape[:-1] = {rows}, or 1 along some axes; got {mask}"
        )
