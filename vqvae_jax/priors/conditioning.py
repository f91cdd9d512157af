"""Inputs of priors: embeddings of codes and places, labels, metadata, and coarser levels."""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vqvae_jax.checks import check_indices, check_range, check_size

Level = tuple[tuple[int, ...], tuple[int, ...]]
"""(grid, vocab) of the codes of one level."""

# With a width of 128, the embedding and the head of so many codes take 0.5 GB each.
LARGEST_VOCAB = 2**20

EXCLUDED = -1e9
"""Logit of an impossible code; finite, so that sums and differences of two are not NaN."""

INIT = nn.initializers.normal(0.02)


class Condition(NamedTuple):
    """Condition c of each example, with the parts that the prior was made for.

    Attributes:
        label: class of each example `[B]`, -1 if not given; None if given for no example. Values
            beyond the classes raise; under tracing they count as -1.
        coarse: codes `[B, *grid_l, Q_l]` of all coarser levels, coarse to fine.
        metadata: numbers `[B, M]`, preferably of order 1.
    """

    label: Int[Array, "B"] | None = None
    coarse: tuple[Int[Array, "..."], ...] = ()
    metadata: Float[Array, "B M"] | None = None


UNCONDITIONAL = Condition()


class CodeEmbedding(nn.Module):
    """Learnt vectors for each code of each stream, for each position, and for each stream.

    The codes `[B, *grid, Q]` form a sequence of T = prod(grid) Q tokens in raster order, with the
    stream innermost; token t belongs to stream t mod Q.

    Attributes:
        vocab: sizes K of the Q streams.
        grid: sides of the map.
        width: width of the vectors.
        deviation: standard deviation at initialisation.
    """

    vocab: tuple[int, ...]
    grid: tuple[int, ...]
    width: int
    deviation: float = 0.02

    def setup(self) -> None:
        init = nn.initializers.normal(self.deviation)
        # One table for all streams, whose last row stands for unknown codes.
        self.codes = self.table("codes", init, (sum(self.vocab) + 1, self.width))
        self.positions = self.table("positions", init, (math.prod(self.grid), self.width))
        self.streams = self.table("streams", init, (len(self.vocab), self.width))

    def table(self, *args) -> Array:
        """Makes a parameter as a JAX array, which tracers can index, unlike a NumPy array."""
        return jnp.asarray(self.param(*args, jnp.float32))

    def __call__(self, codes: Int[Array, "B *grid Q"]) -> Float[Array, "B T W"]:
        """Embeds codes with their places, as a sequence."""
        tokens = codes.reshape(codes.shape[0], -1)
        t = jnp.arange(tokens.shape[1], dtype=jnp.int32)
        # Two methods, since an autoregressive prior adds the content of token t - 1 to the place of
        # token t.
        return self.content(tokens, t) + self.place(t)

    def content(self, codes: Int[Array, "*shape"], t: Int[Array, "*#shape"]) -> Array:
        """Embeds codes at token numbers t, without their places; -1 has a vector too."""
        q, sizes = t % len(self.vocab), np.asarray(self.vocab, np.int32)
        # K differs between streams: the rows of stream q begin after those of the streams before.
        row = jnp.asarray(np.cumsum(sizes) - sizes, jnp.int32)[q] + codes
        known = (codes >= 0) & (codes < jnp.asarray(sizes)[q])
        return self.codes[jnp.where(known, row, sum(self.vocab))]

    def place(self, t: Int[Array, "*shape"]) -> Float[Array, "*shape W"]:
        """Embeds the places of token numbers t: position and stream."""
        return self.positions[t // len(self.vocab)] + self.streams[t % len(self.vocab)]


class CodeHead(nn.Module):
    """Logits of the next codes, a linear map for each stream: `[..., Q, W]` -> `[..., Q, max K]`.

    Logits are float32, and `EXCLUDED` beyond the K codes of a stream.
    """

    vocab: tuple[int, ...]
    width: int

    def setup(self) -> None:
        shape = (len(self.vocab), self.width, max(self.vocab))
        # One kernel, padded to the largest K, so that a traced q can select a stream. Each stream
        # is a separate map, and batch_axis keeps their number out of the fan-in.
        init = nn.initializers.lecun_normal(batch_axis=(0,))
        # JAX arrays, since tracers can't index the NumPy arrays of a loaded model.
        self.kernel = jnp.asarray(self.param("kernel", init, shape, jnp.float32))
        zeros = nn.initializers.zeros
        self.bias = jnp.asarray(self.param("bias", zeros, (shape[0], shape[2]), jnp.float32))

    def __call__(self, x: Float[Array, "*rows Q W"]) -> Float[Array, "*rows Q K"]:
        return self.logits(x, jnp.arange(len(self.vocab), dtype=jnp.int32), "...qw,qwk->...qk")

    def one(self, x: Float[Array, "*rows W"], q: Int[Array, ""]) -> Float[Array, "*rows K"]:
        """Returns the logits of stream q alone."""
        return self.logits(x, q, "...w,wk->...k")

    def logits(self, x: Array, q: Int[Array, "*q"], product: str) -> Array:
        # Computed in float32, since bfloat16 has 8 bits and likelihoods are sums over thousands of
        # codes.
        y = jnp.einsum(product, x.astype(jnp.float32), self.kernel[q]) + self.bias[q]
        exists = np.arange(max(self.vocab)) < np.asarray(self.vocab)[:, None]
        return jnp.where(jnp.asarray(exists)[q], y, EXCLUDED)


class GlobalCondition(nn.Module):
    """Embeds label and metadata as `[B, n, W]`, with n from 0 to 2 for the parts that there are."""

    classes: int
    metadata: int
    width: int

    @nn.compact
    def __call__(self, condition: Condition, batch: int) -> Float[Array, "B n W"]:
        # An empty part, so that concatenation works without label and metadata.
        parts = [jnp.zeros((batch, 0, self.width), jnp.float32)]
        if self.classes:
            label = jnp.full(batch, -1, jnp.int32) if condition.label is None else condition.label
            known = (label >= 0) & (label < self.classes)
            row = jnp.where(known, label, self.classes)  # the last row: not given
            table = nn.Embed(self.classes + 1, self.width, embedding_init=INIT, name="label")
            parts.append(table(row)[:, None])
        if self.metadata and condition.metadata is not None:  # always, after `check_condition`
            numbers = condition.metadata.astype(jnp.float32)
            parts.append(nn.Dense(self.width, name="metadata")(numbers)[:, None])
        return jnp.concatenate(parts, axis=1)


class Prefix(nn.Module):
    """Embeds a condition as a sequence `[B, P, W]`: label, metadata, codes of coarser levels."""

    classes: int
    coarse: tuple[Level, ...]
    metadata: int
    width: int

    @nn.compact
    def __call__(self, condition: Condition, batch: int) -> Float[Array, "B P W"]:
        parts = [GlobalCondition(self.classes, self.metadata, self.width)(condition, batch)]
        for (grid, vocab), codes in zip(self.coarse, condition.coarse, strict=True):
            parts.append(CodeEmbedding(vocab, grid, self.width)(codes))
        return jnp.concatenate(parts, axis=1)


def is_code(codes: Int[Array, "*rows Q"], vocab: tuple[int, ...]) -> Bool[Array, "*rows Q"]:
    """Returns whether each index is a code of its stream; -1 is not.

    Example:
        >>> is_code(jnp.array([[0, -1], [3, 3]]), (2, 4))
        Array([[ True, False],
               [False,  True]], dtype=bool)
    """
    return (codes >= 0) & (codes < jnp.asarray(vocab, jnp.int32))


def check_prior(prior) -> None:
    """Raises a ValueError unless the attributes shared by all priors are in range."""
    sizes = {"width": prior.width, "depth": prior.depth}
    for i, (grid, vocab) in enumerate(((prior.grid, prior.vocab), *prior.coarse)):
        of = "" if i == 0 else f" of coarse level {i - 1}"
        if not grid or not vocab:
            raise ValueError(f"grid and vocab{of} must not be empty, got {grid} and {vocab}")
        sizes |= {f"grid[{j}]{of}": n for j, n in enumerate(grid)}
        sizes |= {f"vocab[{j}]{of}": n for j, n in enumerate(vocab)}
    check_size(**sizes)
    large = {name: n for name, n in sizes.items() if "vocab" in name and n > LARGEST_VOCAB}
    for name, n in large.items():
        raise ValueError(
            f"{name} = {n:,}: a prior has a vector and a logit for each code, at most "
            f"{LARGEST_VOCAB:,}; use several streams of fewer codes, with grouped or residual"
        )
    check_range(0, np.inf, classes=prior.classes, metadata=prior.metadata)
    check_range(0, 1, dropout=prior.dropout)


def check_codes(name: str, codes: Array, grid: tuple[int, ...], vocab: tuple[int, ...]) -> None:
    """Raises unless codes are ints `[B, *grid, Q]` from -1 to K - 1."""
    if codes.shape[1:] != (*grid, len(vocab)):
        raise ValueError(f"{name} must be [B, *{grid}, {len(vocab)}], got shape {codes.shape}")
    check_indices(codes, vocab)


def check_label(label: Int[Array, "..."], classes: int) -> None:
    """Raises a ValueError unless labels are `[B]` and, if concrete, from -1 to classes - 1."""
    if not classes:
        raise ValueError("the prior has no classes, got labels")
    if label.ndim != 1:
        raise ValueError(f"labels must be [B], got shape {label.shape}")
    if isinstance(label, jax.core.Tracer) or not label.size:
        return
    values = np.asarray(label)
    if values.min() < -1 or values.max() >= classes:
        bounds = f"{values.min()} to {values.max()}"
        raise ValueError(f"labels must be from -1 to {classes - 1}, got {bounds}")


def check_condition(prior, condition: Condition, batch: int) -> None:
    """Raises unless a condition has the parts that the prior needs, for `batch` examples."""
    label, coarse, metadata = condition
    if len(coarse) != len(prior.coarse):
        raise ValueError(
            f"needs the codes of {len(prior.coarse)} coarser levels, got {len(coarse)}"
        )
    for i, ((grid, vocab), codes) in enumerate(zip(prior.coarse, coarse, strict=True)):
        check_codes(f"coarse[{i}]", codes, grid, vocab)
    if label is not None:
        check_label(label, prior.classes)
    found = None if metadata is None else metadata.shape[1:]
    if found != ((prior.metadata,) if prior.metadata else None):
        raise ValueError(f"metadata must be [B, {prior.metadata}], None for 0; got {found}")
    # JAX would broadcast a condition of one example over the batch without a word.
    leading = {len(a) for a in (label, metadata, *coarse) if a is not None}
    if not leading <= {batch}:
        raise ValueError(f"the condition must be of {batch} examples, got {sorted(leading)}")
