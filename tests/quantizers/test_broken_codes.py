"""A code that is not finite harms nothing else: all is as if it lay where no row goes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vqvae_jax as vj

K, D, BROKEN = 6, 3, 2
KEY = jax.random.key(0)
# Rows on one side of 0, and a code far off on the other, where not even a cosine leads.
Z = jnp.abs(jax.random.normal(jax.random.key(1), (40, D)))
FAR = -40.0
NORMAL = vj.inits.normal()
FIXED, MOVED = vj.codebooks.fixed(K, 2, NORMAL), vj.codebooks.gradient(K, D, init=NORMAL)

QUANTIZERS = {
    "vq": vj.vq(K, D, init=NORMAL),
    "cosine_vq": vj.cosine_vq(K, D),
    "affine_vq": vj.affine_vq(K, D, rate=2.0, init=NORMAL),
    "simvq": vj.codebook_vq(vj.codebooks.mapped(FIXED, vj.codebooks.linear(D))),
    "stochastic_vq": vj.stochastic_vq(K, D, init=NORMAL),
    "gumbel_vq": vj.gumbel_vq(K, D, kl=0.1, temperature=0.7),
    "gumbel_vq, soft": vj.gumbel_vq(K, D, kl=0.1, relax=vj.quantizers.soft),
    "sqvae": vj.sqvae(K, D),
    "nsvq": vj.nsvq(K, D),
    "terms": vj.codebook_vq(MOVED, terms=[vj.regularizers.diversity(0.1)]),
}


def with_code(tree, value, name="codebook"):
    """The tree with one code, or its bias, set to a value."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: x.at[BROKEN].set(value) if name in jax.tree_util.keystr(path) else x, tree
    )


@partial(jax.jit, static_argnums=(0, 3))
def output_and_gradients(q, params, state, train):
    def loss(params, z):
        out, _ = q.apply(params, state, z, train=train, key=KEY if train else None)
        return jnp.sum(jnp.sin(out.quantized)) + out.loss, out

    (_, out), (of_params, of_z) = jax.value_and_grad(loss, (0, 1), has_aux=True)(params, Z)
    return out._replace(metrics={}), with_code(of_params, 0.0), of_z


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("q", QUANTIZERS.values(), ids=QUANTIZERS)
def test_others_go_on_as_if_it_were_far_away(q, value, train):
    params, state = q.init(KEY)
    # The choice of Gumbel's logits knows no distance, but a bias.
    far = with_code(with_code(params, FAR), -1e9, "bias")
    expected = output_and_gradients(q, far, with_code(state, FAR), train)
    broken = with_code(params, value)
    found = output_and_gradients(q, broken, with_code(state, value), train)
    assert not (found[0].indices == BROKEN).any()
    # Coarse, as squared distances to a code that far have an error of 3e-4.
    close = partial(np.testing.assert_allclose, rtol=2e-3, atol=1e-3)
    jax.tree.map(close, found, expected)


@pytest.mark.parametrize("q", QUANTIZERS.values(), ids=QUANTIZERS)
def test_it_is_counted(q):
    params, state = q.init(KEY)
    out, _ = q.apply(with_code(params, np.nan), with_code(state, np.nan), Z)
    assert out.metrics["invalid_codes"] == 1
    out, _ = q.apply(params, state, Z)
    assert out.metrics["invalid_codes"] == 0


def test_matched_moments_are_those_of_the_other_codes():
    q = vj.codebook_vq(vj.codebooks.moment_matched(MOVED))
    params, state = q.init(KEY)
    codes = np.asarray(params["inner"]["codebook"], np.float64)
    others = np.delete(codes, BROKEN, axis=0)
    ratio = np.sqrt((np.asarray(state["variance"]) + 1e-5) / (others.var(axis=0) + 1e-5))
    expected = (others - others.mean(axis=0)) * ratio + np.asarray(state["mean"])
    found = q.decode(with_code(params, np.nan), state, jnp.arange(K)[:, None])
    np.testing.assert_allclose(np.delete(found, BROKEN, axis=0), expected, rtol=1e-5)
