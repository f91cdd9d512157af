"""Compiles the library's programs for GPUs and TPUs that are not here, and reads the result.

    pip install 'jax[cuda13]'; python tools/compile_ahead.py h200
    pip install 'jax[tpu]';    python tools/compile_ahead.py v5e

Prints a table: seconds of compiling, memory of temporary arrays, programs that the device starts,
loops and branches (each makes the host of a GPU wait) and, for GPUs, whether registers spill. No
driver and no device are needed.
"""

import os
import re
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, NoReturn


def cuda_flag() -> str:
    """Returns the flag that tells XLA where pip has installed CUDA's compiler; "" without one."""
    spec = find_spec("nvidia")
    folders = spec.submodule_search_locations or () if spec else ()
    found = [path.parents[1] for folder in folders for path in Path(folder).glob("*/bin/ptxas")]
    return f" --xla_gpu_cuda_data_dir={found[0]}" if found else ""


if __name__ == "__main__":  # before JAX is imported: its plugins compile, but start no client
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where nothing is installed
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + cuda_flag(),
    }
    os.environ |= {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_ID": "0",
        "TPU_WORKER_HOSTNAMES": "localhost",
    }

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax._src import xla_bridge
from jax.experimental import topologies
from jax.sharding import AbstractDevice, AbstractMesh, Mesh, NamedSharding, PartitionSpec

from experiments.bench.plain_flax import Sizes
from experiments.bench.step import CIFAR, our_step, pixels
from vqvae_jax import nearest


class Card(NamedTuple):
    """A GPU: its name, compute capability, multiprocessors, shared memory of a block, L2, bytes."""

    name: str
    capability: tuple[int, int]
    cores: int
    shared: int
    l2: int
    memory: int


GPUS = {
    "h200": Card("NVIDIA H200", (9, 0), 132, 232448, 62914560, 150_000_000_000),
    "h100": Card("NVIDIA H100", (9, 0), 132, 232448, 52428800, 85_000_000_000),
    "a100": Card("NVIDIA A100", (8, 0), 108, 166912, 41943040, 42_000_000_000),
}
TPUS = {"v4": "v4:2x2x1", "v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
SEARCHES = [(16384, 512, 64), (262144, 8192, 64), (16384, 65536, 256), (1000, 700, 65)]
STEPS = {
    "train step, 28 x 28, batch 128, float32": (Sizes(batch=128), "float32"),
    "train step, CIFAR-10, batch 128, bfloat16": (CIFAR, "bfloat16"),
}


def target_config(card: Card) -> str:
    """Returns the description of a card that XLA compiles for."""
    return f"""
        gpu_device_info {{
          threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
          shared_memory_per_core: {card.shared + 1024} threads_per_core_limit: 2048
          core_count: {card.cores} fpus_per_core: 128 block_dim_limit_x: 2147483647
          block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 3000000000000
          l2_cache_size: {card.l2} clock_rate_ghz: 1.8 device_memory_size: {card.memory}
          shared_memory_per_block_optin: {card.shared} registers_per_core_limit: 65536
          registers_per_block_limit: 65536
          cuda_compute_capability {{ major: {card.capability[0]} minor: {card.capability[1]} }}
        }}
        platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 12 }}
        runtime_version {{ major: 13 }} device_description_str: "{card.name}"
    """


def device_of(name: str) -> tuple[str, Any]:
    """Returns platform and device of a name; the device can only be compiled for."""
    if name in TPUS:
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
        return "tpu", topologies.get_topology_desc(TPUS[name], "tpu").devices[0]
    # JAX looks for a GPU's client to know whether "gpu" means CUDA, and here there is none.
    known = xla_bridge.canonicalize_platform
    xla_bridge.canonicalize_platform = lambda p: "cuda" if p == "gpu" else known(p)
    options = {"target_config": target_config(GPUS[name]), "topology": "1x1x1"}
    return "gpu", topologies.get_topology_desc(platform="cuda", **options).devices[0]


class Target(NamedTuple):
    """A device to compile for: its name on the command line, its platform, JAX's device."""

    name: str
    platform: str
    device: Any

    def mesh(self) -> AbstractMesh:
        """The mesh that tells Pallas which GPU is meant."""
        kind = GPUS[self.name].name if self.name in GPUS else self.name
        about = {"device_kind": kind, "num_cores": None}
        if "platform" in AbstractDevice.__dataclass_fields__:  # not in JAX 0.10.0
            about["platform"] = self.platform
        return AbstractMesh((), (), abstract_device=AbstractDevice(**about))


def compile_for(target: Target, function: Callable, args: tuple, options: dict | None = None):
    """Compiles a function for a device, as it is traced where that device is the default."""
    shard = NamedSharding(Mesh(np.array([target.device]), ("x",)), PartitionSpec())
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=shard), args)
    kept = jax.default_backend, jax.device_count
    jax.clear_caches()
    jax.default_backend, jax.device_count = lambda: target.platform, lambda *_: 1
    try:
        with jax.sharding.use_abstract_mesh(target.mesh()):
            return jax.jit(function).lower(*shapes).compile(options)
    finally:
        jax.default_backend, jax.device_count = kept


