"""Provenance of a benchmark: command, date, versions of libraries, and machine."""

import datetime
import importlib.util
import os
import platform
import re
from typing import Any

import jax
import numpy as np

from vqvae_commands.run.environment import cores, device, version, versions

PEERS = ("torch", "vector-quantize-pytorch", "dm-haiku")


def provenance(command: str) -> dict[str, Any]:
    """Returns command, date, versions and machine."""
    return {
        "command": command,
        "date": datetime.datetime.now().astimezone().isoformat(timespec="minutes"),
        "versions": versions() | peer_versions(),
        "machine": describe_machine(),
    }


def peer_versions() -> dict[str, str]:
    """Returns the versions of the peers that are installed."""
    found = {name: version(name) for name in PEERS}
    return {name: number for name, number in found.items() if number != "not installed"}


def describe_machine() -> dict[str, Any]:
    """Returns processor, cores, memory, and the libraries that multiply matrices."""
    return {
        "device": device(),
        "devices": jax.device_count(),
        "cores": cores(),
        "cpu": cpu_model(),
        "memory_gib": memory_gib(),
        "system": platform.platform(),
        "blas_numpy": numpy_blas(),
        "blas_torch": torch_blas(),
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", ""),
    }


def cpu_model() -> str:
    """Returns the processor's name from Linux, else from Python."""
    found = proc("/proc/cpuinfo", "model name")
    return found or platform.processor() or platform.machine()


def memory_gib() -> float | None:
    """Returns the memory of the machine; None where it isn't known."""
    found = proc("/proc/meminfo", "MemTotal")
    return round(int(found.split()[0]) / 2**20, 1) if found else None


def proc(path: str, field: str) -> str:
    """Returns the first value of a field in a file of lines `field: value`; "" without it."""
    try:
        with open(path) as file:
            lines = [line.partition(":") for line in file]
    except OSError:
        return ""
    return next((value.strip() for name, _, value in lines if name.strip() == field), "")


def numpy_blas() -> str:
    """Returns name and version of NumPy's BLAS; XLA has its own."""
    blas = np.show_config(mode="dicts").get("Build Dependencies", {}).get("blas", {})
    return f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip()


def torch_blas() -> str:
    """Returns PyTorch's BLAS and number of threads; "" where it can't be loaded."""
    if importlib.util.find_spec("torch") is None:
        return ""
    try:
        import torch
    except Exception:  # such as libraries of another CUDA
        return ""
    blas = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    return f"{blas[1] if blas else 'unknown'}, {torch.get_num_threads()} threads"
