"""The page of samples: pictures and numbers, with explanations."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from vqvae_commands.generation.bits_table import COLUMNS, saved, table_rows
from vqvae_commands.pages import html
from vqvae_commands.pages.mosaic import Rows, rows_figure
from vqvae_commands.pages.plots import INK, LINES, new_figure, plain_axes, png_bytes
from vqvae_commands.quality.image_quality import nearest_neighbours
from vqvae_commands.quality.sample_quality import Images, sample_distances
from vqvae_commands.run import run_folder

COLUMN = 12  # samples beside each other, each above its nearest training image


class Shown(NamedTuple):
    """Rows of pictures by their labels."""

    classes: Rows
    completions: Rows
    interpolations: Rows


# Name in evaluation.json: title on the page, format, and meaning. The first three are measured of
# reconstructions and of real test images as well, the last one of reconstructions.
KINDS = {
    "recognised": (
        "Recognised",
        "{:.1%}",
        "share that a classifier, trained on the real training images, assigns to their class",
    ),
    "frechet": (
        "Frechet distance",
        "{:.2f}",
        "distance from the training images in the features of that classifier, with equally many "
        "images of each; 0 if mean and covariance agree",
    ),
    "nearest": (
        "Distance to the nearest training image",
        "{:.4f}",
        "median of the root mean squared difference of pixels in [0, 1]",
    ),
    "copies": (
        "Nearer than 99 % of the test images",
        "{:.1%}",
        "share of those nearer to a training image than all but the nearest hundredth of the test "
        "images; far more than 1 % would mean copies. Decoded images are smoother than "
        "photographs and so nearer to all images: compare with reconstructions of test images, "
        "which are no copies",
    ),
}
OF = {"": "samples", "_reconstructions": "reconstructions", "_test": "real test images"}

BITS = (
    "Uniform: log2 K a code. Static: the test set, each code by itself under the histogram of the "
    "training set. The others: -log2 p by the priors, for images that they never saw (test), "
    "for those that chose the best step (held out), and for those they learnt from (train); if "
    "train is far below test, a prior has memorised its images. For a masked prior they are "
    "estimates, means over orders of the codes."
)

CAPTIONS = {
    "classes": (
        "Samples",
        "Each row is a class, on which the priors are conditioned; all codes are drawn.",
    ),
    "completions": (
        "Completions",
        "The codes of the upper half of a test image are given, and those below are drawn several "
        "times. The decoder sees all codes at once, so the upper half may change a little where "
        "they meet.",
    ),
    "interpolations": (
        "From one test image to another",
        "The images themselves are at both ends. Vectors: the encoder's outputs are mixed, "
        "(1 - t) z(a) + t z(b), and quantized, so that each place passes through codes whose "
        "vectors lie between. Codes: one place after another, in random order, gets its code from "
        "the other image. Neither uses the prior, so pictures between may look like nothing real.",
    ),
    "neighbours": (
        "Nearest training images",
        "Samples, each above its nearest training image. The first two rows are the samples "
        "nearest to a training image, the others are the first samples.",
    ),
    "distances": (
        "Distances to the nearest training image",
        "If samples were copies, their curve would be far to the left of that of the "
        "reconstructions of test images.",
    ),
}


def write_sample_page(
    config, images: Images, numbers: dict[str, float], tables: Sequence[dict], shown: Shown
) -> html.Page:
    """Writes pictures/*.png, evaluation.json and report.html to RUN/samples; returns the page."""
    folder = config.run / "samples"
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    made = {name: png_bytes(figure) for name, figure in make_figures(images, shown).items()}
    for name, png in made.items():
        html.save(folder / "pictures" / f"{name}.png", png)
    run_folder.write_text(folder / "evaluation.json", run_folder.strict_json(numbers, indent=1))
    options = {name: str(value) for name, value in run_folder.to_plain(config).items()}
    body = [
        headline(numbers),
        *(html.picture(*CAPTIONS[name], png) for name, png in made.items()),
        table_section("Numbers", quality_table(numbers)),
        table_section("Bits of the codes of an image", bits_table(tables)),
        html.section(html.heading("Options"), html.option_table(options)),
    ]
    lead = f"{images.codes.source} · {len(images.samples):,} samples"
    page = html.Page(f"Samples of {config.run.name}", lead, "".join(body))
    page.save(folder / "report.html")
    return page


def table_section(title: str, table: str) -> str:
    """Returns a section of a table."""
    return html.section(html.heading(title), html.scroll(table))


def headline(numbers: dict[str, float]) -> str:
    """Returns the section of the most important numbers."""
    chosen = {}
    if "recognised" in numbers:
        chosen["recognised as their class"] = f"{numbers['recognised']:.1%}"
        chosen["Frechet distance"] = f"{numbers['frechet']:.2f}"
    chosen["bits an image, test"] = f"{numbers['test_bits']:.0f}"
    chosen["below static coding"] = f"{saved(numbers):.1%}"
    chosen["repeat a training image's codes"] = f"{numbers['repeated']:.1%}"
    return html.headline(chosen)


def quality_table(numbers: dict[str, float]) -> str:
    """Returns the table of `quality_lines`, with the meanings of the numbers below it."""
    lines = quality_lines(numbers)
    shown = {title for title, *_ in lines}
    meanings = {title: f"{meaning}." for title, _, meaning in KINDS.values() if title in shown}
    return html.table(lines) + html.paragraph("") + html.terms(meanings)


def quality_lines(numbers: dict[str, float]) -> list[list[str]]:
    """Returns the lines of the table: samples beside reconstructions and real test images."""
    lines = [["", *OF.values()]]
    for kind, (title, form, _) in KINDS.items():
        names = [kind + ("_samples" if kind == "nearest" and not of else of) for of in OF]
        if names[0] in numbers:
            lines.append([title, *(form.format(numbers[n]) if n in numbers else "" for n in names)])
    whole = {"different": "Samples whose codes no other sample has"}
    whole |= {"repeated": "Samples whose codes are those of a training image"}
    return lines + [[title, f"{numbers[name]:.1%}", "", ""] for name, title in whole.items()]


def bits_table(tables: Sequence[dict[str, float]]) -> str:
    """Returns the table of the bits of each level: uniform, static, by the priors."""
    lines = [["", *COLUMNS.values(), "test below static"], *table_rows(tables)]
    return html.table(lines) + html.paragraph("") + html.text(BITS)


def make_figures(images: Images, shown: Shown) -> dict[str, Figure]:
    """Draws all figures, by their names."""
    made = {name: rows_figure(found) for name, found in shown._asdict().items()}
    return made | {
        "neighbours": rows_figure(neighbour_rows(images)),
        "distances": draw_distances(sample_distances(images)),
    }


def neighbour_rows(images: Images) -> Rows:
    """Returns samples and their nearest training images: of the nearest samples, and of some."""
    far, index = nearest_neighbours(images.samples, images.train)
    # Evenly spread: samples are ordered by class, and all classes are shown.
    some = np.linspace(0, len(far) - 1, min(COLUMN, len(far))).astype(int)
    return {
        "nearest samples": images.samples[(near := np.argsort(far)[: len(some)])],
        "their neighbours": images.train[index[near]],
        "samples": images.samples[some],
        "neighbours": images.train[index[some]],
    }


def draw_distances(found: Mapping[str, np.ndarray]) -> Figure:
    """Draws the share of images that are nearer than each distance."""
    figure = new_figure(2.8)
    axes = figure.subplots()
    plain_axes(axes, "share of the images whose nearest training image is within a distance")
    for (name, values), colour in zip(found.items(), LINES, strict=False):
        shares = np.arange(1, len(values) + 1) / len(values)
        axes.step(np.sort(values), shares, color=colour, label=name, lw=1.2)
    axes.set_xlabel("root of the mean squared difference of pixels", color=INK, fontsize=8)
    axes.set_ylim(0, 1.02)
    axes.legend(frameon=False, labelcolor=INK, fontsize=7.5)
    return figure
