"""A batch in parts trains as the whole batch does, in less memory."""

from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiling import jit

import vqvae_jax as vj
from vqvae_jax.training.step import init_state, make_train_step

KEY = jax.random.key(0)
close = partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-6)
X = jax.random.uniform(KEY, (8, 12, 12, 1)) - 0.5
QUANTIZER = vj.ema_vq(12, 4, 0.9, init=vj.inits.kmeans(2), reset=vj.codebooks.underused(0.5))


def model(parts=None):
    encoder = vj.Encoder(dim=4, width=6, depth=1)
    decoder = vj.Decoder(dim=4, width=6, depth=1)
    if parts:
        encoder, decoder = (
            vj.models.Microbatched(encoder, parts),
            vj.models.Microbatched(decoder, parts),
        )
    return vj.VQVAE(encoder, QUANTIZER, decoder)


def test_steps_are_those_of_the_whole_batch():
    optimizer = optax.sgd(0.1)
    states = {}
    for n in (None, 1, 4):
        state = init_state(model(n), optimizer, KEY, X[:1])
        step = jit(make_train_step(model(n), optimizer))
        for i in range(3):
            state, metrics = step(state, jnp.roll(X, i, 1))
        states[n] = state.params, state.collections, metrics
    close(states[1], states[None])
    close(states[4], states[None])


def test_parts_are_of_the_variables_of_the_whole_and_described():
    variables = jit(model().init)(KEY, X[:1])
    chex.assert_trees_all_equal(jit(model(2).init)(KEY, X[:1]), variables)
    assert vj.from_json(vj.to_json(model(2))) == model(2)
    close(jit(model(4).apply)(variables, X).x, jit(model().apply)(variables, X).x)


def test_fewer_activations_are_kept():
    x = jnp.zeros((64, 32, 32, 1))

    def memory(inner):
        variables = jax.eval_shape(inner.init, KEY, x[:1])

        def loss(variables):
            return jnp.mean(jnp.square(inner.apply(variables, x)))

        compiled = jax.jit(jax.grad(loss)).lower(variables).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    encoder = vj.Encoder(dim=4, width=16)
    assert memory(vj.models.Microbatched(encoder, 8)) < 0.5 * memory(encoder)


def test_loops_have_products_for_convolutions_on_cpu():
    """XLA has no fast gradients of convolutions in loops; after them, all is as before."""

    def count(inner):
        variables = jax.eval_shape(inner.init, KEY, X[:1])
        slope = jax.jit(jax.grad(lambda v: inner.apply(v, X).sum()))
        return slope.lower(variables).as_text().count("stablehlo.convolution")

    encoder = vj.Encoder(dim=4, width=6, depth=1)
    before = count(encoder)
    assert before > 0 == count(vj.models.Microbatched(encoder, 2))
    with pytest.raises(ZeroDivisionError):
        vj.models.Microbatched(Broken(), 2).apply({}, X)
    assert count(encoder) == before


class Broken(nn.Module):
    def __call__(self, x):
        return 1 / 0


@pytest.mark.parametrize("parts, loops", [(1, False), (2, True)])
def test_activations_are_computed_again(parts, loops):
    inner = vj.models.Microbatched(vj.MLP(3), parts)
    variables = jax.eval_shape(inner.init, KEY, X)
    traced = str(jax.make_jaxpr(jax.grad(lambda v: inner.apply(v, X).sum()))(variables))
    assert "remat" in traced and ("scan" in traced) == loops


def test_a_batch_that_can_not_be_cut_is_named(as_users):
    with pytest.raises(ValueError, match="a batch of 8 can't be cut into 3 equal parts"):
        jax.eval_shape(lambda x: model(3).apply(model().init(KEY, x[:1]), x), X)
    with pytest.raises(ValueError, match="parts must be an integer >= 1, got 0"):
        vj.models.Microbatched(vj.MLP(2), 0).init(KEY, X)


def test_examples_keep_their_places():
    inner, x = vj.models.Microbatched(vj.MLP(3), 4), jax.random.normal(KEY, (12, 5))
    variables = inner.init(KEY, x)
    one_by_one = [vj.MLP(3).apply(variables, row[None])[0] for row in x]
    np.testing.assert_allclose(inner.apply(variables, x), one_by_one, rtol=1e-5, atol=1e-6)
