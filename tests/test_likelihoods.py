"""Likelihoods against SciPy in float64, their five laws, their gradients; and rates by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, special, stats

import vqvae_jax as vj
from vqvae_jax.data.scaling import preprocess, to_pixels
from vqvae_jax.likelihoods import (
    LARGEST_SCALE,
    LEAST_SCALE,
    gaussian_log_mass,
    log_upper,
    logistic_log_mass,
)

ALL = np.arange(256)
X = np.asarray(preprocess(ALL.astype(np.uint8)))[:, None]  # one element, an example for each level
KEY = jax.random.key(0)
close, equal = np.testing.assert_allclose, np.testing.assert_array_equal
BY_SCALE = {
    "gaussian": (vj.likelihoods.gaussian, stats.norm),
    "logistic": (vj.likelihoods.logistic, stats.logistic),
}
PMFS = {
    "gaussian": vj.likelihoods.gaussian(),
    "logistic": vj.likelihoods.logistic(),
    "mixture": vj.likelihoods.mixture(3),
    "categorical": vj.likelihoods.categorical(),
}
LOG_PROB = {name: jit(likelihood.log_prob) for name, likelihood in PMFS.items()}


def log_prob(likelihood, x, y):
    return likelihood.log_prob(jnp.asarray(x), jnp.asarray(y))


def log_mass64(law, k, mu, s):
    """ln P(k) in float64, mu and s in grey levels; from the side whose tail is the smaller."""
    a, b = (k - 0.5 - mu) / s, (k + 0.5 - mu) / s
    a, b = np.where(k == 0, -np.inf, a), np.where(k == 255, np.inf, b)
    a, b = np.where(a + b > 0, -b, a), np.where(a + b > 0, -a, b)
    low, high = law.logcdf(a), law.logcdf(b)
    return high + np.log1p(-np.exp(low - high))


def outputs(name, seed):
    """Random outputs of a decoder for one element [1, P], and wild ones for seeds > 4."""
    y = np.random.default_rng(seed).normal(size=(1, PMFS[name].outputs))
    return np.float32(y * (1 if seed < 5 else 20) - (name != "categorical"))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", PMFS)
def test_the_probabilities_of_all_levels_add_up_to_1(name, seed):
    y = np.repeat(outputs(name, seed), 256, axis=0)
    log_p = np.float64(LOG_PROB[name](X, y))
    assert log_p.max() <= 1e-6
    assert special.logsumexp(log_p) == pytest.approx(0, abs=2e-5)


@pytest.mark.parametrize("mu", [-0.7, -0.5, -0.123, 0.0, 0.31, 0.5, 2.0])
@pytest.mark.parametrize("s", [LEAST_SCALE, 1 / 255, 0.01, 0.1, 0.5, 3.0])
@pytest.mark.parametrize("name", BY_SCALE)
def test_masses_are_those_of_scipy_in_float64(name, s, mu):
    factory, law = BY_SCALE[name]
    wide = log_mass64(law, ALL, (np.float64(np.float32(mu)) + 0.5) * 255, 255 * s)
    y = jnp.full((256, 1), mu, jnp.float32)
    found = jax.jit(factory(s).log_prob)(X, y)
    tolerance = {"gaussian": 5e-5, "logistic": 5e-6}[name]  # in nats, and of them far away
    close(found, wide, rtol=tolerance, atol=tolerance)
    both = jnp.concatenate([y, jnp.full_like(y, math.log(s))], axis=1)
    close(LOG_PROB[name](X, both), found, rtol=1e-4, atol=1e-4)  # the decoder gives the scale


def test_the_upper_tail_and_its_slope_in_float64():
    t = np.float32([-8, -1, 0, 3, 9.9, 10.1, 30, 400, 1e5])
    close(jit(log_upper)(t), special.log_ndtr(-np.float64(t)), rtol=3e-7, atol=1e-7)
    slope = jit(jax.vmap(jax.grad(log_upper)))(t)
    hazard = np.exp(stats.norm.logpdf(t[:7]) - special.log_ndtr(-np.float64(t[:7])))
    close(slope[:7], -hazard, rtol=1e-4)
    close(slope[7:], -t[7:], rtol=1e-4)


@pytest.mark.parametrize("log_mass", [gaussian_log_mass, logistic_log_mass])
def test_gradients_are_differences_and_finite_in_the_far_tails(log_mass):
    slope = jit(jax.vmap(jax.grad(log_mass, (1, 2))))
    law = stats.norm if log_mass is gaussian_log_mass else stats.logistic
    k, mu = np.float32([0, 3, 128, 200, 255, 7]), np.float32([0.1, -0.4, 0.02, 0.1, 0.2, 0.3])
    s, h = np.float32([0.2, 0.05, 0.01, 0.004, 1.0, 0.3]), 1e-6

    def wide(mu, s):
        return log_mass64(law, k, (mu + 0.5) * 255, 255 * s)

    m, v = np.float64(mu), np.float64(s)
    found = slope(k, mu, s)
    close(found[0], (wide(m + h, v) - wide(m - h, v)) / (2 * h), rtol=1e-3)
    close(found[1], (wide(m, v + h * v) - wide(m, v - h * v)) / (2 * h * v), rtol=1e-3)
    far = np.float32(
        np.meshgrid([0, 1, 100, 254, 255], [-1e4, -9, 9, 1e4], [LEAST_SCALE, LARGEST_SCALE])
    )
    for part in slope(*(axis.ravel() for axis in far)):
        assert np.all(np.isfinite(part))
    steep, _ = slope(np.float32([100]), np.float32([9]), np.float32([LEAST_SCALE]))
    assert steep < 0  # towards the level


@pytest.mark.parametrize("name", PMFS)
def test_gradients_of_wild_outputs_are_finite(name):
    y = np.float32([-1e6, -300, 0, 300, 1e6])[:, None] * np.sign(outputs(name, 0))
    x = np.repeat(X[[0, 128, 255]], len(y), axis=0)
    slope = jit(jax.grad(lambda y: log_prob(PMFS[name], x, y).sum()))(np.tile(y, (3, 1)))
    assert np.all(np.isfinite(slope))


def test_equal_logits_are_8_bits_and_no_law_codes_noise_in_less():
    """Noise is uniform on the levels: by Gibbs' inequality 8 bits are the least."""
    flat = LOG_PROB["categorical"](X, jnp.zeros((256, 256)))
    close(-flat / math.log(2), 8, rtol=1e-6)
    equal(flat, flat[0])
    for name in BY_SCALE:
        y = np.stack(np.meshgrid([-0.2, 0.0, 0.4], np.log(np.geomspace(0.01, 9, 20))), -1)
        tried = y.reshape(-1, 2).astype(np.float32)
        bits = [np.mean(-LOG_PROB[name](X, np.tile(row, (256, 1)))) / math.log(2) for row in tried]
        assert 8 < min(bits) < 8.3


