"""Export a trained model as two files that need neither this package nor Flax.

vqvae export runs/fashion -o out
vqvae export runs/fashion -o out --batch 64
vqvae export my-model -o out --shape 28 28 1     a folder of save_model

Writes `tokenize.jaxexport` (x -> indices) and `detokenize.jaxexport` (indices -> x'), with the
weights inside, and README.txt, which describes them; prints the lines that load and call them.
Models of pixels take uint8.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import tyro

from vqvae_commands.data.data_options import GivenData, data_options, given_data, load_data
from vqvae_commands.run.exported_files import about, check_codec, export, lines_to_load, shapes_text
from vqvae_commands.run.run_folder import open_run
from vqvae_commands.run.whole_folder import whole_folder
from vqvae_jax.checks import check_size
from vqvae_jax.data.readers import DataError
from vqvae_jax.saving.weights import read_json

README = "README.txt"


@dataclasses.dataclass(frozen=True)
class Config(GivenData):
    """Export tokenize and detokenize of a run."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a run, or of a saved model."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder for the files; earlier ones in it are replaced."""
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
    shape = example_shape(config, options)
    with whole_folder(config.output, "exported files", holds_exports) as folder:
        files = export(bundle, shape, config.batch, config.platforms)
        for name, exported in files.items():
            (folder / f"{name}.jaxexport").write_bytes(exported.serialize())
        about_files = f"{signatures(files)}\n{about(bundle)}"
        (folder / README).write_text(about_files + lines_to_load(".", files, bundle))
    print(about_files + lines_to_load(str(config.output.resolve()), files, bundle), end="")
    return {name: config.output / f"{name}.jaxexport" for name in files}


def holds_exports(folder: Path) -> bool:
    """Returns whether a folder holds exported files and nothing else."""
    names = {path.name for path in folder.iterdir()}
    return names == {"tokenize.jaxexport", "detokenize.jaxexport", README}


def signatures(files: Mapping[str, jax.export.Exported]) -> str:
    """Returns a line for each file: dtypes and shapes of what its function takes and gives."""
    lines = (
        f"{name}.jaxexport: {shapes_text(x.in_avals)} -> {shapes_text(x.out_avals)}\n"
        for name, x in files.items()
    )
    return "".join(lines)


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
