"""Exported models give the codes and pictures of the model, whatever the batch."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_bad_input import refused

import vqvae_jax as vj
from tests.commands.coders import random_variables
from vqvae_commands import export
from vqvae_jax.data.scaling import to_pixels


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder with a model of 8 x 8 images."""
    return write_run(tmp_path_factory.mktemp("run"))


def write_run(folder, domain=None):
    encoder, decoder = (f(channels=1, dim=4, width=4, depth=1) for f in (vj.Encoder, vj.Decoder))
    model = vj.VQVAE(encoder, vj.vq(8, 4, init=vj.inits.normal()), decoder, domain)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    vj.save_model(folder / "model", model, variables)
    return folder, vj.as_functions(model), variables


@pytest.mark.parametrize(
    ("domain", "words"),
    [
        (vj.pixels(), ("tokenize.jaxexport: uint8 (b, 8, 8, 1)", "x: uint8 pixels.", "* 255)")),
        (vj.values(-2, 3), ("float32 (b, 8, 8, 1)", "x: floats from -2 to 3.", "units of x")),
    ],
)
def test_files_know_the_scale_of_the_data_and_a_text_says_it(tmp_path, domain, words):
    folder, f, variables = write_run(tmp_path, domain)
    paths = export.main(
        export.Config(folder, tmp_path / "out", shape=(8, 8, 1), platforms=("cpu",))
    )
    text = (tmp_path / "out/README.txt").read_text()
    assert all(w in text for w in words), text
    tokenize = jax.export.deserialize(bytearray(paths["tokenize"].read_bytes())).call
    rng = np.random.default_rng(0)
    if domain == vj.pixels():
        x = rng.integers(0, 256, (3, 8, 8, 1)).astype(np.uint8)
        with pytest.raises(ValueError, match=r"Dtype mismatch.*uint8"):
            tokenize(x / np.float32(255))
    else:
        x = rng.uniform(-2, 3, (3, 8, 8, 1)).astype(np.float32)
        wrong = np.concatenate([x[:1], 3 * x[1:]])
        np.testing.assert_array_equal(np.asarray(tokenize(wrong) >= 0).all((1, 2, 3)), [1, 0, 0])
    np.testing.assert_array_equal(tokenize(x), jax.jit(f.tokenize)(variables, x))


@pytest.mark.parametrize("batch", [None, 1, 64])
def test_exported_files_do_what_the_model_does(run, tmp_path, batch):
    folder, f, variables = run
    paths = export.main(export.Config(folder, tmp_path, batch, (8, 8, 1)))
    x = np.random.default_rng(0).uniform(-0.5, 0.5, (batch or 3, 8, 8, 1)).astype(np.float32)
    tokenize, detokenize = (
        jax.export.deserialize(bytearray(paths[name].read_bytes())).call
        for name in ("tokenize", "detokenize")
    )
    codes = tokenize(x)
    np.testing.assert_array_equal(codes, jax.jit(f.tokenize)(variables, x))
    np.testing.assert_allclose(
        detokenize(codes), jax.jit(f.detokenize)(variables, codes), atol=1e-6
    )


def levels():
    encoders, decoders = (vj.MLP(3), vj.MLP(4)), (vj.MLP(5), vj.MLP(1))
    quantizers = vj.vq(4, 3), vj.repeat(vj.vq(6, 5), 2)
    return vj.VQVAE2(encoders, quantizers, decoders, domain=vj.pixels())


def of_mlps(quantizer, channels: int, domain=None):
    return vj.VQVAE(vj.MLP(quantizer.dim), quantizer, vj.MLP(channels), domain)


MODELS = {  # with the shape of an example, and the size of a batch
    "vectors": (of_mlps(vj.residual(vj.vq(3, 4), vj.vq(5, 4)), 5), (5,), None),
    "signals": (of_mlps(vj.fsq([3, 3]), 2, vj.values(-1, 1)), (16, 2), 3),
    "levels": (levels(), (4, 4, 1), None),
}
FRESH = """
import os, sys
sys.modules["vqvae_jax"] = sys.modules["flax"] = None  # importing them fails
for name in sys.argv[1:]:
    os.chdir(name)
    exec(open("lines.py").read(), {})
"""
SAVE = """
x = np.load("x.npy")
{calls}
np.savez("found.npz", *jax.tree.leaves(codes), y=y, pictures=globals().get("pictures", 0))
"""