@pytest.mark.parametrize("s", [4 / 255, 0.05, 0.2])
def test_the_dequantized_density_agrees_where_the_scale_is_wide(s):
    rng = np.random.default_rng(0)
    x = preprocess(np.clip(rng.normal(128, 255 * s, 4000), 1, 254).round().astype(np.uint8))[
        :, None
    ]
    y = jnp.zeros_like(x)
    inside = np.ravel(np.abs(x) < 0.499)  # the density has no open tails
    masses, density = (
        np.asarray(log_prob(law, x, y))[inside]
        for law in (vj.likelihoods.gaussian(s), vj.likelihoods.dequantized_gaussian(s))
    )
    gap = np.mean(masses - density) / math.log(2)
    assert 0 <= gap < 0.02
    tight = (
        log_prob(vj.likelihoods.gaussian(1 / 255), x, y),
        log_prob(vj.likelihoods.dequantized_gaussian(1 / 255), x, y),
    )
    assert np.all(tight[0] >= tight[1] - 1e-3)  # Jensen


def test_the_density_is_the_mean_over_the_noise_whatever_the_scale_of_the_data():
    """-E ln N + 8 bits for data in [0, 1) (+ 7 in [-1, 1)), of which a level is 1/256 (1/128)."""
    k, mu, s = 100, 104.5, 9.0  # grey levels
    x, y = X[[k]], np.full((1, 1), mu / 255 - 0.5, np.float32)
    found = -log_prob(vj.likelihoods.dequantized_gaussian(s / 255), x, y)[0] / math.log(2)
    for unit, extra in ((1 / 256, 8), (1 / 128, 7), (1.0, 0), (1 / 255, math.log2(255))):
        law = stats.norm(mu * unit, s * unit)
        noisy = integrate.quad(lambda u: law.logpdf((k + u) * unit), -0.5, 0.5)[0]  # noqa: B023
        assert found == pytest.approx(-noisy / math.log(2) + extra, rel=1e-5)


