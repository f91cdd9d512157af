"""Quantizers that draw noise, against their formulas in float64 with the same noise."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference as ref
from compiling import jit
from scipy import stats

import vqvae_jax as vj

K, D, N = 5, 3, 12
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
E = RNG.normal(size=(K, D)).astype(np.float32)
Z = RNG.normal(size=(N, D)).astype(np.float32)
C = RNG.normal(size=(N, D)).astype(np.float32)
WEIGHTS = RNG.choice([0, 0.5, 1, 2], N).astype(np.float32)
NEAREST = ref.nearest64(Z, E)
GIVEN = vj.inits.given(E)
close = partial(np.testing.assert_allclose, rtol=1e-5, atol=2e-6)
same = np.testing.assert_array_equal


def objective(q, params, z, train=True, key=KEY, mask=None):
    """sum(C quantized), with its gradient for params and rows; and what came out."""

    def loss(params, z):
        out, _ = q.apply(params, {}, z, train=train, key=key, mask=mask)
        return jnp.sum(C * out.quantized), out

    (dparams, dz), out = jax.grad(loss, (0, 1), has_aux=True)(params, jnp.asarray(z))
    return dparams, dz, out


def losses_and_gradients(q, params, z, mask):
    def loss(params, z):
        out, _ = q.apply(params, {}, z, train=True, key=KEY, mask=jnp.asarray(mask))
        return out.loss, out

    (_, out), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(params, jnp.asarray(z))
    return out, *gradients


def norm(x):
    return np.linalg.norm(x, axis=-1, keepdims=True)


def softmax64(x):
    p = np.exp(ref.f64(x) - ref.f64(x).max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def gumbel_noise(key=KEY, n=N):
    return ref.f64(jax.random.gumbel(key, (n, K)))


def slopes(f, x, h=1e-6):
    """The gradient of f by central differences, in float64."""
    steps = h * np.eye(x.size).reshape(x.size, *x.shape)
    return np.array([(f(x + s) - f(x - s)) / (2 * h) for s in steps]).reshape(x.shape)


@pytest.mark.parametrize("sigma", [0.3, 0.0, None])
def test_noise_as_long_as_the_error_carries_the_gradient(sigma):
    """diveq of two sigmas, and nsvq, whose direction is noise alone."""
    q = vj.nsvq(K, D, init=GIVEN) if sigma is None else vj.diveq(K, D, sigma=sigma, init=GIVEN)
    params, _ = q.init(KEY)
    dparams, dz, out = objective(q, params, Z)
    n, error = (
        ref.f64(jax.random.normal(jax.random.fold_in(KEY, 3), Z.shape)),
        ref.f64(E)[NEAREST] - Z,
    )
    direction = n if sigma is None else error + sigma * n
    s = direction / norm(direction)
    same(out.indices[:, 0], NEAREST)
    close(out.quantized, Z + norm(error) * s)
    close(norm(ref.f64(out.quantized) - Z), norm(error))
    if sigma == 0:
        close(out.quantized, E[NEAREST])
    along = (s * C).sum(-1, keepdims=True) * error / norm(error)
    close(dz, C - along)
    close(dparams["codebook"], ref.hits_and_totals(along, NEAREST, K)[1])
    assert out.losses == {} and out.loss == 0
    _, dz, out = objective(q, params, Z, train=False, key=None)
    same(out.quantized, E[NEAREST])
    close(dz, C)


@pytest.mark.parametrize("q", [vj.diveq(K, D, init=GIVEN), vj.nsvq(K, D, init=GIVEN)])
def test_noise_has_no_length_at_a_code_or_in_a_row_that_does_not_count(q):
    z = Z.copy()
    z[0], z[1], z[2] = E[3], np.nan, 0
    dparams, dz, out = objective(q, q.init(KEY)[0], z, mask=jnp.ones(N).at[3].set(0))
    same(out.quantized[0], E[3])
    same(out.quantized[np.array([1, 3])], 0)
    same(out.indices[np.array([1, 3]), 0], -1)
    same(dz[np.array([1, 3])], 0)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((dparams, dz)))


@pytest.mark.parametrize("make", [vj.diveq, vj.nsvq])
def test_a_row_at_a_code_passes_its_gradient_on_at_the_origin_too(make):
    q = make(K, D, init=vj.inits.given(np.concatenate([E[1:], np.zeros((1, D), np.float32)])))
    z = Z.copy()
    z[0], z[1] = E[3], 0
    _, dz, out = objective(q, q.init(KEY)[0], z)
    same(out.quantized[:2], z[:2])
    same(dz[:2], C[:2])


@pytest.mark.parametrize("q", [vj.diveq(K, D), vj.nsvq(K, D), vj.gumbel_vq(K, D), vj.sqvae(K, D)])
def test_replicas_draw_their_own_noise_and_training_needs_a_key(q):
    params, state = q.init(KEY)
    step = partial(q.apply, params, state, train=True, axis_name="i")
    out, _ = jit(jax.vmap(lambda z: step(z, key=KEY), axis_name="i"))(jnp.stack([Z, Z]))
    assert q.stochastic and np.abs(out.quantized[0] - out.quantized[1]).max() > 1e-3
    with pytest.raises(ValueError, match="needs key= when train=True: it draws noise"):
        q.apply(params, state, jnp.asarray(Z), train=True)


def gumbel_params():
    rng = np.random.default_rng(1)
    weight, bias = rng.normal(size=(D, K)), rng.normal(size=K)
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32),
                        {"codebook": E, "weight": weight, "bias": bias})  # fmt: skip


def test_gumbel_softmax_is_a_code_in_value_and_relaxed_in_gradient():
    temperature, params = 0.7, gumbel_params()
    w, b = ref.f64(params["weight"]), ref.f64(params["bias"])
    noisy = Z @ w + b + gumbel_noise()
    p, k = softmax64(noisy / temperature), noisy.argmax(-1)
    dp = C @ ref.f64(E).T
    dlogits = p * (dp - (p * dp).sum(-1, keepdims=True)) / temperature
    for relax, y, value in (
        (vj.quantizers.hard, np.eye(K)[k], E[k]),
        (vj.quantizers.soft, p, p @ E),
    ):
        q = vj.gumbel_vq(K, D, temperature=temperature, init=GIVEN, relax=relax)
        dparams, dz, out = objective(q, params, Z)
        same(out.indices[:, 0], k)
        (same if relax is vj.quantizers.hard else close)(out.quantized, value)
        close(dz, dlogits @ w.T)
        close(dparams["weight"], Z.T @ dlogits, atol=1e-5)
        close(dparams["bias"], dlogits.sum(0), atol=1e-5)
        close(dparams["codebook"], y.T @ C)
        close(out.metrics["error"], ref.mse(Z, value))
        out = objective(q, params, Z, train=False, key=None)[2]
        same(out.indices[:, 0], (Z @ w + b).argmax(-1))
        same(out.quantized, E[out.indices[:, 0]])


def test_gumbel_kl_and_its_gradient_in_float64():
    q, params = vj.gumbel_vq(K, D, kl=0.3, init=GIVEN), gumbel_params()

    def kl64(w):
        p = softmax64(Z @ w + ref.f64(params["bias"]))
        return 0.3 * np.average((p * np.log(K * p)).sum(-1), weights=WEIGHTS)

    out, dparams, _ = losses_and_gradients(q, params, Z, WEIGHTS)
    assert out.losses.keys() == {"kl"}
    close(out.loss, kl64(ref.f64(params["weight"])))
    close(dparams["weight"], slopes(kl64, ref.f64(params["weight"])))


def chi_square(counts, p):
    return stats.chisquare(counts, counts.sum() * p).pvalue


def test_drawn_codes_occur_as_often_as_their_posterior_says():
    """Gumbel's softmax(logits), whatever the temperature; SQ-VAE's softmax(-|z - e|^2 / 2 s^2)."""
    n, params = 3000, gumbel_params()
    z = jnp.repeat(jnp.asarray(Z[:1]), n, axis=0)
    gumbel = vj.gumbel_vq(K, D, temperature=0.3, init=GIVEN)
    logits = Z[:1] @ ref.f64(params["weight"]) + ref.f64(params["bias"])
    sq_params = {"codebook": params["codebook"], "log_variance": jnp.log(0.8)}
    posterior = -ref.distances(Z[:1], E) / 1.6
    for q, given, x in ((gumbel, params, logits), (vj.sqvae(K, D), sq_params, posterior)):
        out, _ = q.apply(given, {}, z, train=True, key=KEY)
        counts = np.bincount(out.indices[:, 0], minlength=K)
        assert chi_square(counts, softmax64(x)[0]) > 1e-3
        assert chi_square(counts, softmax64(2 * x)[0]) < 1e-9


def sqvae_parts(z, e, s2, temperature=0.6):
    """z_q, |z - z_q|^2 / 2 s^2 and log K - H of each row, in float64."""
    logits = -np.square(z[:, None] - e).sum(-1) / (2 * s2)
    p = softmax64(logits)
    z_q = softmax64((logits + gumbel_noise()) / temperature) @ e
    return z_q, np.square(z - z_q).sum(-1) / (2 * s2), np.log(K) + (p * np.log(p)).sum(-1)


def test_sqvae_losses_and_gradients_in_float64():
    q = vj.sqvae(K, D, temperature=0.6, variance=0.8, weight=2.0, init=GIVEN)
    params, _ = q.init(KEY)
    close(np.exp(params["log_variance"]), 0.8)
    out, dparams, dz = losses_and_gradients(q, params, Z, WEIGHTS)
    z, e, log_s2 = ref.f64(Z), ref.f64(E), np.log(0.8)

    def loss(z, e, log_s2):
        parts = sqvae_parts(z, e, np.exp(log_s2))[1:]
        return [2 / D * np.average(x, weights=WEIGHTS) for x in parts]

    total = lambda *args: sum(loss(*args))  # noqa: E731
    continuous, discrete = loss(z, e, log_s2)
    close(out.losses["continuous"], continuous)
    close(out.losses["discrete"], discrete)
    close(out.metrics["variance"], 0.8)
    weighted = (WEIGHTS > 0)[:, None]
    z_q = sqvae_parts(z, e, 0.8)[0]
    close(out.quantized, weighted * z_q)
    close(dz, slopes(lambda z: total(z, e, log_s2), z), atol=1e-5)
    close(dparams["codebook"], slopes(lambda e: total(z, e, log_s2), e), atol=1e-5)
    by_variance = slopes(lambda x: total(z, e, x[0]), np.array([log_s2]))[0]
    close(dparams["log_variance"], by_variance, atol=1e-5)


def test_sqvae_takes_the_nearest_code_in_eval_mode():
    q = vj.sqvae(K, D, variance=100.0, init=GIVEN)
    _, dz, out = objective(q, q.init(KEY)[0], Z, train=False, key=None)
    same(out.indices[:, 0], NEAREST)
    same(out.quantized, E[NEAREST])
    close(dz, C)


def train_autoencoder(q, x, steps=800):
    """A linear one, by |x - x'|^2 / 2 s_x^2 + log s_x of a learnt s_x: its codes, and s^2."""
    optimizer = optax.adam(1e-2)

    def loss(trained, key):
        params, encoder, decoder, log_s2 = trained
        out, _ = q.apply(params, {}, x @ encoder, train=True, key=key)
        square = jnp.mean(jnp.square(x - out.quantized @ decoder))
        return square / (2 * jnp.exp(log_s2)) + log_s2 / 2 + out.loss, out.metrics

    def step(carry, key):
        gradient, metrics = jax.grad(loss, has_aux=True)(carry[0], key)
        updates, moments = optimizer.update(gradient, carry[1])
        return (optax.apply_updates(carry[0], updates), moments), metrics.get("variance")

    trained = q.init(KEY)[0], jnp.eye(D), jnp.eye(D), jnp.zeros(())
    run = jit(lambda carry: jax.lax.scan(step, carry, jax.random.split(KEY, steps)))
    ((params, encoder, *_), _), variance = run((trained, optimizer.init(trained)))
    return q.encode(params, {}, x @ encoder)[:, 0], variance


