"""Who moves whom in an adversarial step, when, and how strongly, against NumPy in float64.

The decoder and the discriminator are linear, so that every gradient can be written down.
"""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vqvae_jax import MLP, VQVAE, VQVAE2, Decoder, Encoder, ema_vq, load_model, save_model, vq
from vqvae_jax.models import PatchDiscriminator
from vqvae_jax.quantizers.codebooks.inits import normal
from vqvae_jax.training.adversarial import (
    HINGE,
    NON_SATURATING,
    adaptive_weight,
    adversarial_loss,
    adversarial_optimizer,
    adversarial_state,
    get,
    model_variables,
    put,
    with_features,
)
from vqvae_jax.training.parallel import data_mesh, jit_step, pmap_step, shard_map_step
from vqvae_jax.training.step import (
    Batch,
    gradient_step,
    make_train_step,
)

N, FEATURES, PATCHES, START, R1 = 16, 6, 3, 5, 0.7
X = np.random.default_rng(1).normal(size=(N, FEATURES)).astype(np.float32)
WEIGHTS = np.float32([1, 0.5, 0, 2] + [1] * (N - 4))
BATCH = Batch(X, WEIGHTS)
LAST = ("decoder", "kernel")
MODEL = VQVAE(MLP(3, width=8, depth=1), vq(5, 3, init=normal(0.5)), nn.Dense(FEATURES))
MOVING = MODEL.clone(quantizer=ema_vq(5, 3, decay=0.5, init=normal(0.5)))
LINEAR = nn.Dense(PATCHES)
SGD = adversarial_optimizer(optax.sgd(0.5), optax.sgd(0.25))
ADAM = adversarial_optimizer(optax.adam(1e-2), optax.adam(1e-3, b1=0.5))
equal = chex.assert_trees_all_equal
close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-7)


@functools.cache
def start(step=START, model=MODEL, optimizer=SGD):
    state = adversarial_state(model, LINEAR, optimizer, jax.random.key(0), X)
    moved = jax.tree.map(lambda p: p + 0.1, state.params)  # biases that are not 0
    return state._replace(step=jnp.int32(step), params=moved)


@functools.cache
def loss_of(model=MODEL, **options):
    return adversarial_loss(model, LINEAR, START, LAST, **options)


@functools.cache
def compiled(model=MODEL, optimizer=SGD, **options):
    return jax.jit(gradient_step(loss_of(model, **options), optimizer))


@functools.cache
def gradients(step=START, **options):
    """Of each term for all params: {name: gradient}."""

    def terms(params):
        metrics = loss_of(**options)(params, start(step), BATCH, None)[1].metrics
        names = ("reconstruction", "codebook", "commitment", "generator", "discriminator")
        return {name: metrics[name] for name in names}

    return jax.jit(jax.jacrev(terms))(start(step).params)


def by_hand(state, weights=WEIGHTS):
    """x' and logits in float64, and the means over valid examples."""
    params = jax.tree.map(np.float64, state.params)
    z_q = np.float64(MODEL.apply(model_variables(state), jnp.asarray(X)).z_q)
    y = z_q @ params["model"]["decoder"]["kernel"] + params["model"]["decoder"]["bias"]
    v, c = params["discriminator"]["kernel"], params["discriminator"]["bias"]
    share = np.float64(weights / weights.sum())
    return z_q, y, v, X @ v + c, y @ v + c, share


# Optimizers of model and discriminator ----------------------------------------------------------


def test_each_term_moves_one_player_only():
    for name, gradient in gradients(r1=R1).items():
        still, moved = ("model", "discriminator") if name == "discriminator" else (
            "discriminator", "model"
        )  # fmt: skip
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient[still])), name
        assert optax.tree.norm(gradient[moved]) > 1e-3, name
    for part in ("encoder", "decoder"):  # the generator's reaches all of the model
        assert optax.tree.norm(gradients()["generator"]["model"][part]) > 1e-3


