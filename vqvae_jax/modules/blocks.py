"""Encoders and decoders: the convolutional pair of the VQ-VAE paper, an MLP for plain vectors."""

import itertools

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vqvae_jax.boundary import boundary
from vqvae_jax.modules.convolution import Conv, window
from vqvae_jax.quantizers.base import check_size


class Encoder(nn.Module):
    """x [B, *spatial, channels] -> z_e [B, *spatial / 2^downsamplings, dim] (arXiv:1711.00937).

    Strided 4x4 convolutions, a 3x3 one, residual blocks, and a 1x1 convolution to dim. One, two or
    three spatial axes; each must be divisible by 2^downsamplings.

    Attributes:
        channels: of x.
        dim: D, the width of the codes.
        width: channels inside.
        downsamplings: how often each side is halved.
        depth: number of residual blocks.
        groups: of the 3x3 convolutions in the residual blocks.
        dtype: of the activations, "float32" or "bfloat16"; parameters are float32.

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
    downsamplings: int = 2
    depth: int = 2
    groups: int = 1
    dtype: str = "float32"

    @boundary
    @nn.compact
    def __call__(self, x: Float[Array, "B *spatial C"]) -> Float[Array, "B *grid D"]:
        check_size(channels=self.channels, dim=self.dim, width=self.width, groups=self.groups)
        check_input("x", x, self.channels, 2**self.downsamplings)
        rank = x.ndim - 2
        for i in reversed(range(self.downsamplings)):
            width = self.width if i == 0 else max(self.width // 2, 1)
            x = nn.relu(Conv(width, (4,) * rank, 2, dtype=self.dtype)(x))
        x = Conv(self.width, (3,) * rank, dtype=self.dtype)(x)
        x = ResidualStack(self.width, self.depth, self.groups, self.dtype)(x)
        return Conv(self.dim, (1,) * rank, dtype=self.dtype)(x)


class Decoder(nn.Module):
    """z_q [B, *grid, dim] -> x' [B, *grid * 2^upsamplings, channels]: `Encoder` mirrored.

    Attributes:
        channels: of x'.
        dim: D, the width of the codes.
        width, depth, groups, dtype: as in `Encoder`; x' is float32.
        upsamplings: how often each side is doubled.
    """

    channels: int = 1
    dim: int = 64
    width: int = 64
    upsamplings: int = 2
    depth: int = 2
    groups: int = 1
    dtype: str = "float32"

    @boundary
    @nn.compact
    def __call__(self, z_q: Float[Array, "B *grid D"]) -> Float[Array, "B *spatial C"]:
        check_size(channels=self.channels, dim=self.dim, width=self.width, groups=self.groups)
        check_input("z_q", z_q, self.dim, 1)
        x = Conv(self.width, (3,) * (z_q.ndim - 2), dtype=self.dtype)(z_q)
        x = ResidualStack(self.width, self.depth, self.groups, self.dtype)(x)
        for i in reversed(range(self.upsamplings)):
            x = Upsample(self.channels if i == 0 else max(self.width // 2, 1), self.dtype)(x)
            x = x if i == 0 else nn.relu(x)
        if self.upsamplings == 0:
            x = Conv(self.channels, (1,) * (z_q.ndim - 2), dtype=self.dtype)(x)
        return x.astype(jnp.float32)


class ResidualStack(nn.Module):
    """`depth` times x + conv1x1(relu(conv3x3(relu(x)))), then relu (arXiv:1711.00937, 4.1)."""

    width: int
    depth: int
    groups: int = 1
    dtype: str = "float32"

    @boundary
    @nn.compact
    def __call__(self, x: Float[Array, "B *spatial C"]) -> Float[Array, "B *spatial C"]:
        rank = x.ndim - 2
        for _ in range(self.depth):
            h = Conv(self.width, (3,) * rank, feature_group_count=self.groups, dtype=self.dtype)(
                nn.relu(x)
            )
            x = x + Conv(self.width, (1,) * rank, dtype=self.dtype)(nn.relu(h))
        return nn.relu(x)


class Upsample(nn.Module):
    """Doubles each side: the transposed convolution of 4 taps and stride 2, in sub-pixel form.

    Each output pixel of that layer sees 2 input pixels along each axis, so that it equals one plain
    convolution of 2 taps to 2^rank times the features, whose channels are then dealt to the pixels.
    Same function, same number of parameters; the gradient is several times faster on XLA CPU.
    """

    features: int
    dtype: str = "float32"

    @boundary
    @nn.compact
    def __call__(self, x: Float[Array, "B *small C"]) -> Float[Array, "B *large F"]:
        batch, *sides, _ = x.shape
        rank = len(sides)
        phases = list(itertools.product((0, 1), repeat=rank))
        kernel = (2,) * rank
        # Padded by hand: XLA CPU takes ten times as long for a convolution that pads by 1 and 1.
        x = jnp.pad(x, ((0, 0), *[(1, 1)] * rank, (0, 0)))
        features = len(phases) * self.features
        y = Conv(features, kernel, padding="VALID", use_bias=False, dtype=self.dtype)(x)
        y = y.reshape(*y.shape[:-1], len(phases), self.features)
        y = [y[(slice(None), *window(p, sides), i)] for i, p in enumerate(phases)]
        y = jnp.stack(y, axis=-2).reshape(batch, *sides, *kernel, self.features)
        between = [axis for i in range(rank) for axis in (1 + i, 1 + rank + i)]
        y = y.transpose(0, *between, 1 + 2 * rank)
        y = y.reshape(batch, *(2 * side for side in sides), self.features)
        return y + self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32).astype(
            y.dtype
        )


class MLP(nn.Module):
    """[..., any] -> [..., features]; one as encoder and one as decoder make a VQ-VAE of vectors.

    Attributes:
        features: width of the output.
        width: of the hidden layers.
        depth: number of hidden layers.
        dtype: of the activations; the output is float32.
    """

    features: int
    width: int = 256
    depth: int = 2
    dtype: str = "float32"

    @boundary
    @nn.compact
    def __call__(self, x: Float[Array, "*rows I"]) -> Float[Array, "*rows O"]:
        check_size(features=self.features, width=self.width)
        check_float("x", x)
        for _ in range(self.depth):
            x = nn.relu(nn.Dense(self.width, dtype=self.dtype)(x))
        return nn.Dense(self.features, dtype=self.dtype)(x).astype(jnp.float32)


def check_float(name: str, x: Array) -> None:
    """Raises a TypeError for pixels that were not scaled."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"{name} must be float, got {x.dtype}: use vqvae_jax.data.pipeline.preprocess"
        )


def check_input(name: str, x: Array, channels: int, factor: int) -> None:
    """Raises unless x is a float array [B, *spatial, channels], its sides multiples of factor."""
    check_float(name, x)
    if not 3 <= x.ndim <= 5 or x.shape[-1] != channels:
        raise ValueError(
            f"{name} must be [B, 1 to 3 spatial axes, {channels} channels], got shape {x.shape}"
        )
    if x.shape[0] == 0 or any(side < 1 or side % factor for side in x.shape[1:-1]):
        raise ValueError(
            f"{name} must have B >= 1 and sides that are multiples of {factor}, got shape {x.shape}"
        )
