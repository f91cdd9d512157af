"""Peak memory of one search, measured in a new process.

python -m experiments.bench.memory N D K MODE prints one line of JSON.
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

STATUS = Path("/proc/self/status")
MODES = ("ours", "plain")


def measure_search(
    n: int, d: int, k: int, mode: str = "ours", timeout: float = 3600
) -> dict[str, float]:
    """Measures bytes and seconds of the search of N rows among K codes.

    Args:
        n, d, k: number of rows, their width, number of codes.
        mode: "ours", or "plain" for the distance matrix.
        timeout: seconds after which the process is stopped.

    Returns:
        "peak": the most memory of the process, less z and the codebook.
        "start": the part of it that was there before compiling (Python, JAX).
        "search": memory that the compiled search added while it ran, on systems that tell.
        "seconds": time of that run.

    Raises:
        RuntimeError: the process failed.
    """
    arguments = *map(str, (n, d, k)), mode
    return alone("experiments.bench.memory", *arguments, timeout=timeout)


def alone(module: str, *arguments: str, timeout: float = 3600) -> dict[str, Any]:
    """Runs a module in a new process, and returns the JSON that it prints.

    Raises:
        RuntimeError: the process failed.
    """
    command = [sys.executable, "-m", module, *arguments]
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise RuntimeError(f"{' '.join(command[2:])} failed: {last[0]}")
    return json.loads(done.stdout.splitlines()[-1])


def search_once(n: int, d: int, k: int, mode: str) -> dict[str, float]:
    """Runs the search in this process, and returns what `measure_search` returns."""
    import jax
    import numpy as np

    from experiments.bench.peers import plain_nearest
    from vqvae_jax import nearest

    random = np.random.default_rng(0)
    z, e = (jax.device_put(random.standard_normal((m, d), np.float32)) for m in (n, k))
    jax.block_until_ready((z, e))
    inputs, start = z.nbytes + e.nbytes, now()
    function = {"ours": nearest, "plain": plain_nearest}[mode]
    program = jax.jit(function).lower(z, e).compile()
    # Taken before the peak is reset: compiling may have needed more than the search.
    most, before = peak(), now()
    can_reset = reset_peak()
    begun = time.perf_counter()
    jax.block_until_ready(program(z, e))
    found = {"seconds": time.perf_counter() - begun, "start": start - inputs}
    found["peak"] = max(most, peak()) - inputs
    return found | ({"search": peak() - before} if can_reset else {})


def now() -> int:
    """Returns the bytes of this process that are in memory."""
    return field("VmRSS") if STATUS.exists() else peak()


def peak() -> int:
    """Returns the most bytes that this process had in memory, since `reset_peak` where it works."""
    if STATUS.exists():
        return field("VmHWM")
    # ru_maxrss is in bytes on macOS, and in kilobytes elsewhere.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def field(name: str) -> int:
    """Returns a field of /proc/self/status in bytes."""
    lines = STATUS.read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name + ":"))


def reset_peak() -> bool:
    """Makes the system forget the peak, and returns whether it did (Linux can)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, see proc(5)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    *sizes, mode = sys.argv[1:]
    print(json.dumps(search_once(*map(int, sizes), mode)))
