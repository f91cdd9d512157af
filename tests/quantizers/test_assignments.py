"""Codes by lot and by optimal transport, against their distributions and plans in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
from compiling import jit
from scipy import stats

from vqvae_jax import codebook_vq, sinkhorn_vq
from vqvae_jax.quantizers.codebooks import fixed, gradient
from vqvae_jax.quantizers.codebooks.assignments import (
    sampled,
    sinkhorn,
    squared_distances,
    transport,
)
from vqvae_jax.quantizers.codebooks.inits import given
from vqvae_jax.testing.trials import training_step

KEY = jax.random.key(0)
K, D, N = 5, 3, 40
RNG = np.random.default_rng(0)
E = jnp.asarray(RNG.normal(size=(K, D)), jnp.float32)
Z = jnp.asarray(RNG.normal(size=(N, D)), jnp.float32)
close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
same = np.testing.assert_array_equal
FAR = 1e4 + jnp.arange(6.0)[:, None]  # the squares of these lose such differences in float32


def probabilities(z, e, temperature, top=None):
    """softmax_j(-|z - e_j|^2 / temperature) over the `top` nearest codes."""
    logits = -ref.distances(z, e) / temperature
    if top is not None:
        logits = np.where(logits >= np.sort(logits)[:, -top, None], logits, -np.inf)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def plan64(z, e, weights, epsilon, iterations):
    """Sinkhorn's algorithm as it is written down: scale columns, then rows, of exp(-cost)."""
    rows, cost = ref.f64(weights) / ref.f64(weights).sum(), ref.distances(z, e)
    cost = cost - rows @ cost  # what a code costs all rows, and a row with all codes
    cost = cost - cost.mean(-1, keepdims=True)
    kernel, u = np.exp(-cost / (epsilon * rows @ np.abs(cost).mean(-1))), rows
    for _ in range(iterations):
        v = 1 / len(e) / (kernel.T @ u)
        u = rows / (kernel @ v)
    return u[:, None] * kernel * v


def test_squared_distances_in_float64():
    close(squared_distances(Z, E), ref.distances(Z, E), atol=1e-5)
    close(squared_distances(FAR, FAR[:3]), ref.distances(FAR, FAR[:3]))
    bad = squared_distances(Z, E.at[2, 0].set(jnp.nan))
    assert np.isinf(bad[:, 2]).all() and np.isfinite(np.delete(bad, 2, axis=1)).all()


@pytest.mark.parametrize(("temperature", "top"), [(0.5, None), (2.0, 3), (1.0, 99)])
def test_sampled_codes_occur_as_often_as_softmax_says(temperature, top):
    n = 3000
    z = jnp.repeat(Z[:3], n, axis=0)
    q = codebook_vq(fixed(K, D, given(E)), assign=sampled(temperature, top))
    out, _ = q.apply(*q.init(KEY), z, train=True, key=KEY)
    same(out.quantized, E[out.indices[:, 0]])
    p = probabilities(Z[:3], E, temperature, None if top == 99 else top)
    for hits, expected in zip(np.asarray(out.indices).reshape(3, n), p, strict=True):
        counts, possible = np.bincount(hits, minlength=K), expected > 0
        same(counts[~possible], 0)
        assert stats.chisquare(counts[possible], n * expected[possible]).pvalue > 1e-3


def test_sampled_codes_depend_on_the_key_in_training_only():
    q = codebook_vq(fixed(K, D, given(E)), assign=sampled(5.0))
    assert q.stochastic
    args = *q.init(KEY), Z
    mask = jnp.arange(N) % 2
    first, again, other = (q.apply(*args, train=True, key=k, mask=mask)[0].indices for k in
                           (KEY, KEY, jax.random.key(1)))  # fmt: skip
    same(first, again)
    assert (first != other).mean() > 0.2
    same(first[::2], -1)
    same(q.apply(*args)[0].indices[:, 0], ref.nearest64(Z, E))
    with pytest.raises(ValueError, match=r"needs key= .*codes are sampled"):
        q.apply(*args, train=True)


def test_replicas_draw_their_own_lots():
    q = codebook_vq(fixed(K, D, given(E)), assign=sampled(5.0))
    step = partial(q.apply, *q.init(KEY), train=True, key=KEY, axis_name="i")
    out, _ = jit(jax.vmap(step, axis_name="i"))(jnp.stack([Z, Z]))
    assert (out.indices[0] != out.indices[1]).mean() > 0.2


