"""The card: its name, driver and clocks, its rates, and the least time that work takes on it."""

import subprocess
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.bench.machine import provenance
from vqvae_jax import fast_compile


class Rates(NamedTuple):
    """Rates of a card by its maker's datasheet: operations and bytes a second, without sparsity."""

    name: str
    float32: float
    tf32: float
    bfloat16: float
    memory: float


# Of the SXM modules.
CARDS = (
    Rates("NVIDIA H200", 67e12, 495e12, 989e12, 4.8e12),
    Rates("NVIDIA H100", 67e12, 495e12, 989e12, 3.35e12),
    Rates("NVIDIA A100", 19.5e12, 156e12, 312e12, 2.0e12),
)
PRECISIONS = ("float32", "tf32", "bfloat16")


def rates() -> Rates:
    """Returns the rates of this card, or of the first in `CARDS` if it isn't among them."""
    kind = jax.devices()[0].device_kind
    return next((card for card in CARDS if card.name in kind), CARDS[0])


def floor_seconds(operations: float, transferred: float, precision: str = "float32") -> float:
    """Returns the least time of some work: that of its operations, or of its bytes if longer.

    Args:
        operations: floating-point operations, two for each multiplication with its addition.
        transferred: bytes read from the card's memory and written to it.
        precision: one of `PRECISIONS`.
    """
    card = rates()
    return max(operations / getattr(card, precision), transferred / card.memory)


def compiler_options() -> dict[str, Any]:
    """Returns options that compile in less time, for programs whose own time does not count."""
    if jax.default_backend() == "cpu":
        return fast_compile()
    # Trials of each product take longer than the products.
    return {"xla_gpu_autotune_level": 0} if jax.default_backend() == "gpu" else {}


def compile_fast(function: Callable, *args: Any, **options: Any) -> Callable:
    """Compiles a function for these arguments, or their shapes, with `compiler_options`."""
    return jax.jit(function, **options).lower(*args).compile(compiler_options())


def alive() -> bool:
    """Returns whether the card still computes: after some errors it refuses all that follows."""
    try:
        return float(jnp.add(jax.device_put(1.0), 1.0)) == 2.0
    except Exception:
        return False


def facts(command: str, quick: bool) -> dict[str, Any]:
    """Returns command, date, versions, device and machine."""
    known = provenance(command)
    more = {"card": smi("name,driver_version,memory.total"), "rates of": rates().name}
    return {
        **known,
        "machine": {**known["machine"], **more, "clocks before": clocks()},
        "device": known["machine"]["device"],
        "quick": quick,
    }


def clocks() -> str:
    """Returns the clocks, temperature and power of the card at this moment; "" for a CPU."""
    return smi("clocks.sm,clocks.mem,temperature.gpu,power.draw")


def smi(fields: str) -> str:
    """Returns what nvidia-smi reads, without changing anything; "" where it does not answer."""
    return ask(fields) if answers() else ""


@cache
def answers() -> bool:
    """Returns whether nvidia-smi answers: one that is stuck must not cost its time again."""
    return ask("name") != ""


def ask(fields: str) -> str:
    """Returns the first line of nvidia-smi's answer, or ""."""
    words = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        done = subprocess.run(words, capture_output=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    lines = done.stdout.decode(errors="replace").strip().splitlines()
    return lines[0][:200] if lines else ""
