"""Every term of the loss against its gradient on paper; the straight-through estimator bit by bit.

With z [N, D] and its codes e_k: d mean|z - e_k|^2 / dz = 2 (z - e_k) / (N D), and the other way
round, summed over the rows of each code, for the codebook.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref

from vqvae_jax import ema_vq, lookup, quantize, straight_through, vq
from vqvae_jax.losses import codebook_loss, commitment_loss
from vqvae_jax.reductions import mean

N, SIZE, DIM = 24, 7, 5
close = np.testing.assert_allclose


def setting(seed=0):
    """Rows, a codebook, float64's codes, and the latter's rows."""
    rng = np.random.default_rng(seed)
    z, e = rng.normal(size=(N, DIM)).astype(np.float32), rng.normal(size=(SIZE, DIM))
    e = e.astype(np.float32)
    assert not ref.near_tie(z, e).any()
    k = ref.nearest64(z, e)
    return jnp.asarray(z), jnp.asarray(e), k, ref.f64(e)[k]


def push(z, z_q, weights=None):
    """The gradient of mean|z - z_q|^2 in z, in float64."""
    w = np.ones(len(z)) if weights is None else ref.f64(weights)
    return 2 * w[:, None] * (ref.f64(z) - z_q) / (w.sum() * z.shape[-1])


def pull(z, z_q, k, weights=None):
    """Its gradient in the codebook."""
    return -ref.hits_and_totals(push(z, z_q, weights), k, SIZE)[1]


def by_equations(z, e, beta):
    z_q, _, losses = quantize(z, e, beta)
    return z_q, losses


def by_vq(z, e, beta, **options):
    out, _ = vq(SIZE, DIM, beta=beta).apply({"codebook": e}, {}, z, **options)
    return out.quantized, out.losses


def by_ema(z, e, beta, **options):
    state = {"codebook": e, "counts": jnp.ones(SIZE), "sums": e}
    out, _ = ema_vq(SIZE, DIM, beta=beta).apply({}, state, z, **options)
    return out.quantized, out.losses


@pytest.mark.parametrize("weighted", [False, True])
def test_each_term_moves_its_own_side_only(weighted):
    z, _, _, z_q = setting()
    w = jnp.arange(N, dtype=jnp.float32) if weighted else None
    of_codes = jax.value_and_grad(codebook_loss, (0, 1))(z, jnp.float32(z_q), w)
    of_rows = jax.value_and_grad(commitment_loss, (0, 1))(z, jnp.float32(z_q), w)
    for value, _ in (of_codes, of_rows):
        close(value, ref.mse(z, z_q, w), rtol=1e-6)
    close(of_codes[1][1], -push(z, z_q, w), 1e-5, 1e-8)
    close(of_rows[1][0], push(z, z_q, w), 1e-5, 1e-8)
    np.testing.assert_array_equal(of_codes[1][0], 0)
    np.testing.assert_array_equal(of_rows[1][1], 0)


@pytest.mark.parametrize("beta", [0.25, 3.0])
@pytest.mark.parametrize("route", [by_equations, by_vq, by_ema])
def test_each_weighted_term_of_a_quantizer_moves_its_own_side_only(route, beta):
    z, e, k, z_q = setting()
    names = ("commitment",) if route is by_ema else ("codebook", "commitment")
    assert sorted(route(z, e, beta)[1]) == sorted(names)
    for name in names:
        weight, rows, codes = (1, 0, 1) if name == "codebook" else (beta, 1, 0)
        loss, (dz, de) = jax.value_and_grad(lambda *x, n=name: route(*x, beta)[1][n], (0, 1))(z, e)
        close(loss, weight * ref.mse(z, z_q), rtol=1e-6)
        close(dz, rows * weight * push(z, z_q), 1e-5, 1e-8)
        close(de, codes * weight * pull(z, z_q, k), 1e-5, 1e-8)


@pytest.mark.parametrize("beta", [0.25, 3.0])
@pytest.mark.parametrize("route", [by_equations, by_vq, by_ema])
def test_gradient_of_the_whole_objective(route, beta):
    """A task loss sum(cos(z_q)) as well: its gradient passes to z, and only there."""
    z, e, k, z_q = setting(1)

    def objective(z, e):
        quantized, losses = route(z, e, beta)
        return jnp.sum(jnp.cos(quantized)) + sum(losses.values())

    dz, de = jax.grad(objective, (0, 1))(z, e)
    close(dz, -np.sin(z_q) + beta * push(z, z_q), 1e-5, 1e-6)
    close(de, 0 * e if route is by_ema else pull(z, z_q, k), 1e-5, 1e-8)


@pytest.mark.parametrize("route", [by_vq, by_ema])
def test_masked_rows_have_neither_loss_nor_gradient(route):
    z, e, k, z_q = setting(2)
    w = np.arange(N) % 3 * 0.5  # a third of the rows are padding

    def objective(z, e):
        quantized, losses = route(z, e, 3.0, mask=jnp.asarray(w, jnp.float32))
        return sum(losses.values()), quantized

    (loss, quantized), (dz, de) = jax.value_and_grad(objective, (0, 1), has_aux=True)(z, e)
    both = 1 if route is by_vq else 0
    close(loss, (both + 3) * ref.mse(z, z_q, w), rtol=1e-6)
    close(dz, 3 * push(z, z_q, w), 1e-5, 1e-8)
    close(de, both * pull(z, z_q, k, w), 1e-5, 1e-8)
    np.testing.assert_array_equal(quantized, np.where(w[:, None] > 0, z_q, 0).astype(np.float32))


def test_vq_gives_exactly_what_the_equations_give():
    z, e, _, _ = setting()
    for beta in (0.25, 3.0):
        chex.assert_trees_all_equal(by_equations(z, e, beta), by_vq(z, e, beta))
        grads = [
            jax.grad(lambda z, e, route=route, b=beta: sum(route(z, e, b)[1].values()), (0, 1))(
                z, e
            )
            for route in (by_equations, by_vq)
        ]
        chex.assert_trees_all_equal(*grads)
    assert len(set(np.asarray(quantize(z, e).indices))) > 2


def test_straight_through_is_its_code_bit_by_bit_and_passes_the_gradient_on():
    rng = np.random.default_rng(0)
    z, z_q = (jnp.asarray(s * rng.normal(size=(500, 3)), jnp.float32) for s in (1e4, 1e-4))
    for f in (straight_through, jax.jit(straight_through), jax.vmap(straight_through)):
        np.testing.assert_array_equal(f(z, z_q), z_q)
    assert (z + (z_q - z) != z_q).any()  # the other way to write it would not be
    weights = jnp.asarray(rng.normal(size=z.shape), jnp.float32)
    to_rows, to_codes = jax.grad(lambda *x: jnp.sum(weights * straight_through(*x)), (0, 1))(z, z_q)
    np.testing.assert_array_equal(to_rows, weights)
    np.testing.assert_array_equal(to_codes, 0)


@pytest.mark.parametrize("function", [codebook_loss, commitment_loss, straight_through])
def test_shapes_that_would_broadcast_are_refused(as_users, function):
    with pytest.raises(ValueError, match=r"z_e and z_q .*equal shapes, got \(8, 1\), \(8,\)"):
        function(jnp.ones((8, 1)), jnp.ones(8))


def test_mean_counts_rows_by_weight_and_is_0_without_any():
    x = jnp.arange(12.0).reshape(2, 3, 2)
    w = jnp.array([[1.0, 0.0, 2.0], [0.0, 0.0, 0.5]])
    close(mean(x), 5.5)
    close(mean(x, w), np.average(np.asarray(x).mean(-1), weights=w), rtol=1e-6)
    close(mean(x, jnp.array([0.0, 3.0])), np.asarray(x)[1].mean(), rtol=1e-6)
    for none in (mean(x, 0 * w), mean(x[:0])):
        np.testing.assert_array_equal(none, 0)
    np.testing.assert_array_equal(jax.grad(lambda x: mean(x, 0 * w))(x), 0)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("route", [by_vq, by_ema])
def test_codes_have_the_dtype_of_the_rows_and_losses_are_float32(route, dtype):
    z, e, _, _ = setting()
    z = z.astype(dtype)
    quantized, losses = route(z, e, 0.25)
    chex.assert_type(quantized, dtype)
    chex.assert_type(list(losses.values()), jnp.float32)
    z_q = ref.f64(e)[ref.nearest64(z, e)]
    close(losses["commitment"], 0.25 * ref.mse(z, z_q), rtol=1e-6)
    np.testing.assert_array_equal(quantized, jnp.asarray(z_q).astype(dtype))
    gradient = jax.grad(lambda z: route(z, e, 0.25)[1]["commitment"])(z)
    chex.assert_type(gradient, dtype)
    close(ref.f64(gradient), 0.25 * push(z, z_q), rtol=1e-2, atol=1e-4)


class Variants(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True, with_device=True, with_pmap=True)
    def test_variants_agree(self):
        z, e, k, z_q = setting()
        close(self.variant(codebook_loss)(z, jnp.float32(z_q)), ref.mse(z, z_q), rtol=1e-6)
        close(self.variant(commitment_loss)(z, jnp.float32(z_q)), ref.mse(z, z_q), rtol=1e-6)
        np.testing.assert_array_equal(self.variant(lookup)(e, jnp.asarray(k)), np.float32(z_q))
        out = self.variant(quantize)(z, e)
        np.testing.assert_array_equal(out.indices, k)
        np.testing.assert_array_equal(out.z_q, np.float32(z_q))

    @chex.variants(with_jit=True, without_jit=True)
    def test_vmap_over_codebooks(self):
        z, e, k, _ = setting()
        out = self.variant(jax.vmap(quantize, (None, 0)))(z, jnp.stack([e, e[::-1]]))
        np.testing.assert_array_equal(out.indices, [k, SIZE - 1 - k])
        close(out.losses["codebook"][0], out.losses["codebook"][1], rtol=1e-6)