def test_sqvae_anneals_itself_and_uses_codes_that_vq_leaves_dead():
    """From codes of which one is ahead of the others, nearest to almost all rows."""
    centres = np.repeat(2 * np.random.default_rng(3).normal(size=(8, D)), 8, axis=0)
    x = centres + 0.05 * np.random.default_rng(0).normal(size=centres.shape)
    start = 3 + 0.3 * np.random.default_rng(4).normal(size=(8, D))
    start[0] = 2
    plain = vj.vq(8, D, init=vj.inits.given(start))
    drawn = vj.sqvae(8, D, variance=3.0, weight=0.1, init=vj.inits.given(start))
    used = []
    for q in (plain, drawn):
        k, variance = train_autoencoder(q, jnp.asarray(x, jnp.float32))
        used.append(ref.perplexity(np.bincount(k, minlength=8)))
    assert used[0] < 3 and used[1] > 4.5
    assert variance[-1] < 0.3 * variance[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vj.diveq(8, 2, sigma=-1), "sigma must be .*got -1"),
        (lambda: vj.gumbel_vq(8, 2, temperature=0), "temperature must be > 0, got 0"),
        (lambda: vj.gumbel_vq(8, 2, kl=-1), "kl must be .*got -1"),
        (lambda: vj.gumbel_vq(8, 2, init=vj.inits.samples()), "init must not need a batch here"),
        (lambda: vj.sqvae(8, 2, variance=0), "variance must be > 0, got 0"),
        (lambda: vj.sqvae(8, 2, weight=-1), "weight must be .*got -1"),
        (lambda: vj.sqvae(0, 2), "size must be an integer >= 1, got 0"),
    ],
)
def test_options_out_of_range_are_named(as_users, call, message):
    with pytest.raises(ValueError, match=message):
        call()
