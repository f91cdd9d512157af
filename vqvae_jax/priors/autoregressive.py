"""Autoregressive prior over codes: a causal Transformer."""

import math

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vqvae_jax.conversions import boundary
from vqvae_jax.priors.conditioning import (
    INIT,
    UNCONDITIONAL,
    CodeEmbedding,
    CodeHead,
    Condition,
    Level,
    Prefix,
    check_codes,
    check_condition,
    check_prior,
)
from vqvae_jax.priors.transformer import Cache, Transformer, causal


class TransformerPrior(nn.Module):
    """Autoregressive prior p(k | c) = prod_t p(k_t | k_1, ..., k_{t-1}, c), a causal Transformer.

    The codes `[B, *grid, Q]` form a sequence of T = prod(grid) Q tokens in raster order, with the
    stream innermost; the grid may have any rank. The condition c is a prefix that all tokens see:
    the label, the metadata, and the codes of all coarser levels.

    Attributes:
        vocab: sizes K of the Q streams.
        grid: sides of the map of codes.
        classes: number of classes, 0 without labels.
        coarse: (grid, vocab) of each coarser level, coarse to fine.
        metadata: number M of metadata values for each example.
        width, depth, heads, dropout, dtype: as in `Transformer`.

    Example:
        >>> import jax
        >>> prior = TransformerPrior((512,), (2, 3), classes=10, width=16, depth=1, heads=2)
        >>> codes, condition = jnp.zeros((4, 2, 3, 1), int), Condition(label=jnp.arange(4))
        >>> jax.eval_shape(prior.init_with_output, jax.random.key(0), codes, condition)[0].shape
        (4, 2, 3, 1, 512)
    """

    vocab: tuple[int, ...]
    grid: tuple[int, ...]
    classes: int = 0
    coarse: tuple[Level, ...] = ()
    metadata: int = 0
    width: int = 128
    depth: int = 4
    heads: int = 4
    dropout: float = 0.0
    dtype: str = "float32"

    def setup(self) -> None:
        check_prior(self)
        # Stands in for the code before the first one.
        self.begin = self.param("begin", INIT, (self.width,), jnp.float32)
        self.embedding = CodeEmbedding(self.vocab, self.grid, self.width)
        self.prefix = Prefix(self.classes, self.coarse, self.metadata, self.width)
        self.transformer = Transformer(self.width, self.depth, self.heads, self.dropout, self.dtype)
        self.head = CodeHead(self.vocab, self.width)

    @boundary
    def __call__(
        self,
        codes: Int[Array, "B *grid Q"],
        condition: Condition = UNCONDITIONAL,
        *,
        train: bool = False,
    ) -> Float[Array, "B *grid Q K"]:
        """Returns logits of each code given those before it, float32 `[B, *grid, Q, max(vocab)]`.

        Args:
            codes: ints `[B, *grid, Q]`; -1 for unknown codes.
            condition: condition c, with the parts that the attributes declare.
            train: whether to apply dropout, from the rng stream "dropout".

        Raises:
            ValueError, TypeError: if codes or condition have the wrong shape or dtype.
        """
        check_codes("codes", codes, self.grid, self.vocab)
        check_condition(self, condition, len(codes))
        tokens = codes.reshape(len(codes), -1)
        t = jnp.arange(tokens.shape[1], dtype=jnp.int32)
        content = self.embedding.content(tokens, t)
        begin = jnp.broadcast_to(self.begin, (len(codes), 1, self.width))
        # Shifted by one, so that a token may attend to itself: input t holds code t - 1, but the
        # place of code t, which it predicts.
        before = jnp.concatenate([begin, content[:, :-1]], axis=1) + self.embedding.place(t)
        prefix = self.prefix(condition, len(codes))
        x = jnp.concatenate([prefix, before], axis=1)
        n, prefix_length = x.shape[1], prefix.shape[1]
        y, _ = self.transformer(x, causal(0, n, n, prefix_length), train=train)
        return self.head(y[:, prefix_length:].reshape(*codes.shape, self.width))

    @boundary
    def start(self, condition: Condition, batch: int) -> tuple[Cache, ...]:
        """Returns the cache before the first token, which holds the prefix."""
        check_condition(self, condition, batch)
        prefix = self.prefix(condition, batch)
        prefix_length = prefix.shape[1]
        # The full length at once: a growing cache would have a new shape, and need a compilation,
        # for each token.
        length = prefix_length + math.prod(self.grid) * len(self.vocab)
        shape = (batch, self.heads, length, self.width // self.heads)
        empty = Cache(jnp.zeros(shape, self.dtype), jnp.zeros(shape, self.dtype))
        cache = (empty,) * self.depth
        if not prefix_length:
            return cache
        # One pass fills the cache with the whole prefix.
        return self.transformer(prefix, causal(0, prefix_length, length, prefix_length), cache)[1]

    @boundary
    def step(
        self, cache: tuple[Cache, ...], before: Int[Array, "B"], t: Int[Array, ""]
    ) -> tuple[Float[Array, "B K"], tuple[Cache, ...]]:
        """Returns the logits of token t given token t - 1 (any if t = 0), and the new cache."""
        streams, length = len(self.vocab), cache[0].keys.shape[2]
        # The prefix comes first in the cache; its length is that of the cache minus the codes.
        at = length - math.prod(self.grid) * streams + t
        # t is traced, so that one program serves all t; at t = 0 the embedding is computed in vain.
        content = jnp.where(t == 0, self.begin, self.embedding.content(before, t - 1))
        x = (content + self.embedding.place(t))[:, None]
        y, cache = self.transformer(x, causal(at, 1, length), cache, at)
        return self.head.one(y[:, 0], t % streams), cache
