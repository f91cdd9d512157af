"""Turn the embeddings of items into semantic ids: residual codes, unique for each item.

vqvae semantic-ids embeddings.npy -o ids
vqvae semantic-ids embeddings.npy -o ids --names names.txt --stages 4 --resolve balanced
vqvae semantic-ids embeddings.npy -o ids --run runs/rqvae     the codes of a model of your own

ids.npy         int32 [N, L]: the codes of all stages, then the level that makes them unique
items.jsonl     for each item in the same order: {"item": name or row, "id": [codes]}
codebooks.npy   float32 [stages, K, D]: the rows of an item's codes add up to its embedding
model/          the model that gives these codes
report.json     what is printed; config.json has the options
"""

import dataclasses
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from jaxtyping import Float32, Int32
from rich.console import Console

from vqvae_commands.code_meaning.coder import Coder, Seen
from vqvae_commands.run.progress import make_progress
from vqvae_commands.run.run_folder import strict_json, to_plain, write_text
from vqvae_commands.run.whole_folder import whole_folder
from vqvae_commands.semantic.collisions import balanced, numbered
from vqvae_commands.semantic.embedded_items import read_embeddings, read_names
from vqvae_commands.semantic.id_report import make_report, print_report
from vqvae_commands.semantic.residual_kmeans import fit_stages, model_of
from vqvae_commands.semantic.vector_codes import codebooks, look, open_coder, squared_distances
from vqvae_jax import save_model
from vqvae_jax.checks import check_size

FILES = {"ids.npy", "items.jsonl", "codebooks.npy", "model", "report.json", "config.json"}


@dataclasses.dataclass(frozen=True)
class Config:
    """Turn embeddings into unique semantic ids."""

    data: Annotated[str, tyro.conf.Positional]
    """A .npy file of embeddings, [N, D]: one row for each item."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="DIR")]
    """Folder for the ids; earlier ids in it are replaced."""
    names: Path | None = None
    """A text file with the name of each item on a line; by default items are numbered from 0."""
    stages: int = 3
    """Number of stages of residual k-means."""
    codes: int = 256
    """K, the number of codes of each stage."""
    steps: int = 30
    """Steps of k-means in each stage."""
    seed: int = 0
    """Seed of the rows from which k-means starts."""
    run: Path | None = None
    """Folder of a run, of a saved VQVAE of vectors, or of earlier ids: its codes are taken
    instead of those of k-means."""
    resolve: Literal["level", "balanced", "none"] = "level"
    """What sets items of the same codes apart: a last level that numbers them (level), other last
    codes at the least distance (balanced), or nothing (none)."""


def main(config: Config) -> dict[str, Any]:
    """Writes the folder, and prints and returns the report."""
    start = time.perf_counter()
    check_size(stages=config.stages, codes=config.codes, steps=config.steps)
    x = read_embeddings(config.data)
    names = read_names(config.names, len(x))
    with whole_folder(config.output, "ids", holds_ids) as folder:
        coder = fitted(config, x) if config.run is None else open_coder(config.run)
        seen = look(coder, x)
        ids = RESOLUTIONS[config.resolve](coder, seen)
        report = make_report(coder, x, seen.indices[0], ids)
        report |= {"model": save_model(folder / "model", coder.model, coder.variables)}
        report |= {"seconds": round(time.perf_counter() - start, 2)}
        write_ids(folder, ids, names, codebooks(coder))
        write_text(folder / "config.json", strict_json(to_plain(config), indent=1))
        write_text(folder / "report.json", strict_json(report, indent=1))
    print_report(report, str(config.output))
    return report


def holds_ids(folder: Path) -> bool:
    """Returns whether a folder holds ids and nothing else."""
    return {path.name for path in folder.iterdir()} == FILES


def fitted(config: Config, x: Float32[np.ndarray, "N D"]) -> Coder:
    """Fits the codebooks by residual k-means."""
    with make_progress(Console(), transient=True) as progress:
        task = progress.add_task("", total=config.stages * config.steps, now="k-means")

        def each_step(stage: int) -> None:
            progress.update(task, advance=1, now=f"k-means, stage {stage + 1}")

        codes = fit_stages(x, config.stages, config.codes, config.steps, config.seed, each_step)
    return Coder(*model_of(codes))


def by_distance(coder: Coder, seen: Seen) -> Int32[np.ndarray, "N Q"]:
    """Returns ids of balanced last codes."""
    cost = partial(squared_distances, coder, seen)
    return balanced(seen.indices[0], coder.model.quantizer.vocab[-1], cost)


RESOLUTIONS = {
    "level": lambda coder, seen: numbered(seen.indices[0]),
    "balanced": by_distance,
    "none": lambda coder, seen: seen.indices[0],
}


def write_ids(
    folder: Path,
    ids: Int32[np.ndarray, "N L"],
    names: Sequence[str | int],
    codebooks: Float32[np.ndarray, "Q K D"],
) -> None:
    """Writes ids, items and codebooks."""
    np.save(folder / "ids.npy", ids)
    np.save(folder / "codebooks.npy", codebooks)
    items = zip(names, ids.tolist(), strict=True)
    lines = (strict_json({"item": name, "id": codes}) for name, codes in items)
    write_text(folder / "items.jsonl", "".join(f"{line}\n" for line in lines))
