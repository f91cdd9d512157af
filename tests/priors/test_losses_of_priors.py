"""Losses of priors: cross entropy by NumPy, what is left out, and many devices as one."""

import functools

import codes as made
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiling import jit
from scipy.special import log_softmax
from scipy.stats import binom

from vqvae_jax.priors.losses import (
    CodeBatch,
    code_loss,
    drop_labels,
    example_keys,
    masked_codes,
    masked_prior_loss,
    prior_loss,
)
from vqvae_jax.training.parallel import data_mesh, pmap_step, shard_map_step
from vqvae_jax.training.step import TrainState, gradient_step, start_state, step_key

B = 16
LOSSES = {
    "transformer": (prior_loss, made.TRANSFORMER),
    "pixelcnn": (prior_loss, made.PIXELCNN),
    "masked": (masked_prior_loss, made.MASKED),
}
each = pytest.mark.parametrize("name", LOSSES)
SGD = optax.sgd(0.1)


def batch_of(prior):
    """Codes of which some are not known, weights of 0 to 3, metadata that is not finite."""
    codes, condition = made.inputs(prior, B)
    rng = np.random.default_rng(1)
    codes = jnp.where(rng.random(codes.shape) < 0.1, -1, codes).at[3].set(-1)
    condition = condition._replace(metadata=condition.metadata.at[5, 1].set(jnp.nan))
    weights = jnp.asarray(rng.integers(0, 4, B), jnp.float32).at[5].set(2)
    return CodeBatch(codes, condition, weights)


def state_of(prior, step=7):
    params = made.variables(prior)["params"]
    zero, seed = jnp.zeros((), jnp.int32), jnp.array([1, 2], jnp.uint32)
    return TrainState(zero + step, zero, params, {}, SGD.init(params), seed)


@functools.cache
def compiled(name, unconditional, **changes):
    loss, prior = LOSSES[name]
    return jit(functools.partial(loss(prior.clone(**changes), unconditional), axis_name=None))


def evaluated(name, batch, unconditional=0.0, step=7, **changes):
    """(loss, metrics, weight)."""
    state = state_of(LOSSES[name][1], step)
    value, aux = compiled(name, unconditional, **changes)(state.params, state, batch)
    assert aux.collections == {}
    return float(value), {k: float(v) for k, v in aux.metrics.items()}, float(aux.weight)


@each
def test_loss_is_the_cross_entropy(name):
    """In float64 by NumPy, from the logits of codes that are masked in the same places."""
    prior = LOSSES[name][1]
    batch, state = batch_of(prior), state_of(prior)
    seen, predicted = batch.codes, np.ones(batch.codes.shape, bool)
    if name == "masked":
        keys = example_keys(step_key(state), B, None)[:, 1]
        seen, predicted = jit(jax.vmap(masked_codes))(keys, batch.codes)
        assert (seen[predicted] == -1).all() and (seen == batch.codes)[~predicted].all()
    metadata = jnp.nan_to_num(batch.condition.metadata)
    condition = batch.condition._replace(metadata=metadata)
    logits = np.float64(made.applied(prior)(made.variables(prior), seen, condition))
    weights = np.where(np.arange(B) == 5, 0, np.float64(batch.mask))
    total, count, right, bits = 0.0, 0.0, 0.0, np.zeros(B)
    for b, *place in zip(*np.nonzero((np.asarray(batch.codes) >= 0) & predicted), strict=True):
        k, at = int(batch.codes[(b, *place)]), logits[(b, *place)][: prior.vocab[place[-1]]]
        nll = -log_softmax(at)[k]
        total, count = total + weights[b] * nll, count + weights[b]
        right, bits[b] = right + weights[b] * (at.argmax() == k), bits[b] + nll / np.log(2)
    loss, metrics, weight = evaluated(name, batch)
    np.testing.assert_allclose(loss, total / count, rtol=1e-5)
    np.testing.assert_allclose(metrics["nll"], loss)
    np.testing.assert_allclose(metrics["accuracy"], right / count, rtol=1e-5)
    np.testing.assert_allclose(metrics["bits"], weights @ bits / weights.sum(), rtol=1e-5)
    assert weight == weights.sum() and metrics["invalid_examples"] == 1


def test_without_a_mask_all_examples_count():
    batch = batch_of(made.TRANSFORMER)
    ones = evaluated("transformer", batch._replace(mask=jnp.ones(B)))
    assert evaluated("transformer", batch._replace(mask=None)) == ones


def test_labels_are_dropped():
    """All of them, none, a tenth; and none from a prior without classes."""
    batch = batch_of(made.TRANSFORMER)
    none = batch._replace(condition=batch.condition._replace(label=jnp.full(B, -1)))
    dropped, told = (evaluated("transformer", batch, rate)[0] for rate in (1.0, 0.0))
    assert dropped == evaluated("transformer", none)[0] and abs(dropped - told) > 1e-4
    condition = made.Condition(label=jnp.arange(5000) % 3)
    keys = example_keys(jax.random.key(0), 5000, None)[:, 0]
    label = np.asarray(drop_labels(keys, condition, 0.1).label)
    assert 0.001 < binom.cdf((label == -1).sum(), 5000, 0.1) < 0.999
    kept = label != -1
    np.testing.assert_array_equal(label[kept], condition.label[kept])
    assert drop_labels(keys, made.Condition(), 0.1) == made.Condition()


