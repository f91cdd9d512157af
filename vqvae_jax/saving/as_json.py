"""Serialisation of quantizers and models to plain JSON descriptions, and back.

Untrusted text is safe to read: it can call only factories under `described` and modules, and refer
only to functions that are `named`. Any fault raises a ValueError of one line.
"""

import dataclasses
import importlib
import inspect
import json
from collections.abc import Mapping
from typing import Any, TypeGuard

from vqvae_jax.saving.describe import FACTORIES, FUNCTIONS, Described

LENGTH, DEPTH, CALLS = 2**24, 200, 2**12
"""Limits of a description in characters, levels and calls, far above those of any model."""


def to_json(value: Any, names: Mapping[str, Any] | None = None, indent: int | None = None) -> str:
    """Returns the JSON description of a quantizer, a model or anything composed of these.

    Args:
        value: record or module made by factories and modules with public names in `vqvae_jax`.
        names: the user's own functions, factories and modules by name.
        indent: indentation, as in `json.dumps`.

    Raises:
        ValueError: if something in it, such as a lambda, has no public name.

    Example:
        >>> import vqvae_jax
        >>> to_json(vqvae_jax.inits.kmeans(10))
        '{"call": "kmeans", "kwargs": {"steps": 10}}'
    """
    data = to_data(value, names or {})
    check_extent(data)
    return json.dumps(data, indent=indent)


def from_json(text: str, names: Mapping[str, Any] | None = None) -> Any:
    """Rebuilds what `to_json` described, running only factories and modules.

    These, and the functions passed to them as arguments, are those of `vqvae_jax` and the user's
    own in `names`. Of the latter too, only factories under `described` and modules are called.

    Raises:
        ValueError: if the text is not such a description, holds an unknown name, or is longer or
            deeper than that of any model.

    Example:
        >>> from_json('{"call": "kmeans", "kwargs": {"steps": 10}}')
        kmeans(steps=10)
    """
    if len(text) > LENGTH:
        raise ValueError(f"not a JSON description: {len(text)} characters, more than {LENGTH}")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not a JSON description: {first_words(error)}") from None
    return build(data, names or {})


def build(data: Any, names: Mapping[str, Any]) -> Any:
    """Builds what parsed JSON describes; any failure is a ValueError of one line."""
    check_extent(data)
    try:
        return from_data(data, names)
    except RecursionError as error:
        raise ValueError(f"not a JSON description: {first_words(error)}") from None


def check_extent(data: Any) -> None:
    """Raises a ValueError if parsed JSON is deeper, or holds more calls, than any model's."""
    # Level by level, because a deep text would overflow a recursion. Calls are limited because each
    # takes time, and a short text could hold thousands of expensive ones.
    level, calls = [data], 0
    for _ in range(DEPTH):
        inner = [list(v.values()) if isinstance(v, dict) else v for v in level]
        calls += sum(isinstance(v, dict) and "call" in v for v in level)
        level = [v for part in inner if isinstance(part, list) for v in part]
        if not level:
            break
    else:
        raise ValueError(f"not a JSON description: nested more than {DEPTH} deep")
    if calls > CALLS:
        raise ValueError(f"not a JSON description: {calls} calls, more than {CALLS}")


