"""Quantizer dropout: some training examples use only the first residual stages."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from vqvae_jax.checks import check_size
from vqvae_jax.quantizers.base import local_key, needed
from vqvae_jax.saving.describe import Function, described

Dropout = Callable[..., Array] | None


@described
def quantizer_dropout(share: float = 1.0, *, multiple: int = 1, at_least: int = 1) -> Function:
    """Draws how many stages each example uses in training, so that prefixes of its codes decode.

    arXiv:2107.03312, section III-C. The result is an argument for `dropout`: a function
    `(key, n, shape) -> depths`, the number of the n stages that each example uses. An example is an
    entry of z's first axis, with one depth for all its rows; a z of a single row is one example.
    With probability `share` the depth is uniform in at_least..n, rounded up to a multiple of
    `multiple` (but at most n); otherwise it is n. Stages beyond the depth give index -1, add 0, and
    see nothing of the example.

    Args:
        share: probability that an example's depth is drawn, in [0, 1].
        multiple: number of which depths are multiples; 4 in Encodec.
        at_least: least depth before rounding.

    Raises:
        ValueError: if an argument is out of range; when called, if at_least exceeds n.

    Example:
        >>> quantizer_dropout(multiple=2)(jax.random.key(0), 6, (5,))
        Array([4, 6, 6, 4, 6], dtype=int32)
    """
    check_size(multiple=multiple, at_least=at_least)
    if not isinstance(share, jax.core.Tracer) and not 0 <= share <= 1:
        raise ValueError(f"share must be in [0, 1], got {share!r}")

    def depths(key: PRNGKeyArray, n: int, shape: tuple) -> Int[Array, "..."]:
        if at_least > n:
            raise ValueError(f"at_least must be at most {n}, the number of stages, got {at_least}")
        key_share, key_depth = jax.random.split(key)
        drawn = jax.random.randint(key_depth, shape, at_least, n + 1, dtype=jnp.int32)
        drawn = jnp.minimum(-(-drawn // multiple) * multiple, n)
        return jnp.where(jax.random.bernoulli(key_share, jnp.float32(share), shape), drawn, n)

    return Function(depths)


def draw_depths(dropout: Dropout, n: int, z, train: bool, key, axis_name):
    """Returns the key that is left for the stages, and the number of stages each row uses."""
    if dropout is None or not train:
        return key, n
    # Split only here, so that without dropout the stages get the same keys as ever.
    key, noise = jax.random.split(needed(key, "its dropout draws depths"))
    # One depth for all rows of an example, since a lower bit rate cuts off codes of whole examples.
    examples = z.shape[:1] + (1,) * (z.ndim - 2) if z.ndim > 1 else ()
    return key, dropout(local_key(noise, axis_name), n, examples)
