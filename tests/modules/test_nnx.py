"""`QuantizeNNX` gives what `Quantizer.apply` gives; Linen modules become NNX ones by `ToNNX`."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from vqvae_jax import (
    MLP,
    STATE,
    VQVAE,
    Quantize,
    QuantizeNNX,
    ema_vq,
    samples,
    underused,
    vq,
)

KEY, DRAW = jax.random.key(0), jax.random.key(7)
Z = jax.random.normal(jax.random.key(1), (5, 6, 3))
MASK = jnp.array([[1.0, 1.0, 0.0, 1.0, 0.0, 2.0]] * 5)
EMA = ema_vq(4, 3)
QUANTIZERS = [vq(4, 3, revive=underused(0.5)), EMA]
equal = chex.assert_trees_all_equal


def same_up_to_fusion(x, y):
    chex.assert_trees_all_close(x, y, rtol=1e-6, atol=1e-6)


def nnx_layer(quantizer=EMA, seed=0):
    return QuantizeNNX(quantizer, rngs=nnx.Rngs(seed))


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=["vq", "ema_vq"])
def test_nnx_gives_values_gradients_and_state_of_apply(quantizer):
    layer = nnx_layer(quantizer)
    params, state = layer.tree()
    variables = jax.tree.leaves(nnx.state(layer), is_leaf=lambda v: isinstance(v, nnx.Variable))
    assert all(isinstance(v[...], jax.Array) for v in variables)  # one array in each variable
    assert len(variables) == len(jax.tree.leaves((params, state)))

    def objective(out):
        return jnp.sum(jnp.sin(out.quantized)) + 3 * out.loss

    def loss(layer, z):
        out = layer(z, train=True, key=DRAW, mask=MASK)
        return objective(out), out

    def plain(params, state, z):
        out, new = quantizer.apply(params, state, z, train=True, key=DRAW, mask=MASK)
        return objective(out), (out, new)

    wrt = (nnx.DiffState(0, nnx.Param), 1)
    (value, out), (grads, grad_z) = nnx.jit(nnx.value_and_grad(loss, argnums=wrt, has_aux=True))(
        layer, Z
    )
    (expected, (out_ref, new)), (grads_ref, grad_z_ref) = jax.jit(
        jax.value_and_grad(plain, argnums=(0, 2), has_aux=True)
    )(params, state, Z)
    same_up_to_fusion((value, out, grad_z), (expected, out_ref, grad_z_ref))
    same_up_to_fusion(layer.tree(), (params, new))
    assert len(jax.tree.leaves(grads)) == len(jax.tree.leaves(params))
    if params:
        same_up_to_fusion(grads["params"]["codebook"][...], grads_ref["codebook"])
    same_up_to_fusion(
        layer.decode(out.indices), quantizer.decode(params, layer.tree()[1], out.indices)
    )


def test_nnx_eval_leaves_the_state_alone():
    layer = nnx_layer()
    before = jax.tree.map(jnp.copy, layer.tree())
    layer(Z)
    equal(layer.tree(), before)


def test_nnx_modules_that_are_equal_compile_once():
    traces = []

    @nnx.jit
    def indices(layer, z):
        traces.append(1)
        return layer(z).indices

    for seed, quantizer in enumerate((EMA, ema_vq(size=4, dim=3), ema_vq(4, 3, 0.5))):
        indices(nnx_layer(quantizer, seed), Z)
        assert len(traces) == (1, 1, 2)[seed]


def test_nnx_state_survives_an_orbax_checkpoint(tmp_path):
    layer, other = (nnx_layer(vq(4, 3, init=samples()), seed) for seed in (0, 1))
    layer.state["initialized"].set_value(jnp.array(True))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "layer", nnx.state(layer))
        checkpointer.wait_until_finished()
        nnx.update(other, checkpointer.restore(tmp_path / "layer", nnx.state(other)))
    equal(other.tree(), layer.tree())
    assert other.state["initialized"][...]


def linen_variables(model):
    """The variables of a Linen module inside `ToNNX`, copied: a training step changes them."""
    tree = nnx.to_pure_dict(nnx.state(model))
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    variables = {"params": params, STATE: {"codes": tree["codes"]}}
    return jax.tree.map(jnp.copy, variables)


def test_a_whole_linen_vqvae_becomes_an_nnx_module():
    linen = VQVAE(MLP(3, width=4, depth=1), EMA, MLP(2, width=4, depth=1))
    x = jax.random.normal(KEY, (6, 2))
    model = nnx.bridge.ToNNX(linen, rngs=nnx.Rngs(0)).lazy_init(x)
    before = linen_variables(model)

    def counts(variables):
        return variables[STATE]["codes"]["state"]["counts"]

    def loss(rec):
        return jnp.mean(jnp.square(rec.x - x)) + rec.loss

    @nnx.jit
    def step(model):
        return nnx.value_and_grad(lambda m: loss(m(x, train=True, mutable=[STATE])))(model)

    def plain(params):
        rec, new = linen.apply(before | {"params": params}, x, train=True, mutable=[STATE])
        return loss(rec), new

    value, gradient = step(model)
    (expected, new), plain_gradient = jax.jit(jax.value_and_grad(plain, has_aux=True))(
        before["params"]
    )
    same_up_to_fusion((value, nnx.to_pure_dict(gradient)), (expected, plain_gradient))
    assert optax.tree.norm(plain_gradient) > 0
    after = linen_variables(model)
    same_up_to_fusion(after, {**before, **new})
    assert np.any(
        after[STATE]["codes"]["state"]["counts"] != before[STATE]["codes"]["state"]["counts"]
    )
    equal(model(x, method="tokenize"), linen.apply(after, x, method="tokenize"))


def test_a_linen_quantizer_that_draws_gets_its_key_from_the_rngs_of_nnx():
    layer = nnx.bridge.ToNNX(
        Quantize(ema_vq(4, 3, init=samples())), rngs=nnx.Rngs(0, quantize=1)
    ).lazy_init(Z)
    layer(Z, train=True, mutable=[STATE])
    assert layer.state["initialized"][...]
