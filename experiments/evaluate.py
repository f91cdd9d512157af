"""The table of a trained model over a whole test set.

python -m experiments.evaluate runs/fashion
"""

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from experiments import codes
from experiments.codes import as_counts, as_levels, by_stream, quantizers, streams, tally
from experiments.command import run
from experiments.recipe import load_data
from vqvae_jax import BundleError, load_model, psnr, ssim, usage
from vqvae_jax.data.pipeline import Examples, preprocess, take_batches

MEANING = {
    "psnr": "PSNR, dB, of the mean squared error",
    "ssim": "SSIM, mean over images",
    "mse": "mean squared error, pixels in [0, 1]",
    "perplexity": "perplexity of the codes",
    "used": "share of the codebook used",
    "seen": "number of codes seen",
    "bits_uniform": "bits per image, uniform prior",
    "bits_entropy": "bits per image, entropy of the codes",
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Evaluate a run over its whole test set."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder."""
    data: str | None = None
    """Another source of test images than the run's own."""
    crop: int | None = None
    """Side of the crops from a folder of images."""
    batch_size: int = 100
    """Images at a time."""


@partial(jax.jit, static_argnums=0)
def measure(model, variables, batch):
    """Squared error, SSIM and codes of each example."""
    x = preprocess(batch)
    rec = model.apply(variables, x)
    error = jnp.mean(jnp.square(x - rec.x), axis=range(1, x.ndim))
    picture = x.ndim == 4 and min(x.shape[1:3]) >= 11
    similarity = ssim(x, rec.x) if picture else jnp.full(error.shape, jnp.nan)
    return error, similarity, by_stream(quantizers(model), as_levels(rec.indices))


def evaluate(model, variables, test: Examples, batch_size: int = 100):
    """(the table {name: number}, the counts of each stream by its prefix) over the test set."""
    errors, similarities = [], []
    sizes = streams(quantizers(model))
    seen: dict[str, Counter[int]] = {prefix: Counter() for prefix in sizes}
    for batch, mask in take_batches(test, min(batch_size, len(test))):
        error, similarity, indices = measure(model, variables, batch)
        real = mask > 0
        errors.append(np.asarray(error)[real])
        similarities.append(np.asarray(similarity)[real])
        for prefix, k in indices.items():
            seen[prefix] += tally(np.asarray(k)[real])
    counts = {prefix: as_counts(seen[prefix], size) for prefix, size in sizes.items()}
    mse = float(np.mean(np.concatenate(errors), dtype=np.float64))
    table = {"psnr": float(psnr(mse)), "mse": mse}
    if not np.isnan(similarities[0]).any():
        table["ssim"] = float(np.mean(np.concatenate(similarities), dtype=np.float64))
    return table | code_table(counts, sizes, len(test)), counts


def code_table(counts, sizes: Mapping[str, int], examples: int) -> dict[str, float]:
    """How the codes are used, and the bits of one example, from counts and sizes by prefix."""
    table, uniform, entropy = {}, 0.0, 0.0
    for prefix, count in counts.items():
        found = usage(jnp.asarray(count, jnp.float32), sizes[prefix])
        use = {name: float(value) for name, value in found.items()}
        use["seen"] = float(count.sum())
        bits = use.pop("bits")
        uniform += count.sum() / examples * math.log2(sizes[prefix])
        entropy += count.sum() / examples * bits
        table |= {prefix + name: value for name, value in use.items()}
    return table | {"bits_uniform": float(uniform), "bits_entropy": float(entropy)}


def show(table: dict[str, float], title: str) -> None:
    """Prints the table."""
    view = Table(title=title, title_justify="left")
    view.add_column("over the whole test set")
    view.add_column("", justify="right")
    for name, value in table.items():
        prefix, _, last = name.rpartition("/")
        meaning = MEANING[last] + (f" ({codes.title(prefix)})" if prefix else "")
        view.add_row(meaning, f"{value:,.0f}" if last == "seen" else f"{value:.4g}")
    Console().print(view)


def main(config: Config) -> dict[str, float]:
    """Loads the model of a run and prints its table."""
    path = config.run / "config.json"
    if not path.exists():
        raise BundleError(f"{config.run} is no run: it has no config.json")
    options = json.loads(path.read_text())
    bundle = load_model(config.run / "model")
    data, crop = config.data or options["data"], config.crop or options["crop"]
    _, test = load_data(data, crop)
    table, _ = evaluate(bundle.model, bundle.variables, test, config.batch_size)
    show(table, f"{config.run}, model {bundle.sha256[:16]}, {len(test):,} test images of {data}")
    return table


if __name__ == "__main__":
    run(main, Config)