def test_a_code_gone_bad_is_neither_drawn_nor_dealt():
    e = E.at[1].set(jnp.nan)
    for assign in (sampled(5.0), sinkhorn(0.1, 20)):
        q = codebook_vq(fixed(K, D, given(e)), assign=assign)
        out, _ = q.apply(*q.init(KEY), Z, train=True, key=KEY)
        same(np.unique(out.indices), [0, 2, 3, 4])


@pytest.mark.parametrize(("epsilon", "iterations"), [(0.1, 5), (0.5, 300)])
def test_plan_is_that_of_sinkhorn_in_float64(epsilon, iterations):
    weights = jnp.asarray(np.random.default_rng(1).choice([0, 0.5, 1, 2], N), jnp.float32)
    plan = np.exp(transport(Z, weights, E, epsilon, iterations))
    close(plan, plan64(Z, E, weights, epsilon, iterations), rtol=1e-4, atol=1e-8)
    close(plan.sum(-1), weights / weights.sum())
    if iterations == 300:
        close(plan.sum(0), np.full(K, 1 / K))
    same(plan[weights == 0], 0)
    seen = weights > 0
    alone = np.exp(transport(Z[seen], weights[seen], E, epsilon, iterations))
    close(plan[seen], alone, rtol=1e-4, atol=1e-8)


def test_the_plan_of_the_other_codes_is_as_if_a_bad_one_were_not_there():
    weights, others = jnp.ones(N).at[3].set(2.5), np.array([0, 2, 3, 4])
    bad = transport(Z, weights, E.at[1].set(jnp.nan), 0.3, 4)
    close(bad[:, others], transport(Z, weights, E[others], 0.3, 4), atol=1e-4)


def test_shards_have_the_plan_of_one_device():
    weights = jnp.ones(N).at[:10].set(0)  # the first replica has no row at all
    plan = jit(jax.vmap(lambda z, w: transport(z, w, E, 0.1, 7, "i"), axis_name="i"))
    sharded = plan(Z.reshape(4, 10, D), weights.reshape(4, 10))
    whole = transport(Z, weights, E, 0.1, 7)
    close(np.exp(sharded).reshape(N, K), np.exp(whole), rtol=1e-4)


def test_transport_uses_every_code_where_the_nearest_is_one():
    """A batch far from the codes, as a new encoder's is: all rows have the same nearest code."""
    rng = np.random.default_rng(2)
    z = jnp.asarray(6 + rng.normal(size=(64, D)), jnp.float32)
    e = 0.1 * rng.normal(size=(8, D)).astype(np.float32)
    e[3] = 1  # ahead of the others
    q = sinkhorn_vq(8, D, epsilon=0.2, iterations=20, init=given(e))
    params, state = q.init(KEY)
    same(q.encode(params, state, z), 3)
    out = jit(partial(training_step, q))(params, state, z, None)
    counts = np.bincount(out["indices"][:, 0], minlength=8)
    assert not q.stochastic and counts.min() > 0 and counts.max() <= 24
    same(out["indices"][:, 0], plan64(z, e, np.ones(64), 0.2, 20).argmax(-1))


def test_transport_costs_nothing_in_gradient():
    """The choice has none: the codebook moves to the rows it was dealt."""
    q = codebook_vq(gradient(K, D, init=given(E)), beta=0.0, assign=sinkhorn(0.1, 5))
    params, state = q.init(KEY)
    loss = lambda params: q.apply(params, state, Z, train=True)[0].loss  # noqa: E731
    k = plan64(Z, E, np.ones(N), 0.1, 5).argmax(-1)
    pull = 2 / Z.size * (ref.f64(E)[k] - Z)
    close(jax.grad(loss)(params)["codebook"], ref.hits_and_totals(pull, k, K)[1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sampled(0.0), "temperature must be > 0, got 0.0"),
        (lambda: sampled(1.0, top=0), "top must be an integer >= 1, got 0"),
        (lambda: sinkhorn(-0.1), "epsilon must be > 0, got -0.1"),
        (lambda: sinkhorn(iterations=0), "iterations must be an integer >= 1, got 0"),
    ],
)
def test_options_out_of_range_are_named(as_users, call, message):
    with pytest.raises(ValueError, match=message):
        call()
