"""Scalar quantizers against their papers' formulas in float64, and against the stored peer."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqvae_jax.quantizers.finite_scalar import (
    Axis,
    fsp,
    fsq,
    grid,
    latent_vq,
    normal_cdf,
    symmetric_bound,
    tanh_bound,
    tanh_cdf,
)
from vqvae_jax.testing.trials import look_up

GOLDEN = Path(__file__).parents[1] / "golden"
KEY = jax.random.key(0)
PAPER = [[8, 6, 5], [8, 5, 5, 5], [7, 5, 5, 5, 5], [8, 8, 8, 6, 5], [8, 8, 8, 5, 5, 5]]


def golden(name):
    return dict(np.load(GOLDEN / f"{name}.npz"))


def close(got, expected, rtol=1e-5, atol=1e-6):
    np.testing.assert_allclose(got, expected, rtol, atol)


def rows(n, dim, scale=1.0, seed=0):
    return (scale * np.random.default_rng(seed).normal(size=(n, dim))).astype(np.float32)


@partial(jax.jit, static_argnames=("q", "train", "axis_name"))
def look(q, z, params=None, **options):
    return q.apply(params or {}, {}, jnp.asarray(z), **options)[0]


@partial(jax.jit, static_argnames=("q", "train"))
def slope(q, z, **options):
    """dL/dz of L = sum(cos(quantized))."""
    return jax.grad(lambda z: jnp.sum(jnp.cos(look(q, z, **options).quantized)))(jnp.asarray(z))


def basis(levels):
    return np.cumprod([1, *levels[:-1]])


class Listing:
    """The listing in appendix A.1 of arXiv:2309.15505, in float64."""

    def __init__(self, levels):
        self.levels = np.array(levels)
        self.half = (self.levels - 1) * (1 - 1e-3) / 2
        self.offset = np.where(self.levels % 2 == 1, 0.0, 0.5)
        self.shift = np.tan(self.offset / self.half)

    def bound(self, z):
        return np.tanh(z.astype(float) + self.shift) * self.half - self.offset

    def quantize(self, z):
        return np.round(self.bound(z)) / (self.levels // 2)

    def index(self, codes):
        width = self.levels // 2
        return ((codes * width + width) * basis(self.levels)).sum(-1).astype(int)

    def slope(self, z):
        return self.half * (1 - np.tanh(z.astype(float) + self.shift) ** 2) / (self.levels // 2)


@pytest.mark.parametrize("levels", PAPER, ids=str)
def test_fsq_is_the_listing_of_the_paper(levels):
    q, paper, z = fsq(levels), Listing(levels), rows(4000, len(levels), 1.5)
    z = z[(np.abs(paper.bound(z) % 1 - 0.5) > 1e-5).all(-1)]  # float32 may round those either way
    assert len(z) > 3950
    out = look(q, z)
    close(out.quantized, paper.quantize(z))
    np.testing.assert_array_equal(out.indices[:, 0], paper.index(paper.quantize(z)))
    close(slope(q, z), -np.sin(paper.quantize(z)) * paper.slope(z), 1e-4, 1e-5)
    close(
        out.metrics["error"], np.square(paper.bound(z) / (paper.levels // 2) - out.quantized).mean()
    )
    assert out.losses == {}
    for dimension, size in enumerate(levels):  # every level is reached
        assert len(np.unique(out.quantized[:, dimension])) == size


@pytest.mark.parametrize("levels", [[3, 4, 5], [8, 6, 5]], ids=str)
def test_all_codes_of_fsq(levels):
    q, width = fsq(levels), np.array(levels) // 2
    k = np.arange(np.prod(levels))
    digits = np.stack(np.unravel_index(k, levels, order="F"), -1)  # the first varies fastest
    close(q.decode({}, {}, jnp.asarray(k)[:, None]), (digits - width) / width)
    assert q.vocab == (len(k),) and q.dim == len(levels)


def test_zero_has_the_code_zero_and_even_levels_one_more_below_it():
    levels = [3, 4, 5, 6, 7, 8]
    q = fsq(levels)
    np.testing.assert_array_equal(look(q, np.zeros((1, 6))).quantized, 0)
    lowest, highest = look(q, np.array([[-20.0] * 6, [20.0] * 6])).quantized
    np.testing.assert_array_equal(lowest, -1)
    close(highest, [1, 1 / 2, 1, 2 / 3, 1, 3 / 4])


def test_grid_is_the_nearest_of_evenly_spaced_values():
    levels = [2, 3, 4, 7]
    q, z = grid(levels), rows(500, 4)
    out = look(q, z)
    for i, size in enumerate(levels):
        values = np.linspace(-1, 1, size)
        close(out.quantized[:, i], values[np.abs(z[:, i, None] - values).argmin(-1)])
    np.testing.assert_array_equal(look(q, out.quantized).indices, out.indices)
    close(slope(q, z), -np.sin(out.quantized))  # also of the many that are clipped
    close(out.metrics["error"], np.square(z - out.quantized).mean())
    halves = look(grid([2, 4]), np.zeros((1, 2)))
    close(halves.quantized, [[1, 1 / 3]])


def test_grid_clips_rows_as_large_as_can_be():
    out = look(grid([3, 2**24]), np.array([[7e14, -7e14], [-7e14, 7e14]]))
    np.testing.assert_array_equal(out.quantized, [[1, -1], [-1, 1]])
    np.testing.assert_array_equal(out.indices, [[2], [3 * (2**24 - 1)]])


def test_the_largest_stream_keeps_its_digits():
    levels = [2**15, 2**11, 31]
    q, z = grid(levels), rows(300, 3)
    out = look(q, z)
    k = np.asarray(out.indices[:, 0]).astype(np.int64)
    digits = np.stack(np.unravel_index(k, levels, order="F"), -1)
    close(2 * digits / (np.array(levels) - 1) - 1, np.clip(z, -1, 1), 0, 1 / 30 + 1e-6)
    together = jax.jit(partial(look_up, q))({}, {}, z)
    np.testing.assert_array_equal(together["decoded"], together["quantized"])
    assert k.max() > 2**30


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("fsq", fsq),
        ("symmetric", lambda levels: fsq(levels, bound=symmetric_bound)),
        ("fsp", fsp),
    ],
)
def test_vector_quantize_pytorch(name, make):
    g = golden("vqt_fsq")
    q, z = make(g[f"levels_{name}"].astype(int).tolist()), g[f"z_{name}"]
    out = look(q, z)
    np.testing.assert_array_equal(out.indices[:, 0], g[f"indices_{name}"])
    close(out.quantized, g[f"quantized_{name}"])
    if name != "fsq":  # whose bound is not that of the paper's listing there
        close(slope(q, z), g[f"dz_{name}"])


def test_symmetric_values_mirror_each_other():
    q, z = fsq([2, 4, 6, 5], bound=symmetric_bound), rows(200, 4)
    close(look(q, -z).quantized, -look(q, z).quantized)
    assert sorted(np.unique(look(q, z).quantized[:, 0]).tolist()) == [-1, 1]


def test_a_bound_of_the_user():
    def clipped(levels):
        half = ((levels - 1) / 2).astype(np.float32)
        return Axis(lambda z: jnp.clip(z, -1, 1), half, half)

    q, z = fsq([3, 5], bound=clipped), np.array([[0.4, -3.0]])
    np.testing.assert_array_equal(look(q, z).quantized, [[0, -1]])
    close(slope(q, np.array([[0.9, -3.0]])), [[-np.sin(1), 0]])


def test_distribution_functions():
    z = np.linspace(-5, 5, 41).astype(np.float32)[:, None]
    close(tanh_cdf(jnp.asarray(z)), 1 / (1 + np.exp(-2 * z.astype(float))))
    density = np.exp(-np.square(np.linspace(-12, 5, 170001)) / 2) / np.sqrt(2 * np.pi)
    integral = np.interp(z, np.linspace(-12, 5, 170001), np.cumsum(density) * 1e-4)
    close(normal_cdf(jnp.asarray(z)), integral, 0, 1e-4)


@pytest.mark.parametrize("cdf", [tanh_cdf, normal_cdf])
def test_fsp_noise_is_uniform_within_a_cell_and_stays_in_range(cdf):
    levels = [2, 5]
    q, z = fsp(levels, cdf), np.repeat(rows(8, 2, 1.5), 4000, axis=0)
    train, exact = (look(q, z, train=t, key=KEY) for t in (True, False))
    np.testing.assert_array_equal(train.indices, exact.indices)
    p = np.asarray(train.quantized, float) / np.sqrt(12) + 0.5
    noise = (p - np.asarray(cdf(jnp.asarray(z)), float)) * levels
    assert (p > 0).all() and (p < 1).all() and np.abs(noise).max() <= 0.5 + 1e-5
    for i, size in enumerate(levels):
        inner = np.abs(cdf(jnp.asarray(z[:, i])) - 0.5) < 0.5 - 0.5 / size
        x = noise[inner, i]
        close([x.mean(), x.var()], [0, 1 / 12], 0, 0.01)
        assert (np.histogram(x, 10, (-0.5, 0.5))[0] > 0.08 * x.size).all()
        kept = np.abs(noise[~inner, i]) < 1e-5  # the noise would have left (0, 1)
        assert 0.05 < kept.mean() < 0.55


def logistic_density(z):
    return (1 - np.tanh(z) ** 2) / 2


def normal_density(z):
    return np.exp(-np.square(z) / 2) / np.sqrt(2 * np.pi)


@pytest.mark.parametrize(
    ("cdf", "density"), [(tanh_cdf, logistic_density), (normal_cdf, normal_density)]
)
def test_fsp_trains_with_the_gradient_of_the_distribution_function(cdf, density):
    q, z = fsp([4, 3], cdf), rows(50, 2)
    out = look(q, z, train=True, key=KEY)
    expected = -np.sin(out.quantized) * np.sqrt(12) * density(z.astype(float))
    close(slope(q, z, train=True, key=KEY), expected, 1e-4, 1e-6)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.9])
@pytest.mark.parametrize("bound", [tanh_bound, symmetric_bound])
def test_fsq_noise_replaces_the_rounding_of_a_share(bound, share):
    q, z = fsq([8, 5], bound=bound, rounded=share), rows(20000, 2)
    train, exact = (look(q, z, train=t, key=KEY) for t in (True, False))
    np.testing.assert_array_equal(train.indices, exact.indices)
    axis = bound(np.array([8, 5]))
    noise = (np.asarray(train.quantized) - axis.bound(jnp.asarray(z))) * axis.width
    same = train.quantized == exact.quantized
    close(np.mean(same), share, 0, 0.01)
    close(np.var(noise[~same]), 1 / 12, 0, 0.005)
    assert np.abs(noise).max() <= 0.51  # half a cell, and the paper's eps at the ends
    assert q.stochastic and not fsq([8, 5]).stochastic


def test_noise_needs_a_key_and_replicas_draw_their_own():
    q, z = fsp([4, 3]), jnp.zeros((2, 5, 2))
    with pytest.raises(ValueError, match="needs key="):
        look(q, z, train=True)
    shared = jnp.stack([KEY, KEY])
    step = jax.vmap(
        lambda z, k: look(q, z, train=True, key=k, axis_name="r").quantized, axis_name="r"
    )
    one, two = step(z, shared)
    assert (one != two).all()
    masked = look(q, z[0], train=True, key=KEY, mask=jnp.array([1.0, 0, 1, 1, 1]))
    np.testing.assert_array_equal(masked.quantized[1], 0)
    assert masked.indices[1] == -1 and (masked.quantized[0] != 0).all()


def moved(levels):
    """Learnt values that are no longer sorted, nor evenly spaced."""
    q = latent_vq(levels, alpha=0.2, beta=0.7)
    v = np.asarray(q.init(KEY)[0]["values"])
    return q, v + 0.4 * rows(*v.shape, seed=3)


def test_latent_values_are_chosen_by_distance_and_decoded_as_learnt():
    levels = [5, 3, 7]
    q, v = moved(levels)
    z = rows(300, 3, 0.5)
    out = look(q, z, {"values": jnp.asarray(v)})
    columns = [v[i, : levels[i]].astype(float) for i in range(3)]
    digits = np.stack([np.abs(z[:, i, None] - c).argmin(-1) for i, c in enumerate(columns)], -1)
    codes = np.stack([c[digits[:, i]] for i, c in enumerate(columns)], -1)
    np.testing.assert_array_equal(out.indices[:, 0], digits @ basis(levels))
    close(out.quantized, codes)
    close(q.decode({"values": jnp.asarray(v)}, {}, out.indices), codes)
    error = np.square(z - codes).mean()
    close([out.losses["codebook"], out.losses["commitment"]], [0.2 * error, 0.7 * error])


def test_latent_losses_move_values_and_rows():
    levels = [5, 3, 7]
    q, v = moved(levels)
    z = jnp.asarray(rows(40, 3, 0.5))

    def objective(params, z):
        out = look(q, z, params)
        return jnp.sum(jnp.cos(out.quantized)) + out.loss

    params = {"values": jnp.asarray(v)}
    dv, dz = jax.jit(jax.grad(objective, (0, 1)))(params, z)
    out = look(q, z, params)
    codes, digits = (
        np.asarray(out.quantized, float),
        np.unravel_index(out.indices[:, 0], levels, "F"),
    )
    close(dz, -np.sin(codes) + 0.7 * 2 * (z - codes) / z.size)
    expected = np.zeros(v.shape)
    for i in range(3):
        np.add.at(expected[i], digits[i], 0.2 * 2 * (codes - z)[:, i] / z.size)
    close(dv["values"], expected)
    assert (expected[1, 3:] == 0).all() and np.count_nonzero(expected) > 10


def test_latent_values_begin_evenly_spaced():
    values = latent_vq([2, 5]).init(KEY)[0]["values"]
    close(values, [[-0.5, 0.5, 0, 0, 0], [-0.5, -0.25, 0, 0.25, 0.5]])


def test_a_latent_value_that_is_not_finite_is_never_chosen():
    q, v = moved([4, 3])
    v[0, 1], v[1, 3] = np.nan, np.nan  # the second one is padding
    out = look(q, rows(100, 2), {"values": jnp.asarray(v)})
    assert np.isfinite(out.quantized).all() and (out.indices % 4 != 1).all()
    assert out.metrics["invalid_codes"] == 1


def test_latent_quantize_of_vector_quantize_pytorch():
    g = golden("vqt_latent")
    levels = g["levels"].astype(int).tolist()
    q = latent_vq(levels, alpha=float(g["commitment"]), beta=float(g["quantization"]))
    out = look(q, g["z"], q.init(KEY)[0])
    np.testing.assert_array_equal(out.indices[:, 0], g["indices"])
    close(out.quantized, g["quantized"])
    close(out.loss, g["loss"])


@pytest.mark.parametrize("make", [grid, fsq, fsp, latent_vq])
def test_levels_out_of_range(make, as_users):
    for levels in ([], [5, 1], [5, 3.0], [2**24 + 1], [True, 5]):
        with pytest.raises(ValueError, match="levels must be integers from 2 to"):
            make(levels)
    with pytest.raises(ValueError, match=r"2147483648 codes .* grouped"):
        make([2**16, 2**15])
    assert make([2**16, 2**15 - 1]).vocab == (2**31 - 2**16,)


def test_other_arguments_out_of_range(as_users):
    with pytest.raises(ValueError, match=r"levels >= 3, got \[5 2\]"):
        fsq([5, 2])
    for make in (fsq, fsp):
        with pytest.raises(ValueError, match="rounded must be in"):
            make([5, 3], rounded=1.5)
    with pytest.raises(ValueError, match="alpha must be in"):
        latent_vq([5, 3], alpha=-1.0)
    with pytest.raises(ValueError, match="z must be"):
        look(grid([5, 3]), np.zeros((4, 3)))
    with pytest.raises(ValueError, match="from -1 to 14"):
        grid([5, 3]).decode({}, {}, jnp.array([[15]]))


def test_hyperparameters_may_be_traced(as_users):
    z = jnp.asarray(rows(10, 2))

    @jax.jit
    def losses(x):
        latent, noisy = latent_vq([5, 3], alpha=x, beta=2 * x), fsq([5, 3], rounded=x)
        out = noisy.apply({}, {}, z, train=True, key=KEY)[0]
        return latent.apply(latent.init(KEY)[0], {}, z)[0].losses, out.quantized

    got, noisy = losses(0.5)
    close(got["commitment"], 2 * got["codebook"])
    close(noisy, look(fsq([5, 3], rounded=0.5), z, train=True, key=KEY).quantized)
