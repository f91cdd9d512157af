"""The search on tensor cores finds float64's code, whatever they do within the bound on them."""

from functools import partial

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
from test_search import (
    codes_as_rows,
    gaussian,
    groups,
    near_duplicates,
    one_large_coordinate,
    runaway,
    too_far,
    walk,
)

from vqvae_jax.search import exact, kernel, tensor_cores

SPLIT = 12 * 2.0**-24  # what float16 leaves


@pytest.fixture
def on_gpu(monkeypatch):
    """`nearest` as it runs on a GPU, with an interpreter for the kernel."""
    jax.clear_caches()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    interpreted = partial(kernel.search, interpret=True)
    monkeypatch.setattr(kernel, "SCANS", {"cpu": kernel.SCANS["cuda"]._replace(search=interpreted)})
    return jax.jit(lambda z, e: exact.by_scores(z, e))


def perturbed(monkeypatch, relative):
    """Adds an error of either sign to each product, as large as the bound allows."""
    dot = tensor_cores.dot

    def norm(x):
        return jnp.sqrt(jnp.sum(jnp.square(x.astype(jnp.float32)), axis=1))

    def wrong(z, e):
        exact = dot(z, e)
        plus = jax.lax.bitcast_convert_type(exact, jnp.int32) & 4 > 0
        return exact + jnp.where(plus, relative, -relative) * norm(z)[:, None] * norm(e)[None]

    monkeypatch.setattr(tensor_cores, "dot", wrong)


def problems(dim, n=300, size=700):
    """Data of one shape for which scores leave many or few rows unsure."""
    rng = np.random.default_rng(0)
    yield from (gaussian(n, size, dim, offset) for offset in (0, 10, 1000))
    yield gaussian(n, size, dim)[0], gaussian(n, size, dim)[1] / 2**13  # rows far from all codes
    for make in (groups, near_duplicates, one_large_coordinate, runaway, codes_as_rows):
        for scale in (30, 300, 1e4):
            yield tuple(x.astype(np.float32) for x in make(rng, n, size, dim, scale))


WIDE = pytest.param("as float32", 200, marks=pytest.mark.slow)  # "at its worst" implies it


@pytest.mark.parametrize(
    ("how", "dim"), [*((how, d) for how in ("as float32", "at its worst") for d in (5, 64)),
                     ("at its worst", 200), WIDE]
)  # fmt: skip
def test_the_code_is_that_of_float64(on_gpu, monkeypatch, how, dim):
    if how == "at its worst":
        perturbed(monkeypatch, tensor_cores.error(dim, 0).relative - SPLIT)
    for z, e in problems(dim):
        k = np.asarray(on_gpu(z, e))
        assert not too_far(k, z, e).any()
        apart = ~ref.near_tie(z, e)
        np.testing.assert_array_equal(k[apart], ref.nearest64(z, e)[apart])


def test_errors_beyond_the_bound_would_be_noticed(on_gpu, monkeypatch):
    perturbed(monkeypatch, 4 * tensor_cores.error(64, 0).relative)
    assert any(too_far(on_gpu(z, e), z, e).any() for z, e in problems(64))


def anew(z, e):
    """The search, traced after something was replaced."""
    return np.asarray(jax.jit(lambda z, e: exact.by_scores(z, e))(z, e))


def unsettled(rows, *_):
    """In place of `settle`: -2 for the rows that are left to it."""
    return jnp.where(rows.unsure, -2, rows.k)


def test_most_rows_of_normal_data_are_sure(on_gpu, monkeypatch):
    monkeypatch.setattr(exact, "settle", unsettled)
    monkeypatch.setattr(exact, "settle_few", lambda rows, codes: rows)
    assert 1 <= np.sum(on_gpu(*gaussian(16_384, 512, 64)) == -2) < 50


@pytest.mark.parametrize("size", [2, 3, 512])
def test_the_others_are_settled_without_a_loop(on_gpu, monkeypatch, size):
    z, e = gaussian(4096, size, 64)
    z[::256] = (e[0] + e[1]) / 2  # about as near to two codes
    monkeypatch.setattr(exact, "settle", unsettled)
    k = np.asarray(on_gpu(z, e))
    assert not too_far(k, z, e).any()
    monkeypatch.setattr(exact, "settle_few", lambda rows, codes: rows)
    assert np.sum(anew(z, e) == -2) > 10


@pytest.mark.parametrize("copies", [4, 5])
def test_a_loop_settles_rows_near_many_codes(on_gpu, monkeypatch, copies):
    """FEW are compared at once, and the first of equal ones wins."""
    z, e = gaussian(300, 40, 8)
    e = np.concatenate([e] * copies)
    np.testing.assert_array_equal(on_gpu(z, e), ref.nearest64(z, e))
    monkeypatch.setattr(exact, "settle", unsettled)
    left = np.mean(anew(z, e) == -2)
    assert left == (1.0 if copies > 4 else left) and (copies > 4 or left < 1.0)


