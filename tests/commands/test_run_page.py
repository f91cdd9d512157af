"""The facts and the pictures on the page of a run."""

import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tyro
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

import vqvae_jax as vj
from vqvae_commands.data.kinds import Facts
from vqvae_commands.pages import run_facts, run_pictures
from vqvae_commands.run.run_folder import Log
from vqvae_commands.terminal.command_line import command_line

FACTS = Facts("pictures", (8, 8, 3), "uint8", 0.0, 255.0, 90, 10, 0, 0)


def test_the_duration_counts_all_calls_and_lines_of_earlier_versions(tmp_path):
    lines = [
        {"step": 40, "steps_per_second": 10.0},  # 4 s, of an earlier version
        {"step": 50, "steps_per_second": 10.0},  # 1 s
        {"step": 60, "seconds": 100.0, "date": "2026-01-01T10:00:00"},
        {"step": 61, "seconds": 20.25, "date": "2026-01-02T11:22:33"},
    ]
    (tmp_path / "timing.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = run_facts.how_made(tmp_path, "set", FACTS)
    assert found["duration"] == "2 min 5 s" and found["date"] == "2026-01-02 11:22"
    assert found["data"].startswith("set: 90 images")
    assert f"jax {jax.__version__}" in found["versions"]
    assert "duration" not in run_facts.how_made(tmp_path / "none", "set", FACTS)


def test_sizes_of_the_model():
    model = vj.VQVAE(vj.MLP(4), vj.residual(*[vj.vq(16, 4)] * 3), vj.MLP(4))
    variables = {"params": {"a": np.zeros((3, 5)), "b": {"c": np.zeros(7)}}, "codes": np.zeros(99)}
    found = run_facts.sizes(model, variables)
    assert found == {"parameters": "22", "codes": "3 streams of 16"}
    two = vj.VQVAE(vj.MLP(4), vj.grouped(vj.vq(8, 2), vj.vq(1024, 2)), vj.MLP(4))
    assert run_facts.sizes(two, variables)["codes"] == "stream 0 8, stream 1 1,024"


def test_compression_is_bits_of_the_input_over_those_of_the_codes():
    found = run_facts.compression({"bits_uniform": 96.0, "bits_entropy": 48.0}, FACTS)
    assert found == {
        "input": "1,536 bits of one image",
        "compression": "16.0 times at log2 K bits a code, 32.0 times at their entropy",
        "bits a pixel": "1.5 at log2 K bits a code, 0.75 at their entropy",
    }
    signals = Facts("signals", (100, 2), "float32", 0.0, 1.0, 9, 9, 0, 0)
    found = run_facts.compression({"bits_uniform": 64.0, "bits_entropy": 0.0}, signals)
    assert found["input"] == "6,400 bits of one signal" and "bits a pixel" not in found
    assert found["compression"] == "100.0 times at log2 K bits a code"  # of one code, no bit


class Means(nn.Module):
    """An encoder: the mean of each cell of 4 x 4 pixels."""

    @nn.compact
    def __call__(self, x):
        b, h, w, c = x.shape
        return x.reshape(b, h // 4, 4, w // 4, 4, c).mean(axis=(2, 4))


class Cells(nn.Module):
    """A decoder: cells of one value."""

    @nn.compact
    def __call__(self, z):
        return jnp.repeat(jnp.repeat(z, 4, axis=1), 4, axis=2)


GREYS = np.float32([[-0.5], [-0.2], [0.1], [0.5]])


@pytest.fixture(scope="module")
def coded():
    """A model whose codes are four greys, its variables, and 40 test pictures of 12 x 8."""
    model = vj.VQVAE(Means(), vj.vq(4, 1), Cells())
    variables = model.init(jax.random.key(0), np.zeros((1, 12, 8, 1), np.float32))
    variables = jax.tree.map(lambda leaf: GREYS if leaf.shape == (4, 1) else leaf, variables)
    cells = np.random.default_rng(0).integers(0, 256, (40, 3, 2, 1))
    noise = np.random.default_rng(1).integers(-30, 31, (40, 12, 8, 1))
    pixels = np.kron(cells, np.ones((4, 4, 1))) + noise
    return model, variables, pixels.clip(0, 255).astype(np.uint8)


def as_grey(x: np.ndarray) -> np.ndarray:
    """The reconstruction of pictures, by the definition of the model."""
    means = x.reshape(-1, 3, 4, 2, 4).mean(axis=(2, 4)) / 255 - 0.5
    k = np.abs(means[..., None] - GREYS[:, 0]).argmin(axis=-1)
    return np.kron(GREYS[:, 0][k], np.ones((4, 4)))[..., None]


def test_the_worst_pictures_come_first_with_their_psnr(coded):
    model, variables, test = coded
    axes = run_pictures.worst(model, variables, test).axes
    titles = [a.get_title() for a in axes if a.get_title()]
    mse = np.square(test / 255 - 0.5 - as_grey(test)).mean(axis=(1, 2, 3))
    order = np.argsort(-mse)
    assert titles == [f"{-10 * np.log10(mse[i]):.2f} dB" for i in order[:16]]
    shown = [a.images[0].get_array()[..., :1] for a in axes]
    np.testing.assert_array_equal(shown[0], test[order[0]])
    expected = np.rint((as_grey(test[order[:1]])[0] + 0.5) * 255)
    np.testing.assert_allclose(np.asarray(shown[1], float), expected, atol=1)


def test_an_example_that_is_not_valid_is_never_the_worst(coded):
    model, variables, test = coded
    floats = (test[:3] / 255 - 0.5).astype(np.float32)
    floats[1, 0, 0] = np.nan
    errors = run_pictures.errors_of(model, variables, floats)
    assert errors[1] == 0 and (errors[[0, 2]] > 0).all()


def test_training_pictures_stand_above_test_pictures(coded, monkeypatch):
    model, variables, test = coded
    monkeypatch.setattr(run_pictures, "rows_figure", lambda rows: rows)
    rows = run_pictures.beside(model, variables, test[:3], test[20:])
    assert [len(images) for images in rows.values()] == [3, 3, 8, 8]
    np.testing.assert_array_equal(rows["training"], test[:3])
    np.testing.assert_array_equal(rows["test"][[0, -1]], test[[20, 39]])
    for name in ("training", "test"):
        expected = (as_grey(rows[name]) + 0.5) * 255
        np.testing.assert_allclose(np.asarray(rows[f"{name}, model"], float), expected, atol=1)


def test_patches_are_the_places_nearest_to_a_code(coded, monkeypatch):
    model, variables, test = coded
    monkeypatch.setattr(run_pictures, "rows_figure", lambda rows: rows)
    rows = run_pictures.patches(model, variables, test)["patches"]
    means = test.reshape(40, 3, 4, 2, 4).mean(axis=(2, 4)) / 255 - 0.5
    distance = np.abs(means[..., None] - GREYS[:, 0])
    shares = np.bincount(distance.argmin(axis=-1).ravel(), minlength=4) / 240
    assert list(rows) == [f"code {k}, {shares[k]:.1%}" for k in np.argsort(-shares, kind="stable")]
    for title, patches in rows.items():
        code = int(title.split()[1].strip(","))
        mine = distance[..., code][distance.argmin(axis=-1) == code]
        centres = patches[:, 4:8, 4:8].mean(axis=(1, 2, 3)) / 255 - 0.5
        found = np.abs(centres - GREYS[code, 0])
        np.testing.assert_allclose(found, np.sort(mine)[:12], atol=1e-6)


def test_the_picture_for_tensorboard_has_originals_above_reconstructions(coded, tmp_path):
    model, variables, test = coded
    picture = run_pictures.strip_of(model, variables, test)
    assert picture.shape == (2 * (12 + 2), 8 * (8 + 2), 1)
    np.testing.assert_array_equal(picture[:12, 10:18], test[1])
    log = Log(tmp_path, 0)
    log.write_pictures(7, {"test/reconstructions": picture})
    log.close()
    (file,) = (tmp_path / "tensorboard").glob("events*")
    (event,) = (event for event in events(file) if event.summary.value)
    (value,) = event.summary.value
    assert (event.step, value.tag) == (7, "test/reconstructions")
    read = np.asarray(Image.open(io.BytesIO(value.image.encoded_image_string)).convert("L"))
    np.testing.assert_array_equal(read[..., None], picture)


def events(file: Path) -> Iterator[Event]:
    """The events of a file: length, checksum, event, checksum."""
    data = file.read_bytes()
    while data:
        end = 12 + int.from_bytes(data[:8], "little")
        yield Event.FromString(data[12:end])
        data = data[end + 4 :]


def test_the_lines_of_python_run(coded, tmp_path):
    model = vj.VQVAE(vj.MLP(4, width=4), vj.vq(16, 4), vj.MLP(3, width=4))
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    variables = model.init(jax.random.key(0), x)
    vj.save_model(tmp_path / "model", model, variables)
    facts = Facts("vectors", (3,), "float32", 0.0, 1.0, 9, 9, 0, 0)
    scope = {"x": x}
    exec(run_facts.use(tmp_path, facts), scope)
    expected = model.apply(variables, x, method="tokenize")
    np.testing.assert_array_equal(scope["indices"], expected)


@dataclasses.dataclass(frozen=True)
class Options:
    run: Annotated[str, tyro.conf.Positional]
    codes: tuple[int, ...] = (512,)
    grey: bool = False
    keep: bool = True
    crop: int | None = None
    names: list[str] = dataclasses.field(default_factory=list)


def test_a_command_line_holds_what_differs_from_the_defaults():
    same = Options("my run", (512,), False, True, None, [])
    assert command_line(same, ["vqvae", "x"]) == "vqvae x 'my run'"
    other = Options("a", (3, 4), True, False, 8)
    expected = "vqvae x a --codes 3 4 --grey --no-keep --crop 8"
    assert command_line(other, ["vqvae", "x"]) == expected
    assert command_line(other, ["vqvae", "x"], ("crop", "codes")) == "vqvae x a --grey --no-keep"
    assert tyro.cli(Options, args=expected.split()[2:]) == other
