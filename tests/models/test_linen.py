"""`Quantize` gives exactly what `Quantizer.apply` gives, under Flax's transforms as well."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import ModifyScopeVariableError

from vqvae_jax import Quantize, Quantizer, ema_vq, vq
from vqvae_jax.quantizers import RNG, STATE
from vqvae_jax.quantizers.codebooks import underused
from vqvae_jax.quantizers.codebooks.inits import samples

KEY, DRAW = jax.random.key(0), jax.random.key(7)
Z = jax.random.normal(jax.random.key(1), (5, 6, 3))  # also 5 steps of 6 rows, or 5 layers
MASK = jnp.array([[1.0, 1.0, 0.0, 1.0, 0.0, 2.0]] * 5)
EMA = ema_vq(4, 3)
QUANTIZERS = [vq(4, 3, reset=underused(0.5)), EMA, ema_vq(4, 3, init=samples())]
equal, close = chex.assert_trees_all_equal, chex.assert_trees_all_close


def same_up_to_fusion(x, y):
    close(x, y, rtol=1e-6, atol=1e-6)


class Training(nn.Module):
    """A quantizer in training: what a user writes around it for transforms over arrays only."""

    quantizer: Quantizer

    @nn.compact
    def __call__(self, z):
        return Quantize(self.quantizer, name="codes")(z, train=True)


def inner(variables):
    """(params, state) of the `Quantize` in `variables`, at the top or under the name codes."""
    params, state = variables.get("params", {}), variables.get(STATE, {})
    params, state = params.get("codes", params), state.get("codes", state)
    return params.get("weights", {}), state.get("state", {})


def stream_key(layer, variables):
    """The key that a top-level module draws from the stream `RNG`."""
    return layer.apply(variables, rngs={RNG: DRAW}, method=lambda m: m.make_rng(RNG))


def objective(out):
    return jnp.sum(jnp.sin(out.quantized)) + 3 * out.loss


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=repr)
def test_linen_gives_values_gradients_and_state_of_apply(quantizer):
    layer = Quantize(quantizer)
    variables = layer.init(KEY, Z)
    params, state = inner(variables)

    @jax.jit
    def linen(params, z):
        tree = {"params": {"weights": params}, STATE: variables[STATE]}
        out, new = layer.apply(tree, z, train=True, mask=MASK, mutable=[STATE], rngs={RNG: DRAW})
        return objective(out), (out, new[STATE]["state"])

    @jax.jit
    def plain(params, z):
        key = stream_key(layer, variables)
        out, new = quantizer.apply(params, state, z, train=True, key=key, mask=MASK)
        return objective(out), (out, new)

    ours, theirs = (
        jax.value_and_grad(f, argnums=(0, 1), has_aux=True)(params, Z) for f in (linen, plain)
    )
    equal(ours, theirs)
    moved = ours[0][1][1]["counts"]
    assert np.any(moved != state["counts"])


def test_variables_lie_where_the_documentation_says():
    assert (STATE, RNG) == ("quantizer", "quantize")
    shapes = {"codebook": (4, 3), "counts": (4,), "sums": (4, 3), "written": (4, 3)}
    both = jax.eval_shape(Quantize(QUANTIZERS[0]).init, KEY, Z)
    assert jax.tree.map(jnp.shape, both["params"]) == {"weights": {"codebook": (4, 3)}}
    assert set(both[STATE]["state"]) == {"offset", "counts"}
    ema = jax.eval_shape(Quantize(EMA).init, KEY, Z)
    assert jax.tree.map(jnp.shape, ema) == {STATE: {"state": shapes}}
    assert set(jax.eval_shape(Quantize(vq(4, 3)).init, KEY, Z)) == {"params"}


def test_init_draws_from_the_key_and_looks_at_no_data():
    first, again, other = (Quantize(EMA).init(k, z) for k, z in ((KEY, Z), (KEY, 2 * Z), (DRAW, Z)))
    equal(first, again)
    assert np.any(inner(first)[1]["codebook"] != inner(other)[1]["codebook"])
    equal(inner(first)[1]["sums"], inner(first)[1]["codebook"])  # params and state of one draw


def test_eval_needs_no_key_and_leaves_the_collection_alone():
    layer = Quantize(QUANTIZERS[2])
    variables = layer.init(KEY, Z)
    out, new = layer.apply(variables, Z, mutable=[STATE])
    equal(new[STATE], variables[STATE])
    equal(out, layer.quantizer.apply(*inner(variables), Z)[0])
    equal(layer.apply(variables, out.indices, method="decode"), out.quantized)


def test_training_asks_for_a_key_only_where_something_is_drawn():
    for quantizer, asks in ((vq(4, 3), False), (EMA, False), *((q, True) for q in QUANTIZERS[::2])):
        layer = Quantize(quantizer)
        variables = jax.tree.map(
            lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(layer.init, KEY, Z)
        )

        def train(variables=variables, layer=layer):
            return layer.apply(variables, Z, train=True, mutable=[STATE])

        if asks:
            with pytest.raises(ValueError, match=r'needs rngs=\{"quantize": key\} when train=True'):
                jax.eval_shape(train)
        else:
            assert jax.eval_shape(train)[0].indices.shape == (5, 6, 1)


def test_a_forgotten_mutable_names_the_collection():
    layer = Quantize(EMA)
    variables = layer.init(KEY, Z)
    with pytest.raises(ModifyScopeVariableError, match='collection "quantizer" is immutable'):
        layer.apply(variables, Z, train=True)


def test_two_quantizers_in_one_module_do_not_clash():
    class Two(nn.Module):
        @nn.compact
        def __call__(self, z):
            return Quantize(EMA)(z, train=True), Quantize(ema_vq(4, 3, decay=0.5))(z, train=True)

    variables = Two().init(KEY, Z)
    a, b = (variables[STATE][f"Quantize_{i}"]["state"] for i in (0, 1))
    assert np.all(a["codebook"] != b["codebook"])  # each has its own draw
    _, new = Two().apply(variables, Z, mutable=[STATE])
    for i, (decay, state) in enumerate(((0.99, a), (0.5, b))):
        expected = ema_vq(4, 3, decay=decay).apply({}, state, Z, train=True)[1]
        equal(new[STATE][f"Quantize_{i}"]["state"], expected)


def test_jit():
    layer = nn.jit(Quantize, static_argnames="train")(EMA)
    variables = layer.init(KEY, Z)
    out, new = layer.apply(variables, Z, train=True, mutable=[STATE])
    expected = jax.jit(lambda s, z: EMA.apply({}, s, z, train=True))(inner(variables)[1], Z)
    same_up_to_fusion((out, inner(new)[1]), expected)


def test_remat_gives_the_same_gradients_and_state():
    layer, again = Training(vq(4, 3, reset=underused(0.5))), nn.remat(Training)
    variables = layer.init(KEY, Z)

    def loss(layer, params, z):
        out, new = layer.apply(
            {**variables, "params": params}, z, mutable=[STATE], rngs={RNG: DRAW}
        )
        return objective(out), (out.indices, new)

    gradients = jax.jit(jax.grad(loss, argnums=(1, 2), has_aux=True), static_argnums=0)
    plain = gradients(layer, variables["params"], Z)
    same_up_to_fusion(gradients(again(layer.quantizer), variables["params"], Z), plain)


def test_scan_over_time_carries_the_state():
    class Steps(nn.Module):
        quantizer: Quantizer

        def setup(self):
            self.codes = Quantize(self.quantizer)

        def __call__(self, zs):
            if self.is_initializing():  # a scan can't make what it carries: true of all of Flax
                self.codes(zs[0])
            step = nn.scan(
                lambda module, carry, z: (carry, module.codes(z, train=True)),
                variable_broadcast="params",
                variable_carry=STATE,
                split_rngs={"params": False, RNG: True},
            )
            return step(self, (), zs)[1]

    layer = Steps(EMA)
    variables = jax.jit(layer.init)(KEY, Z)
    outs, new = jax.jit(lambda v: layer.apply(v, Z, mutable=[STATE]))(variables)
    state, train = inner(variables)[1], jax.jit(lambda s, z: EMA.apply({}, s, z, train=True))
    for t, z in enumerate(Z):
        out, state = train(state, z)
        same_up_to_fusion(jax.tree.map(lambda x, t=t: x[t], outs), out)
    same_up_to_fusion(inner(new)[1], state)


@pytest.mark.parametrize("quantizer", [vq(4, 3), EMA], ids=["vq", "ema_vq"])
def test_vmap_makes_several_quantizers(quantizer):
    axes = {"params": 0, STATE: 0}
    layer = nn.vmap(Training, variable_axes=axes, split_rngs={"params": True, RNG: True})(quantizer)
    variables = jax.jit(layer.init)(KEY, Z)
    params, state = inner(variables)
    codebooks = {**state, **params}["codebook"]
    assert codebooks.shape == (5, 4, 3)
    assert len(np.unique(codebooks)) == codebooks.size

    @jax.jit
    @jax.vmap
    def each(params, state, z):
        return quantizer.apply(params, state, z, train=True)

    out, new = jax.jit(lambda v: layer.apply(v, Z, mutable=[STATE]))(variables)
    same_up_to_fusion((out, inner(new)[1]), each(params, state, Z))


@pytest.mark.parametrize(
    ("q", "given", "message"),
    [
        (ema_vq(4, 3), "params", r'lack codebook \[4, 3\] .* collection "quantizer"'),
        (vq(4, 3, init=samples()), "params", 'lack initialized|lack offset .* "quantizer"'),
        (vq(4, 3), STATE, r'lack codebook \[4, 3\] .* collection "params"'),
    ],
)
def test_a_collection_that_is_missing_is_named(as_users, q, given, message):
    layer, z = Quantize(q), jnp.ones((2, 3))
    variables = layer.init(jax.random.key(0), z)
    with pytest.raises(ValueError, match=message):
        layer.apply({given: variables.get(given, {})}, z)