@pytest.mark.parametrize("offset", [0, 1000])
def test_rows_that_come_together_are_all_settled(on_gpu, monkeypatch, offset):
    """A run has more unsure rows than are settled at once: the loop has the rest."""
    z, e = gaussian(5000, 700, 16, offset)
    z[:200] = (e[:200] + e[200:400]) / 2  # about as near to two codes
    assert not too_far(on_gpu(z, e), z, e).any()
    monkeypatch.setattr(exact, "settle", unsettled)
    assert np.sum(anew(z, e) == -2) > 30


def block_sums(z, e, total=0.0):
    """z.e + total as tensor cores sum it: eight products and the total at a time, cut off alike."""
    terms = np.stack(np.broadcast_arrays(*(z * e).T)) if z.ndim > 1 else z * e
    for block in np.split(terms, range(8, len(terms), 8)):
        every = np.r_[block, [np.broadcast_to(total, block.shape[1:])]]
        unit = np.exp2(np.floor(np.log2(np.abs(every).max(axis=0) + 1e-300)) - 23)
        total = np.sum(np.trunc(every / unit), axis=0) * unit
        unit = np.exp2(np.floor(np.log2(np.abs(total) + 1e-300)) - 23)
        total = np.trunc(total / unit) * unit
    return total


def on_tensor_cores(z, e):
    """Products of the rows of z and of e."""
    units = [np.asarray(tensor_cores.unit_of(jnp.max(jnp.abs(x)))) for x in (z, e)]
    (z1, z2), (e1, e2) = (
        map(ref.f64, tensor_cores.split(jnp.asarray(x / u)))
        for x, u in zip((z, e), units, strict=True)
    )
    return block_sums(z1, e1, block_sums(z1, e2, block_sums(z2, e1))) * ref.f64(units[0] * units[1])


def lost_terms(d, n):
    """Each product but the first is just below what is cut off."""
    z, e = np.full((2, n, d), 2.0**-12, np.float32)
    z[:, 0], e[:, 0], z[:, 1:] = 1, 1, 2.0**-12 * (2 - 2.0**-9)
    return z, e


@pytest.mark.parametrize("d", [1, 4, 64, 1024])
def test_the_bound_covers_tensor_cores_at_their_worst(d):
    bound = tensor_cores.error(d, 0).relative
    for (z, e), least in [(lost_terms(d, 2), 0.4 if d >= 64 else 0), (gaussian(50, 50, d), 0)]:
        exact = np.sum(ref.f64(z) * ref.f64(e), axis=1)
        norms = (np.linalg.norm(ref.f64(x), axis=1) for x in (z, e))
        worst = np.max(abs(on_tensor_cores(z, e) - exact) / np.multiply(*norms))
        assert least * bound <= worst < 0.8 * bound


@hypothesis.given(st.integers(-60, 60), st.integers(0, 99))
def test_two_float16_hold_22_bits(exponent, seed):
    """A compiler that takes x_1 for x would leave x_2 = 0."""
    x = np.random.default_rng(seed).normal(size=(8, 4)) * 2.0**exponent
    x = (x * 10.0 ** np.random.default_rng(seed).uniform(-3, 0, x.shape)).astype(np.float32)
    unit = np.asarray(tensor_cores.unit_of(jnp.max(jnp.abs(x))))
    first, rest = map(ref.f64, jax.jit(tensor_cores.split)(x / unit))
    assert (2.0**14 <= abs(first).max() <= 2.0**15) or exponent < -40
    left = abs(first + rest - ref.f64(x) / ref.f64(unit))
    assert (left <= 2.0**-22 * abs(first) + 2.0**-25).all()
    assert (abs(rest) <= 2.0**-11 * abs(first) + 2.0**-14).all()


def test_short_codes_beside_a_long_one(on_gpu):
    """float16 has a unit for all codes: what it costs the short ones is within their bound."""
    rng = np.random.default_rng(0)
    for ratio in (2.0**-16, 2.0**-20, 2.0**-34):
        z, e = (rng.normal(size=(n, 16)).astype(np.float32) * ratio for n in (200, 700))
        e[3] = 1  # not among the codes whose mean is the centre, which it would move
        assert not too_far(on_gpu(z, e), z, e).any()


def test_products_are_of_float16_summed_in_float32():
    args = map(jnp.asarray, (*gaussian(40, 24, 3), np.zeros(24, np.float32), np.zeros(40)))
    traced = jax.make_jaxpr(tensor_cores.on_gpu)(*(x.astype(jnp.float32) for x in args))
    dots = [e for e in walk(traced.jaxpr) if e.primitive.name == "dot_general"]
    types = [(*(v.aval.dtype for v in e.invars), e.params["preferred_element_type"]) for e in dots]
    assert types == [(jnp.float16, jnp.float16, jnp.float32)] * 3