def test_printed_lines_load_the_files_and_need_nothing_but_jax(tmp_path, capsys, monkeypatch):
    """They run as they are, then with data in place of zeros, from any folder."""
    monkeypatch.chdir(tmp_path)
    for name, (model, shape, batch) in MODELS.items():
        vj.save_model(Path(name), model, random_variables(model, *shape))
        export.main(export.Config(Path(name), Path(name, "out"), batch, shape, ("cpu",)))
        _, first, lines = capsys.readouterr().out.partition("import jax")
        calls = lines[lines.index("codes = ") :]
        Path(name, "lines.py").write_text(first + lines + SAVE.format(calls=calls))
        np.save(Path(name, "x.npy"), example(model, shape))
    folders = [str(tmp_path / name) for name in MODELS]
    subprocess.run([sys.executable, "-I", "-c", FRESH, *folders], check=True)
    for name in MODELS:
        check_found(Path(name), vj.load_model(name))


def example(model, shape):
    x = np.random.default_rng(0).uniform(-0.5, 0.5, (3, *shape)).astype(np.float32)
    return np.asarray(to_pixels(x)) if model.domain == vj.pixels() else x


def check_found(folder, bundle):
    """The lines gave what the model gives."""
    f = vj.as_functions(bundle.model)
    codes = jax.jit(f.tokenize)(bundle.variables, np.load(folder / "x.npy"))
    with np.load(folder / "found.npz") as found:
        for i, k in enumerate(jax.tree.leaves(codes)):
            np.testing.assert_array_equal(found[f"arr_{i}"], k)
        y = jax.jit(f.detokenize)(bundle.variables, codes)
        np.testing.assert_allclose(found["y"], y, atol=1e-5)
        if bundle.model.domain == vj.pixels():
            np.testing.assert_array_equal(found["pictures"], to_pixels(found["y"]))


def test_the_shape_is_that_of_the_run_without_a_look_at_its_data(run, tmp_path, monkeypatch):
    folder, *_ = run
    options = {"config": {"data": "fashion"}, "data": {"shape": [8, 8, 1]}}
    for name, content in options.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "model").symlink_to(folder / "model")
    monkeypatch.setattr(export, "load_data", lambda options: pytest.fail("the data were read"))
    export.main(export.Config(tmp_path, tmp_path / "out", platforms=("cpu",)))
    text = (tmp_path / "out/README.txt").read_text()
    assert "tokenize.jaxexport: float32 (b, 8, 8, 1) -> int32 (b, 2, 2, 1)" in text


def test_the_shape_may_be_that_of_data(run, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((20, 8, 8, 1), np.uint8))
    options = {"data": str(tmp_path / "x.npy"), "platforms": ("cpu",)}
    export.main(export.Config(run[0] / "model", tmp_path / "out", 3, **options))
    assert "float32 (3, 8, 8, 1)" in (tmp_path / "out/README.txt").read_text()


BAD = {
    "no shape": ([], "expected the shape of an example, found a model alone; pass --shape"),
    "another rank": (["--shape", "8"], "x must be [B, 2 spatial axes, 1 channels]"),
    "no side": (["--shape", "8", "0", "1"], "side 1 of shape must be an integer >= 1, got 0"),
    "no batch": (["--shape", "8", "8", "1", "--batch", "0"], "batch must be an integer >= 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_said_in_a_line_and_nothing_is_written(
    name, run, tmp_path, capsys, as_users
):
    options, message = BAD[name]
    arguments = [str(run[0] / "model"), "-o", str(tmp_path / "out"), *options]
    assert message in refused(capsys, export.main, export.Config, arguments)
    assert not (tmp_path / "out").exists()


def test_a_model_without_codes_is_refused(tmp_path, capsys, as_users):
    model = vj.Autoencoder(vj.MLP(2), vj.MLP(5))
    vj.save_model(tmp_path / "plain", model, random_variables(model, 5))
    arguments = [str(tmp_path / "plain"), "-o", str(tmp_path / "out"), "--shape", "5"]
    error = refused(capsys, export.main, export.Config, arguments)
    assert "expected a model with tokenize and detokenize, found Autoencoder" in error


def test_no_file_of_the_users_is_written_over(run, tmp_path, capsys):
    folder, _, _ = run
    (tmp_path / "README.txt").write_text("mine")
    words = [str(folder), "-o", str(tmp_path), "--shape", "8", "8", "1"]
    assert "found other files" in refused(capsys, export.main, export.Config, words)
    assert [path.name for path in tmp_path.iterdir()] == ["README.txt"]
    assert (tmp_path / "README.txt").read_text() == "mine"
