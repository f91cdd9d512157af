"""A trained model as two files that need neither this package nor Flax.

python -m experiments.export runs/fashion -o out
python -m experiments.export runs/fashion -o out --batch 64

Writes `tokenize.jaxexport` (x -> indices) and `detokenize.jaxexport` (indices -> x'), with the
weights inside. To use one:

    tokenize = jax.jit(jax.export.deserialize(bytearray(open(path, "rb").read())).call)
    indices = tokenize(x)

Without `jax.jit`, `call` works too, but Python goes through the file's signature at every call.
"""

import dataclasses
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import tyro

from experiments.command import run
from experiments.recipe import load_data
from vqvae_jax import as_functions, load_model
from vqvae_jax.bundle import Bundle, write


@dataclasses.dataclass(frozen=True)
class Config:
    """Export tokenize and detokenize of a run."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Where the two files go."""
    batch: int | None = None
    """A fixed batch size; without it, any."""
    shape: tuple[int, ...] | None = None
    """Of one example, as 28 28 1; without it, that of the run's own data."""
    platforms: tuple[str, ...] = ("cpu", "cuda", "tpu")
    """What the files run on."""


def main(config: Config) -> dict[str, Path]:
    """Writes the two files and prints where they are."""
    bundle = load_model(config.run / "model")
    shape = config.shape or own_shape(config.run)
    config.output.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name, exported in export(bundle, shape, config.batch, config.platforms).items():
        data = bytes(exported.serialize())
        paths[name] = config.output / f"{name}.jaxexport"
        write(paths[name], lambda file, data=data: file.write(data))
        print(f"{paths[name]}: {shown(exported.in_avals)} -> {shown(exported.out_avals)}")
    return paths


def export(
    bundle: Bundle, shape: Sequence[int], batch: int | None, platforms: Sequence[str]
) -> dict[str, jax.export.Exported]:
    """tokenize and detokenize with their weights.

    Args:
        bundle: model and variables.
        shape: of one example.
        batch: its size; None for any.
        platforms: on which they run.
    """
    f, variables = as_functions(bundle.model), jax.tree.map(jnp.asarray, bundle.variables)
    size = jax.export.symbolic_shape("b")[0] if batch is None else batch
    x = jax.ShapeDtypeStruct((size, *shape), jnp.float32)
    tokenize = jax.jit(lambda x: f.tokenize(variables, x))
    codes = jax.eval_shape(tokenize, x)
    detokenize = jax.jit(lambda codes: f.detokenize(variables, codes))
    make = partial(jax.export.export, platforms=platforms)
    return {"tokenize": make(tokenize)(x), "detokenize": make(detokenize)(codes)}


def shown(arrays: Sequence[jax.core.ShapedArray]) -> str:
    """Their shapes: of a VQ-VAE-2 there are several maps of codes."""
    return ", ".join(str(array.shape) for array in arrays)


def own_shape(folder: Path) -> tuple[int, ...]:
    """The shape of one example of the run's data."""
    options = json.loads((folder / "config.json").read_text())
    return load_data(options["data"], options["crop"])[1].shape[1:]


if __name__ == "__main__":
    run(main, Config)
