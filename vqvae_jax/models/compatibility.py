"""Checks that the parts of a model fit each other and their inputs, with errors that say so."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import flax.linen as nn
from flax.errors import ScopeParamShapeError
from jaxtyping import Array

from vqvae_jax.checks import check_indices
from vqvae_jax.models.blocks import MLP, Decoder, Encoder
from vqvae_jax.models.input_checks import check_input, per_axis, spatial_axes


def innermost(module: nn.Module) -> nn.Module:
    """Returns the module itself, or the one inside wrappers such as `Microbatched`."""
    return innermost(module.inner) if hasattr(module, "inner") else module


def widths(module: nn.Module) -> tuple[int | None, int | None]:
    """Numbers of input and output channels of a module; None where its attributes don't say.

    Example:
        >>> widths(Encoder(channels=3, dim=8)), widths(Decoder(channels=3, dim=8)), widths(MLP(5))
        ((3, 8), (8, 3), (None, 5))
    """
    module = innermost(module)
    if isinstance(module, Encoder):
        return module.channels, module.dim
    if isinstance(module, Decoder):
        return module.dim, module.channels
    return None, module.features if isinstance(module, MLP | nn.Dense) else None


def check_link(giver: str, given: int | None, taker: str, taken: int | None) -> None:
    """Raises a ValueError if one part outputs a width that the next one does not take."""
    if given is not None and taken is not None and given != taken:
        raise ValueError(f"{giver} gives {given} channels, but {taker} takes {taken}")


def check_autoencoder(encoder: nn.Module, width: int, decoder: nn.Module) -> None:
    """Raises a ValueError unless encoder and decoder fit the width of the quantizer."""
    check_link("the encoder", widths(encoder)[1], "the quantizer", width)
    check_link("the quantizer", width, "the decoder", widths(decoder)[0])


def check_width(z: Array, width: int) -> None:
    """Raises a ValueError unless z_e `[B, *grid, D]` has the width of the quantizer."""
    if z.shape[-1:] != (width,):
        raise ValueError(
            f"z_e must be [B, *grid, {width}], as wide as the quantizer, got shape {z.shape}"
        )


def check_map(name: str, indices: Array, vocab: tuple[int, ...], decoder: nn.Module) -> None:
    """Raises unless indices are codes `[B, *grid, Q]` of the rank that the decoder had at init.

    Args:
        name: name of the indices in errors.
        indices: integer indices.
        vocab: sizes K of the Q streams.
        decoder: a bound module, whose parameters tell the rank.
    """
    check_indices(indices, vocab)
    rank = spatial_axes(decoder) if isinstance(innermost(decoder), Decoder) else None
    if rank is not None and indices.ndim - 2 != rank:
        raise ValueError(
            f"{name} must be [B, {rank} axes of the grid, {len(vocab)} streams],"
            f" got shape {indices.shape}"
        )


def check_chain(x: Array, encoders: Sequence[nn.Module]) -> None:
    """Raises unless x fits a chain of encoders, of which the last one takes x."""
    chain = [innermost(encoder) for encoder in encoders]
    if not all(isinstance(encoder, Encoder) for encoder in chain):
        return
    # An encoder with a number for each axis tells the rank; the others may have a single number.
    known = (len(e.downsamplings) for e in chain if isinstance(e.downsamplings, Sequence))
    rank = next(known, max(x.ndim - 2, 1))
    each = [per_axis("downsamplings", encoder.downsamplings, rank) for encoder in chain]
    halvings = tuple(map(sum, zip(*each, strict=True)))
    check_input("x", x, chain[-1].channels, halvings, spatial_axes(encoders[-1]))


@contextmanager
def in_words(name: str, array: Array) -> Iterator[None]:
    """Context manager that names the caller's array in errors where Flax names only a layer."""
    try:
        yield
    except ScopeParamShapeError as error:
        # Flax's text names the layer and both shapes; only its link to the documentation is cut.
        raise ValueError(
            f"{name} must have the axes and channels that the model was made for at init,"
            f" got shape {array.shape} ({str(error).split(' (http')[0]})"
        ) from None
