"""Records that remember the factory call that made them, for equality, hash, pickle and JSON.

`vq(8, 4) == vq(size=8, dim=4)`, so a jitted function with a quantizer as a static argument does not
compile twice, and plain JSON can describe a model (`as_json`).
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from vqvae_jax.conversions import boundary, is_boundary

T = TypeVar("T")

FACTORIES: set[Callable] = set()
"""Factories under `described`, which a description can call."""

FUNCTIONS: set[Callable] = set()
"""Functions under `named`, which a description can pass as arguments but never calls."""


def where_set() -> Any:
    """Returns a dataclass field with default None, which descriptions leave out if it is None.

    A model that does not set it keeps the description and digest from before the field existed.
    """
    return dataclasses.field(default=None, metadata={"json": "where set"})


class Call(NamedTuple):
    """A call of a factory, with its defaults filled in."""

    factory: Callable
    args: tuple
    kwargs: tuple[tuple[str, Any], ...]

    def __str__(self) -> str:
        arguments = [show(v) for v in self.args] + [f"{k}={show(v)}" for k, v in self.kwargs]
        return f"{self.factory.__name__}({', '.join(arguments)})"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Described:
    """Record that equals another one if the same call made both; without a call, only itself.

    Its functions are public, so each passes through `boundary`.
    """

    call: Call | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            f = getattr(self, field.name)
            if callable(f) and not is_boundary(f):
                # The dataclass is frozen because it is hashed; only `__post_init__` sets fields.
                object.__setattr__(self, field.name, boundary(f, self.enters(field.name)))

    def enters(self, name: str) -> dict:
        """Returns the `enters` of `boundary` for the function in a field."""
        return {}

    def __eq__(self, other) -> bool:
        if self.call is None or not isinstance(other, Described):
            return self is other
        return self.call == other.call

    def __hash__(self) -> int:
        return id(self) if self.call is None else hash(self.call)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>" if self.call is None else str(self.call)

    def __reduce__(self):
        if self.call is None:
            raise TypeError(f"{self!r} was not made by a public factory and can't be pickled")
        # By its call, since the record's functions are closures, which pickle can't store.
        return remake, tuple(self.call)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Function(Described):
    """Record of a single function made by a factory, such as `underused(0.1)`."""

    function: Callable

    def __call__(self, *args, **kwargs):
        return self.function(*args, **kwargs)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Model(Described):
    """Record that is a model by itself, like a Flax module, so that `save_model` takes it."""


def described(factory: Callable[..., T]) -> Callable[..., T]:
    """Decorator of factories, by which the `Described` record that they return remembers the call.

    Example:
        >>> @described
        ... def power(n=2):
        ...     return Function(lambda x: x**n)
        >>> power(), power() == power(n=2), power(3)(2)
        (power(n=2), True, 8)
    """
    signature = inspect.signature(factory)
    kinds = {p.kind for p in signature.parameters.values()}
    by_position = kinds & {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL}

    @functools.wraps(factory)
    def remembering(*args, **kwargs):
        record: Any = factory(*args, **kwargs)
        bound = signature.bind(*args, **kwargs)
        # Defaults are part of the call, so that a description keeps its meaning if a later version
        # changes a default.
        bound.apply_defaults()
        args, kwargs = bound.args, bound.kwargs
        if not by_position:  # every argument by name, however it was passed
            args, kwargs = (), dict(zip(signature.parameters, args, strict=False)) | kwargs
        items = tuple((k, freeze(v)) for k, v in kwargs.items())
        # `remembering`, not `factory`, so that a record rebuilt from its call knows the call too.
        return dataclasses.replace(record, call=Call(remembering, freeze(args), items))

    FACTORIES.add(remembering)
    return remembering


def named(function: Callable[..., T]) -> Callable[..., T]:
    """Decorator of functions that descriptions may pass as arguments by name, but never call.

    Example:
        >>> import vqvae_jax
        >>> vqvae_jax.from_json('{"name": "unit"}') is vqvae_jax.estimators.unit
        True
        >>> vqvae_jax.from_json('{"name": "save_model"}')
        Traceback (most recent call last):
        ValueError: 'save_model' is no public name of vqvae_jax for descriptions, nor in names=[]
    """
    FUNCTIONS.add(function)
    return function


def remake(factory: Callable, args: tuple, kwargs: tuple) -> Any:
    """Calls the factory again, for pickle."""
    return factory(*args, **dict(kwargs))


def freeze(value):
    """Converts lists and arrays to tuples, so that equal arguments are equal and hashable."""
    if isinstance(value, np.ndarray | jax.Array) and not isinstance(value, jax.core.Tracer):
        value = np.asarray(value).tolist()
    return tuple(map(freeze, value)) if isinstance(value, list | tuple) else value


def show(value) -> str:
    """Returns the name of a function, the repr of other values."""
    named = callable(value) and not isinstance(value, Described) and hasattr(value, "__name__")
    return value.__name__ if named else repr(value)