def to_data(value: Any, names: Mapping[str, Any]) -> Any:
    if isinstance(value, Described) and value.call:
        factory, args, kwargs = value.call
        return call_data(factory, args, dict(kwargs), names)
    if isinstance(value, list | tuple):
        return [to_data(v, names) for v in value]
    if is_module(type(value)):
        kept = {name: getattr(value, name) for name in parameters(type(value))}
        kept = {k: v for k, v in kept.items() if v is not None or k not in unsaid(type(value))}
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
        # JSON has no tuples; `freeze` turned lists into tuples when the call was remembered.
        return tuple(from_data(v, names) for v in data)
    if not isinstance(data, dict):
        return data
    if set(data) == {"name"}:
        return public(data["name"], names)
    if not {"call", "kwargs"} <= set(data) <= {"call", "args", "kwargs"}:
        raise ValueError(
            f"expected a description with the keys call and kwargs, got {brief(sorted(data))}"
        )
    call, kwargs, args = data["call"], data["kwargs"], data.get("args", [])
    factory = callable_by(call, names)
    if not isinstance(kwargs, dict) or not isinstance(args, list):
        found = f"{brief(args)} and {brief(kwargs)}"
        raise ValueError(f"args and kwargs of {call} must be a list and an object, got {found}")
    # Flax would take `parent` and `name` too, which are not for a description to set.
    if is_module(factory) and not set(kwargs) <= set(parameters(factory)):
        unknown = sorted(set(kwargs) - set(parameters(factory)))
        raise ValueError(f"{call} has no parameters {brief(unknown)}")
    args, kwargs = from_data(args, names), {k: from_data(v, names) for k, v in kwargs.items()}
    try:
        return factory(*args, **kwargs)
    except Exception as error:  # of any kind: the arguments are a stranger's
        raise ValueError(f"{call} can't be called as described: {first_words(error)}") from None


def is_module(value: Any) -> TypeGuard[type]:
    """Returns whether value is a dataclass such as a Flax module, which its fields determine."""
    made = isinstance(value, type) and dataclasses.is_dataclass(value)
    return made and not issubclass(value, Described)


def parameters(module: type) -> list[str]:
    """Returns the fields in a description, without Flax's own `parent` and `name`."""
    fields = [f.name for f in dataclasses.fields(module) if f.init]
    return [name for name in fields if name not in ("parent", "name")]


def unsaid(module: type) -> set[str]:
    """Returns the fields that a description leaves out if they are None; see `where_set`."""
    return {f.name for f in dataclasses.fields(module) if f.metadata.get("json")}


def public(name: Any, names: Mapping[str, Any]) -> Any:
    """Resolves a name in a description: the user's own, else a public one of this package."""
    found = None
    if isinstance(name, str) and not name.startswith("_"):
        listed = listed_as(name)
        # An allowlist: a public name alone is not enough, or a description could call
        # `save_model` on a path of its author's.
        ours = is_module(listed) or (inspect.isfunction(listed) and listed in FACTORIES | FUNCTIONS)
        # The user's own names go first: who gives them trusts them.
        found = names.get(name, listed if ours else None)
    if found is None or inspect.ismodule(found):
        raise ValueError(
            f"{brief(name)} is no public name of vqvae_jax for descriptions,"
            f" nor in names={list(names)}"
        )
    return found


def listed_as(name: str) -> Any:
    """Returns the public object of this package with this bare name, or None.

    It may be in the root or in a namespace; public names are unique over all of them.
    """
    root = importlib.import_module("vqvae_jax")
    places = root, *(getattr(root, namespace) for namespace in root.NAMESPACES)
    return next((vars(place)[name] for place in places if name in vars(place)), None)


def callable_by(name: Any, names: Mapping[str, Any]) -> Any:
    """Resolves a name that a description may call: a factory under `described`, or a module."""
    found = public(name, names)
    if is_module(found) or (inspect.isfunction(found) and found in FACTORIES):
        return found
    raise ValueError(f"{name} is neither a factory under @described nor a module: it is not called")


def public_name(value: Any, names: Mapping[str, Any]) -> str:
    name = next((n for n, v in names.items() if v is value), getattr(value, "__name__", ""))
    try:
        # A function that merely has the name of a public one must not be described by it.
        if public(name, names) is value:
            return name
    except ValueError:
        pass
    raise ValueError(f"JSON can't describe {value!r}: it is no public name, give it in names=")


def brief(value: Any) -> str:
    """Returns the repr of an untrusted value, cut to 200 characters."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def first_words(error: Exception) -> str:
    """Returns an error's message on one line, cut to 300 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}..."
