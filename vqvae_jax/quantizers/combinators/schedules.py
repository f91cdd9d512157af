"""Scheduled hyper-parameters, and optax schedules and optimizers with a JSON description."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.lax import stop_gradient as sg
from jaxtyping import Array

from vqvae_jax.quantizers.base import Quantizer
from vqvae_jax.quantizers.codebooks.editing import edit_codes
from vqvae_jax.quantizers.combinators.composition import check_members
from vqvae_jax.reductions import valid_rows
from vqvae_jax.saving.describe import Call, Described, Function, described


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Transformation(Described):
    """An optax gradient transformation that remembers its call and unpacks like optax's own."""

    init: Callable[..., Any]
    update: Callable[..., Any]

    def __iter__(self):
        return iter((self.init, self.update))


@described
def from_optax(name: str, *args, **kwargs) -> Function | Transformation:
    """Makes the schedule or optimizer optax.name(*args, **kwargs), with equality, pickle and JSON.

    Args:
        name: name of a public function of optax.
        *args, **kwargs: its arguments: numbers, tuples, and results of `from_optax`.

    Returns:
        A schedule, which is a function of the count, or a transformation with `init` and `update`,
        which optax accepts like its own.

    Raises:
        ValueError: if optax has no such function, or it makes neither of the two.
        TypeError: if an argument is a dict, which has no hash, or optax refuses the arguments.

    Example:
        >>> from_optax("linear_schedule", 1.0, 0.0, 10)(5)
        Array(0.5, dtype=float32, weak_type=True)
        >>> from_optax("sgd", 0.1, momentum=0.9)
        from_optax('sgd', 0.1, momentum=0.9)
    """
    # The name may come from an untrusted file. Allowed are only public functions of optax itself,
    # nothing that it imports, and only those that merely build something.
    public = isinstance(name, str) and not name.startswith("_")
    factory = vars(optax).get(name) if public else None
    if not inspect.isfunction(factory) or not makes_update(factory):
        raise ValueError(f"name must be that of a schedule or optimizer of optax, got {name!r}")
    # Remembered calls are hashed, since quantizers are static arguments of jit.
    if any(isinstance(value, Mapping) for value in (*args, *kwargs.values())):
        raise TypeError(f"{name}: a dict has no hash; schedules are put together by join_schedules")
    made = factory(*args, **kwargs)
    if isinstance(made, optax.GradientTransformation):
        return Transformation(made.init, made.update)
    if not callable(made):
        raise ValueError(f"optax.{name} makes no schedule or transformation but {made!r}")
    return Function(made)


def makes_update(factory: Callable) -> bool:
    """Returns whether a function of optax is annotated to return a function or a transformation.

    Others compute at once, some for as many steps as an argument says, so a description must not
    call them.
    """
    returns = str(factory.__annotations__.get("return"))
    return any(word in returns for word in ("GradientTransformation", "Callable", "Schedule"))


@described
def scheduled(q: Quantizer, **schedules: Callable[[Array], Any]) -> Quantizer:
    """Makes hyper-parameters of q follow schedules, as optax.inject_hyperparams does.

    Training call number t = 0, 1, ... uses the values at t, and eval mode those at the present
    count; metrics hold them by name. The count advances with each training call that has a valid
    row. State is {"count", "inner": q's}; params are q's, and q initialises both.

    Args:
        q: quantizer made by a factory under `@described`, whose arguments may be traced arrays.
        **schedules: for each parameter of that factory by name, a function of the int32 count to a
            scalar, such as `from_optax(...)`. Parameters that determine shapes, such as `size`,
            can't be scheduled.

    Raises:
        ValueError: if there is no schedule, q does not remember its call, or a name is not that of
            a real-valued parameter.
        TypeError: if q is not a Quantizer, or a schedule is not a function of the count to a
        scalar.

    Example:
        >>> import vqvae_jax as vj
        >>> q = scheduled(vj.vq(8, 2), beta=from_optax("linear_schedule", 0.0, 1.0, 4))
        >>> params, state = q.init(jax.random.key(0))
        >>> for _ in range(3):
        ...     out, state = q.apply(params, state, jnp.ones((5, 2)), train=True)
        >>> out.metrics["beta"], state["count"]
        (Array(0.5, dtype=float32), Array(3, dtype=int32))
    """
    check_members([q])
    call = check_call(q)
    check_schedules(call, schedules)

    # The factory is called anew in each trace, with traced arrays in place of numbers. The values
    # are computed within the compiled step, so that a new value compiles nothing.
    def present(state) -> tuple[Quantizer, dict[str, Array]]:
        count = state["count"]
        values = {n: jnp.asarray(fn(count), jnp.float32) for n, fn in schedules.items()}
        return call.factory(*call.args, **dict(call.kwargs) | values), values

    def init(key):
        params, state = q.init(key)
        return params, {"count": jnp.zeros((), jnp.int32), "inner": state}

    def apply(params, state, z, *, train=False, key=None, mask=None, axis_name=None):
        now, values = present(state)
        options = {"train": train, "key": key, "mask": mask, "axis_name": axis_name}
        out, inner = now.apply(params, state["inner"], z, **options)
        out = out._replace(metrics=out.metrics | sg(values))
        if not train:
            return out, state
        # A count of its own, since an optimizer's also advances on batches without a valid row.
        some = valid_rows(z, mask, axis_name).any_valid
        return out, {"count": state["count"] + some, "inner": inner}

    def decode(params, state, indices):
        return present(state)[0].decode(params, state["inner"], indices)

    def edit(params, state, fn, stream):
        # Uses the present values, on which codes may depend, as on the s of `scale`.
        own, inner = edit_codes(present(state)[0], params, state["inner"], fn, stream)
        return own, state | {"inner": inner}

    return Quantizer(init, apply, decode, q.dim, q.vocab, q.stochastic, edit)


def check_call(q: Quantizer) -> Call:
    """Returns the call that made q; raises a ValueError if it is not remembered."""
    if q.call is None:
        raise ValueError("needs a quantizer made by a factory under @described, got one without")
    return q.call


def check_schedules(call: Call, schedules: Mapping[str, Any]) -> None:
    """Raises unless each schedule maps a count to a scalar and fits a parameter of the call."""
    parameters = [name for name, value in call.kwargs if is_real(call.factory, name, value)]
    if not schedules or not set(schedules) <= set(parameters):
        raise ValueError(
            f"the parameters of {call.factory.__name__} that can follow a schedule are "
            f"{parameters}, got {list(schedules)}"
        )
    for name, schedule in schedules.items():
        if not callable(schedule):
            raise TypeError(f"{name} must be a function of the count, got {schedule!r}")
        # Only shapes are evaluated, so that building a quantizer computes nothing.
        value = jax.eval_shape(schedule, jax.ShapeDtypeStruct((), jnp.int32))
        if getattr(value, "shape", None) != ():
            raise TypeError(f"the schedule of {name} must return a scalar, got {value}")


def is_real(factory: Callable, name: str, value: Any) -> bool:
    """Returns whether a parameter's value is a number and its annotation is not an integer."""
    # People write 1 for 1.0, so the value alone does not tell a weight from a size.
    parameter = inspect.signature(factory).parameters.get(name)
    integer = parameter is not None and parameter.annotation in (int, "int")
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return number and not integer
