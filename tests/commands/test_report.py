"""The page of a run: whole in one file, with everything in it, and nothing taken for markup."""

import base64
import io
import re
from html import unescape

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import vqvae_jax as vj
from vqvae_commands.pages import html, plots, run_report

EVIL = "<script>\"&'</script>"
METRICS = [
    {"step": 50, "train/loss": 0.2, "train/reconstruction": 0.15, "train/mse": 0.1},
    {"step": 100, "train/loss": float("nan"), "train/mse": 0.0, "train/perplexity_batch": 9.0},
    {"step": 100, "test/psnr": 21.3, "test/perplexity": 12.5, "test/used": 0.75},
]
RESULTS = {
    "psnr": 21.3,
    "mse": 0.0074,
    "ssim": 0.8123,
    "explained_variance": 0.875,
    "train_psnr": 22.5,
    "train_explained_variance": 0.95,
    "left_out": 3.0,
    "perplexity": 12.5,
    "used": 0.75,
    "seen": 98000.0,
    "bits_uniform": 441.0,
    "bits_entropy": 178.4,
}


def model_for(channels: int, shape: tuple[int, ...]):
    """A model and random variables, without running `init`, which would compile for seconds."""
    inner, rng = {"width": 8, "depth": 1}, np.random.default_rng(0)
    encoder, decoder = vj.Encoder(channels, 4, **inner), vj.Decoder(channels, 4, **inner)
    model = vj.VQVAE(encoder, vj.vq(16, 4), decoder)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *shape, channels)))
    return model, jax.tree.map(lambda s: rng.normal(0, 0.2, s.shape).astype(s.dtype), shapes)


def pictures(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def write(folder, **changes):
    arguments = {
        "config": {"name": "a <b>run</b>", "data": "set", "width": 8, "crop": None, "note": EVIL},
        "description": f'{{"is": "VQVAE", "note": {EVIL.replace(chr(34), "")!r}}}',
        "results": RESULTS,
        "metrics": METRICS,
        "figures": {"curves": plots.curve_figure(METRICS)},
    }
    run_report.write_report(folder, **arguments | changes)
    return folder / "report.html"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of a small random model, with all its figures, and the run's folder."""
    folder = tmp_path_factory.mktemp("run")
    model, variables = model_for(1, (28, 28))
    counts = {"": np.arange(16.0)}
    data, kind = pictures(20, 28, 28, 1), "pictures"
    made = run_report.make_figures(model, variables, data, counts, METRICS, kind, data[:9])
    told = {"command": "vqvae train --name 'a <b>run</b>'", "facts": {"date": "2026 <1>"}}
    told |= {"use": "import vqvae_jax as vj", "figures": made}
    return write(folder, **told).read_text(encoding="utf-8"), folder


def test_every_section_is_there_in_order(page):
    text, _ = page
    headings = re.findall(r"<h2>(.*?)</h2>|<summary>(.*?)</summary>", text)
    assert ["".join(pair) for pair in headings] == [
        "The run",
        "Results",
        *(title for title, _ in run_report.FIGURES.values()),
        "In Python",
        "Configuration",
        "Model",
    ]


def test_every_result_is_shown_and_explained(page):
    text, _ = page
    for shown in (
        "21.30 dB",
        "0.0074",
        "0.8123",
        "12.5",
        "75.0%",
        "98,000",
        "441.0",
        "178.4",
        "87.50%",
    ):
        assert f"<b>{shown}</b>" in text
    for _, _, meaning in run_report.METRICS.values():
        assert meaning.format(units="pixels in [0, 1]") in unescape(text)


def test_remarks_data_and_units_are_on_the_page_and_numbers_that_are_none_are_no_numbers(tmp_path):
    results = {"mse": None, "perplexity": float("nan"), "explained_variance": float("-inf")}
    told = {"facts": {"data": "90 <vectors>"}, "command": "vqvae train", "units": "in volts"}
    told |= {"remarks": ["Only 3 of 16 <codes>."]}
    text = write(tmp_path, results=results, **told).read_text(encoding="utf-8")
    assert "<li>Only 3 of 16 &lt;codes&gt;.</li>" in text
    assert "90 &lt;vectors&gt;" in text and "<pre>vqvae train</pre>" in text
    assert "mean squared error, in volts" in text and "pixels" not in text
    assert text.count("<b>not a number</b>") == 3 and text.count("<b>infinite</b>") == 2


def test_nothing_is_fetched_or_run(page):
    text, _ = page
    sources = re.findall(r'src="([^"]*)"', text)
    assert len(sources) == 7 and all(s.startswith("data:image/png;base64,") for s in sources)
    rest = re.sub(r'src="[^"]*"', "", text)
    assert not re.search(r"http|url\(|@import|<script|<link|\son\w+=|href", rest)


def test_values_are_escaped(page):
    text, _ = page
    assert "<title>a &lt;b&gt;run&lt;/b&gt;</title>" in text
    assert text.count("&lt;script&gt;") == 2  # once in the configuration, once in the model


def test_pictures_in_the_page_are_those_of_the_folder(page):
    text, folder = page
    encoded = re.findall(r"base64,([^\"]*)", text)
    for name, data in zip(run_report.FIGURES, encoded, strict=True):
        png = base64.b64decode(data, validate=True)
        assert png == (folder / "pictures" / f"{name}.png").read_bytes()
        picture = Image.open(io.BytesIO(png))
        picture.load()
        assert picture.format == "PNG" and min(picture.size) > 200


def test_only_whole_files_are_left(page):
    _, folder = page
    assert sorted(p.name for p in folder.iterdir()) == ["pictures", "report.html"]
    assert len(list((folder / "pictures").iterdir())) == 7


def test_a_failed_write_leaves_the_old_page(tmp_path, monkeypatch):
    old = write(tmp_path).read_bytes()

    def fail(fd):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path, results={})
    assert (tmp_path / "report.html").read_bytes() == old
    assert not list(tmp_path.rglob("*.partial"))


