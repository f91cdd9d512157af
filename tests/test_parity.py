"""The numbers of two other libraries, stored in golden/: `make.py` there says how they are made."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref

from vqvae_jax import ema_vq, vq
from vqvae_jax.metrics import code_counts, usage
from vqvae_jax.quantizers.codebooks.inits import given, uniform, zero_debiased

BETAS = pytest.mark.parametrize("i", [0, 1])  # the golden gradients are those of two betas


def golden(name):
    return dict(np.load(Path(__file__).parent / "golden" / f"{name}.npz"))


def close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def objective(q, params, state, z):
    """What the golden gradients are of: a task loss sum(cos(z_q)), and the quantizer's loss."""
    out, _ = q.apply(params, state, z)
    return jnp.sum(jnp.cos(out.quantized)) + out.loss, out


def run_ema(q, state, batches):
    """A training step for each batch: the outputs, and the states after each."""
    outputs, states = [], []
    step = jax.jit(lambda state, z: q.apply({}, state, z, train=True))
    for z in batches:
        out, state = step(state, z)
        outputs.append(out)
        states.append(state)
    stack = jax.tree.map(lambda *leaves: np.stack(leaves), *outputs)
    return stack, jax.tree.map(lambda *leaves: np.stack(leaves), *states)


@BETAS
def test_haiku_vector_quantizer(i):
    g = golden("haiku_vq")
    q = vq(*g["codebook"].shape, beta=float(g["betas"][i]))
    gradient = jax.value_and_grad(lambda e, z: objective(q, {"codebook": e}, {}, z), (0, 1), True)
    (_, out), (de, dz) = gradient(jnp.asarray(g["codebook"]), jnp.asarray(g["z"]))
    np.testing.assert_array_equal(out.indices[..., 0], g["indices"])
    close(out.quantized, g["quantized"])
    close(out.loss, g[f"loss_beta{i}"])
    close(out.losses["commitment"] / out.losses["codebook"], g["betas"][i])
    close(dz, g[f"dz_beta{i}"])
    close(de, g[f"dcodebook_beta{i}"])
    close(usage(code_counts(q.vocab, out.indices)[0])["perplexity"], g["perplexity"])


def test_haiku_moving_averages():
    g = golden("haiku_ema")
    size, dim = g["codebook"].shape
    q = ema_vq(size, dim, 0.9, eps=1e-5, beta=0.25, init=zero_debiased(given(g["codebook"])))
    state = q.init(jax.random.key(0))[1]
    out, states = run_ema(q, state, g["batches"])
    np.testing.assert_array_equal(out.indices[..., 0], g["indices"])
    close(out.losses["commitment"], g["loss"])
    close(states["codebook"], g["codebook_after"])
    unused = (g["codebook_after"] == 0).all(-1)
    assert unused.any()
    np.testing.assert_array_equal(states["codebook"][unused], 0)
    for steps, at in enumerate(g["ema_steps"] - 1):
        weight = states["weight"][at]
        close(states["counts"][at], g["ema_cluster_size_hidden"][steps])
        close(states["sums"][at], g["ema_dw_hidden"][steps])
        close(states["counts"][at] / weight, g["ema_cluster_size_average"][steps])
        close(states["sums"][at] / weight, g["ema_dw_average"][steps])
    counts = [np.bincount(k.ravel(), minlength=size) for k in out.indices]
    close([ref.perplexity(n) for n in counts], g["perplexity"])


def test_haiku_moving_averages_in_evaluation():
    g = golden("haiku_ema")
    q = ema_vq(*g["codebook"].shape, 0.9, beta=0.25, init=zero_debiased(uniform()))
    state = q.init(jax.random.key(0))[1] | {"codebook": jnp.asarray(g["codebook_after"][-1])}
    out, after = q.apply({}, state, jnp.asarray(g["eval_z"]))
    np.testing.assert_array_equal(out.indices[..., 0], g["eval_indices"])
    close(out.quantized, g["eval_quantized"])
    close(out.loss, g["eval_loss"])
    close(usage(code_counts(q.vocab, out.indices)[0])["perplexity"], g["eval_perplexity"])
    assert after is state


@BETAS
def test_vector_quantize_pytorch_by_gradient(i):
    """Its loss is one mean squared error times the weight, with no stop_gradient in it.

    That moves the codebook `weight` times as fast as equation 3 does: ours times the weight.
    """
    g = golden("vqt_vq")
    weight = float(g["betas"][i])
    q = vq(*g["codebook"].shape, beta=weight)
    z, e = jnp.asarray(g["z"]), jnp.asarray(g["codebook"])
    gradient = jax.value_and_grad(lambda e, z: objective(q, {"codebook": e}, {}, z), (0, 1), True)
    (_, out), (de, dz) = gradient(e, z)
    np.testing.assert_array_equal(out.indices[..., 0], g["indices"])
    close(out.quantized, g["quantized"])
    close(out.losses["commitment"], g[f"loss_beta{i}"])
    close(dz, g[f"dz_beta{i}"])
    close(weight * de, g[f"dcodebook_beta{i}"])


# What the peer calls our state.
STATE = {"codebook": "codebook", "counts": "cluster_size", "sums": "embed_avg"}


def vqt_state(g):
    return {ours: jnp.asarray(g[theirs]) for ours, theirs in STATE.items()}


def test_vector_quantize_pytorch_moving_averages():
    g = golden("vqt_ema")
    q = ema_vq(*g["codebook"].shape, 0.9, eps=1e-5, beta=float(g["betas"][0]))
    out, states = run_ema(q, vqt_state(g), g["batches"])
    np.testing.assert_array_equal(out.indices[..., 0], g["indices"])
    close(out.losses["commitment"], g["loss_beta0"])
    close(out.quantized[0], g["quantized_first"])
    close(out.quantized[-1], g["quantized_last"])
    for ours, theirs in STATE.items():
        close(states[ours], g[f"{theirs}_after"])


@BETAS
def test_vector_quantize_pytorch_gradient_with_moving_averages(i):
    g = golden("vqt_ema")
    q = ema_vq(*g["codebook"].shape, 0.9, beta=float(g["betas"][i]))
    z = jnp.asarray(g["batches"][0])
    gradient = jax.value_and_grad(lambda z: objective(q, {}, vqt_state(g), z), has_aux=True)
    (_, out), dz = gradient(z)
    close(out.loss, g["loss_beta0"][0] if i == 0 else g["loss_beta1_first"])
    close(dz, g[f"dz_beta{i}_first"])