@pytest.mark.parametrize("name", BY_SCALE)
def test_masses_are_the_same_whatever_the_scale_of_the_data(name):
    factory, law = BY_SCALE[name]
    mu, s, k = 90.0, 12.0, np.arange(1, 255)
    found = log_prob(factory(s / 255), X[1:255], np.full((254, 1), mu / 255 - 0.5, np.float32))
    for low, unit in ((0, 1), (0, 1 / 255), (-1, 2 / 255)):
        scaled = law(low + mu * unit, s * unit)
        edges = [scaled.cdf(low + (k + side) * unit) for side in (-0.5, 0.5)]
        close(np.exp(np.float64(found)), edges[1] - edges[0], atol=1e-7)


def test_a_mixture_of_one_is_the_logistic_and_of_more_the_mean_of_their_laws():
    y = np.float32([[0.3, 0.1, -2.0]])
    equal_y = np.repeat(y[:, 1:], 256, axis=0)
    one = log_prob(vj.likelihoods.mixture(1), X, np.repeat(y, 256, axis=0))
    close(one, LOG_PROB["logistic"](X, equal_y), rtol=1e-6)
    logits, mu, log_s = np.random.default_rng(3).normal(size=(3, 3)) - 1
    pi = special.softmax(logits)
    parts = [log_mass64(stats.logistic, ALL, (m + 0.5) * 255, 255 * np.exp(ls))
             for m, ls in zip(mu, log_s, strict=True)]  # fmt: skip
    wide = special.logsumexp(parts, axis=0, b=pi[:, None])
    row = np.float32(np.concatenate([logits, mu, log_s]))
    close(LOG_PROB["mixture"](X, np.tile(row, (256, 1))), wide, rtol=1e-4, atol=1e-4)
    expected = np.sum(pi * np.clip(mu, -0.5, 0.5))
    close(vj.likelihoods.mixture(3).mean(jnp.asarray(row[None]))[0, 0], expected, rtol=1e-5)