@pytest.mark.parametrize("options", [{}, {"r1": R1, "balance": lambda rec, gen: 3.0}])
def test_before_the_start_it_is_the_step_of_the_autoencoder(options):
    state = start(START - 1)
    new, metrics = compiled(**options)(state, BATCH)
    assert metrics["generator"] == metrics["discriminator"] == 0
    equal(new.params["discriminator"], state.params["discriminator"])
    alone = state._replace(params=state.params["model"], opt_state=optax.sgd(0.5).init(0))
    expected, _ = jax.jit(make_train_step(MODEL, optax.sgd(0.5)))(alone, BATCH)
    chex.assert_trees_all_close(new.params["model"], expected.params, rtol=1e-6, atol=1e-7)
    _, later = compiled(**options)(start(START), BATCH)
    assert later["generator"] != 0 and later["discriminator"] > 0


def test_each_player_is_drawn_with_a_key_of_its_own():
    params = adversarial_state(nn.Dense(4), nn.Dense(4), SGD, jax.random.key(0), X).params
    model, discriminator = (params[name]["kernel"] for name in ("model", "discriminator"))
    assert model.shape == discriminator.shape and np.all(model != discriminator)


def test_each_player_has_its_own_optimizer():
    state = start()
    new, metrics = compiled()(state, BATCH)
    total = jax.tree.map(lambda *g: sum(g), *gradients().values())
    for player, rate in (("model", 0.5), ("discriminator", 0.25)):
        expected = jax.tree.map(lambda p, g, r=rate: p - r * g, state.params[player], total[player])
        chex.assert_trees_all_close(new.params[player], expected, rtol=1e-5, atol=1e-6)
    names = ("reconstruction", "codebook", "commitment", "generator", "discriminator")
    close(metrics["loss"], sum(metrics[name] for name in names))


# The terms ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("game", "generator", "real", "fake"),
    [
        (HINGE, lambda d: -d, lambda d: np.maximum(0, 1 - d), lambda d: np.maximum(0, 1 + d)),
        (
            NON_SATURATING,
            lambda d: np.log(1 + np.exp(-d)),
            lambda d: np.log(1 + np.exp(-d)),
            lambda d: np.log(1 + np.exp(d)),
        ),
    ],
    ids=["hinge", "non-saturating"],
)
def test_terms_are_means_over_valid_examples_and_patches(game, generator, real, fake):
    _, y, _, d_x, d_y, share = by_hand(start())
    _, metrics = compiled(game=game, balance=lambda rec, gen: 0.3)(start(), BATCH)
    close(metrics["generator"], 0.3 * share @ generator(d_y).mean(1))
    close(metrics["discriminator"], share @ (real(d_x) + fake(d_y)).mean(1) / 2)
    close(metrics["mse"], share @ ((X - y) ** 2).mean(1))
    close(metrics["reconstruction"], metrics["mse"])


def test_hinge_by_hand():
    d = jnp.array([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0])
    close(HINGE.generator(d), [2, 1, 0, -0.5, -1, -3])
    close(HINGE.real(d), [3, 2, 1, 0.5, 0, 0])
    close(HINGE.fake(d), [0, 0, 1, 1.5, 2, 4])


def test_the_weight_is_the_ratio_of_gradients_of_the_last_layer():
    z_q, y, v, _, _, share = by_hand(start())
    of_rec = z_q.T @ (share[:, None] * 2 * (y - X) / FEATURES)  # d L_rec / d kernel
    of_gen = z_q.T @ (share[:, None] * -v.mean(1))
    norms = np.linalg.norm(of_rec), np.linalg.norm(of_gen)
    _, metrics = compiled()(start(), BATCH)
    weight = norms[0] / (norms[1] + 1e-4)
    close(metrics["adaptive_weight"], weight)
    kernel = gradients()["generator"]["model"]["decoder"]["kernel"]
    close(kernel, weight * of_gen, atol=1e-5)  # the weight itself has no gradient
    seen = []
    loss = loss_of(balance=lambda *given: seen.extend(given) or 2.0)
    assert loss(start().params, start(), BATCH, None)[1].metrics["adaptive_weight"] == 2
    close(seen, norms)


