"""A codebook sharded over a mesh axis trains as the whole one does on one device."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import vqvae_jax as vj
from vqvae_jax.compiling import fast_compile

K, D, KEY = 24, 3, jax.random.key(0)
PARTS = {
    "vq": lambda size, **more: vj.codebooks.gradient(size, D, **more),
    "ema_vq": lambda size, **more: vj.codebooks.ema(size, D, 0.9, **more),
    "cosine": lambda size, **more: vj.codebooks.unit_codes(vj.codebooks.ema(size, D, 0.9, **more)),
}
close = partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-6)


def specs(tree):
    """Arrays are sharded on axis 0, scalars are not."""
    return jax.tree.map(lambda a: P("codebook") if a.ndim else P(), tree)


def batch(step=0):
    z = jax.random.normal(jax.random.fold_in(KEY, step), (32, D))
    mask = jnp.where(jnp.arange(32) % 5 == 0, 0.0, 1 + jnp.arange(32.0) % 3)
    return z.at[7, 1].set(jnp.nan), mask


def step(q, rows_axis, params, state, z, mask):
    """Gradients by the recipe, the new state, and what was found."""

    def loss(params, shift):
        args = {"train": True, "key": KEY, "mask": mask, "axis_name": rows_axis}
        out, new = q.apply(params, state, z + shift, **args)
        task = jnp.mean(jnp.sin(out.quantized))
        task = task if rows_axis is None else jax.lax.pmean(task, rows_axis)
        return task + out.loss, (out, new)

    shift = jnp.zeros(D)
    grads, (out, new) = jax.grad(loss, (0, 1), has_aux=True)(params, shift)
    return grads, new, out


def on_mesh(q, shape, params, state):
    kinds = (jax.sharding.AxisType.Auto,) * 2
    mesh = jax.make_mesh(
        shape, ("data", "codebook"), kinds, devices=jax.devices()[: np.prod(shape)]
    )
    p, s, rows = specs(params), specs(state), P("data")
    out = vj.Output(quantized=rows, indices=rows, losses=P(), metrics=P())
    run = jax.shard_map(
        partial(step, q, "data"), mesh=mesh,
        in_specs=(p, s, rows, rows), out_specs=((p, P()), s, out),
    )  # fmt: skip
    return jax.jit(run, compiler_options=fast_compile())


SHAPES = {"vq": (2, 4), "ema_vq": (4, 2), "cosine": (1, 8)}  # the others are slow
EACH = [
    pytest.param(part, shape, marks=[pytest.mark.slow] * (SHAPES[part] != shape))
    for part in PARTS
    for shape in SHAPES.values()
]


@pytest.mark.parametrize(("part", "shape"), EACH)
def test_three_steps_are_those_of_one_device(part, shape):
    n = shape[1]
    whole = vj.codebook_vq(PARTS[part](K, init=vj.inits.normal()), beta=0.7)
    q = vj.codebook_vq(vj.codebooks.sharded(PARTS[part](K // n), n), beta=0.7)
    assert q.vocab == whole.vocab == (K,)
    params, state = one = whole.init(KEY)
    mine = state
    many, single = on_mesh(q, shape, params, state), jax.jit(partial(step, whole, None))
    for i in range(3):
        z, mask = batch(i)
        grads, mine, out = many(params, mine, z, mask)
        expected_grads, state, expected = single(params, state, z, mask)
        np.testing.assert_array_equal(out.indices, expected.indices)
        jax.tree.map(close, (grads, mine, out), (expected_grads, state, expected))
    assert any(jax.tree.leaves(jax.tree.map(lambda a, b: (a != b).any(), one[1], state))) or params


def test_shards_begin_and_revive_with_codes_of_their_own():
    part = vj.codebooks.ema(
        3, D, 0.5, init=vj.inits.samples(), reset=vj.codebooks.underused(0.5, "codebook")
    )
    q = vj.codebook_vq(vj.codebooks.sharded(part, 8))
    mesh = jax.make_mesh((1, 8), ("data", "codebook"), (jax.sharding.AxisType.Auto,) * 2)
    begin = jax.shard_map(
        lambda key: q.init(key)[1] | {"initialized": jnp.array(False)}, mesh=mesh, in_specs=P(),
        out_specs=specs(jax.eval_shape(part.init, KEY)[1]),
    )  # fmt: skip
    state, (z, _) = begin(KEY), batch()
    run = on_mesh(q, (1, 8), {}, state)
    _, state, _ = run({}, state, z, jnp.ones(32))
    rows = np.asarray(z)[np.isfinite(z).all(-1)]
    codes = np.asarray(state["codebook"])
    assert len(np.unique(codes, axis=0)) > 12  # of 24: no two shards have drawn the same three
    for _ in range(20):
        _, state, out = run({}, state, z + 5, jnp.ones(32))
    used = len(np.unique(out.indices)) - 1
    assert bool(state["initialized"]) and used > 12 and np.isfinite(state["codebook"]).all()
    assert rows.shape == (31, D)


def test_what_needs_all_codes_is_refused():
    codebook = vj.codebooks.sharded(vj.codebooks.gradient(4, D), 2)
    with pytest.raises(ValueError, match="neither assign nor terms"):
        vj.codebook_vq(codebook, terms=[vj.regularizers.orthogonal()])
    with pytest.raises(ValueError, match="neither assign nor terms"):
        vj.codebook_vq(codebook, assign=vj.assignments.sampled())
    with pytest.raises(ValueError, match="n must be an integer >= 1, got 0"):
        vj.codebooks.sharded(vj.codebooks.gradient(4, D), 0)


def test_it_is_its_call():
    q = vj.codebook_vq(vj.codebooks.sharded(vj.codebooks.ema(4, D), 2))
    assert vj.from_json(vj.to_json(q)) == q and "sharded" in repr(q)
