"""`QuantizeNNX` gives what `Quantizer.apply` gives; Linen modules become NNX ones by `ToNNX`."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from vqvae_jax import MLP, VQVAE, Quantize, QuantizeNNX, ema_vq, vq
from vqvae_jax.models.nnx import QuantizerState
from vqvae_jax.quantizers import STATE
from vqvae_jax.quantizers.codebooks import underused
from vqvae_jax.quantizers.codebooks.inits import kmeans, samples

KEY, DRAW = jax.random.key(0), jax.random.key(7)
Z = jax.random.normal(jax.random.key(1), (5, 6, 3))
MASK = jnp.array([[1.0, 1.0, 0.0, 1.0, 0.0, 2.0]] * 5)
EMA = ema_vq(4, 3)
RECOMMENDED = ema_vq(4, 3, init=kmeans(2), reset=underused(0.5))
QUANTIZERS = [vq(4, 3, reset=underused(0.5)), EMA]
equal = chex.assert_trees_all_equal


def same_up_to_fusion(x, y):
    chex.assert_trees_all_close(x, y, rtol=1e-6, atol=1e-6)


def nnx_layer(quantizer=EMA, seed=0):
    return QuantizeNNX(quantizer, rngs=nnx.Rngs(seed))


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=["vq", "ema_vq"])
def test_nnx_gives_values_gradients_and_state_of_apply(quantizer):
    layer = nnx_layer(quantizer)
    params, state = layer.tree()
    arrays = nnx.state(layer, (nnx.Param, QuantizerState))
    variables = jax.tree.leaves(arrays, is_leaf=lambda v: isinstance(v, nnx.Variable))
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


def copied(layer):
    return jax.tree.map(jnp.copy, layer.tree())


def test_nnx_eval_leaves_the_state_and_the_keys_alone():
    layer = nnx_layer(RECOMMENDED)
    before = copied(layer)
    layer.eval()
    layer(Z)
    equal(layer.tree(), before)
    layer.train()
    layer(Z, train=False)
    equal((layer.tree(), layer.rngs.count[...]), (before, 0))


class Model(nnx.Module):
    """The quantizer deep in a model, with a dropout before it."""

    def __init__(self, quantizer, rngs):
        self.linear, self.dropout = nnx.Linear(3, 3, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)
        self.codes = QuantizeNNX(quantizer, rngs=rngs)

    def __call__(self, z):
        return self.codes(self.dropout(self.linear(z)))


def test_nnx_follows_train_and_eval_with_keys_of_its_own_as_dropout_does():
    model = Model(RECOMMENDED, nnx.Rngs(0, quantize=5))
    assert not model.codes.deterministic and not model.dropout.deterministic
    start = model.codes.rngs.key[...]

    @nnx.jit
    def step(model, z):
        def loss(model):
            out = model(z)
            return jnp.sum(out.quantized) + out.loss

        return nnx.value_and_grad(loss)(model)

    _, state = model.codes.tree()
    train = jax.jit(partial(RECOMMENDED.apply, train=True))
    for i in range(3):
        before = copied(model.codes)
        dropped = nnx.clone(model)
        z = dropped.dropout(dropped.linear(Z))
        expected = train(*before, z, key=jax.random.fold_in(start, i))[1]
        step(model, Z)
        same_up_to_fusion(model.codes.tree()[1], expected)
    assert state["initialized"] == False and model.codes.rngs.count[...] == 3  # noqa: E712
    model.eval()
    before, codes = copied(model.codes), nnx.jit(lambda m, z: m(z).indices)(model, Z)
    equal(model.codes.tree(), before)
    equal(codes, RECOMMENDED.encode(*before, model.linear(Z)))
    model.train()
    step(model, Z)
    assert model.codes.rngs.count[...] == 4
    if hasattr(nnx, "view"):  # not in the oldest Flax
        seen = nnx.view(model, deterministic=True)
        seen(Z)
        assert seen.codes.rngs.count[...] == 4


def test_nnx_key_and_train_of_a_call_come_first():
    layer, given = nnx_layer(RECOMMENDED), nnx_layer(RECOMMENDED)
    layer.eval()
    layer(Z, train=True, key=DRAW)
    expected = RECOMMENDED.apply(*given.tree(), Z, train=True, key=DRAW)[1]
    same_up_to_fusion(layer.tree()[1], expected)
    assert layer.rngs.count[...] == 0


def test_nnx_without_a_stream_says_where_keys_come_from():
    layer = QuantizeNNX(RECOMMENDED, rngs=nnx.Rngs(params=0))
    with pytest.raises(ValueError, match=r"needs nnx\.Rngs\(\.\.\., quantize=seed\) at init"):
        layer(Z)
    layer(Z, key=DRAW)
    plain = QuantizeNNX(EMA, rngs=nnx.Rngs(params=0))
    plain(Z)  # draws nothing


def test_nnx_splits_and_merges_with_its_keys():
    layer = nnx_layer(RECOMMENDED)
    layer(Z)
    graph, state = nnx.split(layer)
    again = nnx.merge(graph, jax.tree.map(jnp.copy, state))
    for _ in range(2):
        equal(layer(Z), again(Z))
    equal((layer.tree(), layer.rngs.count[...]), (again.tree(), again.rngs.count[...]))


def test_nnx_scans_over_steps_and_vmaps_over_members():
    layer, loop = nnx_layer(RECOMMENDED), nnx_layer(RECOMMENDED)

    @nnx.jit
    def steps(layer, zs):
        return nnx.scan(lambda m, z: (m, m(z).indices), in_axes=(nnx.Carry, 0))(layer, zs)

    layer, codes = steps(layer, Z)
    one = nnx.jit(lambda m, z: m(z).indices)
    equal(codes, jnp.stack([one(loop, z) for z in Z]))
    same_up_to_fusion(layer.tree(), loop.tree())

    @nnx.split_rngs(splits=3)
    @nnx.vmap
    def members(rngs):
        return QuantizeNNX(RECOMMENDED, rngs=rngs)

    many = members(nnx.Rngs(0))
    out = nnx.jit(nnx.vmap(lambda m, z: m(z), in_axes=(0, None)))(many, Z)
    assert out.indices.shape == (3, 5, 6, 1)
    assert len(np.unique(many.state["codebook"][...][:, 0, 0])) == 3  # each has its own keys


def test_nnx_modules_that_are_equal_compile_once():
    traces = []

    @nnx.jit
    def indices(layer, z):
        traces.append(1)
        return layer(z, train=False).indices

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