@pytest.mark.parametrize("name", PMFS)
def test_channels_are_blocks_and_examples_are_sums(name):
    likelihood, rng = PMFS[name], np.random.default_rng(1)
    n = likelihood.outputs
    x = preprocess(rng.integers(0, 256, (2, 3, 2, 3), np.uint8))
    y = jnp.float32(rng.normal(size=(2, 3, 2, n * 3)))
    apart = y.reshape(2, 3, 2, n, 3)
    total = np.zeros(2)
    for h, w, c in np.ndindex(3, 2, 3):
        total += np.float64(LOG_PROB[name](x[:, h, w, c, None], apart[:, h, w, :, c]))
    close(log_prob(likelihood, x, y), total, rtol=1e-5)
    assert likelihood.mean(y).shape == likelihood.sample(KEY, y).shape == x.shape
    close(likelihood.mean(y)[..., 1], likelihood.mean(apart[..., 1])[..., 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", PMFS)
def test_samples_follow_the_masses(name):
    y = outputs(name, 1)
    if name in BY_SCALE:
        y[:, 1] = -2
    drawn = jit(lambda y: PMFS[name].sample(KEY, y))(np.repeat(y, 20_000, axis=0))
    k = np.asarray(to_pixels(drawn))
    equal(preprocess(k), drawn)  # on the grid bit by bit
    p = np.exp(np.float64(LOG_PROB[name](X, np.repeat(y, 256, axis=0))))
    bins = np.array_split(np.arange(256), 16)
    seen = np.array([np.isin(k, part).mean() for part in bins])
    expected = np.array([p[part].sum() for part in bins])
    assert np.all(np.abs(seen - expected) < 4 * np.sqrt(expected / 20_000) + 1e-4)


@pytest.mark.parametrize("name", PMFS)
def test_the_samples_of_many_keys_follow_the_masses(name):
    """What one draw needs of randomness, a component and its noise, is independent."""
    y = outputs(name, 1)
    if name == "mixture":  # components that do not overlap: three bins of equal mass each
        y[0, :3], y[0, 3:6], y[0, 6:] = [0.3, 0.0, -0.3], [-0.3, 0.0, 0.3], -4.5
    keys = jax.random.split(KEY, 20_000)
    k = np.ravel(to_pixels(jit(jax.vmap(PMFS[name].sample, (0, None)))(keys, jnp.asarray(y))))
    p = np.exp(np.float64(LOG_PROB[name](X, np.repeat(y, 256, axis=0))))
    bins = np.array_split(np.arange(256), 32)
    expected = np.array([p[part].sum() for part in bins])
    seen = np.array([np.isin(k, part).mean() for part in bins])
    assert np.all(np.abs(seen - expected) < 4 * np.sqrt(expected / 20_000) + 1e-4)


@pytest.mark.parametrize("name", [*PMFS, "dequantized"])
def test_each_element_of_a_sample_has_noise_of_its_own(name):
    likelihood = PMFS.get(name, vj.likelihoods.dequantized_gaussian(0.1))
    y = jnp.tile(jnp.repeat(outputs(name, 1)[0], 3) if name in PMFS else jnp.zeros(3), (2, 1))
    keys = jax.random.split(KEY, 2000)
    drawn = np.reshape(jit(jax.vmap(likelihood.sample, (0, None)))(keys, y), (2000, 6))
    assert np.abs(np.corrcoef(drawn, rowvar=False) - np.eye(6)).max() < 0.1
    if name == "dequantized":
        close(drawn.std(), 0.1, rtol=0.03)


def test_means_are_reconstructions():
    y = jnp.asarray([[0.2, -3], [-4, -3], [4, 0]], jnp.float32)
    for name in BY_SCALE:
        equal(np.ravel(PMFS[name].mean(y)), np.float32([0.2, -0.5, 0.5]))  # tails are open
    close(vj.likelihoods.categorical().mean(jnp.zeros((1, 256))), 0, atol=1e-6)
    sure = 100 * jax.nn.one_hot(jnp.array([0, 7, 255]), 256)
    close(np.ravel(vj.likelihoods.categorical().mean(sure)), np.ravel(X)[[0, 7, 255]], atol=1e-6)
    equal(vj.likelihoods.dequantized_gaussian(0.1).mean(jnp.array([[0.7]])), 0.5)


def test_the_scale_of_a_decoder_is_clipped():
    for name in BY_SCALE:
        tiny, least = ([[0.1, v]] for v in (-50.0, math.log(LEAST_SCALE)))
        x = X[[153]]
        equal(LOG_PROB[name](x, np.float32(tiny)), LOG_PROB[name](x, np.float32(least)))
        huge, most = ([[0.1, v]] for v in (200.0, math.log(LARGEST_SCALE)))
        equal(LOG_PROB[name](x, np.float32(huge)), LOG_PROB[name](x, np.float32(most)))
    for wild, edge in (
        (-50, math.log(LEAST_SCALE)),
        (200, math.log(LARGEST_SCALE)),
    ):  # of each component
        y = np.tile(np.float32([[0, 0, 0, -0.2, 0.1, 0.3, wild, wild, wild]]), (256, 1))
        clipped = np.where(y == wild, np.float32(edge), y)
        equal(LOG_PROB["mixture"](X, y), LOG_PROB["mixture"](X, clipped))


def test_bfloat16_outputs_are_computed_with_in_float32():
    y = jnp.tile(jnp.bfloat16([0.25, -2.0]), (256, 1))
    assert log_prob(vj.likelihoods.logistic(), X, y).dtype == jnp.float32
    close(
        log_prob(vj.likelihoods.logistic(), X, y),
        log_prob(vj.likelihoods.logistic(), X, jnp.float32(y)),
    )


def test_pixels_off_the_grid_are_rounded_and_clipped():
    y = np.float32([[0.1, -2.0]])
    for x, k in ((-0.7, 0), (0.1004, 153), (0.9, 255)):
        close(LOG_PROB["logistic"](np.float32([[x]]), y), LOG_PROB["logistic"](X[[k]], y))


def test_the_task_loss_is_in_nats_an_element():
    x, y = jnp.zeros((2, 4, 3, 1)), jnp.zeros((2, 4, 3, 256))
    loss = vj.likelihoods.task_loss(vj.likelihoods.categorical())(x, y)
    assert list(loss) == ["reconstruction"]
    close(loss["reconstruction"], [math.log(256)] * 2, rtol=1e-6)


def test_bad_input(as_users):
    with pytest.raises(ValueError, match=r"y must be \(2, 4, 2\), 2 for each .* got \(2, 4, 1\)"):
        log_prob(vj.likelihoods.logistic(), jnp.zeros((2, 4, 1)), jnp.zeros((2, 4, 1)))
    with pytest.raises(ValueError, match=r"a multiple of 2 channels, got shape \(2, 3\)"):
        vj.likelihoods.gaussian().mean(jnp.zeros((2, 3)))
    with pytest.raises(TypeError, match="x must be float, got uint8"):
        log_prob(vj.likelihoods.gaussian(0.1), jnp.zeros((2, 1), jnp.uint8), jnp.zeros((2, 1)))
    with pytest.raises(ValueError, match=r"scale must be in \[0.0019.*, 10.0\), got 0.001"):
        vj.likelihoods.logistic(0.001)
    with pytest.raises(ValueError, match=r"scale must be in \[0.0039.*, inf\), got 0.003"):
        vj.likelihoods.dequantized_gaussian(0.003)
    with pytest.raises(ValueError, match="n must be an integer >= 1, got 0"):
        vj.likelihoods.mixture(0)


def test_a_likelihood_is_its_call():
    assert vj.likelihoods.gaussian() == vj.likelihoods.gaussian(None) != vj.likelihoods.logistic()
    assert vj.from_json(vj.to_json(vj.likelihoods.mixture(5))) == vj.likelihoods.mixture(n=5)


# Rates --------------------------------------------------------------------------------------------


def test_the_uniform_rate_is_n_log2_k():
    close(vj.rates.uniform_bits((512,), jnp.zeros((3, 7, 7, 1), jnp.int32)), 49 * 9)
    codes = jnp.array([[[0, 2], [1, -1]], [[-1, -1], [0, 3]]])
    close(vj.rates.uniform_bits((2, 5), codes), [2 + math.log2(5), 1 + math.log2(5)], rtol=1e-6)


@given(st.integers(0, 2**32 - 1))
def test_the_static_rate_is_the_cross_entropy_under_the_training_histogram(seed):
    rng, vocab = np.random.default_rng(seed), (3, 6)
    train, test = (np.stack([rng.integers(-1, k, (5, 4)) for k in vocab], -1) for _ in range(2))
    expected = np.zeros(5)
    for i, place, q in np.ndindex(5, 4, 2):
        k, seen = test[i, place, q], train[..., q]
        if k >= 0:
            expected[i] -= np.log2((np.sum(seen == k) + 1) / (np.sum(seen >= 0) + vocab[q]))
    found = vj.rates.static_bits(
        vj.metrics.code_counts(vocab, jnp.asarray(train)), jnp.asarray(test)
    )
    close(found, expected, rtol=1e-5)


def test_a_flat_histogram_is_the_uniform_rate_and_none_costs_no_more_than_the_truth():
    codes = jnp.asarray(np.random.default_rng(0).integers(0, 8, (50, 9, 1)) ** 2 // 8)
    flat = vj.rates.static_bits([jnp.full(8, 5.0)], codes)
    close(flat, vj.rates.uniform_bits((8,), codes), rtol=1e-6)
    counts = vj.metrics.code_counts((8,), codes)
    entropy = float(vj.metrics.usage(counts[0])["bits"])
    own = float(jnp.mean(vj.rates.static_bits([1000 * counts[0]], codes))) / 9
    assert own == pytest.approx(entropy, rel=1e-3)
    assert float(jnp.mean(vj.rates.static_bits([counts[0][::-1]], codes))) / 9 > entropy


def test_bits_per_dim_keeps_its_terms():
    bits = vj.rates.bits_per_dim(jnp.array([3.0, 5.0]) * math.log(2), jnp.array([1.0, 2.0]), 4)
    close(bits, [[0.75, 1.25], [0.25, 0.5], [1.0, 1.75]], rtol=1e-6)
    assert bits.total is bits[2]


def test_the_gaussian_of_the_error_by_hand():
    mse = 0.00354
    assert vj.rates.bpd_gauss_mse(mse, mse) == pytest.approx(
        0.5 * math.log2(2 * math.pi * math.e * mse) + math.log2(255)
    )
    x = np.random.default_rng(0).normal(0, 0.05, 10_000)
    density = -np.mean(stats.norm.logpdf(x, 0, 0.06)) / math.log(2) + math.log2(255)
    assert vj.rates.bpd_gauss_mse(float(np.mean(x**2)), 0.06**2) == pytest.approx(density, rel=1e-9)


def test_bad_rates(as_users):
    with pytest.raises(ValueError, match=r"\[\.\.\., 2\], got shape \(1, 3\)"):
        vj.rates.uniform_bits((4, 4), jnp.zeros((1, 3), int))
    with pytest.raises(ValueError, match="must be from -1 to 1, got 2 to 2"):
        vj.rates.static_bits([jnp.ones(2)], jnp.full((1, 1), 2))
    with pytest.raises(ValueError, match="dims must be an integer >= 1, got 0"):
        vj.rates.bits_per_dim(1.0, 1.0, 0)
    with pytest.raises(ValueError, match=r"train_mse >= 1 / 255\^2 .* got 1e-06, 0.001"):
        vj.rates.bpd_gauss_mse(1e-3, 1e-6)