def test_the_weight_counts_all_terms_of_the_task_and_a_whole_layer():
    """Twice the task loss has twice the weight; the bias counts where the path holds it."""
    double = with_features(lambda x, y: jnp.mean(jnp.square(x - y), -1))
    (_, once), (_, twice) = (compiled(**o)(start(), BATCH) for o in ({}, {"task_loss": double}))
    close(twice["adaptive_weight"], 2 * once["adaptive_weight"])
    close(twice["features"], once["reconstruction"])
    z_q, y, v, _, _, share = by_hand(start())
    z = np.concatenate([z_q, np.ones((N, 1))], axis=1)
    of_rec, of_gen = (
        z.T @ (share[:, None] * 2 * (y - X) / FEATURES),
        z.T @ (share[:, None] * -v.mean(1)),
    )
    loss = adversarial_loss(MODEL, LINEAR, START, ["decoder"])
    found = loss(start().params, start(), BATCH, None)[1].metrics["adaptive_weight"]
    close(found, np.linalg.norm(of_rec) / (np.linalg.norm(of_gen) + 1e-4))


@pytest.mark.parametrize(
    ("rec", "gen", "expected"), [(1, 0, 1e4), (3, 0, 1e4), (0, 2, 0), (4, 2, 2)]
)
def test_the_weight_is_bounded(rec, gen, expected):
    close(adaptive_weight(jnp.float32(rec), jnp.float32(gen)), expected)


def test_r1_is_the_slope_of_the_mean_logit_on_real_examples():
    _, _, v, _, _, _ = by_hand(start())
    (_, without), (_, punished) = (compiled(r1=r1)(start(), BATCH) for r1 in (0.0, R1))
    close(
        punished["discriminator"] - without["discriminator"],
        R1 / 2 * np.sum(v.mean(1) ** 2),
        rtol=1e-3,
    )
    moved = gradients(r1=R1)["discriminator"]["discriminator"]["kernel"]
    plain = gradients()["discriminator"]["discriminator"]["kernel"]
    close(moved - plain, R1 * np.tile(v.mean(1, keepdims=True), PATCHES) / PATCHES, atol=1e-6)


def test_features_are_a_term_besides():
    loss = with_features(lambda x, y: jnp.abs(x - y)[:, 0])
    terms = loss(jnp.ones((2, 3)), jnp.zeros((2, 3)))
    assert list(terms) == ["reconstruction", "features"]
    chex.assert_trees_all_equal(terms["features"], jnp.ones(2))
    doubled = with_features(lambda x, y: x[:, 0], lambda x, y: {"mine": y[:, 0]})
    assert list(doubled(jnp.ones((2, 3)), jnp.zeros((2, 3)))) == ["mine", "features"]


# Replicas, and examples that don't count ----------------------------------------------------------


@pytest.mark.parametrize("way", [shard_map_step, pmap_step])
def test_replicas_equal_one_device(way):
    """Weights differ between replicas: one has a single valid example of little weight."""
    options = {"r1": R1, "task_loss": with_features(lambda x, y: jnp.abs(x - y)[:, 0])}
    train_step = gradient_step(loss_of(MOVING, **options), ADAM)

    def run(step):
        state = jax.device_get(start(START - 1, MOVING, ADAM))
        for i in range(3):
            state, metrics = step(state, Batch(np.roll(X, i, 1), WEIGHTS))
        return jax.device_get((state, metrics))

    one = run(jit_step(train_step, data_mesh(jax.devices()[:1])))
    many = run(way(train_step, data_mesh(jax.devices()[:8])))
    chex.assert_trees_all_close(many, one, rtol=1e-4, atol=1e-5)
    assert one[1]["generator"] != 0 and one[0].skipped == 0


