"""The search in bfloat16 errs in few rows, and hardly; with a hand for each code it is exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
from jax.sharding import PartitionSpec as P

import vqvae_jax as vj
from vqvae_jax.search import bfloat16 as approximate
from vqvae_jax.search import nearest_in_bfloat16, scores

FEW = 0.01


def gaussian(n, size, dim, offset=0.0):
    rng = np.random.default_rng(0)
    z, e = rng.normal(size=(n, dim)) + offset, rng.normal(size=(size, dim)) + offset
    return z.astype(np.float32), e.astype(np.float32)


def errors(z, e, candidates):
    """The share of rows with another code than float64 finds, and the excess distortion."""
    k, best = np.asarray(nearest_in_bfloat16(z, e, candidates)), ref.nearest64(z, e)
    found, least = (np.sum((ref.f64(z) - ref.f64(e)[i]) ** 2) for i in (k, best))
    return np.mean(k != best), found / least - 1


@pytest.mark.parametrize("offset", [0, 1000])
@pytest.mark.parametrize("size", [500, 2000])
def test_few_rows_err_and_hardly(size, offset):
    wrong, excess = errors(*gaussian(2000, size, 64, offset), candidates=8)
    assert 0 <= excess < 1e-5 and wrong < FEW


def test_candidates_mend_what_rounding_spoils():
    args = gaussian(5000, 700, 32)
    one, many = (errors(*args, candidates=c)[0] for c in (1, 50))
    assert 0 < one < FEW and many < one / 4


def test_with_a_share_for_each_code_it_is_exact():
    assert errors(*gaussian(300, 77, 8, offset=10), candidates=100) == (0, 0)


def test_operands_are_rounded_to_bfloat16_and_sums_are_not():
    z, e = gaussian(10, 24, 64)
    half = np.sum(e * e, axis=1) / 2
    codes = scores.Codes(jnp.asarray(e), jnp.asarray(half), jnp.int32(0))
    integers, k = approximate.share_scores(jnp.asarray(z), codes, 24)
    best = scores.unordered(integers)
    low = [ref.f64(np.asarray(jnp.asarray(x, jnp.bfloat16), np.float32)) for x in (e, z)]
    np.testing.assert_allclose(best, half[:, None] - low[0] @ low[1].T, atol=1e-4)
    assert np.abs(best - (half[:, None] - ref.f64(e) @ ref.f64(z).T)).mean() > 1e-3
    np.testing.assert_array_equal(k, np.arange(24)[:, None] + np.zeros((1, 10)))


@pytest.mark.parametrize("candidates", [1, 3, 8])
def test_blocks_of_any_size_find_the_same_codes(candidates, monkeypatch):
    """Small integers are exact in bfloat16 too; ties, of which there are many, go to the first."""
    rng = np.random.default_rng(1)
    z, e = rng.integers(-3, 4, (50, 2)), rng.permutation(49)[:, None] // [[7, 1]] % 7 - 3
    z, e = z.astype(np.float32), e.astype(np.float32)
    for rows, codes in [(4096, 512), (7, 5), (50, 11)]:
        monkeypatch.setattr(scores, "ROWS", rows)
        monkeypatch.setattr(scores, "CODES", codes)
        find = jax.jit(lambda z, e: nearest_in_bfloat16.__wrapped__(z, e, candidates))
        k = find(z, e)
        np.testing.assert_array_equal(k, ref.nearest64(z, e))


def test_equal_codes_go_to_the_first_candidate():
    z = np.ones((3, 2), np.float32)
    np.testing.assert_array_equal(nearest_in_bfloat16(z, np.full((16, 2), 0.3), 16), 0)


@pytest.mark.parametrize("seed", range(6))
def test_padding_is_no_candidate(seed):
    """26 codes in 8 shares of 4: the last share is padding alone, and the last codes are close."""
    rng = np.random.default_rng(seed)
    e = rng.normal(size=(26, 2)).astype(np.float32)
    e[-2] = e[-1] + 1e-3 * rng.normal(size=2)
    z = (e[-1] + 1e-4 * rng.normal(size=(500, 2))).astype(np.float32)
    np.testing.assert_array_equal(nearest_in_bfloat16(z, e), ref.nearest64(z, e))


@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e20])
def test_what_is_not_finite_is_not_found(poison):
    z, e = gaussian(40, 21, 3)
    others = np.delete(np.arange(21), 7)
    expected = others[ref.nearest64(z, e[others])]
    z[5, 1], e[7, 2] = poison, poison
    np.testing.assert_array_equal(
        nearest_in_bfloat16(z, e, 21), np.where(np.arange(40) == 5, -1, expected)
    )
    np.testing.assert_array_equal(nearest_in_bfloat16(z, np.full_like(e, poison)), -1)


def test_shapes_and_transformations():
    z, e = gaussian(24, 15, 3)
    k = nearest_in_bfloat16(z, e)
    assert nearest_in_bfloat16(z.reshape(2, 3, 4, 3), e).tolist() == k.reshape(2, 3, 4).tolist()
    assert nearest_in_bfloat16(z[:0], e).shape == (0,)
    assert jax.vmap(nearest_in_bfloat16, (0, None))(z, e).tolist() == k.tolist()
    mesh = jax.make_mesh((8,), ("a",), (jax.sharding.AxisType.Auto,))
    over = jax.shard_map(nearest_in_bfloat16, mesh=mesh, in_specs=(P("a"), P()), out_specs=P("a"))
    assert over(z, e).tolist() == k.tolist()
    assert not jax.grad(lambda z: jnp.sum(z[nearest_in_bfloat16(z, e)]) * 0.0)(z).any()


def test_bad_arguments_are_named(as_users):
    z, e = gaussian(4, 5, 3)
    with pytest.raises(ValueError, match="candidates must be an integer >= 1, got 0"):
        nearest_in_bfloat16(z, e, 0)
    with pytest.raises(ValueError, match="candidates must be an integer >= 1, got 0"):
        vj.assignments.in_bfloat16(0)
    with pytest.raises(ValueError, match=r"z must be \[\.\.\., 2\]"):
        nearest_in_bfloat16(z, e[:, :2])


def test_a_quantizer_chooses_so_in_training_alone():
    z, e = gaussian(4000, 500, 8)
    exact, fast = ref.nearest64(z, e), nearest_in_bfloat16(z, e, 1)
    assert (exact != fast).any()
    q = vj.codebook_vq(
        vj.codebooks.gradient(500, 8, init=vj.inits.given(e)), assign=vj.assignments.in_bfloat16(1)
    )
    params, state = q.init(jax.random.key(0))
    for train, expected in [(True, fast), (False, exact)]:
        out, _ = q.apply(params, state, jnp.asarray(z), train=train)
        np.testing.assert_array_equal(out.indices[:, 0], expected)
