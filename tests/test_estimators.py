"""Gradients that take the place of the lookup's, against their matrices in float64."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vqvae_jax import from_json, rotation_trick, to_json, vq
from vqvae_jax.estimators import exactly, synchronized, unit
from vqvae_jax.quantizers.codebooks.inits import given as these

pytestmark = pytest.mark.core  # an optimising compiler might undo what makes them exact

N, D = 12, 4
close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
same = np.testing.assert_array_equal
ROTATED = jax.jit(lambda z, q, g: (rotation_trick(z, q), jax.vjp(rotation_trick, z, q)[1](g)))
FLOATS = st.floats(-8, 8, width=32, allow_subnormal=False)  # which XLA takes for 0
VECTORS = hnp.arrays(np.float32, 3, elements=FLOATS)


def rows(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def unit64(x):
    return ref.f64(x) / np.linalg.norm(ref.f64(x))


def rotation(z, q):
    """I - 2 r r^T + 2 v u^T, which turns u = z / |z| onto v = q / |q|."""
    u, v = unit64(z), unit64(q)
    r = unit64(u + v)
    return np.eye(len(u)) - 2 * np.outer(r, r) + 2 * np.outer(v, u)


def turned_back(z, q, g):
    """|q| / |z| R^T g: the gradient at z of a gradient g at q."""
    return np.linalg.norm(ref.f64(q)) / np.linalg.norm(ref.f64(z)) * rotation(z, q).T @ ref.f64(g)


def test_exactly_has_one_value_and_the_gradient_of_the_other():
    big, small = jnp.float32(1e8), jnp.float32(1.2345678)
    value, slope = jax.value_and_grad(lambda x: exactly(big, x**2))(small)
    assert value == big
    close(slope, 2 * small)
    assert jax.grad(lambda x: exactly(x, small))(big) == 0


def test_unit_is_exact_from_the_smallest_to_the_largest():
    direction = np.float32([0.6, -0.8, 0.0])
    scales = np.float32([1e-30, 1e-3, 1, 1e30])
    got, back = jax.vjp(unit, jnp.asarray(scales[:, None] * direction))
    close(got, np.tile(direction, (4, 1)))
    g = ref.f64([1.0, 2.0, 3.0])
    across = g - direction * (g @ direction)
    close(back(jnp.tile(jnp.float32(g), (4, 1)))[0] * scales[:, None], np.tile(across, (4, 1)))


def test_unit_of_zero_is_zero_with_a_finite_gradient():
    value, back = jax.vjp(unit, jnp.zeros((2, 3)))
    same(value, 0)
    assert np.isfinite(back(jnp.ones((2, 3)))[0]).all()


def test_rotation_trick_turns_the_gradient_and_scales_it():
    z, q, g = rows(0, N, D), rows(1, N, D), rows(2, N, D)
    value, (dz, dq) = ROTATED(z, q, g)
    same(value, q)
    same(dq, 0)
    close(dz, np.stack([turned_back(*each) for each in zip(z, q, g, strict=True)]))
    for u, v in zip(z, q, strict=True):
        turn = rotation(u, v)
        np.testing.assert_allclose(turn @ turn.T, np.eye(D), atol=1e-12)
        np.testing.assert_allclose(turn @ unit64(u), unit64(v), atol=1e-12)
        np.testing.assert_allclose(np.linalg.det(turn), 1)


@given(VECTORS, VECTORS, VECTORS)
def test_rotation_trick_keeps_the_angle_to_the_code(z, q, g):
    lengths = [np.linalg.norm(ref.f64(x)) for x in (z, q)]
    assume(min(lengths) > 1e-3 and np.linalg.norm(unit64(z) + unit64(q)) > 1e-2)
    value, (dz, _) = ROTATED(z, q, g)
    same(value, q)
    size = lengths[1] / lengths[0] * np.linalg.norm(ref.f64(g))
    np.testing.assert_allclose(dz, turned_back(z, q, g), rtol=1e-4, atol=1e-5 * size)
    np.testing.assert_allclose(np.linalg.norm(ref.f64(dz)), size, rtol=1e-5)
    along = ref.f64(g) @ ref.f64(q)
    np.testing.assert_allclose(ref.f64(dz) @ ref.f64(z), along, atol=1e-4 * size * lengths[0])


@pytest.mark.parametrize("case", ["row 0", "code 0", "both 0", "antipodal", "equal", "tiny row"])
def test_rotation_trick_where_there_is_no_rotation(case):
    z = q = jnp.float32([[1.0, -2.0, 0.5]])
    g = jnp.float32([[3.0, 1.0, 2.0]])
    u = unit64(z[0])
    z, q, expected = {
        "row 0": (0 * z, q, 0 * g),
        "code 0": (z, 0 * q, 0 * g),
        "both 0": (0 * z, 0 * q, 0 * g),
        "antipodal": (z, -2 * q, 2 * (ref.f64(g) - 2 * np.outer(g @ u, u))),
        "equal": (z, q, g),
        "tiny row": (1e-30 * z, q, 0 * g),
    }[case]
    value, (dz, _) = ROTATED(z, q, g)
    same(value, q)
    close(dz, expected)


def test_rotation_trick_of_the_peer():
    """Its value is the code up to rounding; ours is the code."""
    g = dict(np.load(Path(__file__).parent / "golden" / "vqt_kmeans.npz"))
    value, (dz, _) = ROTATED(g["src"], g["tgt"], g["dout"])
    close(value, g["rotated"])
    close(dz, g["dsrc"])


def test_shapes_must_agree(as_users):
    for estimator in (rotation_trick, synchronized()):
        with pytest.raises(ValueError, match=r"z_e and z_q must have equal shapes.*\(2, 3\), \(3,"):
            estimator(jnp.ones((2, 3)), jnp.ones(3))


@pytest.mark.parametrize("nu", [0.0, 0.3])
def test_synchronized_brings_the_task_to_the_codes(nu):
    z, e, c = rows(3, N, D), rows(4, 3, D), rows(5, N, D)
    q = vq(3, D, beta=0.5, init=these(e), estimator=synchronized(nu))

    def loss(params, z):
        out, _ = q.apply(params, {}, z, train=True)
        return jnp.sum(c * out.quantized) + out.loss, out

    (_, out), (de, dz) = jax.value_and_grad(loss, (0, 1), has_aux=True)(
        {"codebook": jnp.asarray(e)}, jnp.asarray(z)
    )
    k = ref.nearest64(z, e)
    same(out.quantized, e[k])
    close(out.losses["codebook"], ref.mse(z, e[k]))
    close(out.losses["commitment"], 0.5 * ref.mse(z, e[k]))
    pull = 2 / z.size * (ref.f64(e)[k] - z)
    close(dz, c - 0.5 * pull)
    close(de["codebook"], ref.hits_and_totals(pull + nu * c, k, 3)[1])


def test_synchronized_is_described():
    assert synchronized(0.2) == synchronized() != synchronized(0.3)
    assert from_json(to_json(synchronized(0.3))) == synchronized(0.3)
