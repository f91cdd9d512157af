"""`QuantizeNNX`: any quantizer as a Flax NNX module."""

import jax
from flax import nnx
from jaxtyping import Array, Float, Int

from vqvae_jax.quantizers.base import Output, Quantizer


class QuantizerState(nnx.Variable):
    """What data moves: not a `nnx.Param`, so no gradient is taken for it."""


def is_variable(leaf) -> bool:
    return isinstance(leaf, nnx.Variable)


class QuantizeNNX(nnx.Module):
    """A quantizer in an NNX module; each of its arrays is one variable.

    Example:
        >>> import jax.numpy as jnp, vqvae_jax as vj
        >>> layer = QuantizeNNX(vj.ema_vq(size=16, dim=4), rngs=nnx.Rngs(0))
        >>> layer(jnp.ones((2, 4)), train=True).indices.shape
        (2, 1)
        >>> sorted(layer.state)
        ['codebook', 'counts', 'sums']
    """

    def __init__(self, quantizer: Quantizer, *, rngs: nnx.Rngs):
        params, state = quantizer.init(rngs.params())
        self.quantizer = nnx.static(quantizer)
        self.params = nnx.data(jax.tree.map(nnx.Param, params))
        self.state = nnx.data(jax.tree.map(QuantizerState, state))

    def tree(self):
        """(params, state) of the quantizer, as arrays."""
        return jax.tree.map(lambda v: v[...], (self.params, self.state), is_leaf=is_variable)

    def __call__(
        self,
        z: Float[Array, "*rows D"],
        *,
        train: bool = False,
        key=None,
        mask=None,
        axis_name=None,
    ) -> Output:
        """`Quantizer.apply`; in training the new state replaces the old one."""
        params, state = self.tree()
        out, new = self.quantizer.apply(
            params, state, z, train=train, key=key, mask=mask, axis_name=axis_name
        )
        if train:
            jax.tree.map(lambda v, x: v.set_value(x), self.state, new, is_leaf=is_variable)
        return out

    def decode(self, indices: Int[Array, "*rows Q"]) -> Float[Array, "*rows D"]:
        """`Quantizer.decode`: the vectors of these codes."""
        return self.quantizer.decode(*self.tree(), indices)
