"""VAE and Autoencoder: the divergence in closed form and by integration, masks, and train steps."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiling import jit
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

import vqvae_jax as vj
from vqvae_jax import MLP, VAE, Autoencoder
from vqvae_jax.models import gaussian_kl
from vqvae_jax.models.vae import draw
from vqvae_jax.quantizers import RNG
from vqvae_jax.training.parallel import data_mesh, jit_step, shard_map_step
from vqvae_jax.training.step import Batch, init_state, make_train_step

KEY, DIM, N, FEATURES = jax.random.key(0), 3, 8, 4
X = jax.random.uniform(jax.random.key(1), (N, 5, FEATURES), minval=-0.5, maxval=0.5)
WEIGHTS = np.float32([1, 0.5, 0, 2, 1, 1, 3, 0])
LIKELIHOOD = vj.likelihoods.logistic()
MODEL = VAE(MLP(2 * DIM, 8, 1), MLP(2 * FEATURES, 8, 1), beta=0.7)
close, equal = np.testing.assert_allclose, np.testing.assert_array_equal


@functools.cache
def variables():
    """Random ones: those of the start make q nearly the prior."""
    rng, shapes = np.random.default_rng(0), jax.eval_shape(MODEL.init, KEY, X)
    return jax.tree.map(lambda p: jnp.float32(rng.normal(size=p.shape)), shapes)


@functools.cache
def trained():
    """(variables, x, mask, key) -> the reconstruction of training."""

    def call(v, x, mask, key):
        return MODEL.apply(v, x, train=True, mask=mask, rngs={RNG: key})

    return jit(call)


def kl64():
    """The divergence of each example in nats, from the posterior in float64."""
    both = np.float64(MODEL.apply(variables(), X, method=lambda model, x: model.encoder(x)))
    mu, v = both[..., :DIM], both[..., DIM:]
    return 0.5 * np.sum(mu**2 + np.exp(v) - 1 - v, axis=(1, 2))


# The divergence -----------------------------------------------------------------------------------


@given(st.floats(-4, 4), st.floats(-6, 3))
def test_the_divergence_is_its_integral(mu, log_variance):
    q, p = stats.norm(mu, math.exp(log_variance / 2)), stats.norm()
    expected = integrate.quad(
        lambda z: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)), *q.interval(1 - 1e-14), epsabs=1e-10
    )[0]
    found = gaussian_kl(jnp.array([mu], jnp.float32), jnp.array([log_variance], jnp.float32))
    assert float(found) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_the_divergence_adds_up_and_is_0_at_the_prior_alone():
    mu, v = jax.random.normal(KEY, (2, 50, DIM))
    single = gaussian_kl(mu[..., None], v[..., None])
    assert np.all(single > 0) and gaussian_kl(jnp.zeros((1, 9)), jnp.zeros((1, 9))) == 0
    close(gaussian_kl(mu, v), np.sum(np.float64(single), -1), rtol=1e-6)


def test_the_divergence_is_precise_next_to_the_prior():
    tiny = jnp.array([[1e-3], [-1e-3]])
    close(gaussian_kl(jnp.zeros((2, 1)), tiny), [1e-6 / 4] * 2, rtol=1e-3)


def test_the_gradient_of_the_divergence_by_hand():
    mu, v = jax.random.normal(KEY, (2, 7, DIM))
    slopes = jax.grad(lambda mu, v: gaussian_kl(mu, v).sum(), (0, 1))(mu, v)
    close(slopes[0], mu, rtol=1e-6)
    close(slopes[1], 0.5 * np.expm1(np.float64(v)), rtol=1e-5)


def test_draws_have_the_moments_of_the_posterior_and_their_gradients():
    mu, v = jnp.array([1.0, -2.0]), jnp.array([0.0, 2.0])
    z = np.asarray(draw(KEY, jnp.tile(mu, (20_000, 1)), jnp.tile(v, (20_000, 1))))
    close(z.mean(0), mu, atol=0.08)
    close(z.std(0), jnp.exp(v / 2), rtol=0.03)
    by_mu, by_v = jax.jacobian(lambda *q: draw(KEY, *q), (0, 1))(mu, v)
    epsilon = (draw(KEY, mu, v) - mu) / jnp.exp(v / 2)
    close(by_mu, np.eye(2))
    close(by_v, np.diag(0.5 * jnp.exp(v / 2) * epsilon), rtol=1e-5)


# The model ----------------------------------------------------------------------------------------


def test_evaluation_takes_the_means_and_training_draws():
    rec, again = (MODEL.apply(variables(), X) for _ in range(2))
    chex.assert_trees_all_equal(rec, again)
    mu, v = MODEL.apply(variables(), X, method="posterior")
    equal(rec.z_q, mu)
    equal(rec.z_e, MODEL.apply(variables(), X, method="encode"))
    equal(rec.x, MODEL.apply(variables(), mu, method="decode"))
    assert (rec.indices.shape, rec.indices.dtype) == ((N, 5, 0), jnp.int32)
    ones = jnp.ones(N)
    a, b = (trained()(variables(), X, ones, jax.random.key(i)) for i in (1, 2))
    assert np.all(a.z_q != b.z_q) and np.all(a.z_q != mu)
    chex.assert_trees_all_close((a.losses, a.metrics), (rec.losses, rec.metrics), rtol=1e-6)
    close(a.x, MODEL.apply(variables(), a.z_q, method="decode"), rtol=1e-5, atol=1e-5)
    noise = (np.stack([a.z_q, b.z_q]) - mu) / np.exp(v / 2)
    assert 0.7 < noise.std() < 1.3 and len(np.unique(noise)) == noise.size  # one draw an element


def test_the_loss_is_beta_kl_in_nats_an_element_and_the_metric_bits_an_example():
    rec = MODEL.apply(variables(), X, mask=WEIGHTS)
    kl = np.sum(WEIGHTS * kl64()) / WEIGHTS.sum()
    assert float(rec.losses["kl"]) == pytest.approx(0.7 * kl / (5 * FEATURES), rel=1e-5)
    assert float(rec.metrics["kl_bits"]) == pytest.approx(kl / math.log(2), rel=1e-5)
    whole = MODEL.apply(variables(), X).metrics["kl_bits"]
    assert float(whole) == pytest.approx(kl64().mean() / math.log(2), rel=1e-5)


def test_a_mask_of_rows_counts_them():
    rows = np.repeat(WEIGHTS[:, None], 5, axis=1)
    made = [MODEL.apply(variables(), X, mask=mask) for mask in (WEIGHTS, rows)]
    both = [(rec.losses, rec.metrics, rec.x[WEIGHTS > 0]) for rec in made]
    chex.assert_trees_all_close(*both, rtol=1e-6)
    rows[:, 1:] = 0
    one = MODEL.apply(variables(), X, mask=rows).losses["kl"]
    first = MODEL.apply(variables(), X[:, :1], mask=WEIGHTS).losses["kl"]
    close(one, first, rtol=1e-5)  # the row's, as if all were like it


def test_no_gradient_reaches_the_metrics_and_kl_moves_the_encoder_alone():
    def of(name):
        def value(params):
            rec = MODEL.apply({"params": params}, X)
            return {**rec.losses, **rec.metrics}[name]

        return jax.grad(value)(variables()["params"])

    assert not any(np.any(leaf) for leaf in jax.tree.leaves(of("kl_bits")))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(of("kl")["decoder"]))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(of("kl")["encoder"]))


def test_the_autoencoder_is_decoder_after_encoder():
    model = Autoencoder(MLP(DIM, 8, 1), MLP(FEATURES, 8, 1))
    v = jax.jit(model.init)(KEY, X)
    rec = model.apply(v, X, train=True, mask=WEIGHTS)
    equal(rec.z_q, rec.z_e)
    equal(rec.x, model.apply(v, model.apply(v, X, method="encode"), method="decode"))
    assert rec.indices.shape == (N, 5, 0) and rec.losses == rec.metrics == {} and rec.loss == 0


def test_models_are_their_json():
    for model in (MODEL, Autoencoder(MLP(DIM), MLP(FEATURES))):
        assert vj.from_json(vj.to_json(model)) == model


def test_bad_use(as_users):
    with pytest.raises(ValueError, match=r"\[B, \.\.\., 2 D\], got shape \(8, 5, 3\)"):
        jax.eval_shape(VAE(MLP(3), MLP(FEATURES)).init, KEY, X)
    with pytest.raises(ValueError, match=r'rngs=\{"quantize": key\} when train=True'):
        MODEL.apply(variables(), X, train=True)


# Train steps --------------------------------------------------------------------------------------

ADAM = optax.adam(0.01)
STEP = make_train_step(MODEL, ADAM, vj.likelihoods.task_loss(LIKELIHOOD), LIKELIHOOD.mean)


@functools.cache
def start():
    return init_state(MODEL, ADAM, KEY, X)._replace(params=variables()["params"])


def test_the_loss_of_a_step_is_the_evidence_bound_in_nats_an_element():
    state, metrics = jit(STEP)(start(), Batch(X, WEIGHTS))
    assert set(metrics) >= {"reconstruction", "kl", "kl_bits", "mse", "loss"}
    close(metrics["loss"], metrics["reconstruction"] + metrics["kl"], rtol=1e-6)
    kl = np.sum(WEIGHTS * kl64()) / WEIGHTS.sum() / (5 * FEATURES)
    close(metrics["kl"], 0.7 * kl, rtol=1e-5)
    assert (state.step, state.skipped) == (1, 0)
    # In many draws the reconstruction term is the mean of -ln p(x|z).
    repeated = Batch(np.tile(X[:1], (4000, 1, 1)), np.ones(4000, np.float32))
    found = jit(STEP)(start(), repeated)[1]["reconstruction"]
    mu, v = MODEL.apply(variables(), X[:1], method="posterior")
    many = [np.repeat(a, 4000, axis=0) for a in (mu, v)]
    z = draw(jax.random.key(5), *map(jnp.asarray, many))
    y = MODEL.apply(variables(), z, method="decode")
    log_p = LIKELIHOOD.log_prob(jnp.asarray(repeated.x), y)
    expected = -log_p / (5 * FEATURES)
    assert abs(found - expected.mean()) < 6 * expected.std() / math.sqrt(4000)


def test_masked_examples_drop_out_of_the_step():
    """Without noise, which depends on the place: the loss of z is left out."""
    step = jit(make_train_step(MODEL, ADAM, lambda x, y: {}, LIKELIHOOD.mean))
    masked = step(start(), Batch(np.where(WEIGHTS[:, None, None] > 0, X, 9), WEIGHTS))
    kept = step(start(), Batch(X[WEIGHTS > 0], WEIGHTS[WEIGHTS > 0]))
    for name in ("kl", "kl_bits", "gradient_norm"):
        close(masked[1][name], kept[1][name], rtol=1e-5)
    chex.assert_trees_all_close(masked[0].params, kept[0].params, rtol=1e-4, atol=1e-5)
    none, _ = step(start(), Batch(X, np.zeros(N, np.float32)))
    chex.assert_trees_all_equal(none.params, start().params)


@pytest.mark.parametrize("way", [jit_step, shard_map_step])
def test_replicas_agree_with_one_device(way):
    """The divergence exactly; the noise of replicas is their own, so a step without it."""
    model_step = make_train_step(MODEL, ADAM, lambda x, y: {}, LIKELIHOOD.mean)
    one, metrics = jax.jit(model_step)(start(), Batch(X, WEIGHTS))
    copy = jax.tree.map(jnp.copy, start())
    many, found = way(model_step, data_mesh())(copy, Batch(X, WEIGHTS))
    for name in ("kl", "kl_bits", "gradient_norm", "loss"):
        close(found[name], metrics[name], rtol=1e-5)
    chex.assert_trees_all_close(many.params, one.params, rtol=1e-4, atol=1e-5)


def test_replicas_draw_each_for_themselves():
    def train(x):
        return MODEL.apply(variables(), x, train=True, axis_name="i", rngs={RNG: KEY}).z_q

    z = jax.vmap(train, axis_name="i")(jnp.tile(X[:1], (4, 1, 1))[:, None])
    assert len(np.unique(z[:, 0, 0, 0])) == 4


def test_a_few_steps_make_the_bound_better():
    model = VAE(MLP(2 * DIM, 16, 1), MLP(2 * FEATURES, 16, 1))
    step = jit(make_train_step(model, ADAM, vj.likelihoods.task_loss(LIKELIHOOD), LIKELIHOOD.mean))
    state, losses = init_state(model, ADAM, KEY, X), []
    x = X * 0.1 + 0.3 * X[:, :1, :1]
    for _ in range(200):
        state, metrics = step(state, x)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0] - 0.8 and losses[-1] < math.log(256)
