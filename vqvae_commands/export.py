"""Export a trained model as two files that need neither this package nor Flax.

vqvae export runs/fashion -o out
vqvae export runs/fashion -o out --batch 64
vqvae export my-model -o out --shape 28 28 1     a folder of save_model

Writes `tokenize.jaxexport` (x -> indices) and `detokenize.jaxexport` (indices -> x'), with the
weights inside, and README.txt, which describes them; prints the lines that load and call them.
Models of pixels take uint8.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from vqvae_commands.data.data_options import GivenData, data_options, given_data, load_data
from vqvae_commands.run.exported_files import about, check_codec, export, lines_to_load, shapes_text
from vqvae_commands.run.run_folder import open_run
from vqvae_jax.checks import check_size
from vqvae_jax.data.readers import DataError
from vqvae_jax.saving.bundle import write
from vqvae_jax.saving.weights import read_json


@dataclasses.dataclass(frozen=True)
class Config(GivenData):
    """Export tokenize and detokenize of a run."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a run, or of a saved model."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder for the two files."""
    batch: int | None = None
    """Fixed batch size; by default any."""
    shape: tuple[int, ...] | None = None
    """Shape of one example, such as 28 28 1; by default that of the run's own data."""
    platforms: tuple[Literal["cpu", "cuda", "rocm", "tpu"], ...] = ("cpu", "cuda", "tpu")
    """Platforms that the files run on."""


def main(config: Config) -> dict[str, Path]:
    """Writes the files, and prints what they are and how to load them."""
    if config.batch is not None:
        check_size(batch=config.batch)
    bundle, options = open_run(config.run)
    check_codec(bundle.model)
    files = export(bundle, example_shape(config, options), config.batch, config.platforms)
    config.output.mkdir(parents=True, exist_ok=True)
    paths, about_files = {}, ""
    for name, exported in files.items():
        data = bytes(exported.serialize())
        paths[name] = config.output / f"{name}.jaxexport"
        write(paths[name], lambda file, data=data: file.write(data))
        signature = f"{shapes_text(exported.in_avals)} -> {shapes_text(exported.out_avals)}"
        about_files += f"{paths[name].name}: {signature}\n"
    about_files += f"\n{about(bundle)}"
    text = about_files + lines_to_load(".", files, bundle)
    write(config.output / "README.txt", lambda file: file.write(text.encode()))
    print(about_files + lines_to_load(str(config.output.resolve()), files, bundle), end="")
    return paths


def example_shape(config: Config, options: dict[str, Any]) -> tuple[int, ...]:
    """The shape of one example: the given one, that of given data, or that of the run's own.

    Raises:
        DataError: if neither is known.
    """
    if config.shape:
        check_size(**{f"side {i} of shape": side for i, side in enumerate(config.shape)})
        return config.shape
    if config.data is None and not options:
        raise DataError(
            f"{config.run}: expected the shape of an example, found a model alone; "
            "pass --shape, such as --shape 28 28 1, or --data"
        )
    given, facts = given_data(config), config.run / "data.json"
    if not any(given.values()) and facts.exists():
        return tuple(read_json(facts)["shape"])
    return load_data(data_options(options, **given))[1].shape[1:]
