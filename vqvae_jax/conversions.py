"""Conversion of arguments at the public boundary: arrays from lists, NumPy and narrow integers.

Public functions and records pass through `boundary`, so the code inside sees only JAX arrays and
runs under JAX's default promotion rules.
"""

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

T = TypeVar("T")
Enter = Callable[[str, Any], Any]
"""Conversion of one argument: (its name, its value) -> an array."""

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
# Tested first, since the slower `jnp.issubdtype` would otherwise run in every eager call.
FLOATS = {np.dtype(d) for d in (jnp.float32, jnp.bfloat16, jnp.float16)}


def is_concrete(x: Any) -> bool:
    """Returns whether no leaf of x is traced."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(x))


def concrete(x: Any, dtype=None) -> jax.Array:
    """Converts x to a JAX array whose values are known even while `jit` traces."""
    if not is_concrete(x):
        return jnp.asarray(x, dtype)
    # Under `jit` plain `jnp.asarray` would return a tracer, whose values checks cannot read.
    with jax.ensure_compile_time_eval():
        return jnp.asarray(x, dtype)


def floats(name: str, x: Any) -> jax.Array:
    """Converts a list, a tuple or an array to a JAX array of floats.

    Raises:
        TypeError: for other numbers; integers may be unscaled pixels.
    """
    x = x if isinstance(x, jax.Array) else concrete(x)
    if x.dtype not in FLOATS and not jnp.issubdtype(x.dtype, jnp.floating):
        hint = "use vqvae_jax.preprocess for pixels"
        raise TypeError(f"{name} must be float, got {x.dtype}: {hint}")
    return x


def integers(name: str, x: Any) -> jax.Array:
    """Converts integers of any dtype, in a list, a tuple or an array, to int32.

    int32 holds both K and -1, which int8 and unsigned dtypes don't. Traced values that int32 can't
    hold become -1.

    Raises:
        TypeError: for other numbers.
        ValueError: if int32 can't hold a value.
    """
    if isinstance(x, jax.Array) and x.dtype == np.int32:
        return x
    if not isinstance(x, jax.Array):
        # NumPy keeps the given width; `jnp.asarray` would wrap int64 before its values are checked.
        x = np.asarray(x) if is_concrete(x) else jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.integer):
        raise TypeError(f"{name} must be integers, got dtype {x.dtype}")
    bounds = jnp.iinfo(x.dtype)
    if bounds.min < INT32_MIN or bounds.max > INT32_MAX:
        x = fit_int32(name, x, bounds)
    return x.astype(jnp.int32) if isinstance(x, jax.Array) else concrete(x, jnp.int32)


def fit_int32(name: str, x, bounds):
    """Returns x with traced values beyond int32 set to -1; raises if concrete ones don't fit."""
    if isinstance(x, jax.core.Tracer):
        # A cast alone would wrap 2^32 to 0, which is a code; -1 means "not sent".
        fits = x <= INT32_MAX if bounds.min == 0 else (x >= INT32_MIN) & (x <= INT32_MAX)
        return jnp.where(fits, x.astype(jnp.int32), -1)
    values = np.asarray(x)
    if values.size and (values.min() < INT32_MIN or values.max() > INT32_MAX):
        raise ValueError(f"{name} must fit int32, got values from {values.min()} to {values.max()}")
    return x


def arrays(name: str, x: Any) -> Any:
    """Converts lists, tuples and NumPy arrays to JAX arrays of their dtype; others pass."""
    return concrete(x) if isinstance(x, list | tuple | np.ndarray) else x


def trees(name: str, x: Any) -> Any:
    """Converts NumPy arrays in nested dicts, as loaded models have them, to JAX arrays.

    Returns x itself if there are none: eval mode promises to return the very state it was given.
    """
    if not any(isinstance(a, np.ndarray | np.generic) for a in jax.tree.leaves(x)):
        return x
    # Indexing a NumPy array by a tracer raises, and a jitted function that closes over loaded
    # variables would do just that.
    return jax.tree.map(lambda a: concrete(a) if isinstance(a, np.ndarray | np.generic) else a, x)


def under_defaults(f: Callable[..., T]) -> Callable[..., T]:
    """Decorator that runs f under JAX's default rules of rank and dtype promotion.

    These are the settings `jax_numpy_rank_promotion` and `jax_numpy_dtype_promotion`.
    """

    @functools.wraps(f)
    def running(*args, **kwargs):
        config: Any = jax.config
        # Users who make promotion an error mean their own code, not this library's. Nearly all
        # callers have the defaults, and are spared the cost of the two contexts.
        rank, dtype = config.jax_numpy_rank_promotion, config.jax_numpy_dtype_promotion
        if rank == "allow" and dtype == "standard":
            return f(*args, **kwargs)
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            return f(*args, **kwargs)

    return running


