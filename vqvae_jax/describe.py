"""Objects that remember the call that made them: equality, hash, pickle and JSON come from it.

`vq(8, 4) == vq(size=8, dim=4)`, so a jitted function with a quantizer as a static argument does
not compile twice; and a model is described by plain JSON that names public functions only.
"""

import dataclasses
import functools
import importlib
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from vqvae_jax.boundary import boundary, is_boundary

T = TypeVar("T")


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

    return remembering


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


def to_json(value: Any, names: Mapping[str, Any] | None = None, indent: int | None = None) -> str:
    """The JSON description of a quantizer, a model or anything made of them.

    Args:
        value: made by factories and modules with public names of `vqvae_jax`.
        names: the user's own functions, factories and modules by name.
        indent: as in `json.dumps`.

    Raises:
        ValueError: if something in it, such as a lambda, has no public name.

    Example:
        >>> import vqvae_jax
        >>> to_json(vqvae_jax.kmeans(10))
        '{"call": "kmeans", "kwargs": {"steps": 10}}'
    """
    return json.dumps(to_data(value, names or {}), indent=indent)


def from_json(text: str, names: Mapping[str, Any] | None = None) -> Any:
    """Builds again what `to_json` described. Only public names and the given ones can be called.

    Raises:
        ValueError: if the text is no such description or holds a name that is not known.

    Example:
        >>> from_json('{"call": "kmeans", "kwargs": {"steps": 10}}')
        kmeans(steps=10)
    """
    try:
        return from_data(json.loads(text), names or {})
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"not a JSON description: {error}") from None


def to_data(value: Any, names: Mapping[str, Any]) -> Any:
    if isinstance(value, Described) and value.call:
        factory, args, kwargs = value.call
        return call_data(factory, args, dict(kwargs), names)
    if isinstance(value, list | tuple):
        return [to_data(v, names) for v in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type | Described):
        fields = {f.name: f for f in dataclasses.fields(value) if f.init}
        kept = {f: getattr(value, f) for f in fields if f not in ("parent", "name")}  # Flax's own
        unset = [f for f, v in kept.items() if v is None and fields[f].metadata.get("json")]
        kept = {f: v for f, v in kept.items() if f not in unset}
        return call_data(type(value), (), kept, names)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return {"name": public_name(value, names)}


def call_data(factory, args, kwargs, names) -> dict:
    named = {k: to_data(v, names) for k, v in kwargs.items()}
    positional = {"args": to_data(args, names)} if args else {}
    return {"call": public_name(factory, names), **positional, "kwargs": named}


def from_data(data: Any, names: Mapping[str, Any]) -> Any:
    if isinstance(data, list):
        return tuple(from_data(v, names) for v in data)
    if not isinstance(data, dict):
        return data
    if set(data) == {"name"}:
        return public(data["name"], names)
    if not {"call", "kwargs"} <= set(data) <= {"call", "args", "kwargs"}:
        raise ValueError(
            f"expected a description with the keys call and kwargs, got {sorted(data)}"
        )
    if not isinstance(data["kwargs"], dict):
        raise ValueError(f"kwargs of {data['call']!r} must be an object, got {data['kwargs']!r}")
    kwargs = {k: from_data(v, names) for k, v in data["kwargs"].items()}
    try:
        return public(data["call"], names)(*from_data(data.get("args", []), names), **kwargs)
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{data['call']} can't be called as described: {error}") from None


def public(name: str, names: Mapping[str, Any]) -> Any:
    """What a description means by a name: the user's own, else a public one of this package."""
    package = vars(importlib.import_module("vqvae_jax"))
    found = names.get(name, package.get(name)) if isinstance(name, str) else None
    if found is None or inspect.ismodule(found) or name.startswith("_"):
        raise ValueError(
            f"{name!r} is no public name of vqvae_jax and not among names={list(names)}"
        )
    return found


def public_name(value: Any, names: Mapping[str, Any]) -> str:
    name = next((n for n, v in names.items() if v is value), getattr(value, "__name__", ""))
    try:
        if public(name, names) is value:
            return name
    except ValueError:
        pass
    raise ValueError(f"JSON can't describe {value!r}: it is no public name, give it in names=")
