"""Binary quantizers: entropies by enumeration in float64, the sphere, and the stored peer."""

import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqvae_jax.quantizers.lookup_free import bsq, entropies, lfq

GOLDEN = Path(__file__).parents[1] / "golden"
BOTH = pytest.mark.parametrize("make", [lfq, bsq])


def close(got, expected, rtol=1e-5, atol=1e-6):
    np.testing.assert_allclose(got, expected, rtol, atol)


def rows(n, dim, scale=1.0, seed=0):
    return (scale * np.random.default_rng(seed).normal(size=(n, dim))).astype(np.float32)


@partial(jax.jit, static_argnames=("q", "train", "axis_name"))
def look(q, z, **options):
    return q.apply({}, {}, jnp.asarray(z), **options)[0]


@partial(jax.jit, static_argnames="q")
def task_slope(q, z):
    """dL/dz of L = sum(cos(quantized))."""
    return jax.grad(lambda z: jnp.sum(jnp.cos(look(q, z).quantized)))(z)


def all_codes(bits):
    """The 2^bits codes in the order of their indices."""
    return 2.0 * (np.arange(2**bits)[:, None] >> np.arange(bits) & 1) - 1


def softmax_of_distances(y, codes, temperature):
    distance = np.square(y[:, None, :].astype(float) - codes).sum(-1)
    p = np.exp(-(distance - distance.min(-1, keepdims=True)) / temperature)
    return p / p.sum(-1, keepdims=True)


def H(p):
    """-sum p ln p, and 0 ln 0 is 0."""
    return -np.sum(p * np.log(np.where(p > 0, p, 1)), -1)


def expected_entropies(y, scale, group, temperature, weights=None):
    """E[H(p)] over all codes, and the H(E[p]) of each group of bits, added up."""
    bits = y.shape[-1]
    each = H(softmax_of_distances(y, scale * all_codes(bits), temperature))
    whole = 0.0
    for part in np.split(y, bits // group, -1):
        p = softmax_of_distances(part, scale * all_codes(group), temperature)
        whole += H(np.average(p, axis=0, weights=weights))
    return np.average(each, weights=weights), whole


@pytest.mark.parametrize(
    ("bits", "group", "temperature"),
    [(1, 1, 1.0), (6, 1, 0.5), (6, 2, 2.0), (9, 3, 1.0), (10, 10, 3.0), (10, 5, 0.01)],
)
def test_entropy_of_lfq_by_enumeration(bits, group, temperature):
    z, weights = rows(40, bits), np.random.default_rng(1).choice([0, 0.5, 1, 3], 40)
    q = lfq(bits, entropy=0.3, diversity=0.6, group=group, temperature=temperature, beta=0.5)
    each, whole = expected_entropies(z, 1.0, group, temperature, weights)
    out = look(q, z, mask=weights)
    close(out.metrics["row_entropy"], each)
    close(out.metrics["code_entropy"], whole)
    close(out.losses["entropy"], 0.3 * (each - 0.6 * whole))
    commitment = np.average(np.square(z - np.sign(z)).mean(-1), weights=weights)
    close(out.losses["commitment"], 0.5 * commitment)


@pytest.mark.parametrize(("bits", "group"), [(4, 4), (8, 2)])
def test_entropy_of_bsq_by_enumeration(bits, group):
    z = rows(40, bits)
    u = z / np.linalg.norm(z.astype(float), axis=-1, keepdims=True)
    q = bsq(bits, entropy=0.3, diversity=0.6, group=group, temperature=0.2, beta=0.5)
    each, whole = expected_entropies(u, bits**-0.5, group, 0.2)
    out = look(q, z)
    close(out.losses["entropy"], 0.3 * (each - 0.6 * whole))
    close(out.losses["commitment"], 0.5 * np.square(u - np.sign(u) * bits**-0.5).mean())


def test_groups_bound_the_entropy_from_above_and_are_exact_for_independent_bits():
    z, weights = jnp.asarray(rows(30, 6)), jnp.ones(30)
    jitted = jax.jit(entropies, static_argnums=1)
    by_group = {g: jitted(4 * z, g, weights) for g in (1, 2, 3, 6)}
    close([each for each, _ in by_group.values()], by_group[1][0])
    assert by_group[1][1] > by_group[2][1] > by_group[6][1] < by_group[3][1]
    values = np.array([-0.3, 0.1, 0.7], np.float32)  # all combinations: independent bits
    z = jnp.asarray(np.stack(np.meshgrid(*[values] * 4), -1).reshape(-1, 4))
    close(*(jitted(4 * z, g, jnp.ones(81))[1] for g in (1, 4)))


def test_gradient_of_the_entropy():
    """Central differences of the enumeration, in float64."""
    z = rows(5, 4).astype(float)
    q = lfq(4, entropy=1.0, diversity=0.6, group=2, temperature=1.5)

    def loss(z):
        each, whole = expected_entropies(z, 1.0, 2, 1.5)
        return each - 0.6 * whole

    expected, h = np.zeros(z.shape), 1e-5
    for at in np.ndindex(z.shape):
        step = np.zeros(z.shape)
        step[at] = h
        expected[at] = (loss(z + step) - loss(z - step)) / (2 * h)
    got = jax.grad(lambda z: look(q, z).losses["entropy"])(jnp.asarray(z, jnp.float32))
    close(got, expected, 1e-4, 1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e14])
