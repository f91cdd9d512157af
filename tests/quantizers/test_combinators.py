"""Slices, and maps before and after a quantizer, against float64 and their closed forms."""

import dataclasses
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference as ref
from compiling import jit

from vqvae_jax import ema_vq, residual, vq
from vqvae_jax.estimators import unit
from vqvae_jax.quantizers.codebooks import underused
from vqvae_jax.quantizers.codebooks.inits import kmeans, normal
from vqvae_jax.quantizers.combinators.product import grouped, heads
from vqvae_jax.quantizers.combinators.wrappers import normalize, project, rotate, scale
from vqvae_jax.testing.trials import evaluate, training_step

KEY = jax.random.key(0)
SEEDED = {"init": kmeans(2), "reset": underused(0.5)}
close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
same = chex.assert_trees_all_equal
pytestmark = pytest.mark.filterwarnings("ignore:.*codes of the first batch repeat")


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def begin(q, dim=None):
    """params, state, and rows z [40, D]."""
    return *q.init(KEY), draw(40, q.dim)


def train(q, params, state, z, mask=None):
    return jit(partial(q.apply, train=True))(params, state, z, key=KEY, mask=mask)


def look_up(z, codebook):
    """Float64: the codes of z and their vectors."""
    k = ref.nearest64(z, codebook)
    return k, ref.f64(codebook)[k]


def task_gradient(q, params, state, z, c):
    """Of sum(c * quantized) + loss, for params and z."""

    def loss(params, z):
        out, _ = q.apply(params, state, z)
        return jnp.sum(c * out.quantized) + out.loss

    return jit(jax.grad(loss, argnums=(0, 1)))(params, z)


def test_each_group_quantizes_its_slice():
    q = grouped(vq(6, 2, beta=1.0, init=normal()), vq(9, 3, beta=0.5, init=normal()))
    params, state, z = begin(q)
    out = q.apply(params, state, z)[0]
    parts = [look_up(x, params[i]["codebook"]) for i, x in (("0", z[:, :2]), ("1", z[:, 2:]))]
    np.testing.assert_array_equal(out.indices, np.stack([k for k, _ in parts], -1))
    expected = np.concatenate([e for _, e in parts], -1)
    close(out.quantized, expected)
    error = np.square(ref.f64(z) - expected)
    close(out.losses["codebook"], error.mean())
    close(out.losses["commitment"], (error[:, :2].sum() + 0.5 * error[:, 2:].sum()) / z.size)
    close(out.metrics["0/error"], error[:, :2].mean())


def test_grouping_does_not_multiply_the_gradient_of_the_commitment():
    q = grouped(*[vq(6, 2, beta=0.3, init=normal())] * 2)
    params, state, z = begin(q)
    z_q = ref.f64(q.apply(params, state, z)[0].quantized)
    c = draw(40, 4, seed=1)
    dz = task_gradient(q, params, state, z, c)[1]
    close(dz, ref.f64(c) + 0.3 * 2 * (ref.f64(z) - z_q) / z.size)


def test_one_group_and_one_head_are_the_member_itself():
    q = ema_vq(6, 3, **SEEDED)
    params, state, z = begin(q)
    z = z.at[3].set(jnp.nan)
    out, new = train(q, params, state, z)
    same(train(heads(q, 1), *heads(q, 1).init(KEY), z), (out, new))
    g = grouped(q)
    got, moved = train(g, *g.init(KEY), z)
    same((got.quantized, got.indices, got.losses), (out.quantized, out.indices, out.losses))
    same(moved, {"0": new})


def test_a_row_that_is_bad_in_one_slice_is_invalid_in_all():
    q = grouped(ema_vq(6, 2, init=normal()), ema_vq(6, 2, init=normal()))
    params, state, z = begin(q)
    out, new = train(q, params, state, z.at[3, 0].set(jnp.nan))
    without, expected = train(q, params, state, jnp.delete(z, 3, axis=0))
    assert (out.indices[3] == -1).all() and (out.quantized[3] == 0).all()
    chex.assert_trees_all_close((new, out.losses), (expected, without.losses), rtol=1e-5)
    assert out.metrics["invalid_rows"] == 1 and out.metrics["1/invalid_rows"] == 0


