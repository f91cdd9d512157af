"""Exported models give the codes and pictures of the model, whatever the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vqvae_jax as vj
from experiments import export


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder with a model of 8 x 8 images."""
    folder = tmp_path_factory.mktemp("run")
    encoder, decoder = (f(channels=1, dim=4, width=4, depth=1) for f in (vj.Encoder, vj.Decoder))
    model = vj.VQVAE(encoder, vj.vq(8, 4, init=vj.normal()), decoder)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    vj.save_model(folder / "model", model, variables)
    return folder, vj.as_functions(model), variables


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