@BOTH
def test_entropy_and_gradient_are_finite_for_rows_of_any_size(make, scale):
    z = jnp.asarray(rows(6, 4, scale)).at[0].set(0).at[1, 1].set(0)
    value, slope = jax.value_and_grad(lambda z: look(make(4, group=2, beta=0.0), z).loss)(z)
    assert np.isfinite(value) and np.isfinite(slope).all()
    saturated = look(lfq(4, group=4), rows(6, 4, 1e3))
    assert saturated.metrics["row_entropy"] == 0 and saturated.losses["entropy"] < 0


@BOTH
def test_eighteen_bits_are_never_enumerated(make):
    z = jax.ShapeDtypeStruct((3, 18), jnp.float32)
    for group, largest in ((1, 18 * 2), (9, 2 * 2**9)):
        q = make(18, group=group)
        step = jax.value_and_grad(lambda z, q=q: look(q, z, train=True).loss)
        shapes = re.findall(r"\[([\d,]+)\]", str(jax.make_jaxpr(step)(z)))
        assert max(int(axis) for shape in shapes for axis in shape.split(",")) == largest


@BOTH
def test_bits_make_the_index_of_the_paper(make):
    bits, z = 5, rows(100, 5)
    q = make(bits)
    out = look(q, z)
    np.testing.assert_array_equal(out.indices[:, 0], (z > 0) @ 2 ** np.arange(bits))
    k = jnp.arange(2**bits)[:, None]
    scale = 1 if make is lfq else bits**-0.5
    close(q.decode({}, {}, k), scale * all_codes(bits))
    assert q.vocab == (32,) and q.dim == 5


@BOTH
def test_a_zero_is_quantized_to_minus_one_whatever_its_sign(make):
    z = np.array([[0.0, -0.0, 1e-30, -1e-30]], np.float32)
    for each in (z, jnp.asarray(z, jnp.bfloat16)):
        assert look(make(4), each).indices[0, 0] == 0b0100
    assert look(make(4), np.zeros((1, 4), np.float32)).indices[0, 0] == 0


@BOTH
def test_thirty_bits(make):
    q = make(30)
    z = np.where(rows(50, 30) > 0, 0.5, -0.5).astype(np.float32)
    out = look(q, np.concatenate([z, 0 * z[:1] + 1]))
    np.testing.assert_array_equal(out.indices[:50, 0], (z > 0) @ 2 ** np.arange(30))
    assert out.indices[50, 0] == 2**30 - 1 and q.vocab == (2**30,)
    np.testing.assert_array_equal(q.decode({}, {}, out.indices), out.quantized)


def test_straight_through_gradient_of_lfq():
    z = jnp.asarray(rows(20, 4))
    q = lfq(4, entropy=0.0)
    slope = task_slope(q, z)
    close(slope, -np.sin(np.sign(z)))


def test_gradient_of_bsq_is_that_of_the_unit_vector():
    z = jnp.asarray(rows(20, 4))
    q = bsq(4)
    slope = task_slope(q, z)
    norm = np.linalg.norm(np.asarray(z, float), axis=-1, keepdims=True)
    g, u = -np.sin(np.sign(z) / 2), z / norm
    close(slope, (g - u * (g * u).sum(-1, keepdims=True)) / norm)


