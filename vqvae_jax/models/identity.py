"""The identity as a module, for models that quantize the data themselves."""

import flax.linen as nn
from jaxtyping import Array, Float

from vqvae_jax.checks import check_float
from vqvae_jax.conversions import boundary


class Identity(nn.Module):
    """Encoder or decoder that returns its input: the quantizer's codes are those of the data.

    Raises:
        TypeError: if x is not float.

    Example:
        >>> import jax, vqvae_jax as vj
        >>> model = vj.VQVAE(Identity(), vj.repeat(vj.vq(8, 2), 3), Identity())
        >>> f, x = vj.as_functions(model), jax.numpy.ones((5, 2))
        >>> f.tokenize(f.init(jax.random.key(0), x), x).shape
        (5, 3)
    """

    @boundary
    def __call__(self, x: Float[Array, "B *shape"]) -> Float[Array, "B *shape"]:
        check_float("x", x)
        return x
