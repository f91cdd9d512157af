"""What ran, where and when: without it a time says nothing."""

import datetime
import importlib.util
import os
import platform
import re
from typing import Any

import jax
import numpy as np

from experiments.sweep.arms import cores, device, version, versions

PEERS = ("torch", "vector-quantize-pytorch", "dm-haiku")


def provenance(command: str) -> dict[str, Any]:
    """Command, date, versions and machine."""
    return {
        "command": command,
        "date": datetime.datetime.now().astimezone().isoformat(timespec="minutes"),
        "versions": versions() | peer_versions(),
        "machine": machine(),
    }


def peer_versions() -> dict[str, str]:
    """Of the peers that are installed."""
    found = {name: version(name) for name in PEERS}
    return {name: number for name, number in found.items() if number != "not installed"}


def machine() -> dict[str, Any]:
    """The processor, its cores, the memory, and who multiplies matrices."""
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
    """As Linux names it, else what Python knows."""
    found = proc("/proc/cpuinfo", "model name")
    return found or platform.processor() or platform.machine()


def memory_gib() -> float | None:
    """Of the machine; None where it isn't known."""
    found = proc("/proc/meminfo", "MemTotal")
    return round(int(found.split()[0]) / 2**20, 1) if found else None


def proc(path: str, field: str) -> str:
    """The first value of a field in a file of lines `field: value`; "" without it."""
    try:
        with open(path) as file:
            lines = [line.partition(":") for line in file]
    except OSError:
        return ""
    return next((value.strip() for name, _, value in lines if name.strip() == field), "")


def numpy_blas() -> str:
    """Name and version of NumPy's BLAS; XLA has its own."""
    blas = np.show_config(mode="dicts").get("Build Dependencies", {}).get("blas", {})
    return f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip()


def torch_blas() -> str:
    """PyTorch's BLAS and number of threads; "" without PyTorch."""
    if importlib.util.find_spec("torch") is None:
        return ""
    import torch

    blas = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    return f"{blas[1] if blas else 'unknown'}, {torch.get_num_threads()} threads"
