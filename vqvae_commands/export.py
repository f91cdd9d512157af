"""Export a trained model as two files that need neither this package nor Flax.

vqvae export runs/fashion -o out
vqvae export runs/fashion -o out --batch 64

Writes `tokenize.jaxexport` (x -> indices) and `detokenize.jaxexport` (indices -> x'), with the
weights inside, and README.txt, which describes inputs and outputs (models of pixels take uint8). To
use one:

    tokenize = jax.jit(jax.export.deserialize(bytearray(open(path, "rb").read())).call)
    indices = tokenize(x)

Without `jax.jit`, `call` works too, but Python goes through the file's signature at every call.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from vqvae_commands.run.data_options import data_options, load_data
from vqvae_commands.run.exported_files import about, export, shapes_text
from vqvae_commands.run.run_folder import open_run
from vqvae_jax import load_model
from vqvae_jax.saving.bundle import write

USE = """
    data = bytearray(open("tokenize.jaxexport", "rb").read())
    tokenize = jax.jit(jax.export.deserialize(data).call)
    indices = tokenize(x)
"""


@dataclasses.dataclass(frozen=True)
class Config:
    """Export tokenize and detokenize of a run."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder for the two files."""
    batch: int | None = None
    """Fixed batch size; by default any."""
    shape: tuple[int, ...] | None = None
    """Shape of one example, such as 28 28 1; by default that of the run's own data."""
    platforms: tuple[str, ...] = ("cpu", "cuda", "tpu")
    """Platforms that the files run on."""


def main(config: Config) -> dict[str, Path]:
    """Writes the files and prints where they are."""
    bundle = load_model(config.run / "model")
    shape = config.shape or own_shape(config.run)
    config.output.mkdir(parents=True, exist_ok=True)
    paths, lines = {}, []
    for name, exported in export(bundle, shape, config.batch, config.platforms).items():
        data = bytes(exported.serialize())
        paths[name] = config.output / f"{name}.jaxexport"
        write(paths[name], lambda file, data=data: file.write(data))
        signature = f"{shapes_text(exported.in_avals)} -> {shapes_text(exported.out_avals)}"
        lines.append(f"{paths[name].name}: {signature}")
        print(f"{paths[name]}: {signature}")
    text = "\n".join([*lines, "", about(bundle), USE])
    write(config.output / "README.txt", lambda file: file.write(text.encode()))
    return paths


def own_shape(folder: Path) -> tuple[int, ...]:
    """The shape of one example of the run's data."""
    _, options = open_run(folder)
    return load_data(data_options(options))[1].shape[1:]
