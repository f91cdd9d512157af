"""Versions and device on which results depend."""

import importlib.metadata
import os
import platform

import jax

PACKAGES = ("vqvae_jax", "jax", "jaxlib", "flax", "optax", "numpy")


def versions() -> dict[str, str]:
    """The versions of Python and of the packages on which results depend."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def version(package: str) -> str:
    """The version of a package, or "not installed", as where this one is run from its folder."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def device() -> str:
    """The kind of device on which this process computes and, for a CPU, its cores."""
    if jax.default_backend() != "cpu":
        return jax.devices()[0].device_kind
    return f"CPU, {cores()} core{'' if cores() == 1 else 's'} a process"


def cores() -> int:
    """The number of cores that this process may use."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return found or 1