def boundary(f: Callable[..., T], enters: Mapping[int, tuple[str, Enter]] | None = None):
    """Decorator of public functions that converts arguments as their annotations say.

    Lists, tuples, NumPy and JAX arrays are accepted for `Float[Array, ...]` (`floats`),
    `Int[Array, ...]` (`integers`) and `Array`, and element by element for a sequence or NamedTuple
    of these. The body runs `under_defaults`.

    Args:
        f: the function.
        enters: {position: (name, conversion)} of further arguments, without such annotations.

    Example:
        >>> @boundary
        ... def double(z: Float[jax.Array, "*rows D"]):
        ...     return 2 * z
        >>> double([1.0, 2.0])
        Array([2., 4.], dtype=float32)
        >>> double([1, 2])
        Traceback (most recent call last):
            ...
        TypeError: z must be float, got int32: use vqvae_jax.preprocess for pixels
    """
    places = annotated(f) | dict(enters or {})
    body = under_defaults(f)

    @functools.wraps(f)
    def entering(*args, **kwargs):
        given = list(args)
        for place, (name, enter) in places.items():
            if place < len(given):
                given[place] = enter(name, given[place])
            elif name in kwargs:
                kwargs[name] = enter(name, kwargs[name])
        try:
            return body(*given, **kwargs)
        except Exception as error:
            remedied = with_remedy(error)
            if remedied is error:
                raise  # with its own traceback
            raise remedied from None

    # The function itself instead of True: `functools.wraps` copies attributes, and a wrapper around
    # this function would otherwise look like a boundary; see `is_boundary`.
    entering.entered = entering  # type: ignore[attr-defined]
    return entering


REMEDY = (
    "arrays over Explicit mesh axes, the default of jax.make_mesh, are not supported: pass it"
    " axis_types=(jax.sharding.AxisType.Auto,) for each axis, or call this function inside"
    " jax.sharding.auto_axes(f, out_sharding=...)"
)


def with_remedy(error: Exception) -> Exception:
    """Returns the error, with a remedy in its text if JAX raised it about Explicit mesh axes."""
    # Recognised by name and text, since JAX exports no class for these errors.
    of_axes = type(error).__name__ == "ShardingTypeError" or "not found in mesh" in str(error)
    if not of_axes or REMEDY in str(error):
        return error
    return type(error)(f"{REMEDY} ({error})")


def is_boundary(f: Callable) -> bool:
    """Returns whether f itself, not merely a function that it wraps, came from `boundary`."""
    return getattr(f, "entered", None) is f


def annotated(f: Callable) -> dict[int, tuple[str, Enter]]:
    """Returns {position: (name, conversion)} of the arguments whose annotation names an array."""
    try:
        parameters = inspect.signature(f).parameters.values()
    except ValueError:  # some builtins have none
        return {}
    found = ((i, p.name, conversion(p.annotation)) for i, p in enumerate(parameters))
    return {i: (name, enter) for i, name, enter in found if enter is not None}


OF_DTYPE: dict[Any, Enter] = {Float: floats, Int: integers, Bool: arrays, Shaped: arrays}


def conversion(annotation) -> Enter | None:
    """Returns the conversion for an annotation, or None if it names no array."""
    if annotation is jax.Array:
        return arrays
    if isinstance(annotation, type) and issubclass(annotation, tuple):
        return of_fields(getattr(annotation, "__annotations__", {}))
    # jaxtyping's `Float[Array, "..."]` is a class that keeps Array as `array_type`, Float as
    # `dtype`.
    if getattr(annotation, "array_type", None) is jax.Array:
        return OF_DTYPE.get(annotation.dtype)
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    found = [enter for enter in map(conversion, args) if enter is not None]
    if not found:
        return None
    if origin in (typing.Union, types.UnionType):
        return unless_scalar(found[0])
    return each(found[0]) if origin in (Sequence, tuple) else None


def of_fields(annotations: Mapping[str, Any]) -> Enter | None:
    """Returns the conversion for a NamedTuple: each field by its own annotation."""
    found = {field: conversion(a) for field, a in annotations.items()}
    enters = {field: enter for field, enter in found.items() if enter is not None}

    def enter(name, x):
        fields = {f: e(f"{name}.{f}", getattr(x, f)) for f, e in enters.items()}
        return x._replace(**fields)

    return enter if enters else None


def unless_scalar(enter: Enter) -> Enter:
    """Returns the conversion for an argument that may also be a number or None."""
    # A Python number stays as it is: `floats` would refuse the integer 1.
    return lambda name, x: x if x is None or isinstance(x, float | int) else enter(name, x)


def each(enter: Enter) -> Enter:
    """Returns the conversion for a sequence of arrays, element by element."""
    return lambda name, x: tuple(enter(f"{name}[{i}]", v) for i, v in enumerate(x))
