"""The search for the nearest code is that of float64, however large the offset or the codebook."""

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
from jax import export
from jax.extend.core import jaxprs_in_params

import vqvae_jax as vj
from vqvae_jax import nearest
from vqvae_jax.search import exact as search
from vqvae_jax.search import near_ties, scores

by_differences, by_scores = map(jax.jit, (search.by_differences, search.by_scores))
slow = pytest.mark.slow
core = pytest.mark.core  # an optimising compiler might undo what makes these exact
either = pytest.mark.parametrize("find", [by_differences, by_scores], ids=["differences", "scores"])


def fresh(z, e):
    """The codes of least score, traced anew: it sees what a test has patched."""
    return jax.jit(lambda z, e: search.by_scores(z, e))(z, e)


def gaussian(n, size, dim, offset=0.0, seed=0):
    rng = np.random.default_rng(seed)
    z, e = rng.normal(size=(n, dim)) + offset, rng.normal(size=(size, dim)) + offset
    return z.astype(np.float32), e.astype(np.float32)


def wrong(z, e, find=nearest, excluded=0.01):
    """Rows with another code than float64 finds. Near-ties don't count, and must be few."""
    tie = ref.near_tie(z, e)
    assert tie.mean() <= excluded
    return np.sum((np.asarray(find(z, e)) != ref.nearest64(z, e)) & ~tie)


