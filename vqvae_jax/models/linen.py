"""`Quantize`: any quantizer as a Flax Linen module."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float, Int

from vqvae_jax.quantizers.base import RNG, STATE, KeyNeeded, Output, Quantizer


class Quantize(nn.Module):
    """Linen module of a quantizer, with its params in "params" and its state in collection `STATE`.

    Training calls `apply(..., train=True, mutable=[STATE], rngs={RNG: key})`. The key may be left
    out if the quantizer needs none; a ValueError says if it does.

    Example:
        >>> import jax.numpy as jnp, vqvae_jax as vj
        >>> layer = Quantize(vj.ema_vq(size=16, dim=4))
        >>> variables = layer.init(jax.random.key(0), jnp.ones((2, 4)))
        >>> out, new = layer.apply(variables, jnp.ones((2, 4)), train=True, mutable=[STATE])
        >>> out.indices.shape, sorted(new[STATE]["state"])
        ((2, 1), ['codebook', 'counts', 'sums', 'written'])
    """

    quantizer: Quantizer

    def setup(self) -> None:
        # After init the variables exist; if some are missing, `complete` says which.
        if not self.is_initializing():
            return
        params, state = self.quantizer.init(self.make_rng("params"))
        # Two different names, because ToNNX merges the collections into one namespace and refuses a
        # parameter and a state variable of the same name.
        for collection, name, tree in (("params", "weights", params), (STATE, "state", state)):
            if jax.tree.leaves(tree):
                self.put_variable(collection, name, tree)

    def tree(self):
        """Returns (params, state) of the quantizer."""
        found: Any = (
            self.get_variable("params", "weights", {}),
            self.get_variable(STATE, "state", {}),
        )
        # The shapes, which need no computation, tell what the variables must hold.
        shapes = jax.eval_shape(self.quantizer.init, jax.random.key(0))
        names = '"params"', f'"{STATE}", of what data moves'
        return tuple(complete(*three) for three in zip(found, shapes, names, strict=True))

    def __call__(
        self, z: Float[Array, "*rows D"], *, train: bool = False, mask=None, axis_name=None
    ) -> Output:
        """Calls `Quantizer.apply`; in training the new state replaces the old one."""
        # init with train=True must return the initial state, not one that has seen a batch.
        train = train and not self.is_initializing()
        key = self.make_rng(RNG) if train and self.has_rng(RNG) else None
        params, state = self.tree()
        with keys_from(f'rngs={{"{RNG}": key}}'), warnings.catch_warnings():
            if self.is_initializing():  # nothing can be fitted yet
                warnings.filterwarnings("ignore", "the codebook was never fitted")
            out, new = self.quantizer.apply(
                params, state, z, train=train, key=key, mask=mask, axis_name=axis_name
            )
        # Quantizers without state must work if the collection is not mutable.
        if train and jax.tree.leaves(state):
            self.put_variable(STATE, "state", new)
        return out

    def decode(self, indices: Int[Array, "*rows Q"]) -> Float[Array, "*rows D"]:
        """Calls `Quantizer.decode`, which returns the vectors of these codes."""
        return self.quantizer.decode(*self.tree(), indices)


@contextmanager
def keys_from(source: str) -> Iterator[None]:
    """Context manager that names Flax's source of keys in errors about a missing key=."""
    try:
        yield
    except KeyNeeded as error:
        raise ValueError(str(error).replace("key=", source, 1)) from None


def complete(found: dict, shapes: dict, collection: str) -> dict:
    """Adds to `found` the empty dicts of `shapes`, which files and Flax's collections drop.

    Raises:
        ValueError: if an array is missing; the error names it and its collection.
    """

    def fill(name, shape):
        if isinstance(shape, dict):
            return complete(found.get(name, {}), shape, collection)
        if name not in found:
            raise ValueError(
                f"the variables lack {name} {list(shape.shape)} of the quantizer in the collection"
                f" {collection}; params and state of one model belong together"
            )
        return found[name]

    return {name: fill(name, shape) for name, shape in shapes.items()}
