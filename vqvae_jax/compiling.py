"""Compiler options of `jax.jit` for fast compilation, and checks that XLA knows an option."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp

HASTE = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}


@cache  # each option costs a compilation
def fast_compile() -> dict[str, Any]:
    """Returns options of `jax.jit` for a CPU that compile in a third of the time, to slower code.

    Options that the installed compiler does not know are left out. Returns `{}` if the default
    device is not a CPU.

    >>> jax.jit(jnp.sin, compiler_options=fast_compile())(0.0)
    Array(0., dtype=float32, weak_type=True)
    """
    # Each option is tried, since XLA adds and drops names between versions, and a single unknown
    # name fails every compilation.
    haste = HASTE if jax.default_backend() == "cpu" else {}
    return {name: value for name, value in haste.items() if refusal(name, value) is None}


def refusal(name: str, value: Any) -> str | None:
    """Returns the compiler's error about an option, or None if it compiles a trivial program."""
    try:
        jax.jit(lambda: jnp.zeros(()), compiler_options={name: value}).lower().compile()
    except Exception as error:  # JaxRuntimeError, or a TypeError or ValueError for the value's type
        return str(error).splitlines()[0]
    return None


def check_compiler_options(compiler_options: dict[str, Any] | None) -> None:
    """Raises unless `jax.jit` accepts these options here.

    Raises:
        TypeError: if they are not a dict.
        ValueError: if the compiler refuses an option; the error names it and the reason.
    """
    if not isinstance(compiler_options, dict | None):
        raise TypeError(f"compiler_options must be a dict of options, got {compiler_options!r}")
    for name, value in (compiler_options or {}).items():
        reason = refusal(name, value)
        if reason is not None:
            raise ValueError(
                f"compiler_options must be options that JAX {jax.__version__} accepts, "
                f"got {name!r}: {value!r} ({reason})"
            )