def test_unknown_metrics_streams_and_text_that_is_no_json(tmp_path):
    text = write(
        tmp_path, results={"1/perplexity": 3.0, "fid": 12.3456}, description="<model>"
    ).read_text(encoding="utf-8")
    assert "Perplexity, stream 1" in text
    assert "fid" in text and "<b>12.35</b>" in text
    assert "<pre>&lt;model&gt;</pre>" in text


def test_equal_runs_give_equal_pages(tmp_path):
    first = write(tmp_path, figures={"curves": plots.curve_figure(METRICS)}).read_bytes()
    again = write(tmp_path, figures={"curves": plots.curve_figure(METRICS)}).read_bytes()
    assert first == again


@pytest.mark.parametrize("shape", [(3, 16, 8, 3), (1, 256, 256, 3)])
def test_pictures_of_other_shapes(shape):
    model, variables = model_for(3, shape[1:3])
    made = run_report.make_figures(model, variables, pictures(*shape), {"": np.zeros(16)}, [])
    sizes = {name: Image.open(io.BytesIO(plots.png_bytes(f))).size for name, f in made.items()}
    assert len(sizes) >= 5 and all(min(size) > 100 for size in sizes.values())


def test_curves_of_data_that_are_no_pictures_show_their_error():
    lines = [{"step": 5, "train/mse": 4.0}, {"step": 5, "test/mse": 3.0}]
    quality = plots.curve_figure([*lines, {"step": 5, "test/explained_variance": 0.2}]).axes[1]
    assert "mean squared error" in quality.get_title(loc="left") + quality.get_title()
    assert [line.get_xydata().tolist() for line in quality.lines] == [[[5, 4.0]], [[5, 3.0]]]


def test_a_code_has_one_colour_everywhere():
    one = plots.in_colours(np.array([[3, 5], [5, -1]]))
    other = plots.in_colours(np.array([[5]]))
    assert (one[0, 1] == other[0, 0]).all() and (one[1, 0] == other[0, 0]).all()
    assert len({plots.colour(k) for k in range(512)}) == 512
    assert one[1, 1].tolist() == [128, 128, 128]


def test_curves_leave_out_what_has_no_place():
    quality = plots.curve_figure(METRICS).axes[1]
    train, test = (line.get_xydata().tolist() for line in quality.lines)
    assert train == [[50, 10.0]]  # an error of 0 has no PSNR
    assert test == [[100, 21.3]]
    loss = plots.curve_figure(METRICS).axes[0].lines[0]
    assert loss.get_xydata().tolist() == [[50, 0.2]]  # NaN


def test_curves_and_usage_of_several_streams():
    metrics = [{"step": 1, "test/0/perplexity": 3.0, "test/1/perplexity": 4.0}]
    labels = [line.get_label() for line in plots.curve_figure(metrics).axes[2].lines]
    assert labels == ["test, stream 0", "test, stream 1"]
    streams = [np.array([6.0, 0, 2]), np.ones(4), np.zeros(2)]
    counts = {f"stream {q}": (n, len(n)) for q, n in enumerate(streams)}
    panels = plots.codebook_usage(counts).axes
    title = panels[0].get_title(loc="left")
    assert title == "stream 0: perplexity 1.8 of 3\n66.7% used, 8 codes seen"
    shares, _, _ = panels[0].patches[0].get_data()
    assert shares.tolist() == [0.75, 0.25, 0]
    large = plots.codebook_usage({"": (np.array([2.0, 6.0]), 2**30)}).axes[0]
    assert large.get_title(loc="left").startswith("perplexity 1.8 of 1,073,741,824, 0.0% used")
    assert large.patches[0].get_data()[0].tolist() == [0.75, 0.25]


def test_code_maps_show_every_stream():
    maps = {f"stream {q}": np.zeros((2, 2, 2), int) for q in range(3)}
    figure = plots.code_maps(pictures(2, 8, 8, 1), maps)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["image", "stream 0", "stream 1", "stream 2"] * 2


def test_several_pages_stand_together_in_one(tmp_path):
    pages = {
        "A & B": html.Page("unseen", "x < y", html.section("one")),
        "C": html.Page("unseen", "", html.section("two")),
    }
    html.Page("all", "of it", html.together(pages)).save(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    links = re.findall(r'<a href="#(\w+)">(.*?)</a>', text)
    assert links == [("part0", "A &amp; B"), ("part1", "C")]
    assert links == re.findall(r'<h1 id="(\w+)">(.*?)</h1>', text)
    assert text.index("<p>x &lt; y</p>") < text.index("<section>one") < text.index("<section>two")
    assert text.count("<main>") == text.count("<title>") == 1 and "unseen" not in text


def test_terms_below_zero_are_no_lines_of_the_logarithmic_axis():
    lines = [{"step": i, "train/loss": 1.0, "train/entropy": -0.5} for i in (1, 2)]
    losses = plots.curve_figure(lines).axes[0]
    assert [text.get_text() for text in losses.get_legend().get_texts()] == ["loss"]
