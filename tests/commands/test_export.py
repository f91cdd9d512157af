"""Exported models give the codes and pictures of the model, whatever the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vqvae_jax as vj
from vqvae_commands import export


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