def test_heads_share_one_codebook_and_make_one_update():
    q = ema_vq(6, 2, decay=0.5, init=normal())
    whole = heads(q, 3)
    params, state, z = begin(whole)
    mask = jnp.asarray(np.random.default_rng(1).choice([0, 0.5, 2], 40), jnp.float32)
    out, new = train(whole, params, state, z, mask)
    slices, weights = ref.f64(z).reshape(120, 2), np.repeat(mask, 3)
    old = [ref.f64(state[name]) for name in ("codebook", "counts", "sums")]
    for name, value in zip(
        ("codebook", "counts", "sums"),
        ref.ema_step(slices, *old, 0.5, weights=weights),
        strict=True,
    ):
        close(new[name], value)
    k, z_q = look_up(slices, state["codebook"])
    np.testing.assert_array_equal(out.indices[mask > 0], k.reshape(40, 3)[mask > 0])
    close(out.quantized[mask > 0], z_q.reshape(40, 6)[mask > 0])
    close(out.losses["commitment"], 0.25 * ref.mse(slices, z_q, weights))


def test_streams_of_heads_are_those_of_one_slice_after_the_other():
    q = heads(grouped(vq(6, 1, init=normal()), vq(9, 2, init=normal())), 2)
    params, state, z = begin(q)
    assert q.vocab == (6, 9, 6, 9) and q.dim == 6
    first = q.encode(params, state, z)[:, :2]
    swapped = q.encode(params, state, jnp.roll(z, 3, axis=-1))
    np.testing.assert_array_equal(swapped[:, 2:], first)
    assert (swapped[:, :2] != first).any()


def test_project_is_linear_down_and_up():
    q = project(vq(6, 2, beta=0.3, init=normal()), 5)
    params, state, z = begin(q)
    down, up = ref.f64(params["down"]), ref.f64(params["up"])
    low = ref.f64(z) @ down
    k, e = look_up(low, params["inner"]["codebook"])
    out = q.apply(params, state, z)[0]
    np.testing.assert_array_equal(out.indices[:, 0], k)
    close(out.quantized, e @ up)
    close(out.losses["commitment"], 0.3 * ref.mse(low, e))
    c = draw(40, 5, seed=1)
    (grads, dz), c = task_gradient(q, params, state, z, c), ref.f64(c)
    d_low = c @ up.T + 0.3 * 2 * (low - e) / low.size
    close(dz, d_low @ down.T)
    close(grads["down"], ref.f64(z).T @ d_low, rtol=1e-4)
    close(grads["up"], e.T @ c, rtol=1e-4)


def test_projections_begin_with_unit_variance():
    params = project(vq(2, 40), 900).init(KEY)[0]
    close(np.std(params["down"]) * np.sqrt(900), 1, rtol=0.02)
    close(np.std(params["up"]) * np.sqrt(40), 1, rtol=0.02)


def test_normalize_maps_before_and_lets_the_gradient_through():
    q = normalize(vq(6, 3, beta=0.0, init=normal()), unit)
    params, state, z = begin(q)
    z = z.at[7].set(0)
    k, e = look_up(ref.f64(unit(z)), params["inner"]["codebook"])
    out = q.apply(params, state, z)[0]
    np.testing.assert_array_equal(out.indices[:, 0], k)
    close(out.quantized, e)
    c = draw(40, 3, seed=1)
    dz = task_gradient(q, params, state, z, c)[1]
    assert np.isfinite(dz).all()
    z, c = np.delete(ref.f64(z), 7, 0), np.delete(ref.f64(c), 7, 0)
    length = np.linalg.norm(z, axis=-1, keepdims=True)
    u = z / length
    close(np.delete(dz, 7, 0), (c - (c * u).sum(-1, keepdims=True) * u) / length, atol=1e-5)


def test_scale_quantizes_smaller_rows():
    q = scale(vq(6, 3, beta=0.3, init=normal()), 4.0)
    params, state, z = begin(q)
    z = 4 * z
    k, e = look_up(ref.f64(z) / 4, params["inner"]["codebook"])
    out = q.apply(params, state, z)[0]
    np.testing.assert_array_equal(out.indices[:, 0], k)
    close(out.quantized, 4 * e)
    close(out.losses["commitment"], 0.3 * ref.mse(ref.f64(z) / 4, e))
    c = draw(40, 3, seed=1)
    dz = task_gradient(q, params, state, z, c)[1]
    close(dz, ref.f64(c) + 0.3 * 2 * (ref.f64(z) / 4 - e) / z.size / 4)