def test_an_example_that_is_not_finite_counts_as_if_it_were_not_there():
    broken = X.copy()
    broken[4, 1] = np.nan
    weights = np.where(np.arange(N) == 4, 0, WEIGHTS)
    with_nan, masked = (
        compiled()(start(), Batch(broken, WEIGHTS)),
        compiled()(start(), Batch(X, weights)),
    )
    assert with_nan[1].pop("invalid_examples") == 1 and masked[1].pop("invalid_examples") == 0
    equal(with_nan, masked)
    new, _ = compiled()(start(), Batch(np.full_like(X, np.nan), WEIGHTS))
    equal(new.params, start().params)
    assert new.skipped == 1


# From images to a plain model ---------------------------------------------------------------------


def test_the_trained_model_is_kept_as_a_plain_one(tmp_path):
    new, _ = compiled(MOVING, ADAM)(start(START, MOVING, ADAM), BATCH)
    variables = model_variables(new)
    model = MOVING.clone(decoder=MLP(FEATURES, depth=0))  # a public name, for JSON
    variables["params"] = variables["params"] | {
        "decoder": {"Dense_0": variables["params"]["decoder"]}
    }
    save_model(tmp_path, model, variables)
    kept, rows = load_model(tmp_path), jnp.asarray(X)
    loaded = jax.tree.map(jnp.asarray, kept.variables)
    assert kept.model == model
    equal(kept.model.apply(loaded, rows).x, MOVING.apply(model_variables(new), rows).x)


def images_of(model, path):
    """The metrics of a step of images, by shape alone."""
    x = np.zeros((2, 8, 8, 1), np.uint8)
    discriminator = PatchDiscriminator(4, 1)
    make = functools.partial(adversarial_state, model, discriminator, ADAM)
    state = jax.eval_shape(make, jax.random.key(0), x)
    step = gradient_step(adversarial_loss(model, discriminator, 0, path), ADAM)
    return jax.eval_shape(step, state, x)[1]


def test_images_and_levels():
    encoder = Encoder(dim=3, width=4, downsamplings=1, depth=0)
    decoder = Decoder(dim=3, width=4, upsamplings=1, depth=0)
    metrics = images_of(VQVAE(encoder, vq(5, 3), decoder), ("decoder", "Upsample_0"))
    assert {"generator", "discriminator", "reconstruction", "commitment"} <= set(metrics)
    two = VQVAE2(
        encoders=(encoder.clone(channels=3), encoder),
        quantizers=(vq(5, 3), vq(7, 3)),
        decoders=(decoder.clone(channels=3), decoder.clone(dim=6)),
    )
    metrics = images_of(two, ("decoders_1", "Upsample_0", "Conv_0", "kernel"))
    assert {"generator", "commitment", "level0/error", "level1/error"} <= set(metrics)


class Counting(nn.Module):
    """A discriminator with a collection."""

    @nn.compact
    def __call__(self, x):
        return nn.BatchNorm(use_running_average=False)(x)


def test_what_does_not_fit_is_named():
    for path, known in ((("decoder", "Upsample_1"), r"\['bias', 'kernel'\]"), (("head",), "codes")):
        loss = adversarial_loss(MODEL, LINEAR, START, path)
        with pytest.raises(ValueError, match=rf"no layer \('{path[0]}'.*{known}"):
            loss(start().params, start(), BATCH, None)
    with pytest.raises(ValueError, match=r"params alone, got \['batch_stats', 'params'\]"):
        adversarial_state(MODEL, Counting(), SGD, jax.random.key(0), X)
    assert get({"a": {"b": 1}}, ["a", "b"]) == 1
    tree = {"a": {"b": 1, "c": 2}, "d": 3}
    assert put(tree, ["a", "b"], 5) == {"a": {"b": 5, "c": 2}, "d": 3} and tree["a"]["b"] == 1
