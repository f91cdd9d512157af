"""The page of what codes mean, through its command."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from coders import RNG, noise, plain_model, random_variables

import vqvae_jax as vj
from tests.commands.test_bad_input import refused
from vqvae_commands.code_meaning import interpretation, meaning_page
from vqvae_commands.code_meaning.representations import vae_of
from vqvae_commands.terminal import command


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(n.to_bytes(4) for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """IDX files: images whose brighter half is their class."""
    folder = tmp_path_factory.mktemp("idx")
    for split, n in (("train", 60), ("t10k", 30)):
        y = (np.arange(n) % 2).astype(np.uint8)
        x = RNG(n).integers(0, 100, (n, 8, 8)).astype(np.uint8)
        x[y == 0, :4] += 120
        x[y == 1, 4:] += 120
        (folder / f"{split}-images-idx3-ubyte").write_bytes(idx(x))
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(idx(y))
    return folder


def save_run(folder: Path, model, data, *shape: int) -> Path:
    folder.mkdir(exist_ok=True)
    vj.save_model(folder / "model", model, random_variables(model, *shape))
    options = {"name": "tiny <b>", "data": str(data), "crop": None, "batch_size": 8}
    (folder / "config.json").write_text(json.dumps(options))
    return folder


def test_the_command(data, tmp_path, capsys):
    run = save_run(tmp_path / "run", plain_model(vj.vq(8, 3)), data, 8, 8, 1)
    results, _ = interpretation.interpret(interpretation.Config(run, most=5, vae_steps=2))
    out = run / "interpretation"
    assert str(out / "report.html") in capsys.readouterr().out
    assert json.loads((out / "results.json").read_text()) == results
    names = ["code_maps", "codebook", "codes", "entropy", "erased", "probes", "reach", "swaps"]
    assert sorted(p.stem for p in (out / "pictures").iterdir()) == names
    text = (out / "report.html").read_text(encoding="utf-8")
    assert text.count("data:image/png;base64,") == len(names)
    assert "tiny &lt;b&gt;" in text and not re.search(r"<script|http", text)
    stream = results["streams"][""]
    assert stream["used"] + stream["unused"] == stream["size"] == 8
    assert len(stream["codes"]) == min(5, stream["used"])
    scores = results["probes"]
    dimensions = {name: s["dimension"] for name, s in scores.items()}
    assert dimensions == {
        "pixels": 64, "histogram": 8, "one-hot": 128, "z_q": 48, "z_e": 48,
        "untrained histogram": 8, "untrained z_e": 48, "VAE means": 48,
    }  # fmt: skip
    assert scores["pixels"]["linear"]["accuracy"] == 1.0


def test_levels_streams_and_data_without_labels(deep, tmp_path):
    np.save(tmp_path / "images.npy", noise(40, 8, 8, 1))
    run = save_run(tmp_path / "run", deep.model, tmp_path / "images.npy", 8, 8, 1)
    results, _ = interpretation.interpret(interpretation.Config(run, most=6))
    assert list(results["streams"]) == ["level0/", "level1/0/", "level1/1/"]
    assert list(results["reach"]) == ["level 0", "level 1"] and "probes" not in results
    text = (run / "interpretation" / "report.html").read_text(encoding="utf-8")
    assert meaning_page.NO_LABELS in text and "Codes, level 1, stream 0" in text


def test_codes_without_a_table(tmp_path):
    quantizer = vj.fsq([3, 3])
    np.save(tmp_path / "images.npy", noise(40, 8, 8, 3))
    model = plain_model(quantizer, channels=3)
    run = save_run(tmp_path / "run", model, tmp_path / "images.npy", 8, 8, 3)
    results, _ = interpretation.interpret(interpretation.Config(run, most=4))
    assert results["streams"][""]["size"] == quantizer.vocab[0]


def test_errors_are_one_line(data, tmp_path, capsys, as_users):
    def error(*arguments):
        return refused(
            capsys, interpretation.interpret, interpretation.Config, [*map(str, arguments)]
        )

    assert "expected the folder of a run" in error(tmp_path / "none")
    run = save_run(tmp_path / "run", plain_model(vj.vq(8, 3)), data, 8, 8, 1)
    assert "most must be an integer >= 1, got 0" in error(run, "--most", 0)
    assert "vae_steps must be at least 0, got -1" in error(run, "--vae-steps", -1)
    np.save(tmp_path / "rows.npy", np.zeros((20, 4), np.float32))
    vectors = vj.VQVAE(vj.MLP(4), vj.vq(8, 4), vj.MLP(4))
    run = save_run(tmp_path / "rows", vectors, tmp_path / "rows.npy", 4)
    assert "expected pictures, uint8 [N, H, W, 1 or 3], found float32 [" in error(run)
    assert not (run / "interpretation").exists()
    run = save_run(tmp_path / "vae", vae_of(plain_model(vj.vq(8, 3))), data, 8, 8, 1)
    assert "a VAE has no codes to interpret" in error(run)
    assert command.one_line(ValueError("a\nb")) == "a b"