def test_a_scaled_code_is_rounded_before_it_is_added():
    """XLA contracts e s + total into one operation, in `decode` and not in `apply`."""
    v = vq(6, 3, init=normal())
    for q in (residual(scale(v, 3.7), v), residual(scale(v, 3.7), scale(v, 0.3))):
        params, state, z = begin(q)
        for out in (
            jax.jit(partial(evaluate, q))(params, state, z),
            jax.jit(partial(training_step, q))(params, state, z, KEY),
        ):
            np.testing.assert_array_equal(out["decoded"], out["quantized"])


def test_rotate_quantizes_rotated_rows_with_a_rotation_that_stays():
    q = rotate(grouped(vq(4, 1, init=normal()), vq(4, 2, init=normal())))
    params, state, z = begin(q)
    r = ref.f64(state["rotation"])
    close(r @ r.T, np.eye(3))
    assert np.abs(r - np.eye(3)).max() > 0.1 and list(params) == ["inner"]
    turned = ref.f64(z) @ r.T
    parts = [
        look_up(x, params["inner"][i]["codebook"])
        for i, x in (("0", turned[:, :1]), ("1", turned[:, 1:]))
    ]
    out, new = train(q, params, state, z)
    np.testing.assert_array_equal(out.indices, np.stack([k for k, _ in parts], -1))
    close(out.quantized, np.concatenate([e for _, e in parts], -1) @ r)
    same(new, state)
    assert (q.init(jax.random.key(1))[1]["rotation"] != state["rotation"]).any()


def test_only_the_inner_state_moves():
    q = rotate(ema_vq(6, 3, decay=0.5, init=normal()))
    params, state, z = begin(q)
    new = train(q, params, state, z)[1]
    same(new["rotation"], state["rotation"])
    assert (new["inner"]["counts"] != state["inner"]["counts"]).any()
    same(q.apply(params, new, z)[1], new)


def nest(q):
    return [grouped(vq(2, 1), q), heads(q, 2), project(q, 5), normalize(q, unit), rotate(q)]


def test_stochastic_members_make_the_whole_stochastic():
    q = vq(4, 2)
    noisy = dataclasses.replace(q, stochastic=True, call=None)
    assert all(whole.stochastic for whole in nest(noisy))
    assert not any(whole.stochastic for whole in nest(q))


def test_dropped_rows_are_counted_once():
    z = jnp.ones((5, 2)).at[1, 0].set(jnp.inf)
    for q in (scale(vq(4, 2), 2.0), heads(vq(4, 1), 2), scale(scale(vq(4, 2), 2.0), 3.0)):
        assert q.apply(*q.init(KEY), z)[0].metrics["invalid_rows"] == 1
    tiny = scale(vq(4, 2), 1e-20)  # what is too large after the map is dropped as well
    out = tiny.apply(*tiny.init(KEY), z)[0]
    assert out.metrics["invalid_rows"] == 5 and (out.quantized == 0).all()


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: grouped(), ValueError),
        (lambda: grouped(vq(4, 2), "vq"), TypeError),
        (lambda: heads(vq(4, 2), 0), ValueError),
        (lambda: project(vq(4, 2), 2.5), ValueError),
        (lambda: normalize(vq(4, 2), 3.0), TypeError),
        (lambda: scale(vq(4, 2), 0.0), ValueError),
        (lambda: scale(vq(4, 2), float("inf")), ValueError),
        (lambda: rotate(3), TypeError),
    ],
)
def test_errors(make, error, as_users):
    with pytest.raises(error):
        make()


def test_params_are_labelled_by_path_for_optax():
    """The codes of one member move, and nothing else."""
    q = project(grouped(vq(6, 2, init=normal()), vq(4, 3, init=normal())), 7)
    params, state, z = begin(q)

    def label(path, leaf):
        return "codes" if jax.tree_util.keystr(path) == "['inner']['0']['codebook']" else "rest"

    labels = jax.tree_util.tree_map_with_path(label, params)
    optimizer = optax.partition({"codes": optax.sgd(0.1), "rest": optax.set_to_zero()}, labels)
    grads = jax.grad(lambda p: q.apply(p, state, z, train=True)[0].loss)(params)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    moved = jax.tree.map(lambda leaf: bool(jnp.any(leaf != 0)), updates)
    assert moved == jax.tree.map(lambda label: label == "codes", labels)
