"""The Transformer and the gate of PixelCNN, written out in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import reference as ref
from scipy.special import expit, softmax

from vqvae_jax.priors.pixelcnn import gate
from vqvae_jax.priors.transformer import Transformer, attend, causal

B, N, L, W, H = 2, 3, 5, 8, 4  # no two axes of one array are alike
RNG = np.random.default_rng(0)
close = np.testing.assert_allclose


def attention64(q, k, v, mask):
    """Row by row: the mean of v under softmax(q k / sqrt(d)) of what is seen."""
    y = np.zeros(q.shape)
    for b, h, n in np.ndindex(q.shape[:3]):
        p = softmax(k[b, h][mask[n]] @ q[b, h, n] / np.sqrt(q.shape[-1]))
        y[b, h, n] = p @ v[b, h][mask[n]]
    return y


def norm64(p, x):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * p["scale"] + p["bias"]


def dense64(p, x):
    return x @ p["kernel"] + p["bias"]


def transformer64(params, x, mask, depth):
    """x + attention(norm(x)), x + MLP(norm(x)), and norm at last."""
    for i in range(depth):
        p = params[f"Attention_{i}"]
        h = norm64(params[f"LayerNorm_{2 * i}"], x)
        heads = np.einsum("bnw,wjhd->jbhnd", h, p["DenseGeneral_0"]["kernel"])
        heads = heads + p["DenseGeneral_0"]["bias"][:, None, :, None]
        y = np.einsum("bhnd,hdw->bnw", attention64(*heads, mask), p["DenseGeneral_1"]["kernel"])
        x = x + y + p["DenseGeneral_1"]["bias"]
        h = dense64(params[f"Dense_{2 * i}"], norm64(params[f"LayerNorm_{2 * i + 1}"], x))
        h = h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3))) / 2
        x = x + dense64(params[f"Dense_{2 * i + 1}"], h)
    return norm64(params[f"LayerNorm_{2 * depth}"], x)


def test_attention_is_a_mean_over_what_each_token_sees():
    q, k, v = (3 * RNG.normal(size=(B, H, n, 6)).astype(np.float32) for n in (N, L, L))
    mask = np.array([[1, 0, 0, 0, 0], [1, 0, 1, 1, 0], [1, 1, 1, 1, 1]], bool)
    found = attend(*map(jnp.asarray, (q, k, v, mask)))
    close(found, attention64(*map(ref.f64, (q, k, v)), mask), rtol=1e-4, atol=1e-5)


def test_a_transformer_is_its_layers_written_out():
    depth, x = 2, jnp.asarray(RNG.normal(size=(B, L, W)), jnp.float32)
    model, mask = Transformer(W, depth, H), causal(0, L, L, prefix=2)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x, mask)["params"]
    params = jax.tree.map(lambda p: jnp.float32(0.7 * RNG.normal(size=p.shape)), shapes)
    found, cache = model.apply({"params": params}, x, mask)
    expected = transformer64(jax.tree.map(ref.f64, params), ref.f64(x), np.asarray(mask), depth)
    close(found, expected, rtol=1e-3, atol=1e-4)
    assert len(cache) == depth and cache[0].keys.shape == (B, H, L, W // H)


def test_a_gate_is_tanh_of_the_first_half_times_the_logistic_function_of_the_second():
    x = RNG.normal(size=(2, 3, 5, 6)).astype(np.float32)
    close(gate(jnp.asarray(x)), np.tanh(x[..., :3]) * expit(x[..., 3:]), rtol=1e-5)