@pytest.mark.parametrize("bits", [1, 2, 9, 18])
def test_bsq_stays_on_the_sphere_within_the_bound_of_the_paper(bits):
    bound = np.sqrt(2 - 2 / np.sqrt(bits))
    worst = np.eye(bits)[:1] + 1e-9  # one dimension holds it all
    flat, spiky = rows(2000, bits), (rows(2000, bits) + 0.1) ** 5  # spiky: near an axis
    z = np.concatenate([flat, spiky[np.abs(spiky).max(-1) > 1e-4], worst]).astype(np.float32)
    out = look(bsq(bits), z)
    codes = np.asarray(out.quantized, float)
    close(np.linalg.norm(codes, axis=-1), 1)
    u = z / np.linalg.norm(z.astype(float), axis=-1, keepdims=True)
    error = np.linalg.norm(u - codes, axis=-1)
    assert error.max() <= bound + 1e-6
    close(error[-1], bound, 0, 1e-6)
    close(out.metrics["error"], np.square(u - codes).mean())


def test_the_length_of_a_row_does_not_matter_to_bsq():
    z, q = rows(50, 6), bsq(6, beta=1.0)
    one, other = look(q, z), look(q, 1000 * z)
    np.testing.assert_array_equal(one.indices, other.indices)
    close(one.loss, other.loss)
    assert abs(look(lfq(6, beta=1.0), z).loss - look(lfq(6, beta=1.0), 1000 * z).loss) > 1


def test_a_row_of_zeros_has_a_finite_gradient():
    def objective(z):
        out = look(bsq(4, beta=1.0), z)
        return jnp.sum(jnp.cos(out.quantized)) + out.loss

    slope = jax.jit(jax.grad(objective))(jnp.zeros((3, 4)))
    assert np.isfinite(slope).all()
    np.testing.assert_array_equal(look(bsq(4), jnp.zeros((1, 4))).quantized, -0.5)


@pytest.mark.parametrize(("name", "make"), [("lfq", lfq), ("bsq", bsq)])
def test_vector_quantize_pytorch(name, make):
    """Its first bit is the most significant one; its entropy is the exact one, so one group."""
    path = GOLDEN / "vqt_lfq.npz"
    g = dict(np.load(path))
    bits = int(g["bits"])
    weights = {"entropy": float(g["entropy"]), "diversity": float(g["gamma"])}
    temperature = 1 / float(g[f"tau_{name}"])
    q = make(bits, **weights, group=bits, temperature=temperature, beta=float(g["beta"]))

    def objective(z):
        out = look(q, z, train=True)
        return jnp.sum(jnp.cos(out.quantized)) + out.loss, out

    dz, out = jax.jit(jax.grad(objective, has_aux=True))(jnp.asarray(g[f"z_{name}"]))
    digits = np.asarray(out.indices) >> np.arange(bits) & 1
    np.testing.assert_array_equal(digits @ 2 ** np.arange(bits)[::-1], g[f"indices_{name}"])
    close(out.quantized, g[f"quantized_{name}"])
    close(out.loss, g[f"loss_{name}"])
    close(dz, g[f"dz_{name}"])


def test_the_entropy_is_that_of_the_rows_of_all_replicas():
    z, q = jnp.asarray(rows(12, 4)), lfq(4, group=2, temperature=1.0)
    mask = jnp.asarray(np.random.default_rng(2).choice([0.0, 1, 2], 12))
    one = look(q, z, mask=mask).losses["entropy"]
    step = jax.vmap(lambda z, m: look(q, z, mask=m, axis_name="r").losses["entropy"], axis_name="r")
    close(step(z.reshape(3, 4, 4), mask.reshape(3, 4)), np.full(3, one))


@BOTH
def test_arguments_out_of_range(make, as_users):
    with pytest.raises(ValueError, match=r"bits must be at most 30, got 31: .* grouped"):
        make(31)
    with pytest.raises(ValueError, match="group must divide bits = 6, got 4"):
        make(6, group=4)
    with pytest.raises(ValueError, match="group must be at most 20"):
        make(28, group=28)
    for bits in (0, 2.0):
        with pytest.raises(ValueError, match="bits must be an integer >= 1"):
            make(bits)
    with pytest.raises(ValueError, match="temperature must be in"):
        make(6, temperature=0.0)
    for name in ("entropy", "diversity", "beta"):
        with pytest.raises(ValueError, match=f"{name} must be in"):
            make(6, **{name: -0.1})


def test_hyperparameters_may_be_traced(as_users):
    z = jnp.asarray(rows(10, 4))

    @jax.jit
    def loss(x):
        q = lfq(4, entropy=x, diversity=2 * x, temperature=x, beta=x)
        return q.apply({}, {}, z)[0].loss

    close(loss(0.5), look(lfq(4, entropy=0.5, diversity=1.0, temperature=0.5, beta=0.5), z).loss)
