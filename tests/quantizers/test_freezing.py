"""Own optimizers against closed forms and outer ones; and what stands still, bit by bit."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference as ref
from flax.traverse_util import flatten_dict

import vqvae_jax as vj
from vqvae_jax import ema_vq, from_json, to_json, vq
from vqvae_jax.quantizers.codebooks import underused
from vqvae_jax.quantizers.codebooks.inits import kmeans, normal
from vqvae_jax.quantizers.combinators.freezing import alternated, frozen, frozen_after
from vqvae_jax.quantizers.combinators.product import grouped, heads
from vqvae_jax.quantizers.combinators.schedules import from_optax

KEY = jax.random.key(0)
SEEDED = {"init": kmeans(2), "reset": underused(0.5)}
VQ = vq(6, 2, init=normal())
ZS = jnp.asarray(np.random.default_rng(0).normal(size=(10, 40, 2)), jnp.float32)
close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
same = chex.assert_trees_all_equal


def trainer(q):
    return jax.jit(partial(q.apply, train=True))


def run(q, steps, params=None, state=None, rate=0.05):
    """Trains by an outer adamw, whose weight decay moves all params; yields after each step."""
    tx = optax.adamw(rate, weight_decay=0.1)
    if params is None:
        params, state = q.init(KEY)
    opt = tx.init(params)

    @jax.jit
    def step(params, state, opt, z, key):
        def loss(params):
            out, new = q.apply(params, state, z, train=True, key=key)
            return jnp.sum(jnp.sin(out.quantized)) + out.loss, (out, new)

        grads, (out, new) = jax.grad(loss, has_aux=True)(params)
        updates, opt_new = tx.update(grads, opt, params)
        return optax.apply_updates(params, updates), new, opt_new, out, grads

    for t in range(steps):
        z = jnp.resize(ZS[t % 10], (40, q.dim))
        params, state, opt, out, grads = step(params, state, opt, z, jax.random.fold_in(KEY, t))
        yield params, state, out, grads


def test_the_codebook_makes_steps_of_its_own():
    """SGD in float64: e_j <- e_j - rate * 2 (n_j e_j - m_j) / (N D); outputs come before it."""
    q = alternated(VQ, optax.sgd(3.0))
    params, state = q.init(KEY)
    e, train = ref.f64(state["params"]["codebook"]), trainer(q)
    for z in ZS[:4]:
        out, state = train(params, state, z)
        k = ref.nearest64(z, e)
        np.testing.assert_array_equal(out.indices[:, 0], k)
        close(out.quantized, e[k], rtol=1e-4)
        close(out.losses["codebook"], ref.mse(z, e[k]))
        one_hot = np.eye(6)[k]
        e = e - 3 * 2 * (one_hot.sum(0)[:, None] * e - one_hot.T @ ref.f64(z)) / z.size
        close(state["params"]["codebook"], e, rtol=1e-4)
    assert params == {}


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_it_is_an_outer_optimizer_moved_inside(name):
    options = {"adamw": {"weight_decay": 0.1}, "sgd": {"momentum": 0.9}}[name]
    rate = from_optax("linear_schedule", 0.3, 0.01, 3)
    tx = from_optax(name, rate, **options)
    q, inner = alternated(ema_and_vq(), tx), ema_and_vq()
    state, train = q.init(KEY)[1], trainer(q)
    params, moved = inner.init(KEY)
    opt, look = tx.init(params), jax.jit(partial(inner.apply, train=True))
    slope = jax.jit(jax.grad(lambda p, s, z: look(p, s, z)[0].loss))
    for z in ZS[:3]:
        _, state = train({}, state, z)
        grads = slope(params, moved, z)
        moved = look(params, moved, z)[1]
        updates, opt = tx.update(grads, opt, params)
        params = optax.apply_updates(params, updates)
    chex.assert_trees_all_close((state["params"], state["inner"]), (params, moved), rtol=1e-5)


def ema_and_vq():
    return grouped(ema_vq(4, 1, init=normal()), vq(6, 1, init=normal()))


def test_the_task_reaches_z_as_it_does_without():
    q = alternated(VQ, optax.sgd(3.0))
    params, state = VQ.init(KEY)
    whole = q.init(KEY)[1]
    same(whole["params"], params)
    c = ZS[1]

    def loss(apply):
        def of(z):
            out = apply(z)
            return jnp.sum(c * out.quantized) + out.loss

        return of

    dz = jax.grad(loss(lambda z: q.apply({}, whole, z, train=True)[0]))(ZS[0])
    same(dz, jax.grad(loss(lambda z: VQ.apply(params, state, z, train=True)[0]))(ZS[0]))


def test_without_a_valid_row_the_optimizer_rests_as_well():
    q = alternated(VQ, optax.adamw(0.1, weight_decay=0.1))
    params, state = q.init(KEY)
    train = trainer(q)
    state = train(params, state, ZS[0])[1]
    for z, mask in ((ZS[0], jnp.zeros(40)), (jnp.full_like(ZS[0], jnp.nan), None)):
        same(train(params, state, z, mask=mask)[1], state)
    same(q.apply(params, state, ZS[0])[1], state)


def test_the_state_of_the_optimizer_is_a_plain_dict_of_arrays():
    q = alternated(VQ, optax.chain(optax.clip(1.0), optax.adam(optax.constant_schedule(0.1))))
    state = q.init(KEY)[1]
    assert set(state["optimizer"]) == {
        "1.0.count",
        "1.0.mu.codebook",
        "1.0.nu.codebook",
        "1.1.count",
    }
    assert all(isinstance(leaf, jax.Array) for leaf in flatten_dict(state).values())


def test_replicas_make_the_step_of_the_whole_batch():
    q = alternated(VQ, optax.sgd(3.0))
    params, state = q.init(KEY)
    z, mask = ZS[:4], jnp.arange(4.0)[:, None] * jnp.ones((4, 40))
    one = trainer(q)(params, state, z, mask=mask)[1]
    step = partial(q.apply, train=True, axis_name="r")
    replicas = jax.vmap(lambda z, mask: step(params, state, z, mask=mask)[1], axis_name="r")
    many = jax.jit(replicas)(z, mask)
    for i in range(4):
        chex.assert_trees_all_close(jax.tree.map(lambda a, i=i: a[i], many), one, rtol=1e-5)


def stages():
    """Nestings of a quantizer of D = 2, each with the way to its state."""
    yield lambda q: q, lambda state: state
    yield lambda q: grouped(vq(3, 1), q), lambda state: state["1"]
    yield lambda q: heads(q, 2), lambda state: state
    yield lambda q: residual_of(vq(3, 2), q), lambda state: state["1"]


def residual_of(*qs):
    return vj.residual(*qs)


NESTED = pytest.mark.parametrize(
    ("nest", "find"), list(stages()), ids=["alone", "group", "head", "stage"]
)


@NESTED
def test_nothing_moves_what_is_frozen(nest, find):
    q = nest(frozen(grouped(vq(6, 1, **SEEDED), ema_vq(6, 1, **SEEDED))))
    start = find(q.init(KEY)[1])
    *_, (_, state, _, _) = run(q, 100)
    same(find(state), start)
    assert not any(m["initialized"] for m in start["inner"].values())


def test_frozen_is_eval_mode_without_a_key():
    inner = vq(6, 2, **SEEDED)
    q = frozen(inner)
    params, state = inner.init(KEY)
    whole = {"params": params, "inner": state}
    same(q.init(KEY), ({}, whole))
    same(q.apply({}, whole, ZS[0], train=True)[0], inner.apply(params, state, ZS[0])[0])
    grads = jax.grad(lambda s, z: q.apply({}, {**whole, "params": s}, z)[0].loss, (0, 1))
    codes, dz = grads(params, ZS[0])
    assert (codes["codebook"] == 0).all() and (dz != 0).any()


@NESTED
def test_nothing_moves_what_is_frozen_after_some_steps(nest, find):
    q = nest(frozen_after(grouped(vq(6, 1, **SEEDED), ema_vq(6, 1, **SEEDED)), 5))
    codes = jnp.arange(6)[:, None] * jnp.ones((1, len(q.vocab)), jnp.int32)
    codes = jnp.minimum(codes, jnp.array(q.vocab) - 1)
    seen, decode = [], jax.jit(q.decode)
    for params, state, _, _ in run(q, 105):
        seen.append((find(state), decode(params, state, codes)))
    at, later = seen[5][0], seen[104][0]
    same(later, at | {"count": jnp.array(105)})
    assert (seen[4][0]["inner"]["1"]["sums"] != seen[3][0]["inner"]["1"]["sums"]).any()
    same(seen[4][0]["inner"], at["inner"])
    assert (at["params"]["0"]["codebook"] != seen[0][0]["params"]["0"]["codebook"]).any()
    if q.dim == 2 and len(q.vocab) == 2:  # no member beside it that moves
        same(seen[104][1], seen[5][1])


def test_until_then_it_is_the_quantizer_itself_and_then_what_it_was():
    inner = vq(6, 2, **SEEDED)
    whole = run(frozen_after(inner, 3), 5)
    history = list(zip(run(inner, 5), whole, strict=True))
    for (params, state, out, grads), (live, now, got, dparams) in history[:3]:
        pair = (live, now["inner"], got, dparams), (params, state, out, grads)
        chex.assert_trees_all_close(*pair, rtol=1e-5, atol=1e-6)
    (before, stood, _, _), (live, _, got, _) = history[2][0], history[4][1]
    z = ZS[4]
    expected = inner.apply(before, stood, z)[0]
    np.testing.assert_array_equal(got.indices, expected.indices)
    close(got.quantized, expected.quantized)
    assert all((grads["codebook"] == 0).all() for _, (_, _, _, grads) in history[3:])
    assert (live["codebook"] != before["codebook"]).any()
    close(history[4][1][1]["params"]["codebook"], before["codebook"])


def test_a_batch_without_a_valid_row_is_no_step():
    q = frozen_after(ema_and_vq(), 1)
    params, state = q.init(KEY)
    train = trainer(q)
    for z in ZS[:3]:
        params = jax.tree.map(lambda e: 1.1 * e, params)
        same(train(params, state, jnp.nan * z)[1], state)
        state = train(params, state, z)[1]
    assert state["count"] == 3


def test_descriptions():
    names = {f.__name__: f for f in (from_optax, alternated, frozen, frozen_after)}
    for q in (alternated(VQ, from_optax("sgd", 0.1, momentum=0.9)), frozen(frozen_after(VQ, 3))):
        again = from_json(to_json(q, names), names)
        assert again == q and hash(again) == hash(q)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: alternated(VQ, 0.1), TypeError),
        (lambda: alternated("vq", optax.sgd(0.1)), TypeError),
        (lambda: frozen(VQ.apply), TypeError),
        (lambda: frozen_after(VQ, 0), ValueError),
        (lambda: frozen_after(None, 1), TypeError),
    ],
)
def test_errors(make, error, as_users):
    with pytest.raises(error):
        make()
