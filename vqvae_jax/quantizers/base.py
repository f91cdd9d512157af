"""The record `Quantizer`, its `Output`, and shared handling of keys and states.

Letters, here and everywhere: K codes of width D, Q streams of codes, N rows.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient as sg
from jaxtyping import Array, Float, Int

from vqvae_jax.conversions import floats, integers, trees
from vqvae_jax.saving.describe import Model

STATE = "quantizer"
"""Name of the Flax collection of quantizer state: make it mutable in training."""

RNG = "quantize"
"""Name of the Flax rng stream that quantizers draw from in training."""


class Output(NamedTuple):
    """Result of `Quantizer.apply`, besides the new state."""

    quantized: Float[Array, "*rows D"]  # dtype of z; the code in value, the estimator in gradient
    indices: Int[Array, "*rows Q"]  # int32; -1 for an invalid row or a code not sent; decodes to 0
    losses: dict[str, Float[Array, ""]]  # weighted terms by name
    metrics: dict[str, Float[Array, ""]]  # scalars without gradient

    @property
    def loss(self) -> Float[Array, ""]:
        """The sum of the losses: add it to the task loss."""
        return sum(self.losses.values(), jnp.zeros((), jnp.float32))


# No eq or repr of the fields, since the functions that two equal calls make differ. `Model`
# compares remembered calls, so that equal quantizers, as static arguments of jit, don't compile
# again.
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Quantizer(Model):
    """Record of pure functions that turn rows [..., D] into codes [..., Q] and back.

    Attributes:
        init: `(key) -> (params, state)`, dicts of arrays by the papers' names. Gradients move
            params, data moves state (moving averages, first-batch initialisation, dead codes).
        apply: `(params, state, z, *, train=False, key=None, mask=None, axis_name=None)
            -> (Output, new_state)` for z `[..., D]` of any float dtype, also lists and NumPy
            arrays. To read the code that runs, see `from_codebook.lookup_quantizer` (quantizers
            with a codebook) and `digits.digital` (scalars and bits), or `inspect.unwrap(q.apply)`.
            train: whether to update the state; in eval mode the state is returned as it is.
            key: randomness of training; quantizers that need it raise without it.
            mask: weights of the rows, of the rank of `z.shape[:-1]`; 0 for padding.
            axis_name: axis of the replicas (pmap, shard_map, vmap); losses, metrics and statistics
                are those of the rows of all replicas.
        decode: `(params, state, indices [..., Q]) -> [..., D]`, float32, for indices of any integer
            dtype; -1 decodes to 0.
        dim: D.
        vocab: sizes K of the Q streams.
        stochastic: whether training outputs depend on the key beyond first-batch initialisation and
            dead-code resets; if so, `quantized` may also differ from `decode(indices)` in training.
            Eval mode is always deterministic.
        edit: `(params, state, fn, stream) -> (params, state)` replaces the codes e `[K, C]` of this
            stream by fn(e), and their statistics with them; None where codes are computed. See
            `set_codes`.

    Example:
        >>> import jax, vqvae_jax as vj
        >>> q = vj.vq(size=512, dim=64)
        >>> params, state = q.init(jax.random.key(0))
        >>> out, state = q.apply(params, state, jax.numpy.ones((2, 7, 7, 64)), train=True)
        >>> out.quantized.shape, out.indices.shape, sorted(out.losses)
        ((2, 7, 7, 64), (2, 7, 7, 1), ['codebook', 'commitment'])
    """

    init: Callable[..., tuple[Any, Any]]
    apply: Callable[..., tuple[Output, Any]]
    decode: Callable[..., Array]
    dim: int
    vocab: tuple[int, ...]
    stochastic: bool = False
    edit: Callable[..., tuple[Any, Any]] | None = None

    def enters(self, name: str) -> dict:
        """Conversions of arguments to the contract's arrays, for user-written quantizers too."""
        last = {"apply": ("z", floats), "decode": ("indices", integers)}.get(name)
        return {0: ("params", trees), 1: ("state", trees), 2: last} if last else {}

    def encode(self, params, state, z: Float[Array, "*rows D"]) -> Int[Array, "*rows Q"]:
        """Codes of z: the indices of `apply` in eval mode."""
        return self.apply(params, state, z)[0].indices


class KeyNeeded(ValueError):
    """Raised by a quantizer that needs a key and was called without one."""


def needed(key, reason: str):
    """Returns the key; raises a `KeyNeeded` with the reason if there is none."""
    if key is None:
        raise KeyNeeded(f"needs key= when train=True: {reason}")
    return key


def local_key(key, axis_name, reason: str = "it draws noise"):
    """Key for the noise of this replica's rows: the shared key with its index folded in."""
    # With the shared key alone, all replicas would add the same noise to different rows.
    key = needed(key, reason)
    return key if axis_name is None else jax.random.fold_in(key, jax.lax.axis_index(axis_name))


def training_keys(key, wanted: bool):
    """Keys for first-batch initialisation and for dead-code resets; None if neither draws."""
    # No replica index is folded in: what these draw becomes state, which replicas share.
    if not wanted:
        return None, None
    return jax.random.split(needed(key, "its init or reset draws rows of the batch"))


def select_state(condition, new, old):
    """Selects the new state, without gradient, or the old one, bit for bit."""
    # A select instead of a factor of 0 or 1, which would let a NaN of the new state through.
    return jax.tree.map(lambda n, o: jnp.where(condition, sg(n), o), new, old)