def walk(jaxpr):
    """All equations of a jaxpr, those of loops and calls within it too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from walk(inner)


def equations(n, size, dim):
    shape = jax.ShapeDtypeStruct
    args = shape((n, dim), jnp.float32), shape((size, dim), jnp.float32)
    return list(walk(jax.make_jaxpr(search.nearest.__wrapped__)(*args).jaxpr))


def test_the_oracle_is_the_definition_row_by_row():
    z, e = gaussian(50, 30, 7, offset=100)
    np.testing.assert_array_equal(ref.nearest64(z, e), [ref.nearest_one(row, e) for row in z])
    apart = [np.diff(np.sort(ref.distances_one(row, e))[:2])[0] for row in z]
    relative = ref.gap(z, e)
    assert np.corrcoef(apart, relative)[0, 1] > 0.9 and (relative > 0).all()


@core
@pytest.mark.parametrize("offset", [0, 10, 100, 1000])
@pytest.mark.parametrize("dim", [8, 64, 256])
@pytest.mark.parametrize("size", [512, 1000, 4096, pytest.param(16384, marks=pytest.mark.slow)])
def test_an_offset_common_to_rows_and_codes_costs_no_digits(size, dim, offset):
    assert wrong(*gaussian(512, size, dim, offset)) == 0


@core
@pytest.mark.parametrize(("size", "dim"), [(512, 64), (4096, 64), (4096, 256)])
def test_tiny_codes_of_the_usual_initialisation_are_told_apart(size, dim):
    rng = np.random.default_rng(1)
    z = rng.normal(size=(1024, dim)).astype(np.float32)
    e = rng.uniform(-1 / size, 1 / size, (size, dim)).astype(np.float32)
    assert wrong(z, e) == 0
    assert len(np.unique(nearest(z, e))) >= 0.9 * len(np.unique(ref.nearest64(z, e)))


def test_one_coordinate_far_from_zero():
    z, e = gaussian(1024, 512, 16)
    z[:, 3], e[:, 3] = z[:, 3] + 1e4, e[:, 3] + 1e4
    assert wrong(z, e) == 0


@core
def test_rows_far_from_all_codes():
    z, e = gaussian(1024, 512, 64)
    assert wrong(z + 100, e) == 0


def groups(rng, n, size, dim, scale):
    """Groups of codes, `scale` times further apart than the codes of a group."""
    centres = scale * rng.normal(size=(3, dim))
    return [centres[rng.integers(3, size=m)] + rng.normal(size=(m, dim)) for m in (n, size)]


def one_large_coordinate(rng, n, size, dim, scale):
    stretch = np.where(np.arange(dim) == dim - 1, scale, 1)
    return [rng.normal(size=(m, dim)) * stretch for m in (n, size)]


def near_duplicates(rng, n, size, dim, scale):
    e = rng.normal(size=(size, dim))
    e[size // 2 :] = e[: size - size // 2] + rng.normal(size=(size - size // 2, dim)) / scale
    return e[rng.integers(size, size=n)] + rng.normal(size=(n, dim)) / scale, e


def runaway(rng, n, size, dim, scale):
    """One code, and some rows, far from the others."""
    z, e = (rng.normal(size=(m, dim)) for m in (n, size))
    e[size // 3], z[::7] = e[size // 3] * scale, z[::7] * scale
    return z, e


def codes_as_rows(rng, n, size, dim, scale):
    e = rng.normal(size=(size, dim)) + scale
    return e[rng.integers(size, size=n)], e


HARD = [groups, one_large_coordinate, near_duplicates, runaway, codes_as_rows]


@either
@pytest.mark.parametrize("make", HARD, ids=lambda make: make.__name__)
@hypothesis.settings(max_examples=20)
@hypothesis.given(
    dim=st.sampled_from([1, 3, 64]), scale=st.sampled_from([1, 1e2, 1e3, 1e4, 1e5, 1e6]),
    seed=st.integers(0, 999),
)  # fmt: skip
def test_the_code_is_nearest_to_the_stated_tolerance_whatever_the_data(
    find, make, dim, scale, seed
):
    n, size = 300, 700
    z, e = (x.astype(np.float32) for x in make(np.random.default_rng(seed), n, size, dim, scale))
    assert not too_far(find(z, e), z, e).any()


def too_far(k, z, e):
    """Rows whose code is farther than the nearest by more than `nearest` says it may be."""
    distance = np.sqrt([ref.distances_one(row, ref.f64(e)) for row in ref.f64(z)])
    best = distance.min(axis=1)
    found = distance[np.arange(len(z)), k]
    return found - best > (z.shape[1] + 8) * 2.0**-22 * best


@core
def test_near_duplicates_in_another_block_are_told_apart():
    rows, size = 3000, 1400
    z, e = near_duplicates(np.random.default_rng(0), rows, size, 3, 1e5)
    z, e = z.astype(np.float32), e.astype(np.float32)
    half = jnp.zeros(size)
    first = scores.code_blocks(jnp.asarray(e), half, rows // scores.number_of_blocks(rows)).first
    assert first[1] <= size // 2  # less than a duplicate is away
    assert not too_far(by_scores(z, e), z, e).any()


@core
def test_near_duplicates_in_the_same_place_of_two_sheets_are_told_apart():
    rows, size = 300, 44 * scores.GROUP
    z, e = near_duplicates(np.random.default_rng(0), rows, size, 3, 1e5)
    z, e = z.astype(np.float32), e.astype(np.float32)
    blocks = scores.code_blocks(jnp.asarray(e), jnp.zeros(size), rows)
    assert blocks.half.shape == (1, size) and size // 2 % (size // scores.GROUP) == 0
    assert not too_far(by_scores(z, e), z, e).any()


@pytest.mark.parametrize("dim", [256, 1024])
@pytest.mark.parametrize(("row", "code"), [(1, 1 / 64), (0, 1)])
def test_the_slack_is_the_worst_that_rounding_can_do(row, code, dim):
    """Terms that are added one by one, each of which is lost, or counts twice."""
    z, *e = (
        size * np.r_[1, 2.0**-12 * (1 + side * 2.0**-10) * np.ones(dim - 1)].astype(np.float32)
        for size, side in ((row, 0), (code, -1), (code, 1))
    )

    def score(y, add):
        return 0.5 * add(y * y) - add(z * y)

    computed = [score(y, lambda x: np.add.accumulate(x)[-1]) for y in e]
    exact = [score(ref.f64(y), np.sum) for y in e]
    worst = abs(np.subtract(*map(float, computed)) - np.subtract(*exact))
    cut = 31 * np.spacing(abs(computed[0]))  # of the last five bits
    norms = (jnp.float32(np.linalg.norm(x))[None] for x in (z, *e))
    slack = search.rounding(*norms, dim, scores.error(dim))[0]
    assert worst + cut < slack < 1.3 * (worst + cut)


def test_the_slack_reaches_as_far_as_the_nearest_code_can_lie():
    """On a line: of the codes -0.5 and 2.4 the second is nearest to the row 1."""

    def slack(shortest, longest):
        return search.rounding(jnp.ones(1), shortest, longest, 1, scores.error(1))[0]

    assert slack(0.5, 2.4) == slack(2.4, 2.4) < slack(0.5, 1e6) == slack(2.5, 2.5)


@pytest.mark.parametrize(
    "scale", [pytest.param(1e3, marks=slow), 1e4, pytest.param(1e5, marks=slow)]
)
def test_scores_alone_would_not_tell_codes_apart(scale, monkeypatch):
    """The test above can fail: without pairs, another code is found for many rows."""
    z, e = (x.astype(np.float32) for x in groups(np.random.default_rng(0), 300, 700, 3, scale))
    assert not too_far(fresh(z, e), z, e).any()
    monkeypatch.setattr(near_ties, "closer", lambda z, e_j, e_k: z[:, 0] < jnp.inf)
    assert too_far(fresh(z, e), z, e).mean() > 0.05


@pytest.mark.parametrize("offset", [0, 1000])
def test_few_rows_of_normal_data_are_unsure(offset, monkeypatch):
    z, e = gaussian(16_384, 512, 64, offset)
    monkeypatch.setattr(search, "settle", lambda rows, *args: jnp.where(rows.unsure, -2, rows.k))
    assert 1 <= np.sum(fresh(z, e) == -2) < 100  # of 16,384


def test_every_product_is_asked_for_in_full_precision():
    dots = [e for e in equations(3000, 2000, 8) if e.primitive.name == "dot_general"]
    highest = jax.lax.Precision.HIGHEST
    assert dots and all(e.params["precision"] == (highest, highest) for e in dots)


@pytest.mark.parametrize("bits", [7, 10], ids=["bf16", "tf32"])
def test_operands_of_low_precision_would_be_noticed(monkeypatch, bits):
    """What an accelerator does without HIGHEST, emulated: the tests above can fail."""
    z, e = gaussian(4096, 4096, 8)
    assert wrong(z, e, fresh) == 0
    exact = jnp.dot

    def rounded(x, y, **kwargs):
        return exact(*(jax.lax.reduce_precision(v, 8, bits) for v in (x, y)), **kwargs)

    monkeypatch.setattr(jnp, "dot", rounded)
    assert wrong(z, e, fresh) > 0


SIZES = (40, 30), (40, 1500), (1500, 30)


@either
@pytest.mark.parametrize(
    ("n", "size", "how"),
    [
        *((n, size, how) for how in ("jit", "vmap") for n, size in SIZES),
        *(pytest.param(*each, "eager", marks=[slow] * (each != SIZES[0])) for each in SIZES),
    ],
)
def test_duplicate_codes_go_to_the_lowest_index(find, how, n, size):
    z, e = gaussian(n, size, 5)
    which = np.random.default_rng(2).permutation(np.arange(size) % (size // 3))
    first = np.array([np.flatnonzero(which == w)[0] for w in which])
    z, e = jnp.asarray(z), jnp.asarray(e[which])
    with jax.disable_jit(how == "eager"):
        k = jax.vmap(find, (0, None))(z[:, None], e)[:, 0] if how == "vmap" else find(z, e)
    np.testing.assert_array_equal(first[k], k)
    np.testing.assert_array_equal(k, nearest(z, e))


@core
@either
def test_equal_codes_all_go_to_the_first(find):
    np.testing.assert_array_equal(find(jnp.ones((3, 2)), jnp.full((2000, 2), 0.3)), 0)
    np.testing.assert_array_equal(find(jnp.zeros((1, 1)), jnp.array([[1.0], [-1.0]])), 0)


@hypothesis.settings(max_examples=25)  # each compiles
@hypothesis.given(
    n=st.integers(1, 40), half=st.integers(1, 30), dim=st.integers(1, 3),
    rows=st.integers(1, 60), codes=st.integers(1, 60), run=st.integers(1, 20),
    many=st.integers(0, 5), seed=st.integers(0, 99),
)  # fmt: skip
def test_blocks_of_any_size_find_the_same_codes(n, half, dim, rows, codes, run, many, seed):
    rng = np.random.default_rng(seed)
    z, e = rng.integers(-3, 4, (n, dim)), rng.integers(-3, 4, (half, dim))
    # Small integers of mean 0: float32 is exact, so that ties, of which there are many, are ties.
    z, e = z.astype(np.float32), np.concatenate([e, -e]).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scores, "ROWS", rows)
        patch.setattr(scores, "CODES", codes)
        patch.setattr(near_ties, "RUN", run)
        if many:
            patch.setattr(near_ties, "MANY", many)
            patch.setattr(jax, "default_backend", lambda: "gpu")  # of eight: no kernel
        np.testing.assert_array_equal(fresh(z, e), ref.nearest64(z, e))


@either
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 1e20])
def test_a_row_that_is_not_finite_has_no_code_and_spoils_no_other(find, poison):
    z, e = gaussian(50, 20, 4)
    poisoned = z.copy()
    poisoned[17, 2] = poison
    expected = np.where(np.arange(50) == 17, -1, find(z, e))
    np.testing.assert_array_equal(find(poisoned, e), expected)


@either
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 1e20])
@pytest.mark.parametrize("size", [20, 1500])
def test_a_code_that_is_not_finite_is_never_chosen(find, poison, size):
    z, e = gaussian(200, size, 4)
    poisoned, others = e.copy(), np.delete(np.arange(size), 7)
    poisoned[7, 2] = poison
    np.testing.assert_array_equal(find(z, poisoned), others[ref.nearest64(z, e[others])])


@either
@pytest.mark.parametrize(("n", "size", "dim"), [(5, 1, 3), (5, 4, 1), (5, 1, 1), (1, 7, 3)])
def test_one_code_one_dimension_one_row(find, n, size, dim):
    z, e = gaussian(n, size, dim)
    np.testing.assert_array_equal(find(z, e), ref.nearest64(z, e))


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4), (0,), (2, 0)])
def test_leading_shapes(shape):
    z, e = np.random.default_rng(3).normal(size=(*shape, 5)).astype(np.float32), np.eye(5)
    k = nearest(z, e.astype(np.float32))
    chex.assert_shape(k, shape)
    chex.assert_type(k, jnp.int32)
    np.testing.assert_array_equal(k, np.argmax(z, axis=-1))  # nearest unit vector


@pytest.mark.parametrize(("n", "size"), [(1024, 1024), (1025, 1025), (2049, 1537), (1031, 600)])
def test_sizes_on_both_sides_of_a_block(n, size):
    assert wrong(*gaussian(n, size, 8)) == 0


@pytest.mark.parametrize("sizes", [(1, 4000, 16), (4, 4000, 16), (90, 50, 16)])
def test_small_problems_are_solved_by_differences_and_others_are_not(sizes):
    n, size, dim = sizes
    assert wrong(*gaussian(*sizes, offset=100)) == 0
    products = [
        any(e.primitive.name == "dot_general" for e in equations(n * times, size, dim))
        for times in (1, 5)
    ]
    assert products == [False, True]


def products(function, *args):
    """The shapes of all products."""
    found = walk(jax.make_jaxpr(function)(*args).jaxpr)
    return sorted(e.outvars[0].aval.shape for e in found if e.primitive.name == "dot_general")


def test_batches_that_share_a_codebook_are_searched_at_once():
    z, e = gaussian(6000, 300, 5, seed=1)
    batches = z.reshape(20, 3, 100, 5)
    batched = jax.vmap(jax.vmap(nearest, (0, None)), (1, None), 1)
    np.testing.assert_array_equal(batched(batches, e).reshape(-1), nearest(z, e))
    assert products(batched, batches, e) == products(nearest, z, e) != []
    gradient = jax.grad(lambda z: jnp.sum((z - e[batched(z, e)]) ** 2))(batches)
    np.testing.assert_allclose(gradient, 2 * (batches - e[batched(batches, e)]), rtol=1e-5)


@pytest.mark.parametrize("n", [2, 500])
def test_batches_of_codebooks_are_searched_one_by_one(n):
    z, e = gaussian(3 * n, 3 * 70, 5, seed=1)
    z, e = z.reshape(3, n, 5), e.reshape(3, 70, 5)
    for axes in ((0, 0), (None, 0)):
        found = jax.vmap(nearest, axes)(z[0] if axes[0] is None else z, e)
        for i, k in enumerate(found):
            np.testing.assert_array_equal(k, ref.nearest64(z[i if axes[0] == 0 else 0], e[i]))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_input_is_searched_in_float32(dtype):
    z, e = gaussian(500, 300, 8, offset=3)
    z, e = jnp.asarray(z, dtype), jnp.asarray(e, dtype)
    np.testing.assert_array_equal(nearest(z, e), nearest(z.astype(np.float32), ref.f64(e)))
    assert wrong(z, e) == 0


@pytest.mark.parametrize(
    "find", [nearest, by_differences, by_scores, vj.search.nearest_in_bfloat16]
)
def test_all_is_float32_under_x64(find):
    z, e = gaussian(500, 300, 8, offset=3)
    e[150:] = e[:150]  # so that no row is sure
    with jax.enable_x64(True):
        k = find(jnp.asarray(z), jnp.asarray(e))
    chex.assert_type(k, jnp.int32)
    np.testing.assert_array_equal(k, find(z, e))


def test_the_matrix_of_all_distances_never_exists():
    n, size, dim = 2**17, 2**15, 64
    largest = max(v.aval.size for e in equations(n, size, dim) for v in e.outvars)
    assert largest <= n * dim + size * dim + scores.ROWS * scores.CODES < n * size / 300


def test_indices_have_no_gradient_and_break_none():
    z, e = gaussian(6, 4, 3)

    def loss(z, e):
        return jnp.sum((z - e[nearest(z, e)]) ** 2)

    gradient = jax.grad(loss, (0, 1))(z, e)
    k = ref.nearest64(z, e)
    np.testing.assert_allclose(gradient[0], 2 * (z - e[k]), rtol=1e-5)
    hits, totals = ref.hits_and_totals(z, k, 4)
    np.testing.assert_allclose(gradient[1], 2 * (hits[:, None] * e - totals), 1e-5, 1e-5)


@pytest.mark.parametrize(
    ("z", "codebook", "message"),
    [
        ((5, 3), (4, 2), r"z must be \[\.\.\., 2\] like the codebook \(4, 2\), got \(5, 3\)"),
        ((), (4, 2), r"z must be \[\.\.\., 2\].*got \(\)"),
        ((5, 2), (2,), r"codebook must be \[K, D\] with K, D >= 1, got shape \(2,\)"),
        ((5, 2), (0, 2), r"codebook must be .*got shape \(0, 2\)"),
        ((5, 0), (4, 0), r"codebook must be .*got shape \(4, 0\)"),
    ],
)
def test_shapes_that_do_not_fit_are_named(as_users, z, codebook, message):
    with pytest.raises(ValueError, match=message):
        nearest(jnp.zeros(z), jnp.zeros(codebook))


def test_exports_with_a_batch_of_any_size():
    z, e = gaussian(2000, 1500, 4)
    (b,) = export.symbolic_shape("b")
    shapes = jax.ShapeDtypeStruct((b, 4), jnp.float32), jax.ShapeDtypeStruct(e.shape, jnp.float32)
    text = export.export(jax.jit(search.nearest.__wrapped__))(*shapes).serialize()
    for n in (1, 7, 2000):
        np.testing.assert_array_equal(export.deserialize(text).call(z[:n], e), nearest(z[:n], e))


class Variants(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True, with_device=True, with_pmap=True)
    def test_variants_agree(self):
        z, e = gaussian(40, 30, 5)
        np.testing.assert_array_equal(self.variant(search.nearest)(z, e), ref.nearest64(z, e))


@either
def test_no_code_is_found_where_none_is_finite(find):
    assert (np.asarray(find(jnp.ones((3, 2)), jnp.full((4, 2), jnp.nan))) == -1).all()


EXPONENT = st.integers(-36, 13)


@either
@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
@hypothesis.given(
    row=EXPONENT, spread=EXPONENT, offset=EXPONENT, far=st.booleans(), seed=st.integers(0, 9)
)
def test_the_nearest_code_at_any_scale(find, row, spread, offset, far, seed):
    """Rows, codes and what they have in common are of any size, and one code of another."""
    rng = np.random.default_rng(seed)
    z, e = rng.normal(size=(8, 5)) * 10.0**row, rng.normal(size=(16, 5)) * 10.0**spread
    z[:, 0], e[:, 0] = 10.0**offset, 10.0**offset
    e[3] = np.where(far, 1, e[3])
    z, e = z.astype(np.float32), e.astype(np.float32)
    k = np.asarray(find(jnp.asarray(z), jnp.asarray(e)))
    unit = max(np.abs(z).max(), np.abs(e).max()).astype(np.longdouble)
    distance = np.sqrt(np.sum(np.square(z[:, None] / unit - e / unit), axis=-1))
    least, got = distance.min(1), distance[np.arange(len(z)), k]
    lost = np.finfo(np.float32).tiny * 4 / unit  # differences of no bits
    assert (k >= 0).all() and (got <= least * (1 + (5 + 8) * 2.0**-22) + lost).all()


FINDERS = {"scores": by_scores, "bfloat16": vj.search.nearest_in_bfloat16, "nearest": vj.nearest}


@core
@pytest.mark.parametrize("find", FINDERS.values(), ids=FINDERS)
def test_a_power_of_two_changes_no_code(find):
    z, e = np.random.default_rng(0).normal(size=(2, 64, 7)).astype(np.float32)
    codes = [find(jnp.asarray(z * s), jnp.asarray(e * s)) for s in (1, 2.0**-100, 2.0**40)]
    np.testing.assert_array_equal(codes, np.stack([codes[0]] * 3))
