"""`QuantizeNNX`: any quantizer as a Flax NNX module."""

import jax
from flax import nnx
from jaxtyping import Array, Float, Int

from vqvae_jax.models.linen import keys_from
from vqvae_jax.quantizers.base import RNG, Output, Quantizer


class QuantizerState(nnx.Variable):
    """Variable for quantizer state; not an `nnx.Param`, so no gradient is taken for it."""


def is_variable(leaf) -> bool:
    return isinstance(leaf, nnx.Variable)


class QuantizeNNX(nnx.Module):
    """NNX module of a quantizer; each of its arrays is one variable.

    Like `nnx.Dropout` it starts in training mode and follows `train()` and `eval()` of the model
    around it. It draws keys from a stream of its own, forked from the stream "quantize" of rngs, or
    from the default stream.

    Attributes:
        quantizer: any `Quantizer`.
        params, state: arrays of the quantizer, by the papers' names.
        deterministic: False in training, True in evaluation, set by `train()` and `eval()`.
        rngs: stream of keys; None if the given rngs have neither of the two streams.

    Example:
        >>> import jax.numpy as jnp, vqvae_jax as vj
        >>> q = vj.ema_vq(size=16, dim=4, init=vj.inits.kmeans(), reset=vj.codebooks.underused(0.1))
        >>> layer = QuantizeNNX(q, rngs=nnx.Rngs(0))
        >>> layer(jnp.ones((2, 4))).indices.shape  # k-means on the first batch, with a key of rngs
        (2, 1)
        >>> layer.eval()
        >>> layer(jnp.ones((2, 4))).indices.shape  # changes nothing
        (2, 1)
        >>> sorted(layer.state)
        ['codebook', 'counts', 'initialized', 'sums', 'written']
    """

    def __init__(self, quantizer: Quantizer, *, deterministic: bool = False, rngs: nnx.Rngs):
        params, state = quantizer.init(rngs.params())
        # Static, and equal if made by the same call, so that nnx.jit does not recompile for a copy.
        self.quantizer = nnx.static(quantizer)
        self.params = nnx.data(jax.tree.map(nnx.Param, params))
        self.state = nnx.data(jax.tree.map(QuantizerState, state))
        self.deterministic = deterministic
        # Forked: if quantizers that share rngs drew from one stream in turn, the draws of each
        # would depend on the others.
        known = RNG in rngs or "default" in rngs
        self.rngs = rngs[RNG].fork() if known else nnx.data(None)

    def set_view(self, deterministic: bool | None = None) -> None:
        """Class method used by ``nnx.view``.

        Args:
          deterministic: if True, the state stays as it is and nothing is drawn.
        """
        if deterministic is not None:
            self.deterministic = deterministic

    def tree(self):
        """Returns (params, state) of the quantizer as arrays."""
        return jax.tree.map(lambda v: v[...], (self.params, self.state), is_leaf=is_variable)

    def __call__(
        self,
        z: Float[Array, "*rows D"],
        *,
        train: bool | None = None,
        key=None,
        mask=None,
        axis_name=None,
    ) -> Output:
        """Calls `Quantizer.apply`; in training the new state replaces the old one.

        Args:
            z: rows, `[..., D]`.
            train: training or eval mode; None follows `train()` and `eval()`.
            key: key to use; None draws one from the module's own stream.
            mask, axis_name: as in `Quantizer.apply`.
        """
        train = not self.deterministic if train is None else train
        # Only in training: evaluation between steps must not change what later steps draw.
        if train and key is None and self.rngs is not None:
            key = self.rngs()
        params, state = self.tree()
        with keys_from(f"nnx.Rngs(..., {RNG}=seed) at init, or key="):
            out, new = self.quantizer.apply(
                params, state, z, train=train, key=key, mask=mask, axis_name=axis_name
            )
        if train:
            jax.tree.map(lambda v, x: v.set_value(x), self.state, new, is_leaf=is_variable)
        return out

    def decode(self, indices: Int[Array, "*rows Q"]) -> Float[Array, "*rows D"]:
        """Calls `Quantizer.decode`, which returns the vectors of these codes."""
        return self.quantizer.decode(*self.tree(), indices)