def test_each_step_and_each_example_has_its_own_randomness():
    batch = batch_of(made.MASKED)
    assert evaluated("masked", batch, step=1)[0] != evaluated("masked", batch, step=2)[0]
    assert evaluated("masked", batch, step=1) == evaluated("masked", batch, step=1)
    keys = jax.random.key_data(example_keys(jax.random.key(0), 8, None)).reshape(16, 2)
    assert len(np.unique(keys, axis=0)) == 16


def test_what_is_masked_and_whose_label_is_dropped_are_independent():
    """A loss that masks by the toss by which labels are dropped, if only it had the same key."""
    found = []

    def show(key, codes):
        masked = jax.random.bernoulli(key, 0.5, codes.shape[:0])
        return jnp.where(masked, -1, codes), jnp.ones(codes.shape, bool)

    class Witness:
        vocab, classes = (3,), made.MASKED.classes

        def apply(self, variables, codes, condition, **options):
            found.append(np.stack([codes[:, 0] < 0, condition.label < 0]))
            return jnp.zeros((*codes.shape, 3))

    batch = CodeBatch(jnp.zeros((400, 1), int), made.Condition(label=jnp.zeros(400, int)))
    code_loss(Witness(), 0.5, show)({}, state_of(made.MASKED), batch, None)
    assert abs(np.corrcoef(found[0])[0, 1]) < 0.2


def test_dropout():
    batch = batch_of(made.TRANSFORMER)
    plain = evaluated("transformer", batch)[0]
    dropped = [evaluated("transformer", batch, step=s, dropout=0.5)[0] for s in (1, 2)]
    assert len({plain, *dropped}) == 3


WAYS = {"shard_map": shard_map_step, "pmap": pmap_step}


@pytest.mark.parametrize(
    "name, way",
    [
        ("masked", "shard_map"),  # it drops labels as the others do, and masks as well
        pytest.param("masked", "pmap", marks=pytest.mark.slow),
        pytest.param("transformer", "shard_map", marks=pytest.mark.slow),
    ],
)
def test_eight_devices_take_the_step_of_one(name, way):
    """The same labels are dropped and the same codes masked, however the batch is split."""
    loss, prior = LOSSES[name]
    train_step = gradient_step(loss(prior, 0.3), SGD)
    batch, state = jax.device_get((batch_of(prior), state_of(prior)))
    expected = jit(train_step)(state, batch)
    found = WAYS[way](train_step, data_mesh())(state, batch)
    for a, b in zip(*map(jax.tree.leaves, jax.device_get((found, expected))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert int(found[0].step) == 8 and int(found[0].skipped) == 0


def test_a_batch_without_valid_examples_changes_nothing():
    prior = made.TRANSFORMER
    step, state = jit(gradient_step(prior_loss(prior), SGD)), state_of(prior)
    new, metrics = step(state, batch_of(prior)._replace(mask=jnp.zeros(B)))
    jax.tree.map(np.testing.assert_array_equal, new.params, state.params)
    assert int(new.skipped) == 1 and np.isfinite(metrics["loss"])


# Of 8 codes that follow from the first and the label, the first is unknown: ln 2 in 8 codes, or in
# each of them where all are masked; ceil(8 cos(pi r / 2)) are, so in 0.32 of the examples.
SHARE = 2 / np.pi * np.arccos(np.arange(1, 8) / 8)  # of r, where more than 1, ..., 7 are masked
ENTROPY = {"transformer": np.log(2) / 8, "masked": np.log(2) * 8 * SHARE[-1] / (1 + SHARE.sum())}


@pytest.mark.parametrize("name", ENTROPY)
def test_priors_learn(name):
    loss, make = LOSSES[name][0], type(LOSSES[name][1])
    prior = make((4, 2), (2, 2), classes=2, width=16, depth=1, heads=2)
    label, first = np.random.default_rng(0).integers(0, 2, (2, 256))
    codes = np.stack([np.stack([label + 2 * first, first], axis=-1)] * 4, axis=1)
    told = made.Condition(label=jnp.asarray(label))
    batch = CodeBatch(jnp.asarray(codes.reshape(256, 2, 2, 2)), told)
    optimizer = optax.adam(0.01)
    state = start_state(lambda key: prior.init(key, *batch[:2]), optimizer, jax.random.key(0))
    step = jit(gradient_step(loss(prior, 0.0), optimizer))
    for _ in range(150):
        state, metrics = step(state, batch)
    np.testing.assert_allclose(metrics["nll"], ENTROPY[name], atol=0.08)
    assert metrics["accuracy"] > 0.6


@pytest.mark.parametrize("rate", [-0.1, 1.1])
def test_wrong_rates(rate):
    with pytest.raises(ValueError, match=r"unconditional must be in \[0, 1\]"):
        prior_loss(made.TRANSFORMER, rate)
