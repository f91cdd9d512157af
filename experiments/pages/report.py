"""The page that a run leaves: `report.html`, whole in one file, without scripts."""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import jax
import numpy as np
from jaxtyping import Shaped
from matplotlib.figure import Figure

from experiments.pages import figures as draw
from experiments.run import codes
from vqvae_jax.data.pipeline import Examples, preprocess, to_pixels
from vqvae_jax.saving.bundle import write

SHOWN = 16  # test images in the pictures

# Name in evaluation.json: what the page calls it, how it is written, and what it means.
METRICS = {
    "psnr": ("PSNR", "{:.2f} dB", "10 log10(1 / MSE), of the mean squared error of all images"),
    "ssim": ("SSIM", "{:.4f}", "structural similarity, the mean over images; 1 where they agree"),
    "explained_variance": (
        "Explained variance",
        "{:.2%}",
        "1 - MSE / variance, around the mean of each channel of the test set",
    ),
    "mse": ("MSE", "{:.3g}", "mean squared error, {units}"),
    "left_out": ("Left out", "{:,.0f}", "examples that are not finite, or out of range"),
    "perplexity": ("Perplexity", "{:,.1f}", "exp of the entropy of the codes of the whole set"),
    "used": ("Codes used", "{:.1%}", "share of the codebook that occurs in the test set at all"),
    "seen": ("Codes seen", "{:,.0f}", "how many codes were counted; no perplexity exceeds it"),
    "bits_uniform": ("Bits, uniform prior", "{:,.1f}", "of one example's codes at log2 K each"),
    "bits_entropy": (
        "Bits, entropy",
        "{:,.1f}",
        "of one example's codes at the entropy of the codes each",
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

# Name of the figure: heading, and what to see.
FIGURES = {
    "reconstructions": (
        "Originals and reconstructions",
        "The first images of the test set, and below each what the decoder makes of its codes.",
    ),
    "code_maps": (
        "Code maps",
        "Each image beside its codes. A code has one colour wherever it occurs; colours that are "
        "alike mean nothing.",
    ),
    "usage": (
        "Use of the codebook",
        "Over the whole test set. A codebook in even use would follow the dashed line, and its "
        "perplexity would be its size.",
    ),
    "curves": (
        "Curves",
        "Over the steps of the training: values of one batch (train), of the whole test set "
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
) -> dict[str, Figure]:
    """All figures of a run; the two of pictures only where the data are pictures.

    Args:
        model, variables: the trained VQ-VAE.
        test: the test set; pictures are `[N, H, W, 1, 3 or 4]`.
        counts: for each stream, by its prefix, how often each code occurs in the test set (of a
            large stream, those that do).
        metrics: the lines of metrics.jsonl.
        kind: of the data, a name of `kinds.NOUNS`.
    """
    made = {}
    shape = test.shape
    if kind == "pictures" and len(shape) == 4 and shape[-1] in (1, 3, 4):
        images = np.asarray(to_pixels(preprocess(np.asarray(test[:SHOWN]))))
        rec = jax.jit(lambda v, x: model.apply(v, preprocess(x)))(variables, images)
        made["reconstructions"] = draw.reconstructions(images, np.asarray(to_pixels(rec.x)))
        maps = codes.as_levels(rec.indices)
        if all(k.ndim == 4 for k in maps):
            each = codes.by_stream(codes.quantizers(model), maps)
            made["code_maps"] = draw.code_maps(
                images, {codes.title(prefix): np.asarray(k) for prefix, k in each.items()}
            )
    sizes = codes.streams(codes.quantizers(model))
    used = {codes.title(prefix): (count, sizes[prefix]) for prefix, count in counts.items()}
    return made | {"usage": draw.codebook_usage(used), "curves": draw.curves(metrics)}


def write_report(
    folder: Path,
    *,
    config: Mapping[str, Any],
    description: str,
    results: Mapping[str, float],
    metrics: Sequence[dict[str, float]],
    figures: Mapping[str, Figure],
    data: str = "",
    units: str = "pixels in [0, 1]",
    remarks: Sequence[str] = (),
) -> Path:
    """Writes `pictures/NAME.png` for each figure, and `report.html` with all of them inside.

    Args:
        folder: of the run.
        config: the run's options.
        description: the model's JSON.
        results: the table of the whole test set, by name.
        metrics: the lines of metrics.jsonl; the page says where they end.
        figures: by name; the four of `make_figures` have a place, others follow.
        data: a line on what they are.
        units: of errors.
        remarks: sentences on what may mislead.

    Returns:
        The path of the page, which is there as a whole or not at all.
    """
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    pictures = {name: draw.png_bytes(figure) for name, figure in figures.items()}
    for name, png in pictures.items():
        save(folder / "pictures" / f"{name}.png", png)
    in_order = sorted(pictures, key=lambda name: [*FIGURES, name].index(name))
    body = BODY.substitute(
        headline=headline(results),
        data=escape(f"Over the whole test set. {data}".strip()),
        remarks=remarks_section(remarks),
        results=results_table(results, units),
        figures="".join(figure_section(name, pictures[name]) for name in in_order),
        config=rows((f"<code>{escape(str(k))}</code>", plain(v)) for k, v in config.items()),
        model=escape(pretty(description)),
    )
    text = document(str(config.get("name", folder.name)), lead(config, metrics), body)
    save(folder / "report.html", text.encode())
    return folder / "report.html"


def save(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    write(path, lambda file: file.write(content))


def lead(config: Mapping[str, Any], metrics: Sequence[dict[str, float]]) -> str:
    """The line below the title: data, quantizer and steps, as far as known."""
    known = [str(config[name]) for name in ("data", "quantizer") if config.get(name) is not None]
    steps = [f"{metrics[-1]['step']:,} steps"] if metrics else []
    name = {"vqvae2": "VQ-VAE-2"}.get(str(config.get("model")), "VQ-VAE")
    return " · ".join([name, *known, *steps])


def headline(results: Mapping[str, float]) -> str:
    """The few numbers that one looks for first, large."""
    chosen = [
        (METRICS[name][0], number(name, results[name])) for name in HEADLINE if name in results
    ]
    return "".join(f"<div><b>{escape(v)}</b><span>{escape(k)}</span></div>" for k, v in chosen)


def remarks_section(remarks: Sequence[str]) -> str:
    """What may mislead; nothing where nothing does."""
    if not remarks:
        return ""
    items = "".join(f"<li>{escape(remark)}</li>" for remark in remarks)
    return f"<section><h2>What to look at</h2><ul>{items}</ul></section>"


def results_table(results: Mapping[str, float], units: str = "pixels in [0, 1]") -> str:
    """All numbers of the test set, each with what it means."""
    lines = []
    for name, value in results.items():
        stream, _, kind = name.rpartition("/")
        title, _, meaning = METRICS.get(kind, (kind, "", ""))
        title += f", {codes.title(stream)}" if stream else ""
        meaning = f"<small>{escape(meaning.format(units=units))}</small>"
        lines.append((escape(title) + meaning, f"<b>{escape(number(name, value))}</b>"))
    return rows(lines)


def number(name: str, value: Any) -> str:
    """A number as its metric is written."""
    form = METRICS.get(name.rpartition("/")[2], ("", "{:.4g}"))[1]
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "infinite" if value in (math.inf, -math.inf) else "not a number"
    return form.format(value) if isinstance(value, int | float) else str(value)


def figure_section(name: str, png: bytes) -> str:
    """A heading, what to see, and the picture inside the page."""
    return picture(*FIGURES.get(name, (name, "")), png)


def picture(title: str, caption: str, png: bytes) -> str:
    """A picture inside the page, with its heading and caption."""
    data = base64.b64encode(png).decode()
    return (
        f'<section><h2>{escape(title)}</h2><p>{escape(caption)}</p><div class="scroll">'
        f'<img alt="{escape(title)}" src="data:image/png;base64,{data}">'
        "</div></section>"
    )


def document(title: str, lead: str, body: str) -> str:
    """A whole page of title, lead (plain text) and body (HTML)."""
    return PAGE.substitute(title=escape(title), lead=escape(lead), body=body)


def rows(pairs) -> str:
    """The rows of a table, from pairs of HTML."""
    return "".join(f"<tr><th scope=row>{name}</th><td>{value}</td></tr>" for name, value in pairs)


def plain(value: Any) -> str:
    """An option's value as HTML; the values of JSON as JSON writes them, text without quotes."""
    return escape(value if isinstance(value, str) else json.dumps(value, default=str))


def pretty(description: str) -> str:
    """JSON indented; other text as it is."""
    try:
        return json.dumps(json.loads(description), indent=2)
    except ValueError:
        return description


PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; --page: #f4f5f7; --card: #fff; --ink: #1d2127; --soft: #646b76;
  --line: #e3e6ea }
@media (prefers-color-scheme: dark) { :root { --page: #0e1013; --card: #17191d; --ink: #e7e9ec;
  --soft: #989fab; --line: #2a2e34 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif }
main { max-width: 60rem; margin: auto; padding: clamp(1rem, 4vw, 2.5rem) }
h1 { margin: 0; font-size: 2rem; line-height: 1.2; overflow-wrap: anywhere }
h2 { margin: 0 0 .25rem; font-size: 1.15rem }
p, small { color: var(--soft) }
p { margin: 0 0 1rem; overflow-wrap: anywhere }
section, details { background: var(--card); border: 1px solid var(--line); border-radius: .75rem;
  padding: clamp(1rem, 3vw, 1.5rem); margin-top: 1rem }
.headline { display: grid; grid-template-columns: repeat(auto-fit, minmax(7.5rem, 1fr));
  gap: 1rem }
.headline b { display: block; font-size: 1.5rem; white-space: nowrap }
.headline span, small { font-size: .85rem; color: var(--soft) }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums }
tr + tr { border-top: 1px solid var(--line) }
th, td { padding: .45rem 0; text-align: left; vertical-align: top; font-weight: normal }
th small { display: block }
td { text-align: right; white-space: nowrap; padding-left: 1rem }
.options td { white-space: normal; overflow-wrap: anywhere }
.scroll { overflow-x: auto }
img { display: block; max-width: max(100%, 36rem); margin: auto }
summary { cursor: pointer; font-weight: 600; font-size: 1.15rem }
pre { overflow-x: auto; margin: 1rem 0 0; font-size: .8rem }
code, pre { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace }
</style>
</head>
<body>
<main>
<h1>$title</h1>
<p>$lead</p>
$body
</main>
</body>
</html>
""")

BODY = Template("""<section class="headline">$headline</section>
$remarks<section><h2>Results</h2><p>$data</p><table>$results</table></section>
$figures
<section><h2>Configuration</h2><table class="options">$config</table></section>
<details><summary>Model</summary><pre>$model</pre></details>""")
