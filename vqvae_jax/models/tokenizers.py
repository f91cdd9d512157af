"""Frozen tokenizers, which map vectors to codes without training or a decoder."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vqvae_jax.checks import check_rows, check_size
from vqvae_jax.conversions import boundary, trees
from vqvae_jax.estimators import unit
from vqvae_jax.quantizers.combinators.composition import check_streams
from vqvae_jax.reductions import valid_rows
from vqvae_jax.saving.describe import Model, described, named
from vqvae_jax.search.exact import nearest


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Tokenizer(Model):
    """Record of two pure functions that turn rows [..., dim] into codes [..., Q].

    Attributes:
        init: `(key) -> state`, a dict of arrays that nothing moves.
        encode: `(state, x [..., dim], mask=None) -> int32 [..., Q]`; -1 for a row that is not
            finite, or whose mask (of the rank of `x.shape[:-1]`) is 0.
        dim: width of the rows.
        vocab: sizes K of the Q streams, as in `Quantizer`.
    """

    init: Callable[..., dict[str, Any]]
    encode: Callable[..., Array]
    dim: int
    vocab: tuple[int, ...]

    def enters(self, name: str) -> dict:
        """Conversions of arguments: NumPy arrays in the state, as loaded ones are."""
        return {0: ("state", trees)} if name == "encode" else {}


@named
@boundary
def layer_norm(x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
    """Layer normalisation without parameters: (x - mean) / sqrt(variance + 1e-5) of each row.

    Example:
        >>> layer_norm(jnp.array([[1.0, 3.0], [5.0, 5.0]])).round(3)
        Array([[-1.,  1.],
               [ 0.,  0.]], dtype=float32)
    """
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), -1, keepdims=True) + 1e-5)


@described
def random_projection(
    size: int,
    dim: int,
    code_dim: int,
    *,
    heads: int = 1,
    norm: Callable[[Array], Array] | None = layer_norm,
) -> Tokenizer:
    """BEST-RQ's tokenizer: the nearest random code of a random projection (arXiv:2202.01855).

    k_h = argmin_j | c_hj / |c_hj| - A_h x / |A_h x| |_2 (equation 1), with A_h Xavier-uniform and
    c_hj standard normal, drawn once. The state is {"projection": A `[H, dim, code_dim]`,
    "codebook": c `[H, size, code_dim]`}. The codes are targets for masked prediction.

    Args:
        size: K.
        dim: width of the rows, which are often several frames of features side by side.
        code_dim: width of the codes.
        heads: H, the number of independent projections, each with its codebook.
        norm: None, or a function that normalises x `[..., dim]` to mean 0 and deviation 1, without
            which few codes are used. The paper takes the moments of the data set; `layer_norm`
            takes those of each row.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> tokenizer = random_projection(size=8192, dim=320, code_dim=16, heads=2)
        >>> state = tokenizer.init(jax.random.key(0))
        >>> speech = jax.random.normal(jax.random.key(1), (4, 25, 320))
        >>> tokenizer.encode(state, speech).shape
        (4, 25, 2)
    """
    check_size(size=size, dim=dim, code_dim=code_dim, heads=heads)
    check_streams(heads)

    def init(key):
        key_projection, key_codebook = jax.random.split(key)
        bound = (6 / (dim + code_dim)) ** 0.5
        shape = (heads, dim, code_dim)
        return {
            "projection": jax.random.uniform(
                key_projection, shape, minval=-bound, maxval=bound, dtype=jnp.float32
            ),
            "codebook": jax.random.normal(key_codebook, (heads, size, code_dim), jnp.float32),
        }

    def encode(
        state: dict[str, Array], x: Float[Array, "*rows D"], mask=None
    ) -> Int[Array, "*rows H"]:
        check_rows(x, dim)
        rows = valid_rows(x, mask)
        z = rows.z if norm is None else norm(rows.z)
        highest = jax.lax.Precision.HIGHEST  # accelerators would otherwise lose half of the digits
        projected = jnp.einsum("...d,hde->...he", z, state["projection"], precision=highest)
        # One search for each head, which has a codebook of its own.
        search = jax.vmap(nearest, in_axes=(-2, 0), out_axes=-1)
        k = search(unit(projected), unit(state["codebook"]))
        return jnp.where((rows.weights > 0)[..., None], k, -1)

    return Tokenizer(init, encode, dim, (size,) * heads)
