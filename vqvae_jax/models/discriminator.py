"""Patch discriminator for adversarial training: a logit for each patch, real or reconstructed."""

import math

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vqvae_jax.checks import check_float, check_size
from vqvae_jax.conversions import boundary
from vqvae_jax.models.convolution import Conv


class PatchDiscriminator(nn.Module):
    """PatchGAN discriminator, x [B, *spatial, C] -> a logit for each patch [B, *patches].

    `downsamplings` strided 4x4 convolutions of growing width, a 4x4 one, and one to a logit, which
    is high where a patch looks real (arXiv:1611.07004). There may be one, two or three spatial axes
    of any sides. Group normalisation (arXiv:1803.08494) keeps examples independent of each other.

    Attributes:
        width: channels after the first convolution, doubled with each up to 8 times as many.
        downsamplings: number of times each side is halved; 2 give each logit a patch of 34 pixels
            along an axis, 3 give 70.
        groups: largest number of groups in group normalisation.
        dtype: dtype of the activations, "float32" or "bfloat16"; parameters and logits are float32.

    Example:
        >>> import jax
        >>> x = jnp.zeros((2, 28, 28, 1))
        >>> logits, _ = PatchDiscriminator(width=8).init_with_output(jax.random.key(0), x)
        >>> logits.shape
        (2, 7, 7)
    """

    width: int = 64
    downsamplings: int = 2
    groups: int = 8
    dtype: str = "float32"

    @boundary
    @nn.compact
    def __call__(self, x: Float[Array, "B *spatial C"]) -> Float[Array, "B *patches"]:
        check_size(width=self.width, downsamplings=self.downsamplings, groups=self.groups)
        check_float("x", x)
        kernel = (4,) * (x.ndim - 2)
        for i in range(self.downsamplings + 1):
            features = self.width * 2 ** min(i, 3)
            stride = 1 if i == self.downsamplings else 2
            x = Conv(features, kernel, stride, dtype=self.dtype)(x)
            if i > 0:
                # The gcd divides the features evenly. Batch normalisation, as in pix2pix, would
                # make examples depend on each other, and on the number of replicas.
                groups = math.gcd(self.groups, features)
                x = nn.GroupNorm(num_groups=groups, dtype=self.dtype)(x)
            x = nn.leaky_relu(x, 0.2)
        return Conv(1, kernel, dtype=self.dtype)(x)[..., 0].astype(jnp.float32)
