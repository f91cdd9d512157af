"""Measure speed and memory beside other libraries.

python -m experiments.bench search            the nearest code
python -m experiments.bench step              the train step
python -m experiments.bench activations       parts, remat and bfloat16: time and memory
python -m experiments.bench serve             images to codes and back
python -m experiments.bench scale             growth with N, K and D
python -m experiments.bench pipeline          reading images
python -m experiments.bench sampling          codes from priors, with and without a cache
python -m experiments.bench all --quick       all of them in minutes

Other libraries take part if they are installed: pip install 'vqvae_jax[bench]'.
"""

import dataclasses
import importlib
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import jax
import tyro

from experiments.bench import bench_page
from experiments.bench.machine import provenance
from vqvae_commands.terminal.command import run

PARTS = ("search", "step", "activations", "serve", "scale", "pipeline", "sampling")


@dataclasses.dataclass(frozen=True)
class Config:
    """Measure speed and memory beside other libraries."""

    part: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PART")]
    """Benchmark to run: search, step, activations, serve, scale, pipeline, sampling, or all."""
    quick: bool = False
    """Measure fewer problems in fewer rounds, which takes minutes."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="DIR")] = Path("runs/bench")
    """Folder for PART/report.md, results.json and plots; made if missing."""


def main(config: Config) -> None:
    """Runs the benchmarks one after another; each leaves its page before the next begins."""
    parts = chosen(config.part)
    config.output.mkdir(parents=True, exist_ok=True)  # before hours of work
    for name in parts:
        print(f"{name} begins", flush=True)
        part = importlib.import_module(f"experiments.bench.{name}").run(config.quick)
        bench_page.print_part(part)
        print(
            bench_page.write_part(config.output, part, provenance(part_command(name, config.quick)))
        )


def chosen(part: str) -> Sequence[str]:
    """Returns the benchmarks that a name stands for.

    Raises:
        ValueError: there is no such benchmark.
    """
    if part not in (*PARTS, "all"):
        raise ValueError(f"no benchmark {part!r}; there are {', '.join(PARTS)} and all")
    return PARTS if part == "all" else (part,)


def part_command(part: str, quick: bool) -> str:
    """Returns the command that repeats one benchmark."""
    words = ["python", "-m", "experiments.bench", part]
    return shlex.join(words + ["--quick"] * quick)


if __name__ == "__main__":
    jax.config.update("jax_enable_compilation_cache", False)  # or compiling would take no time
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "0"  # in processes that this one starts as well
    run(main, Config)
