"""The table of a trained model over a whole test set.

python -m experiments.evaluate runs/fashion
"""

import dataclasses
import json
import math
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from experiments import codes
from experiments.codes import as_levels, quantizers, streams
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
def measure(model, variables, batch, mask):
    """Squared error and SSIM of each example, and the counts of the codes of the real ones."""
    x = preprocess(batch)
    rec = model.apply(variables, x)
    error = jnp.mean(jnp.square(x - rec.x), axis=range(1, x.ndim))
    picture = x.ndim == 4 and min(x.shape[1:3]) >= 11
    similarity = ssim(x, rec.x) if picture else jnp.full(error.shape, jnp.nan)
    return error, similarity, codes.count(quantizers(model), as_levels(rec.indices), mask)


def evaluate(model, variables, test: Examples, batch_size: int = 100):
    """(the table {name: number}, the counts of each stream by its prefix) over the test set."""
    errors, similarities = [], []
    counts: dict[str, Any] = dict.fromkeys(streams(quantizers(model)), 0)
    for batch, mask in take_batches(test, min(batch_size, len(test))):
        error, similarity, batch_counts = measure(model, variables, batch, mask)
        real = mask > 0
        errors.append(np.asarray(error)[real])
        similarities.append(np.asarray(similarity)[real])
        for prefix, found in batch_counts.items():
            counts[prefix] = counts[prefix] + np.asarray(found, np.float64)
    mse = float(np.mean(np.concatenate(errors), dtype=np.float64))
    table = {"psnr": float(psnr(mse)), "mse": mse}
    if not np.isnan(similarities[0]).any():
        table["ssim"] = float(np.mean(np.concatenate(similarities), dtype=np.float64))
    return table | code_table(counts, len(test)), counts


def code_table(counts, examples: int) -> dict[str, float]:
    """How the codes are used, and the bits of one example, from the counts by prefix."""
    table, uniform, entropy = {}, 0.0, 0.0
    for prefix, count in counts.items():
        use = {name: float(v) for name, v in usage(jnp.asarray(count, jnp.float32)).items()}
        use["seen"] = float(count.sum())
        bits = use.pop("bits")
        uniform += count.sum() / examples * math.log2(len(count))
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
