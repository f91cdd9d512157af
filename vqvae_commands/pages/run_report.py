"""The page of a run: `report.html`, self-contained and without scripts."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Shaped
from matplotlib.figure import Figure

from vqvae_commands.pages import html, kind_figures, run_pictures
from vqvae_commands.pages import plots as draw
from vqvae_commands.run import code_streams
from vqvae_jax.data.pipeline import Examples

TRAINING = (
    "of as many training examples as there are test examples, at most 10,000; far better than "
    "that of the test set where the model overfits"
)

# Name in evaluation.json: title on the page, format, and meaning.
METRICS = {
    "psnr": ("PSNR", "{:.2f} dB", "10 log10(1 / MSE), with the mean squared error over all pixels"),
    "ssim": ("SSIM", "{:.4f}", "structural similarity, mean over images; 1 for equal images"),
    "explained_variance": (
        "Explained variance",
        "{:.2%}",
        "1 - MSE / variance, around the mean of each channel of the test set",
    ),
    "train_psnr": ("PSNR, training images", "{:.2f} dB", TRAINING),
    "train_explained_variance": ("Explained variance, training set", "{:.2%}", TRAINING),
    "mse": ("MSE", "{:.3g}", "mean squared error, {units}"),
    "left_out": (
        "Left out",
        "{:,.0f}",
        "examples that are not finite or out of range, and are ignored",
    ),
    "perplexity": ("Perplexity", "{:,.1f}", "exp of the entropy of the codes of the whole set"),
    "used": ("Codes used", "{:.1%}", "share of the codebook that occurs in the test set"),
    "seen": ("Codes seen", "{:,.0f}", "number of codes counted; the perplexity can't exceed it"),
    "bits_uniform": (
        "Bits, uniform prior",
        "{:,.1f}",
        "bits of one example's codes at log2 K each",
    ),
    "bits_entropy": (
        "Bits, entropy",
        "{:,.1f}",
        "bits of one example's codes at the entropy of the codes",
    ),
}
HEADLINE = (
    "psnr",
    "ssim",
    "explained_variance",
    "perplexity",
    "used",
    "bits_uniform",
    "bits_entropy",
)

# Name of the figure: heading, and caption.
FIGURES = {
    "reconstructions": (
        "Originals and reconstructions",
        "The first images of the test set, each above its reconstruction from the codes.",
    ),
    "beside": (
        "Training beside test images",
        "Images from all over the training set, and from all over the test set, above their "
        "reconstructions. A model that overfits reconstructs the former better.",
    ),
    "worst": (
        "Worst images",
        "The test images with the lowest PSNR, the worst first, above their reconstructions.",
    ),
    "code_maps": (
        "Code maps",
        "Each image beside its codes. A code has one colour wherever it occurs; similar "
        "colours mean nothing.",
    ),
    "patches": (
        "Patches of codes",
        "Each row is a code, from the most frequent to rarer ones, with its share of all codes. "
        "Its places in the test set whose vectors are nearest to the code's are in the middle of "
        "the patches.",
    ),
    "usage": (
        "Use of the codebook",
        "Share of each code in the whole test set. An evenly used codebook would follow the dashed "
        "line, and its perplexity would be its size.",
    ),
    "curves": (
        "Curves",
        "Values over training steps: of one batch (train), and of the whole test set "
        "(test). A batch holds fewer codes than the test set, so its perplexity tends to be lower.",
    ),
}


def make_figures(
    model,
    variables,
    test: Shaped[Examples, "N ..."],
    counts: Mapping[str, Shaped[np.ndarray, "_"]],
    metrics: Sequence[dict[str, float]],
    kind: str = "pictures",
    train: Shaped[Examples, "M ..."] | None = None,
) -> dict[str, Figure]:
    """Returns all figures of a run; those of test examples are of the kind of data.

    Args:
        model, variables: the trained VQ-VAE.
        test: the test set; pictures are `[N, H, W, 1, 3 or 4]`.
        counts: counts of codes in the test set, of each stream by its prefix; of a large stream,
            counts of those that occur.
        metrics: lines of metrics.jsonl.
        kind: kind of the data, a name of `kinds.NOUNS`.
        train: the training set, where it is to be shown beside the test set.
    """
    pictures = kind == "pictures" and len(test.shape) == 4 and test.shape[-1] in (1, 3, 4)
    made = kind_figures.figures_of(kind, model, variables, test)
    made |= run_pictures.picture_figures(model, variables, train, test) if pictures else {}
    sizes = code_streams.streams(code_streams.quantizers(model))
    used = {code_streams.title(prefix): (count, sizes[prefix]) for prefix, count in counts.items()}
    return made | {"usage": draw.codebook_usage(used), "curves": draw.curve_figure(metrics)}


def write_report(
    folder: Path,
    *,
    config: Mapping[str, Any],
    description: str,
    results: Mapping[str, float],
    metrics: Sequence[dict[str, float]],
    figures: Mapping[str, Figure],
    command: str = "",
    facts: Mapping[str, str] = MappingProxyType({}),
    use: str = "",
    units: str = "pixels in [0, 1]",
    remarks: Sequence[str] = (),
) -> html.Page:
    """Writes `pictures/NAME.png` for each figure, and `report.html` with all of them inside.

    Args:
        folder: folder of the run.
        config: options of the run.
        description: JSON of the model.
        results: numbers of the whole test set, by name.
        metrics: lines of metrics.jsonl; the page shows the last step.
        figures: figures by name; those of `make_figures` come first.
        command: command that made the run.
        facts: facts about the run, by their names.
        use: lines of Python that load the model.
        units: units of errors.
        remarks: sentences on misleading numbers.

    Returns:
        The page, which is written whole or not at all.
    """
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    pictures = {name: draw.png_bytes(figure) for name, figure in figures.items()}
    for name, png in pictures.items():
        html.save(folder / "pictures" / f"{name}.png", png)
    known = kind_figures.FIGURES | FIGURES
    in_order = sorted(pictures, key=lambda name: [*known, name].index(name))
    options = {name: option_text(value) for name, value in config.items()}
    body = [
        headline(results),
        remarks_section(remarks) + made_section(command, facts),
        results_section(results, units),
        "".join(html.picture(*known.get(name, (name, "")), pictures[name]) for name in in_order),
        use_section(use),
        html.section(html.heading("Configuration"), html.option_table(options)),
        html.folded("Model", pretty(description)),
    ]
    title = str(config.get("name", folder.name))
    page = html.Page(title, lead(config, metrics), "\n".join(body))
    page.save(folder / "report.html")
    return page


def lead(config: Mapping[str, Any], metrics: Sequence[dict[str, float]]) -> str:
    """Returns the line below the title: data, quantizer and steps, as far as known."""
    known = [str(config[name]) for name in ("data", "quantizer") if config.get(name) is not None]
    steps = [f"{metrics[-1]['step']:,} steps"] if metrics else []
    name = {"vqvae2": "VQ-VAE-2"}.get(str(config.get("model")), "VQ-VAE")
    return " · ".join([name, *known, *steps])


def headline(results: Mapping[str, float]) -> str:
    """Returns the section of the most important numbers."""
    chosen = [name for name in HEADLINE if name in results]
    return html.headline({METRICS[name][0]: number_text(name, results[name]) for name in chosen})


def remarks_section(remarks: Sequence[str]) -> str:
    """Returns the section of the remarks; empty without any."""
    if not remarks:
        return ""
    return html.section(html.heading("What to look at"), html.bullets(remarks))


def made_section(command: str, facts: Mapping[str, str]) -> str:
    """Returns the section of the command and of the facts; empty without any."""
    if not facts:
        return ""
    return html.section(html.heading("The run"), html.preformatted(command), html.facts(facts))


def use_section(use: str) -> str:
    """Returns the section of lines of Python; empty without any."""
    return html.section(html.heading("In Python"), html.preformatted(use)) if use else ""


def results_section(results: Mapping[str, float], units: str) -> str:
    """Returns the section of all numbers of the test set, each with its meaning."""
    lines = []
    for name, value in results.items():
        stream, _, kind = name.rpartition("/")
        title, _, meaning = METRICS.get(kind, (kind, "", ""))
        title += f", {code_streams.title(stream)}" if stream else ""
        shown = html.explained(title, meaning.format(units=units))
        lines.append((shown, html.bold(number_text(name, value))))
    about = html.paragraph("Measured on the whole test set.")
    return html.section(html.heading("Results"), about, html.unheaded(lines))


def number_text(name: str, value: Any) -> str:
    """Returns a number in the format of its metric."""
    form = METRICS.get(name.rpartition("/")[2], ("", "{:.4g}"))[1]
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "infinite" if value in (math.inf, -math.inf) else "not a number"
    return form.format(value) if isinstance(value, int | float) else str(value)


def option_text(value: Any) -> str:
    """Returns an option's value as JSON writes it, but text without quotes."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def pretty(description: str) -> str:
    """Returns JSON indented, and other text as it is."""
    try:
        return json.dumps(json.loads(description), indent=2)
    except ValueError:
        return description
