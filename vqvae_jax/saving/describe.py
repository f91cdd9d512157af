"""Objects that remember the call that made them: equality, hash, pickle and JSON come from it.

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

from vqvae_jax.boundary import boundary, is_boundary

T = TypeVar("T")

FACTORIES: set[Callable] = set()
"""What `described` made: a description can call it."""

FUNCTIONS: set[Callable] = set()
"""What is `named`: a description can hold its name as an argument, and never calls it."""


def where_set() -> Any:
    """A dataclass field of default None that descriptions name only where it has a value.

    So a model without it has the description, and the digest, of before there was such a field.
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
                object.__setattr__(self, field.name, boundary(f, self.enters(field.name)))

    def enters(self, name: str) -> dict:
        """The `enters` of `boundary` for the function in a field."""
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
        return remake, tuple(self.call)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Function(Described):
    """A function made by a factory, such as `underused(0.1)`."""

    function: Callable

    def __call__(self, *args, **kwargs):
        return self.function(*args, **kwargs)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Model(Described):
    """A record that is a model of its own, as a Flax module is: `save_model` takes it."""


def described(factory: Callable[..., T]) -> Callable[..., T]:
    """Decorator: what the factory returns, a `Described` record, remembers the call.

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
        bound.apply_defaults()
        args, kwargs = bound.args, bound.kwargs
        if not by_position:  # each argument by its name, however it was given
            args, kwargs = (), dict(zip(signature.parameters, args, strict=False)) | kwargs
        items = tuple((k, freeze(v)) for k, v in kwargs.items())
        return dataclasses.replace(record, call=Call(remembering, freeze(args), items))

    FACTORIES.add(remembering)
    return remembering


def named(function: Callable[..., T]) -> Callable[..., T]:
    """Decorator: descriptions can hold the function's name, as an estimator's; none calls it.

    Example:
        >>> import vqvae_jax
        >>> vqvae_jax.from_json('{"name": "unit"}') is vqvae_jax.unit
        True
        >>> vqvae_jax.from_json('{"name": "save_model"}')
        Traceback (most recent call last):
        ValueError: 'save_model' is no public name of vqvae_jax for descriptions, nor in names=[]
    """
    FUNCTIONS.add(function)
    return function


def remake(factory: Callable, args: tuple, kwargs: tuple) -> Any:
    """Makes the call again."""
    return factory(*args, **dict(kwargs))


def freeze(value):
    """Lists and arrays become tuples, so that equal arguments are equal and hashable."""
    if isinstance(value, np.ndarray | jax.Array) and not isinstance(value, jax.core.Tracer):
        value = np.asarray(value).tolist()
    return tuple(map(freeze, value)) if isinstance(value, list | tuple) else value


def show(value) -> str:
    """A function is shown by its name."""
    named = callable(value) and not isinstance(value, Described) and hasattr(value, "__name__")
    return value.__name__ if named else repr(value)
