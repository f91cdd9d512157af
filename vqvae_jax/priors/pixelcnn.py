"""Gated PixelCNN: an autoregressive prior over codes by causal convolutions."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vqvae_jax.checks import check_size
from vqvae_jax.conversions import boundary
from vqvae_jax.models.blocks import ResidualStack
from vqvae_jax.models.convolution import Conv
from vqvae_jax.priors.conditioning import (
    UNCONDITIONAL,
    CodeEmbedding,
    CodeHead,
    Condition,
    GlobalCondition,
    Level,
    check_codes,
    check_condition,
    check_prior,
)


class PixelCNN(nn.Module):
    """Autoregressive prior p(k | c) = prod_t p(k_t | k_1, ..., k_{t-1}, c) (arXiv:1606.05328).

    A vertical stack sees the rows above, a horizontal one the places to the left in the same row.
    Together they see all places before, without a blind spot, up to `depth * (kernel // 2)` rows
    and columns away. Streams at one place are predicted one after another, and the head of each
    sees the codes of the streams before it. Label and metadata are a bias in each layer; coarser
    levels are a map, upsampled to the grid. All grids must have two axes.

    Attributes:
        vocab: sizes K of the Q streams.
        grid: (height, width) of the map of codes.
        classes: number of classes, 0 without labels.
        coarse: (grid, vocab) of each coarser level, coarse to fine.
        metadata: number M of metadata values for each example.
        width: number of channels.
        depth: number of gated layers.
        kernel: odd side of the convolutions.
        dropout: dropout rate within each layer, in training.
        dtype: dtype of the activations, "float32" or "bfloat16"; parameters are float32.

    Raises:
        ValueError: if a grid does not have two axes, or the kernel is even.

    Example:
        >>> prior = PixelCNN((8, 5), (2, 3), width=16, depth=2)
        >>> codes = jnp.zeros((4, 2, 3, 2), int)
        >>> jax.eval_shape(prior.init_with_output, jax.random.key(0), codes)[0].shape
        (4, 2, 3, 2, 8)
    """

    vocab: tuple[int, ...]
    grid: tuple[int, ...]
    classes: int = 0
    coarse: tuple[Level, ...] = ()
    metadata: int = 0
    width: int = 128
    depth: int = 8
    kernel: int = 3
    dropout: float = 0.0
    dtype: str = "float32"

    @boundary
    @nn.compact
    def __call__(
        self,
        codes: Int[Array, "B *grid Q"],
        condition: Condition = UNCONDITIONAL,
        *,
        train: bool = False,
    ) -> Float[Array, "B *grid Q K"]:
        """Returns the logits of each code given those before it, as `TransformerPrior` does."""
        self.check(codes, condition)
        context = Context(self.grid, self.classes, self.coarse, self.metadata, self.width)
        given = context(condition, len(codes))
        embedding = CodeEmbedding(self.vocab, self.grid, self.width, deviation=1.0)
        content = embedding.content(codes, jnp.arange(len(self.vocab), dtype=jnp.int32))
        places = embedding.place(jnp.arange(codes[0].size, dtype=jnp.int32)).reshape(
            content.shape[1:]
        )
        # The stacks see whole places, in which streams add up; only the head orders the streams.
        x = jnp.sum(content, axis=-2).astype(self.dtype)
        # Inputs are shifted by one place, and layers pad on one side only. Kernels are then as
        # small as what they see, where masked ones would multiply by zeros.
        rows, columns = moved(x, 1), moved(x, 2)
        # The head reads the sum of all layers, each of which sees a little farther than the last.
        skip = jnp.zeros((), self.dtype)
        for _ in range(self.depth):
            layer = GatedLayer(self.width, self.kernel, self.dropout, self.dtype)
            rows, columns, out = layer(rows, columns, given, train=train)
            skip = skip + out
        # The stacks end at the place before. At this place, a stream sees the sum of the streams
        # before it.
        before = moved(content, 3)
        if len(self.vocab) > 1:  # XLA for CUDA takes seconds to compile the sum of one
            before = jnp.cumsum(before, axis=3)
        y = nn.Dense(self.width, dtype=self.dtype)(before + places)
        y = nn.relu(y + nn.Dense(self.width, dtype=self.dtype)(nn.relu(skip))[..., None, :])
        return CodeHead(self.vocab, self.width)(y)

    def check(self, codes: Array, condition: Condition) -> None:
        check_prior(self)
        check_size(kernel=self.kernel)
        grids = (self.grid, *(grid for grid, _ in self.coarse))
        if any(len(grid) != 2 for grid in grids) or self.kernel % 2 == 0:
            raise ValueError(
                f"needs grids of two axes and an odd kernel, got {grids} and {self.kernel}"
            )
        check_codes("codes", codes, self.grid, self.vocab)
        check_condition(self, condition, len(codes))


class GatedLayer(nn.Module):
    """One layer of both stacks: gated activation, horizontal residual connection, skip output."""

    width: int
    kernel: int
    dropout: float
    dtype: str

    @nn.compact
    def __call__(
        self,
        rows: Float[Array, "B H W C"],
        columns: Float[Array, "B H W C"],
        given: Float[Array, "B h w C"],
        *,
        train: bool,
    ) -> tuple[Float[Array, "B H W C"], ...]:
        def dense(features, x):
            return nn.Dense(features, dtype=self.dtype)(x)

        def conv(taps, x):
            return Conv(2 * self.width, taps, padding="VALID", dtype=self.dtype)(x)

        far, twice = self.kernel // 2, 2 * self.width
        # `rows` is shifted down by one and `columns` to the right, so what lies at a place precedes
        # it.
        up = jnp.pad(rows, ((0, 0), (far, 0), (far, far), (0, 0)))
        left = jnp.pad(columns, ((0, 0), (0, 0), (far, 0), (0, 0)))
        vertical = conv((far + 1, self.kernel), up)
        # The vertical stack feeds the horizontal one, never the reverse: vertical kernels reach to
        # the right, and would see codes that come later.
        horizontal = conv((1, far + 1), left) + dense(twice, vertical)
        rows = gate(vertical + dense(twice, given))
        out = gate(horizontal + dense(twice, given))
        out = nn.Dropout(self.dropout, deterministic=not train)(out)
        return rows, columns + dense(self.width, out), dense(self.width, out)


class Context(nn.Module):
    """Embeds a condition as a map `[B, *grid, C]`, or `[B, 1, 1, C]` without coarser levels."""

    grid: tuple[int, ...]
    classes: int
    coarse: tuple[Level, ...]
    metadata: int
    width: int

    @nn.compact
    def __call__(self, condition: Condition, batch: int) -> Float[Array, "B h w C"]:
        given = GlobalCondition(self.classes, self.metadata, self.width)(condition, batch)
        x = jnp.sum(given, axis=1)[:, None, None]
        for (grid, vocab), codes in zip(self.coarse, condition.coarse, strict=True):
            tokens = CodeEmbedding(vocab, grid, self.width, deviation=1.0)(codes)
            level = jnp.sum(tokens.reshape(*codes.shape, self.width), axis=-2)
            level = ResidualStack(self.width, 2)(level)
            # The convolutions see only nearby codes, so each place also gets the mean of all.
            level = level + nn.Dense(self.width)(jnp.mean(level, axis=(1, 2), keepdims=True))
            x = x + jax.image.resize(level, (batch, *self.grid, self.width), "nearest")
        return x


def gate(x: Float[Array, "B H W two_C"]) -> Float[Array, "B H W C"]:
    """Gated activation tanh(a) sigmoid(b) of the two halves of x."""
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.tanh(a) * nn.sigmoid(b)


def moved(x: Float[Array, "*shape"], axis: int) -> Float[Array, "*shape"]:
    """Shifts x by one place along an axis and fills with zeros.

    Example:
        >>> moved(jnp.array([1.0, 2.0, 3.0]), 0)
        Array([0., 1., 2.], dtype=float32)
    """
    pads = [(int(i == axis), 0) for i in range(x.ndim)]
    return jax.lax.slice_in_dim(jnp.pad(x, pads), 0, x.shape[axis], axis=axis)
