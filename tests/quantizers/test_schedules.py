"""Hyper-parameters that follow schedules: each call as if q had been made with that value."""

import dataclasses
import pickle
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference as ref
from compiling import jit

from vqvae_jax import ema_vq, from_json, to_json, vq
from vqvae_jax.quantizers.codebooks.inits import normal, uniform
from vqvae_jax.quantizers.combinators.product import grouped, heads
from vqvae_jax.quantizers.combinators.schedules import from_optax, scheduled
from vqvae_jax.quantizers.combinators.wrappers import scale
from vqvae_jax.testing.trials import training_step

KEY = jax.random.key(0)
NAMES = {"from_optax": from_optax, "scheduled": scheduled, "scale": scale}
DOWN = from_optax("linear_schedule", 0.9, 0.1, 4)
ZS = jnp.asarray(np.random.default_rng(0).normal(size=(6, 40, 2)), jnp.float32)
close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
same = chex.assert_trees_all_equal
# A traced value is no float: as users have it, annotations are not checked.
pytestmark = pytest.mark.usefixtures("as_users")


def trainer(q):
    return jit(partial(q.apply, train=True))


def beta(t):
    return 0.9 - 0.2 * min(t, 4)


def test_schedules_of_optax_are_described():
    for fn in (
        DOWN,
        from_optax("cosine_decay_schedule", 1.0, decay_steps=100, alpha=0.1),
        from_optax("join_schedules", [DOWN, from_optax("constant_schedule", 3.0)], [2]),
    ):
        text = to_json(fn, NAMES)
        for again in (from_json(text, NAMES), pickle.loads(pickle.dumps(fn)), eval(repr(fn))):
            assert again == fn and hash(again) == hash(fn)
            close(again(3), fn(3))
    close(fn(1), 0.7)
    close(fn(2), 3.0)
    assert from_optax("linear_schedule", 0.9, 0.1, 5) != DOWN


@pytest.mark.parametrize(
    ("made", "whole"),
    [
        (from_optax("adamw", DOWN, weight_decay=0.1), optax.adamw(DOWN, weight_decay=0.1)),
        (
            from_optax("chain", from_optax("clip", 0.5), from_optax("sgd", 0.1, momentum=0.9)),
            optax.chain(optax.clip(0.5), optax.sgd(0.1, momentum=0.9)),
        ),
    ],
)
def test_optimizers_of_optax_are_described(made, whole):
    again = from_json(to_json(made, NAMES), NAMES)
    assert again == made and hash(again) == hash(made)
    params = {"e": jnp.array([1.0, -2.0])}
    got, expected = [], []
    for tx, updates in ((optax.chain(again), got), (optax.chain(whole), expected)):
        state = tx.init(params)
        for _ in range(3):
            update, state = tx.update(params, state, params)
            updates.append(update)
    same(got, expected)


def test_names_that_optax_does_not_have_are_refused():
    """Nor are functions that compute at once, some for as long as an argument says."""
    for name in ("adamm", "_src", "contrib", "GradientTransformation", 3, "global_norm"):
        with pytest.raises((ValueError, TypeError)):
            from_optax(name, 1.0)
    for name in ("global_norm", "power_iteration", "matrix_inverse_pth_root"):
        with pytest.raises(ValueError, match="schedule or optimizer of optax"):
            from_optax(name, 1.0)
    with pytest.raises(ValueError, match="schedule or optimizer of optax, got 'adamm'"):
        from_json('{"call": "from_optax", "args": ["adamm", 1], "kwargs": {}}', NAMES)
    with pytest.raises(TypeError, match="dict"):
        from_optax("piecewise_constant_schedule", 1.0, {2: 0.1})


