"""Padding masks of examples, samples and rows of codes, and conversions between them."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from vqvae_jax.conversions import boundary
from vqvae_jax.data.value_range import Input


@boundary
def sequence_mask(lengths: Int[Array, "*batch"], size: int) -> Bool[Array, "*batch n"]:
    """Padding mask of sequences of these lengths, padded to one size: i < length.

    Use it as the mask of a `VQVAE` over signals `[B, size, C]`. For video `[B, size, H, W, C]`,
    whose frames are real or padding as a whole, use `mask[:, :, None, None]`.

    Args:
        lengths: ints `[*batch]` from 0 to size.
        size: n, the length of all sequences after padding.

    Raises:
        TypeError: if the lengths are not integers.
        ValueError: if a length is negative or exceeds the size; under jit, where lengths are not
            known, it counts as 0 or as the size.

    Example:
        >>> sequence_mask([1, 3], 3).astype(int)
        Array([[1, 0, 0],
               [1, 1, 1]], dtype=int32)
    """
    if not isinstance(lengths, jax.core.Tracer) and lengths.size > 0:
        least, most = np.min(lengths), np.max(lengths)
        if least < 0 or most > size:
            raise ValueError(f"lengths must be from 0 to the size {size}, got {least} to {most}")
    i = jnp.arange(size, dtype=jnp.int32).reshape((1,) * lengths.ndim + (size,))
    return i < lengths[..., None]


def of_rows(mask, z: Shaped[Array, "B *grid D"]):
    """Converts a mask of examples, of samples, or of rows to a mask of the rows of z.

    Each row takes the greatest weight of its samples, so it counts if any of them does.

    Args:
        mask: None, or weights `[B]`, or `[B, *sides]`, each side 1 or a multiple of the grid's.
        z: `[B, *grid, D]`.

    Raises:
        ValueError: if the mask has none of these shapes.

    Example:
        >>> of_rows(jnp.array([[1, 1, 1, 0, 0, 0]]), jnp.zeros((1, 3, 4)))
        Array([[1, 1, 0]], dtype=int32)
    """
    if mask is None:
        return None
    mask = jnp.asarray(mask)
    sides, grid = mask.shape[1:], z.shape[1:-1]
    fits = mask.ndim >= 1 and len(sides) <= len(grid) and mask.shape[0] in (1, z.shape[0])
    sides = sides + (1,) * (len(grid) - len(sides))
    if not fits or any(m != 1 and m % n for m, n in zip(sides, grid, strict=True)):
        raise ValueError(
            f"mask must be of the {z.shape[0]} examples, [B], of the samples of x, [B, *spatial],"
            f" or of the rows, {z.shape[:-1]}; got shape {mask.shape}"
        )
    if all(m in (1, n) for m, n in zip(sides, grid, strict=True)):
        return mask.reshape(mask.shape[0], *sides)
    # One reshape splits each side into blocks and the samples within them, for any rank.
    blocks = [(1, 1) if m == 1 else (n, m // n) for m, n in zip(sides, grid, strict=True)]
    apart = mask.reshape(mask.shape[0], *(side for block in blocks for side in block))
    # The maximum, not the mean: a row that is half padding must still be sent as a whole.
    return jnp.max(apart, axis=range(2, apart.ndim, 2))


def of_samples(mask, x: Shaped[Array, "B *spatial C"]):
    """Returns a mask of the samples of x as `[B, *spatial]`, and None for any other mask."""
    if mask is None:
        return None
    mask = jnp.asarray(mask)
    sides, spatial = mask.shape[1:], x.shape[1:-1]
    # Only a mask that distinguishes samples hides padding within an example. Masks of rows, or of
    # whole examples, are left to the quantizer.
    if len(sides) != len(spatial) or {1}.issuperset(sides):
        return None
    fits = all(m in (1, n) for m, n in zip(mask.shape, x.shape[:-1], strict=True))
    return jnp.broadcast_to(mask, x.shape[:-1]) if fits else None


def hidden(x: Input, samples) -> Input:
    """Returns x with NaN where the mask of its samples is not > 0, since domains ignore NaN."""
    # uint8 can't hold NaN, and needs none: every byte is in the domain.
    if samples is None or not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    return jnp.where(samples[..., None] > 0, x, jnp.nan)


def within(
    x: Float[Array, "B *spatial C"], mask: Shaped[Array, "B *grid"] | None
) -> Float[Array, "B *spatial C"]:
    """Returns x with 0 where the mask of a grid, repeated along the sides of x, is not > 0.

    Example:
        >>> within(jnp.ones((1, 4, 1)), jnp.array([[1, 0]])).ravel()
        Array([1., 1., 0., 0.], dtype=float32)
    """
    if mask is None:
        return x
    for axis in range(1, mask.ndim):
        mask = jnp.repeat(mask, x.shape[axis] // mask.shape[axis], axis)
    # A select instead of a product: padding may be NaN, and NaN times 0 is NaN.
    return jnp.where(mask[..., None] > 0, x, jnp.zeros((), x.dtype))


def masked(module, x: Float[Array, "B *shape"], mask) -> Float[Array, "B *other"]:
    """Applies module to (x, mask), or to x if its call takes no mask; padding in x is set to 0."""
    if mask is None:
        return module(x)
    # A user's module need not know of masks; zeros as padding are the best it can get.
    options = {"mask": mask} if "mask" in inspect.signature(module.__call__).parameters else {}
    return module(within(x, mask), **options)
