"""The train step against its formula in float64; what is not finite changes nothing.

The models are MLPs of vectors: the step never looks inside, and they compile soon.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vqvae_jax import MLP, VQVAE, ema_vq, vq
from vqvae_jax.data.scaling import preprocess
from vqvae_jax.data.value_range import values
from vqvae_jax.quantizers import STATE
from vqvae_jax.quantizers.codebooks import underused
from vqvae_jax.quantizers.codebooks.inits import normal
from vqvae_jax.training.step import (
    Batch,
    TrainState,
    init_state,
    make_train_step,
    start_state,
    step_key,
)

KEY, BETA, N, FEATURES = jax.random.key(0), 0.4, 6, 8
X = np.random.default_rng(1).normal(size=(N, FEATURES)).astype(np.float32)
WEIGHTS = np.float32([1, 0.5, 0, 2, 1, 1])
CODES = normal(0.5)  # spread about as z_e is, so that several codes are chosen
equal = chex.assert_trees_all_equal


def build(quantizer):
    return VQVAE(MLP(3, width=8, depth=1), quantizer, MLP(FEATURES, width=8, depth=1))


PLAIN = build(vq(5, 3, beta=BETA, init=CODES))
MOVING = build(ema_vq(5, 3, decay=0.5, init=CODES))
DRAWING = build(ema_vq(5, 3, decay=0.5, init=normal(5.0), reset=underused(0.5)))
ADAM = optax.adam(0.01)


@functools.cache
def start(model=MOVING, optimizer=ADAM, seed=0):
    return init_state(model, optimizer, jax.random.key(seed), X)


@functools.cache
def compiled(model=MOVING, optimizer=ADAM, **options):
    return jax.jit(make_train_step(model, optimizer, **options))


@functools.cache
def warm():
    """A state whose moments are not zero."""
    state, _ = compiled()(start(), Batch(X, jnp.ones(N)))
    assert optax.tree.norm(state.opt_state[0].mu) > 0
    return state


def two_terms(x, y):
    """A user's own task loss."""
    return {"absolute": jnp.mean(jnp.abs(x - y), -1), "first": 3 * jnp.square(x - y)[:, 0]}


def by_hand(params, x, w):
    """L = task + codebook + beta commitment, as it is written, for the weights of the examples."""

    def mlp(p, x):
        h = jax.nn.relu(x @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"])
        return h @ p["Dense_1"]["kernel"] + p["Dense_1"]["bias"]

    def mean(term):
        return jnp.sum(w * term) / jnp.sum(w)

    sg = jax.lax.stop_gradient
    z_e, e = mlp(params["encoder"], x), params["codes"]["weights"]["codebook"]
    z_q = e[jnp.argmin(jnp.sum(jnp.square(z_e[:, None] - e), -1), -1)]
    y = mlp(params["decoder"], z_e + sg(z_q - z_e))
    terms = two_terms(x, y) | {
        "codebook": jnp.mean(jnp.square(sg(z_e) - z_q), -1),
        "commitment": BETA * jnp.mean(jnp.square(z_e - sg(z_q)), -1),
    }
    terms = {name: mean(term) for name, term in terms.items()}
    return sum(terms.values()), (terms, mean(jnp.mean(jnp.square(x - y), -1)))


def test_losses_and_gradient_are_those_of_the_formula_in_float64():
    optimizer = optax.sgd(1.0)  # new parameters = old ones - gradient
    state = start(PLAIN, optimizer)
    step = compiled(PLAIN, optimizer, task_loss=two_terms)
    new, metrics = step(state, Batch(X, WEIGHTS))
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda p: jnp.asarray(np.float64(p)), (state.params, X, WEIGHTS))
        (loss, (terms, mse)), gradient = jax.value_and_grad(by_hand, has_aux=True)(*wide)
        expected = {**terms, "loss": loss, "mse": mse, "gradient_norm": optax.tree.norm(gradient)}
        expected = jax.tree.map(np.asarray, expected)
        target = jax.tree.map(lambda p, g: np.asarray(p - g), wide[0], gradient)
    chex.assert_trees_all_close({name: metrics[name] for name in expected}, expected, rtol=1e-5)
    chex.assert_trees_all_close(new.params, target, rtol=1e-5, atol=1e-6)
    assert {"error", "perplexity_batch", "skipped"} <= set(metrics)
    assert (new.step, new.skipped) == (1, 0)


@pytest.mark.parametrize("shape", [(), (N, FEATURES), (1,)])
def test_a_task_loss_must_have_one_value_for_each_example(shape):
    step = make_train_step(PLAIN, ADAM, lambda x, y: {"mine": jnp.zeros(shape)})
    message = rf"task loss 'mine' must have one value for each of {N} examples, got shape \("
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(step, start(PLAIN), X)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_example_that_is_not_finite_counts_as_if_it_were_not_there(bad):
    broken = X.copy()
    broken[2, 3] = bad
    without = compiled()(warm(), Batch(np.delete(X, 2, axis=0), jnp.ones(N - 1)))
    masked = compiled()(warm(), Batch(X, jnp.ones(N).at[2].set(0)))
    dropped = compiled()(warm(), Batch(broken, jnp.ones(N)))
    found = [result[1].pop("invalid_examples") for result in (without, masked, dropped)]
    assert found == [0, 0, 1]
    equal(dropped, masked)
    chex.assert_trees_all_close(dropped, without, rtol=1e-5, atol=1e-6)
    assert (dropped[0].step, dropped[0].skipped) == (2, 0)
    whole = compiled()(warm(), Batch(X, jnp.ones(N)))
    assert abs(whole[1]["loss"] - dropped[1]["loss"]) > 1e-3  # the example would have counted