def test_a_loss_weight_follows_its_schedule_and_the_metrics_tell():
    q, plain = scheduled(vq(6, 2, init=normal()), beta=DOWN), vq(6, 2, beta=1.0, init=normal())
    params, state = q.init(KEY)
    same((params, state["inner"]), plain.init(KEY))
    train, apply = trainer(q), jit(plain.apply)
    for t in range(6):
        loss = apply(params, {}, ZS[t])[0].losses["commitment"]
        for count in (t, t):  # eval mode has the present value, and keeps the count
            out, state = jit(q.apply)(params, state, ZS[t])
            close(out.metrics["beta"], beta(count))
        out, state = train(params, state, ZS[t])
        close(out.metrics["beta"], beta(t))
        close(out.losses["commitment"], beta(t) * loss)
        assert state["count"] == t + 1 and state["count"].dtype == jnp.int32


def test_a_decay_follows_its_schedule():
    q = scheduled(ema_vq(6, 2, init=normal()), decay=DOWN)
    params, state = q.init(KEY)
    names = ("codebook", "counts", "sums")
    expected = [ref.f64(state["inner"][name]) for name in names]
    train = trainer(q)
    for t, z in enumerate(ZS):
        expected = ref.ema_step(z, *expected, beta(t))
        state = train(params, state, z)[1]
    for name, value in zip(names, expected, strict=True):
        close(state["inner"][name], value, rtol=1e-4)


def test_codes_decode_with_the_value_that_they_were_made_with():
    q = scheduled(scale(vq(6, 2, init=normal()), 2.0), s=DOWN)
    params, state = q.init(KEY)
    step = jit(partial(training_step, q))
    for t in range(3):
        out = step(params, state, ZS[t], KEY)
        codes = ref.f64(params["inner"]["codebook"])[out["indices"][:, 0]]
        close(out["quantized"], beta(t) * codes)
        same(out["decoded"], out["quantized"])
        state = out["state"]


def test_a_batch_without_a_valid_row_does_not_count():
    q = scheduled(ema_vq(6, 2, init=normal()), decay=DOWN)
    params, state = q.init(KEY)
    state = trainer(q)(params, state, ZS[0])[1]
    for z, mask in ((ZS[0], jnp.zeros(40)), (jnp.full_like(ZS[0], jnp.nan), None)):
        same(trainer(q)(params, state, z, mask=mask)[1], state)


def test_it_goes_into_combinators_and_they_into_it():
    inner = scheduled(vq(6, 1, init=normal()), beta=DOWN)
    q = grouped(inner, vq(6, 1, beta=0.0, init=normal()))
    params, state = q.init(KEY)
    for t in range(2):
        out, state = trainer(q)(params, state, ZS[0])
        close(out.metrics["0/beta"], beta(t))
        close(out.losses["commitment"], beta(t) * out.metrics["0/error"] / 2)
    q = heads(inner, 2)
    assert trainer(q)(*q.init(KEY), ZS[0])[1]["count"] == 1


def test_it_is_described_and_its_schedules_are_arguments():
    q = scheduled(scale(vq(6, 2), 2.0), s=DOWN)
    again = from_json(to_json(q, NAMES), NAMES)
    assert again == q and hash(again) == hash(q)
    assert q != scheduled(scale(vq(6, 2), 2.0), s=from_optax("constant_schedule", 2.0))


Q = vq(6, 2, beta=1)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: scheduled(Q, size=DOWN), ValueError, r"of vq .* are \['beta'\], got \['size'\]"),
        (lambda: scheduled(Q, init=DOWN), ValueError, "got .'init'"),
        (lambda: scheduled(Q, gamma=DOWN), ValueError, "got .'gamma'"),
        (lambda: scheduled(Q), ValueError, "are .* got"),
        (lambda: scheduled(dataclasses.replace(Q, call=None), beta=DOWN), ValueError, "described"),
        (lambda: scheduled(Q, beta=0.5), TypeError, "beta must be a function"),
        (lambda: scheduled(Q, beta=lambda t: jnp.stack([t, t])), TypeError, "scalar"),
        (lambda: scheduled(uniform(), scale=DOWN), TypeError, "must be a Quantizer"),
    ],
)
def test_errors(make, error, match):
    with pytest.raises(error, match=match):
        make()
