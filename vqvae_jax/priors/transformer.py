"""Pre-normalisation Transformer with an optional cache of keys and values."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vqvae_jax.priors.conditioning import EXCLUDED


class Cache(NamedTuple):
    """Keys and values of one layer for all tokens so far, in fixed shapes filled from the left."""

    keys: Float[Array, "B H L d"]
    values: Float[Array, "B H L d"]


class Transformer(nn.Module):
    """Pre-norm Transformer (arXiv:2002.04745).

    `depth` times x + attention(norm(x)) and x + MLP(norm(x)), then a last norm.

    Attributes:
        width: width of the tokens.
        depth: number of layers.
        heads: number of attention heads, which divides the width.
        dropout: dropout rate on what each layer adds, in training.
        dtype: dtype of the activations, "float32" or "bfloat16"; parameters are float32.

    Raises:
        ValueError: if the width is not divisible by the number of heads.
    """

    width: int
    depth: int
    heads: int
    dropout: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B n W"],
        mask: Bool[Array, "#n L"],
        cache: tuple[Cache, ...] | None = None,
        at: int | Int[Array, ""] = 0,
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "B n W"], tuple[Cache, ...]]:
        """Applies the layers; returns the tokens, and keys and values of each layer.

        Args:
            x: n tokens of the sequence.
            mask: whether each of the n tokens sees each of the L tokens.
            cache: caches of the layers, which hold the tokens before; without them n = L.
            at: number of the first of the n tokens, if there is a cache.
            train: whether to apply dropout, from the rng stream "dropout".
        """
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(f"width {self.width} can't be split over {self.heads} heads")
        x, kept = x.astype(self.dtype), []
        drop = nn.Dropout(self.dropout, deterministic=not train)
        for i in range(self.depth):
            h = nn.LayerNorm(dtype=self.dtype)(x)
            before = None if cache is None else cache[i]
            h, after = Attention(self.heads, self.dtype)(h, mask, before, at)
            x = x + drop(h)
            h = nn.Dense(4 * self.width, dtype=self.dtype)(nn.LayerNorm(dtype=self.dtype)(x))
            x = x + drop(nn.Dense(self.width, dtype=self.dtype)(nn.gelu(h)))
            kept.append(after)
        return nn.LayerNorm(dtype=self.dtype)(x), tuple(kept)


class Attention(nn.Module):
    """Multi-head attention, softmax(q k / sqrt(d)) v in each head (arXiv:1706.03762)."""

    heads: int
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B n W"],
        mask: Bool[Array, "#n L"],
        cache: Cache | None = None,
        at: int | Int[Array, ""] = 0,
    ) -> tuple[Float[Array, "B n W"], Cache]:
        width = x.shape[-1]
        qkv = nn.DenseGeneral((3, self.heads, width // self.heads), dtype=self.dtype)(x)
        # [B, n, 3, H, d] to three arrays [B, H, n, d], the layout of the cache.
        q, *new = jnp.moveaxis(qkv, (2, 3), (0, 2))
        if cache is None:
            kept = Cache(*new)
        else:
            kept = Cache(*(write(old, x, at) for old, x in zip(cache, new, strict=True)))
        y = jnp.moveaxis(attend(q, *kept, mask), 1, 2)
        return nn.DenseGeneral(width, axis=(-2, -1), dtype=self.dtype)(y), kept


def write(
    cache: Float[Array, "B H L d"], new: Float[Array, "B H n d"], at: int | Int[Array, ""]
) -> Float[Array, "B H L d"]:
    """Returns the cache with the tokens `new` written from number `at` on."""
    # An update in place under jit; a concatenation would copy the cache and change its shape.
    return jax.lax.dynamic_update_slice_in_dim(cache, new.astype(cache.dtype), at, axis=2)


def attend(
    q: Float[Array, "B H n d"],
    k: Float[Array, "B H L d"],
    v: Float[Array, "B H L d"],
    mask: Bool[Array, "#n L"],
) -> Float[Array, "B H n d"]:
    """Mean of v under softmax(q k / sqrt(d)) over the tokens that the mask lets each token see."""
    # Not `jax.nn.dot_product_attention`: equal to rounding, but on CPU a training step takes
    # 1.1 (197 tokens) to 1.3 (512) times as long; with a cache in its layout, decoding 3 times.
    # q is scaled instead of the scores, which are L / d times as many numbers.
    scores = jnp.einsum("bhnd,bhld->bhnl", q / q.shape[-1] ** 0.5, k).astype(jnp.float32)
    # Softmax in float32, since sums in bfloat16 lose small terms. EXCLUDED is finite, because a
    # token that sees nothing would give NaN with -inf.
    scores = jnp.where(mask, scores, EXCLUDED)
    return jnp.einsum("bhnl,bhld->bhnd", jax.nn.softmax(scores).astype(v.dtype), v)


def causal(first: int | Int[Array, ""], n: int, length: int, prefix: int = 0) -> Bool[Array, "n L"]:
    """Causal mask: whether tokens first, ..., first + n - 1 see each of `length` tokens.

    All tokens, including those of the prefix, see the whole prefix; beyond it each token sees
    itself and those before.

    Example:
        >>> causal(0, 4, 4, prefix=2).astype(int)
        Array([[1, 1, 0, 0],
               [1, 1, 0, 0],
               [1, 1, 1, 0],
               [1, 1, 1, 1]], dtype=int32)
    """
    # i is the last token that each may see; for tokens of the prefix it is the end of the prefix.
    # The same bound hides the places of a cache that are not filled yet.
    i = jnp.maximum(first + jnp.arange(n, dtype=jnp.int32)[:, None], prefix - 1)
    return jnp.arange(length, dtype=jnp.int32) <= i
