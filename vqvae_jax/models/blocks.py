"""Encoders and decoders: the convolutional pair of the VQ-VAE paper, and an MLP for vectors."""

import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vqvae_jax.checks import check_float, check_size
from vqvae_jax.conversions import boundary
from vqvae_jax.models.convolution import Conv, window
from vqvae_jax.models.input_checks import check_dtype, check_input, per_axis, spatial_axes
from vqvae_jax.models.masks import of_rows, within


class Encoder(nn.Module):
    """Convolutional encoder, x [B, *spatial, channels] -> z_e [B, *spatial / 2^downsamplings, dim].

    Strided 4x4 convolutions, a 3x3 one, residual blocks, and a 1x1 convolution to dim
    (arXiv:1711.00937, 4.1), over one, two or three spatial axes, each divisible by 2^downsamplings.

    With a mask of the samples, `[B, *spatial]`, each example is encoded as if it stood alone,
    padded with zeros to the next multiple of 2^downsamplings: padding is set to 0 before each
    convolution, like the zeros with which convolutions themselves pad. A place of z_e is real if
    any of its samples is.

    Attributes:
        channels: channels of x.
        dim: D, the width of the codes.
        width: number of hidden channels.
        downsamplings: number of times each side is halved, or a tuple with a number for each
            spatial axis, such as (1, 2, 2) for video; axes with fewer are halved by the last
            convolutions.
        depth: number of residual blocks.
        groups: groups of the 3x3 convolutions in the residual blocks.
        dtype: dtype of the activations, "float32" or "bfloat16"; parameters are float32.

    Example:
        >>> import jax
        >>> z_e, variables = Encoder(dim=8).init_with_output(
        ...     jax.random.key(0), jnp.zeros((2, 28, 28, 1))
        ... )
        >>> z_e.shape
        (2, 7, 7, 8)
    """

    channels: int = 1
    dim: int = 64
    width: int = 64
    downsamplings: int | tuple[int, ...] = 2
    depth: int = 2
    groups: int = 1
    dtype: str = "float32"

    @boundary
    @nn.compact
    def __call__(self, x: Float[Array, "B *spatial C"], mask=None) -> Float[Array, "B *grid D"]:
        check_size(channels=self.channels, dim=self.dim, width=self.width, groups=self.groups)
        check_dtype(self.dtype)
        self.check(x)
        rank = x.ndim - 2
        halvings = per_axis("downsamplings", self.downsamplings, rank)
        real = None
        if mask is not None:
            x = within(x, mask)
            sides = (side // 2**n for side, n in zip(x.shape[1:-1], halvings, strict=True))
            real = of_rows(mask, jnp.empty((x.shape[0], *sides, 0)))
        # Padding is set to 0 before each convolution: after a bias and a relu it no longer is 0 and
        # would leak into its neighbours, which in an example that stands alone see zeros there.
        for i in reversed(range(max(halvings))):
            # Half the channels while sides are large, as in Sonnet's example of the paper.
            width = self.width if i == 0 else max(self.width // 2, 1)
            strides = tuple(2 if i < n else 1 for n in halvings)
            # With stride 2, 4 taps see each sample equally often; 3 would favour every second one.
            taps = tuple(4 if s == 2 else 3 for s in strides)
            x = within(nn.relu(Conv(width, taps, strides, dtype=self.dtype)(x)), real)
        x = Conv(self.width, (3,) * rank, dtype=self.dtype)(x)
        x = ResidualStack(self.width, self.depth, self.groups, self.dtype)(x, real)
        return Conv(self.dim, (1,) * rank, dtype=self.dtype)(x)

    def check(self, x: Array) -> None:
        """Raises unless x has the rank, sides and channels that the module takes."""
        check_input("x", x, self.channels, self.downsamplings, spatial_axes(self))


class Decoder(nn.Module):
    """Decoder z_q [B, *grid, dim] -> x' [B, *grid * 2^upsamplings, channels], mirror of `Encoder`.

    With a mask of the rows, `[B, *grid]`, each example is decoded as if it stood alone, and the
    rest of x' is 0.

    Attributes:
        channels: channels of x'.
        dim: D, the width of the codes.
        width, depth, groups, dtype: as in `Encoder`; x' is float32.
        upsamplings: number of times each side is doubled, as `Encoder.downsamplings`.
    """

    channels: int = 1
    dim: int = 64
    width: int = 64
    upsamplings: int | tuple[int, ...] = 2
    depth: int = 2
    groups: int = 1
    dtype: str = "float32"

    @boundary
    @nn.compact
    def __call__(self, z_q: Float[Array, "B *grid D"], mask=None) -> Float[Array, "B *spatial C"]:
        check_size(channels=self.channels, dim=self.dim, width=self.width, groups=self.groups)
        check_dtype(self.dtype)
        self.check(z_q)
        rank = z_q.ndim - 2
        doublings = per_axis("upsamplings", self.upsamplings, rank)
        x = Conv(self.width, (3,) * rank, dtype=self.dtype)(within(z_q, mask))
        x = ResidualStack(self.width, self.depth, self.groups, self.dtype)(x, mask)
        last = max(doublings) - 1
        for i in range(last + 1):
            width = self.channels if i == last else max(self.width // 2, 1)
            doubled = tuple(i < n for n in doublings)
            # `within` repeats the mask along sides that have been doubled any number of times.
            x = Upsample(width, self.dtype, doubled)(within(x, mask))
            x = x if i == last else nn.relu(x)
        if last < 0:
            x = Conv(self.channels, (1,) * rank, dtype=self.dtype)(x)
        # float32 even for bfloat16 activations, since losses are differences of close numbers.
        return within(x.astype(jnp.float32), mask)

    def check(self, z_q: Array) -> None:
        """Raises unless z_q has the channels and rank that the module takes."""
        rank = spatial_axes(self)
        if rank is None and isinstance(self.upsamplings, tuple):
            rank = len(self.upsamplings)
        check_input("z_q", z_q, self.dim, 0, rank)


class ResidualStack(nn.Module):
    """Residual blocks: `depth` times x + conv1x1(relu(conv3x3(relu(x)))), then relu."""

    width: int
    depth: int
    groups: int = 1
    dtype: str = "float32"

    @boundary
    @nn.compact
    def __call__(self, x: Float[Array, "B *spatial C"], mask=None) -> Float[Array, "B *spatial C"]:
        rank = x.ndim - 2
        for _ in range(self.depth):
            h = Conv(self.width, (3,) * rank, feature_group_count=self.groups, dtype=self.dtype)(
                within(nn.relu(x), mask)
            )
            x = x + Conv(self.width, (1,) * rank, dtype=self.dtype)(nn.relu(h))
        return nn.relu(x)


class Upsample(nn.Module):
    """Doubles each side: the transposed convolution of 4 taps and stride 2, in sub-pixel form.

    Each output pixel of that layer sees 2 input pixels along each axis. It therefore equals a plain
    convolution of 2 taps to 2^rank times the features, whose channels are then rearranged into
    pixels. Function and number of parameters are the same; the gradient is several times faster on
    XLA CPU.

    Attributes:
        features: channels of the output.
        dtype: dtype of the activations.
        doubled: bools that say which axes are doubled, None for all; the others have 3 taps.
    """

    features: int
    dtype: str = "float32"
    doubled: tuple[bool, ...] | None = None

    @boundary
    @nn.compact
    def __call__(self, x: Float[Array, "B *small C"]) -> Float[Array, "B *large F"]:
        batch, *sides, _ = x.shape
        rank = len(sides)
        factors = tuple(2 if d else 1 for d in self.doubled or (True,) * rank)
        phases = list(itertools.product(*map(range, factors)))
        kernel = tuple(2 if factor == 2 else 3 for factor in factors)
        # Padded explicitly: XLA CPU takes ten times as long for a convolution that pads by 1 and 1.
        x = jnp.pad(x, ((0, 0), *[(1, 1)] * rank, (0, 0)))
        x = jax.lax.platform_dependent(x, cpu=lambda x: x, default=kept_apart)
        features = len(phases) * self.features
        y = Conv(features, kernel, padding="VALID", use_bias=False, dtype=self.dtype)(x)
        y = y.reshape(*y.shape[:-1], len(phases), self.features)
        # Output pixel 2i + p sees inputs i - 1 + p and i + p, so phase p begins at place p of the
        # padded convolution.
        y = [y[(slice(None), *window(p, sides), i)] for i, p in enumerate(phases)]
        y = jnp.stack(y, axis=-2).reshape(batch, *sides, *factors, self.features)
        between = [axis for i in range(rank) for axis in (1 + i, 1 + rank + i)]
        y = y.transpose(0, *between, 1 + 2 * rank)
        large = (factor * side for factor, side in zip(factors, sides, strict=True))
        y = y.reshape(batch, *large, self.features)
        # One bias for each feature, added after the rearrangement: a bias for each phase would
        # allow functions that the transposed convolution can't represent.
        return y + self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32).astype(
            y.dtype
        )


def kept_apart(x: Array) -> Array:
    """Returns x, padded with zeros that the compiler does not move into a convolution."""
    # With them XLA takes the gradient of the kernel for a convolution of the gradient of y with x
    # as its kernel. On a GPU cuDNN sums its thousands of terms on 1 to 4 of 132 multiprocessors.
    return jax.lax.optimization_barrier(x)


class MLP(nn.Module):
    """Multilayer perceptron [..., any] -> [..., features], as encoder or decoder of vectors.

    Attributes:
        features: width of the output.
        width: width of the hidden layers.
        depth: number of hidden layers.
        dtype: dtype of the activations; the output is float32.
    """

    features: int
    width: int = 256
    depth: int = 2
    dtype: str = "float32"

    @boundary
    @nn.compact
    def __call__(self, x: Float[Array, "*rows I"]) -> Float[Array, "*rows O"]:
        check_size(features=self.features, width=self.width)
        check_dtype(self.dtype)
        self.check(x)
        for _ in range(self.depth):
            x = nn.relu(nn.Dense(self.width, dtype=self.dtype)(x))
        return nn.Dense(self.features, dtype=self.dtype)(x).astype(jnp.float32)

    def check(self, x: Array) -> None:
        """Raises unless x is float and has the width that it had at init."""
        check_float("x", x)
        # Flax's own error would only name a kernel Dense_0 of another shape.
        first: Any = self.get_variable("params", "Dense_0", {})
        if "kernel" in first and x.shape[-1:] != first["kernel"].shape[:1]:
            width = first["kernel"].shape[0]
            raise ValueError(f"x must be [..., {width}] as at init, got shape {x.shape}")
