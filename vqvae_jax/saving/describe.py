"""Records that remember the factory call that made them, for equality, hash, pickle and JSON.

`vq(8, 4) == vq(size=8, dim=4)`, so a jitted function with a quantizer as a static argument does
not compile twice; and a model is described by plain JSON (`as_json`).
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
"""Functions under `named`, which a description can hold as arguments, but never calls."""


def where_set() -> Any:
    """Returns a dataclass field of default None, left out of descriptions where it is None.

    A model without it keeps the description, and the digest, that it had before the field existed.
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
    """A record that is equal to another if the same call made both; without a call, to itself.

    Its functions are public: each passes through the `boundary`.
    """

    call: Call | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            f = getattr(self, field.name)
            if callable(f) and not is_boundary(f):
                # The dataclass is frozen, for the hash; `__post_init__` is the one place where
                # fields are set.
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
        # By its call: pickle can't store the closures that its functions are.
        return remake, tuple(self.call)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Function(Described):
    """A function made by a factory, such as `underused(0.1)`."""

    function: Callable

    def __call__(self, *args, **kwargs):
        return self.function(*args, **kwargs)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Model(Described):
    """A record that is a model by itself, as a Flax module is: `save_model` takes it."""


def described(factory: Callable[..., T]) -> Callable[..., T]:
    """Decorator of factories: the `Described` record that they return remembers the call.

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
        # Defaults are part of the call: a description keeps its meaning where a later version has
        # another default.
        bound.apply_defaults()
        args, kwargs = bound.args, bound.kwargs
        if not by_position:  # each argument by its name, however it was given
            args, kwargs = (), dict(zip(signature.parameters, args, strict=False)) | kwargs
        items = tuple((k, freeze(v)) for k, v in kwargs.items())
        # `remembering`, not `factory`: a record made again from its call must know the call too.
        return dataclasses.replace(record, call=Call(remembering, freeze(args), items))

    FACTORIES.add(remembering)
    return remembering


def named(function: Callable[..., T]) -> Callable[..., T]:
    """Decorator of functions: descriptions can hold the name as an argument, and never call it.

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