def programs():
    """Yields title, function and arguments of each program."""
    for n, k, d in SEARCHES:
        shapes = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((n, d), (k, d)))
        yield f"nearest, N = {n:,}, K = {k:,}, D = {d}", nearest.__wrapped__, *shapes
    for title, (sizes, dtype) in STEPS.items():
        x = pixels(sizes)
        yield title, *our_step(sizes, x, optax.adam(1e-3, b2=0.99), dtype=dtype), x


FREE = {"parameter", "constant", "bitcast", "tuple", "get-tuple-element"}
WAITS = {"conditional", "while"}


def starts(text: str) -> tuple[int, int]:
    """Returns how many programs an optimised module starts, and its loops and branches.

    Example:
        >>> starts("ENTRY %main (x: f32[]) -> f32[] { %y = f32[] fusion(%x), kind=kLoop }")
        (1, 0)
    """
    operations = re.findall(r" ([a-z][a-z0-9-]*)\([%)]", text[text.index("ENTRY ") :])
    waits = sum(name in WAITS for name in operations)
    return sum(name not in FREE for name in operations) - waits, waits


def line(target: Target, title: str, function: Callable, args: tuple) -> str:
    """Compiles a program, and returns its line of the table."""
    gpu, begun = target.platform == "gpu", time.perf_counter()
    spilled = "no" if gpu else "-"
    try:
        done = compile_for(target, function, args, STRICT if gpu else None)
    except jax.errors.JaxRuntimeError as error:
        if "spill" not in str(error).lower():
            raise
        done, spilled = compile_for(target, function, args), "**yes**"
    seconds = time.perf_counter() - begun
    memory = done.memory_analysis().temp_size_in_bytes / 1e6
    counts = " | ".join(map(str, starts(done.as_text())))
    return f"| {title} | {seconds:.1f} | {memory:,.1f} | {counts} | {spilled} |"


STRICT = {"xla_gpu_fail_ptx_compilation_on_register_spilling": True}


def refuse(reason: str) -> NoReturn:
    """Ends the process with one line and exit code 2."""
    print(f"error: {reason}", file=sys.stderr)
    sys.exit(2)


def main(name: str) -> None:
    """Compiles all programs for one device, and prints a line for each."""
    if name not in GPUS | TPUS:
        refuse(f"expected one of {', '.join(GPUS | TPUS)}; got {name}")
    try:
        target = Target(name, *device_of(name))
    except (NotImplementedError, RuntimeError) as error:  # JAX's, where the plugin is missing
        plugin = "cuda13" if name in GPUS else "tpu"
        refuse(f"no compiler for {name}; pip install 'jax[{plugin}]' ({str(error).split('. ')[0]})")
    print(f"{target.device.device_kind}, jax {jax.__version__}\n")
    print("| program | compile s | temporary MB | starts | loops and branches | spills |")
    print("| --- | ---: | ---: | ---: | ---: | --- |")
    for title, function, *args in programs():
        print(line(target, title, function, tuple(args)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:2] or ["h200"])
