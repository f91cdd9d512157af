"""Masked prior over codes (MaskGIT): a bidirectional Transformer that predicts masked codes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from vqvae_jax.conversions import boundary
from vqvae_jax.priors.conditioning import (
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
from vqvae_jax.priors.transformer import Transformer


class MaskedPrior(nn.Module):
    """Masked prior: p(k_t | unmasked codes, c) of each masked code k_t (arXiv:2202.04200).

    It is a bidirectional Transformer, in which each token sees all others and the condition. Train
    it with `masked_prior_loss` and sample with `sample_masked`.

    Attributes:
        vocab, grid, classes, coarse, metadata: as in `TransformerPrior`.
        width, depth, heads, dropout, dtype: as in `Transformer`.

    Example:
        >>> import jax
        >>> prior = MaskedPrior((8, 5), (2, 3), width=16, depth=1, heads=2)
        >>> codes = jnp.zeros((4, 2, 3, 2), int).at[:, 0].set(-1)
        >>> jax.eval_shape(prior.init_with_output, jax.random.key(0), codes)[0].shape
        (4, 2, 3, 2, 8)
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

    @boundary
    @nn.compact
    def __call__(
        self,
        codes: Int[Array, "B *grid Q"],
        condition: Condition = UNCONDITIONAL,
        *,
        train: bool = False,
    ) -> Float[Array, "B *grid Q K"]:
        """Returns the logits of each code, float32 `[B, *grid, Q, max(vocab)]`.

        Args:
            codes: ints `[B, *grid, Q]`; -1 for masked codes.
            condition: condition c, with the parts that the attributes declare.
            train: whether to apply dropout, from the rng stream "dropout".

        Raises:
            ValueError, TypeError: if codes or condition have the wrong shape or dtype.
        """
        check_prior(self)
        check_codes("codes", codes, self.grid, self.vocab)
        check_condition(self, condition, len(codes))
        # Masked codes are those that are not known: -1 has a vector of its own in `CodeEmbedding`.
        prefix = Prefix(self.classes, self.coarse, self.metadata, self.width)
        given = prefix(condition, len(codes))
        tokens = CodeEmbedding(self.vocab, self.grid, self.width)(codes)
        x = jnp.concatenate([given, tokens], axis=1)
        transformer = Transformer(self.width, self.depth, self.heads, self.dropout, self.dtype)
        # Every token sees all tokens: a mask of one row is broadcast.
        y, _ = transformer(x, jnp.ones((1, x.shape[1]), bool), train=train)
        y = y[:, given.shape[1] :].reshape(*codes.shape, self.width)
        return CodeHead(self.vocab, self.width)(y)


def masked_share(r: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Share of codes still masked after a fraction r in [0, 1] of decoding: cos(pi r / 2).

    Example:
        >>> masked_share(jnp.array([0.0, 2 / 3, 1.0])).round(3)
        Array([ 1. ,  0.5, -0. ], dtype=float32)
    """
    return jnp.cos(jnp.pi / 2 * r)


def random_mask(key: PRNGKeyArray, shape: tuple[int, ...]) -> Bool[Array, "..."]:
    """Draws a training mask for one example: ceil(T cos(pi r / 2)) of its T codes.

    r is uniform in [0, 1), and the places are uniform too (arXiv:2202.04200, section 3.1).
    """
    key_share, key_places = jax.random.split(key)
    places = jax.random.uniform(key_places, shape, jnp.float32)
    n = jnp.ceil(places.size * masked_share(jax.random.uniform(key_share, dtype=jnp.float32)))
    # n is traced, and shapes can't depend on it: the n lowest ranks instead of a draw of n places.
    return ranks(places.reshape(-1)).reshape(shape) < n


def ranks(x: Float[Array, "*rows n"]) -> Int[Array, "*rows n"]:
    """Rank of each number of a row in ascending order, from 0; the first of equal ones is lower.

    Example:
        >>> ranks(jnp.array([0.3, 0.1, 0.2]))
        Array([2, 0, 1], dtype=int32)
    """
    # The inverse of the sorting permutation. A threshold at the n-th smallest number would take
    # more than n if numbers are equal.
    return jnp.argsort(jnp.argsort(x, axis=-1), axis=-1).astype(jnp.int32)
