"""Checks of encoder and decoder inputs: rank, channels, sides and dtype."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from vqvae_jax.checks import check_float


def check_dtype(dtype) -> None:
    """Raises a ValueError unless this dtype is a float one, fit for activations."""
    try:
        known = jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    except TypeError:
        known = False
    if not known:
        raise ValueError(f'dtype must be a float one such as "float32", "bfloat16", got {dtype!r}')


def spatial_axes(module: nn.Module) -> int | None:
    """Number of spatial axes of the module's parameters; None before init."""
    first: Any = module.get_variable("params", "Conv_0", {})
    return first["kernel"].ndim - 2 if "kernel" in first else None


def per_axis(name: str, n: int | Sequence[int], rank: int) -> tuple[int, ...]:
    """Returns n as a tuple with one number for each spatial axis.

    Raises:
        ValueError: unless these are integers >= 0, one for each axis.
    """
    each = (n,) * rank if isinstance(n, int | np.integer) else n
    # True and False are ints too, and would pass as 1 and 0.
    known = isinstance(each, Sequence) and len(each) == rank
    if not known or not all(type(i) is not bool and isinstance(i, int) and i >= 0 for i in each):
        raise ValueError(
            f"{name} must be an integer >= 0, or one for each of {rank} spatial axes, got {n!r}"
        )
    return tuple(each)


def check_input(
    name: str, x: Array, channels: int, halvings: int | Sequence[int], rank: int | None
) -> None:
    """Raises unless x is float `[B, *spatial, channels]` of this rank, with divisible sides."""
    check_float(name, x)
    if rank is None and isinstance(halvings, Sequence):
        rank = len(halvings)
    ranks = (1, 2, 3) if rank is None else (rank,)
    if x.ndim - 2 not in ranks or x.shape[-1] != channels:
        axes = "1 to 3" if rank is None else rank
        raise ValueError(
            f"{name} must be [B, {axes} spatial axes, {channels} channels], got shape {x.shape}"
        )
    factors = tuple(2**n for n in per_axis("downsamplings", halvings, x.ndim - 2))
    divisible = all(n >= 1 and n % f == 0 for n, f in zip(x.shape[1:-1], factors, strict=True))
    if x.shape[0] == 0 or not divisible:
        each = factors[0] if len(set(factors)) == 1 else factors
        raise ValueError(
            f"{name} must have B >= 1 and sides that are multiples of {each}, got shape {x.shape}"
        )