def assert_skipped(new: TrainState, old: TrainState):
    equal(new._replace(step=0, skipped=0), old._replace(step=0, skipped=0))
    assert (new.step, new.skipped) == (old.step + 1, old.skipped + 1)


@pytest.mark.parametrize(
    "batch",
    [
        Batch(np.full_like(X, np.nan), np.ones(N, np.float32)),
        Batch(X, np.zeros(N, np.float32)),
        Batch(np.full_like(X, 1e30), np.ones(N, np.float32)),  # finite, but no loss of it is
    ],
    ids=["NaN", "masked", "1e30"],
)
def test_a_batch_without_a_valid_example_changes_nothing_but_the_counters(batch):
    new, metrics = compiled()(warm(), batch)
    assert_skipped(new, warm())
    assert metrics["skipped"] == 1
    again, _ = compiled()(new, Batch(X, jnp.ones(N)))
    assert np.isfinite(optax.tree.norm(again.params))
    assert (again.step, again.skipped) == (3, 1)


def test_a_gradient_that_is_not_finite_changes_nothing_but_the_counters():
    """The loss is finite: sqrt'(0) * 0 is not."""
    step = compiled(task_loss=lambda x, y: {"root": jnp.sqrt(0 * jnp.sum(jnp.square(y), -1))})
    new, metrics = step(warm(), Batch(X, jnp.ones(N)))
    assert np.isfinite(metrics["loss"]) and not np.isfinite(metrics["gradient_norm"])
    assert_skipped(new, warm())


def test_pixels_are_preprocessed_inside_the_step():
    pixels = np.random.default_rng(2).integers(0, 256, X.shape, dtype=np.uint8)
    inside, before = compiled()(warm(), pixels), compiled()(warm(), preprocess(pixels))
    chex.assert_trees_all_close(inside, before, rtol=1e-5, atol=1e-7)
    shapes = jax.eval_shape(functools.partial(init_state, MOVING, ADAM), KEY, pixels)
    assert shapes == jax.eval_shape(lambda: start.__wrapped__())
    with pytest.raises(TypeError, match="found int32"):
        jax.eval_shape(make_train_step(MOVING, ADAM), warm(), pixels.astype(np.int32))


def test_a_model_whose_domain_has_no_zero_starts_as_any_other():
    state = init_state(MOVING.clone(domain=values(1, 3)), ADAM, KEY, 2 + np.tanh(X))
    equal(state.params, start().params)


def test_two_runs_are_equal_bit_by_bit():
    def run(seed):
        state = start.__wrapped__(DRAWING, seed=seed)
        for shift in range(3):
            state, _ = compiled(DRAWING)(state, jnp.asarray(np.roll(X, shift, 1)))
        return state

    first = run(0)
    equal(run(0), first)
    with pytest.raises(AssertionError):
        equal(run(1).params, first.params)


def test_each_step_has_its_own_key_which_depends_on_seed_and_step_alone():
    def draw(step=0, other=0):
        state = start(DRAWING)._replace(step=jnp.int32(step), seed=start(DRAWING).seed + other)
        new, _ = compiled(DRAWING)(state, jnp.asarray(X))
        equal(new.seed, state.seed)  # it stays: nothing but the step need be saved
        return np.asarray(new.collections[STATE]["codes"]["state"]["codebook"])

    drawn = {draw(step).tobytes() for step in range(4)}  # dead codes become random rows of X
    assert len(drawn) > 1
    assert np.any(draw() != draw(other=1))

    keys = [step_key(start(DRAWING)._replace(step=jnp.int32(step))) for step in range(9)]
    assert len(np.unique([jax.random.key_data(key) for key in keys], axis=0)) == 9
    moved = start(DRAWING)._replace(params=None, opt_state=None)
    equal(*(jax.random.key_data(step_key(s)) for s in (start(DRAWING), moved)))


def test_parameters_are_not_drawn_with_the_key_of_the_steps():
    state = start_state(
        lambda key: {"params": {"key": jax.random.key_data(key)}}, optax.set_to_zero(), KEY
    )
    own, drawn = np.asarray(state.seed), np.asarray(state.params["key"])
    given = np.asarray(jax.random.key_data(KEY))
    assert own.tolist() not in drawn.reshape(2, 2).tolist() and np.any(own != given)
    assert given.tolist() not in drawn.reshape(2, 2).tolist()


def test_a_donated_state_gives_the_same_and_is_gone():
    donating = jax.jit(make_train_step(MOVING, ADAM), donate_argnums=0)
    state = jax.tree.map(jnp.copy, warm())
    equal(donating(state, X), compiled()(warm(), X))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
