"""Gradient accumulation with rematerialisation: a module applied to parts of the batch in turn."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vqvae_jax.checks import check_size
from vqvae_jax.conversions import boundary
from vqvae_jax.models.convolution import IN_LOOP
from vqvae_jax.models.masks import masked


def in_loop(inner: nn.Module, x: Array, mask: Array | None = None) -> Array:
    """Returns inner(x) with `IN_LOOP` set, so that convolutions choose their form for loops."""
    token = IN_LOOP.set(True)
    try:
        return masked(inner, x, mask)
    finally:
        IN_LOOP.reset(token)


class Microbatched(nn.Module):
    """Applies inner to one part of the batch at a time, so that only one part's activations exist.

    Use it for encoders and decoders in a `VQVAE`. Gradients are accumulated over the parts, whose
    activations are recomputed for them (rematerialisation), while the quantizer in between sees the
    whole batch. Losses, gradients, moving averages and re-seeded codes are therefore those of one
    batch, except for the order of sums. Variables are those of `inner`, so a trained model can be
    split differently. `inner` must treat examples independently and hold only params.

    Attributes:
        inner: a module x `[B, ...]` -> y `[B, ...]`.
        parts: n >= 1, a divisor of B; 1 only recomputes activations.

    Raises:
        ValueError: if B is not a multiple of parts.

    Example:
        >>> import jax, vqvae_jax as vj
        >>> model = vj.VQVAE(Microbatched(vj.MLP(4), 2), vj.vq(32, 4), Microbatched(vj.MLP(10), 2))
        >>> x = jnp.ones((6, 10))
        >>> variables = model.init(jax.random.key(0), x)
        >>> same = vj.VQVAE(vj.MLP(4), vj.vq(32, 4), vj.MLP(10)).apply(variables, x).x
        >>> bool(jnp.allclose(model.apply(variables, x).x, same, atol=1e-6))
        True
    """

    inner: nn.Module
    parts: int = 1

    def setup(self) -> None:
        # Variables keep the names that they have without this wrapper.
        nn.share_scope(self, self.inner)

    @boundary
    def __call__(self, x: Float[Array, "B *rest"], mask=None) -> Float[Array, "B *other"]:
        check_size(parts=self.parts)
        if self.is_initializing():
            return masked(self.inner, x, mask)
        # Checked before the split, or errors would show the shape of a part.
        if hasattr(self.inner, "check"):
            self.inner.check(x)
        if x.shape[0] % self.parts:
            raise ValueError(f"a batch of {x.shape[0]} can't be cut into {self.parts} equal parts")
        if self.parts == 1:
            return nn.remat(masked)(self.inner, x, mask)
        # Example i goes to part i mod n, so that a batch sharded over devices is so in each part.
        # With blocks instead, a part would lie on few devices while the others wait.
        arrays = (
            (x,) if mask is None else (x, jnp.broadcast_to(mask, (x.shape[0], *mask.shape[1:])))
        )
        dealt = [a.reshape(-1, self.parts, *a.shape[1:]).swapaxes(0, 1) for a in arrays]
        # Without remat the scan would keep the activations of all parts for the gradient, which
        # this module is meant to avoid.
        each = nn.scan(
            nn.remat(lambda inner, carry, *part: (carry, in_loop(inner, *part))),
            variable_broadcast="params",
            split_rngs={"params": False},
        )
        _, y = each(self.inner, (), *dealt)
        return jnp.swapaxes(y, 0, 1).reshape(x.shape[0], *y.shape[2:])
