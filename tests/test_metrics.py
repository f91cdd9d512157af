"""Usage of the codes, PSNR, SSIM, sharpness and the Frechet distance, against other libraries."""

from functools import partial

import chex
import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
import scipy.linalg
import scipy.ndimage
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as Spec

from vqvae_jax.metrics import (
    code_counts,
    frechet_distance,
    moments,
    perplexity,
    psnr,
    sharpness,
    ssim,
    usage,
)

close = np.testing.assert_allclose


def images(kind, channels, batch=(3,), sides=(19, 26), seed=0):
    """A pair of images each: noise; or soft shapes on a flat ground, and what is left of them."""
    rng = np.random.default_rng(seed)
    x, y = (rng.uniform(size=(*batch, *sides, channels)) for _ in range(2))
    if kind == "shapes":
        h, w = np.meshgrid(*(np.linspace(-1, 1, n) for n in sides), indexing="ij")
        centre = rng.uniform(-0.4, 0.4, (2, *batch, 1, 1, channels))
        distance = np.hypot(h[..., None] - centre[0], w[..., None] - centre[1])
        x = np.clip(1.4 - 3 * distance, 0, 1)  # exactly 0 and 1 over large parts
        y = np.clip(0.9 * x + 0.05 * (y - 0.5), 0, 1)
    return jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)


@pytest.mark.parametrize("counts", [[3, 3, 3], [5, 0, 1, 0], [1, 0, 0, 0], [1000, 1], [0.1, 0.3]])
def test_usage_is_that_of_float64(counts):
    got = usage(jnp.asarray(counts, jnp.float32))
    close(got["perplexity"], ref.perplexity(counts), rtol=1e-5)
    close(got["bits"], np.log2(ref.perplexity(counts)), rtol=1e-5, atol=1e-6)
    close(got["used"], np.mean(np.asarray(counts) > 0))
    close(got["seen"], np.sum(counts), rtol=1e-6)


def test_usage_of_a_large_codebook_with_unused_codes():
    rng = np.random.default_rng(0)
    counts = rng.poisson(3, 16384) * (rng.uniform(size=16384) < 0.3)
    got = usage(jnp.asarray(counts, jnp.float32))
    close(got["perplexity"], ref.perplexity(counts), rtol=1e-5)
    close(got["used"], np.mean(counts > 0), rtol=1e-6)


def test_usage_of_no_code_at_all_is_finite():
    assert {k: float(v) for k, v in usage(jnp.zeros(4)).items()} == {
        "perplexity": 1, "bits": 0, "used": 0, "seen": 0
    }  # fmt: skip


@pytest.mark.parametrize("unused", [0, 2])
def test_gradient_of_the_perplexity_is_that_on_paper_and_finite_for_unused_codes(unused):
    counts = jnp.array([2.0, 5.0, 1.0, 8.0] + [0.0] * unused)
    p = ref.f64(counts)[:4] / 16
    entropy = -np.sum(p * np.log(p))
    expected = np.exp(entropy) * (-np.log(p) - entropy) / 16
    gradient = jax.grad(lambda c: usage(c)["perplexity"])(counts)
    close(gradient[:4], expected, rtol=1e-5, atol=1e-6)
    assert np.isfinite(gradient).all()
    assert np.isfinite(jax.grad(lambda c: usage(c)["bits"])(0 * counts)).all()


def test_counts_are_those_of_each_stream_without_codes_that_were_not_sent():
    rng = np.random.default_rng(1)
    vocab, indices = (5, 3), np.stack([rng.integers(-1, k, (4, 7)) for k in (5, 3)], axis=-1)
    for q, counts in enumerate(code_counts(vocab, jnp.asarray(indices))):
        stream = indices[..., q]
        np.testing.assert_array_equal(counts, np.bincount(stream[stream >= 0], minlength=vocab[q]))
        chex.assert_type(counts, jnp.float32)


@pytest.mark.parametrize("shape", [(4, 7), (4, 1), (1, 7)])
def test_counts_are_weighted_by_the_mask(shape):
    """Of every stream."""
    rng, vocab = np.random.default_rng(2), (5, 3)
    indices = np.stack([rng.integers(-1, k, (4, 7)) for k in vocab], axis=-1)
    mask = rng.integers(0, 3, shape)
    weights = np.broadcast_to(mask, (4, 7))
    for q, counts in enumerate(code_counts(vocab, jnp.asarray(indices), mask=jnp.asarray(mask))):
        expected = [weights[indices[..., q] == k].sum() for k in range(vocab[q])]
        np.testing.assert_array_equal(counts, expected)


def test_counts_add_up_over_batches_and_replicas():
    rng, vocab = np.random.default_rng(3), (9, 4)
    indices = jnp.asarray(np.stack([rng.integers(0, k, (4, 50)) for k in vocab], axis=-1))
    count = partial(code_counts, vocab)
    replicas = jax.vmap(partial(count, axis_name="r"), axis_name="r")(indices)
    for whole, each, *parts in zip(count(indices), replicas, *map(count, indices), strict=True):
        np.testing.assert_array_equal(sum(parts), whole)
        np.testing.assert_array_equal(each, np.tile(whole, (4, 1)))
        close(usage(whole)["perplexity"], ref.perplexity(whole), rtol=1e-5)


@pytest.mark.parametrize("size", [2**20, 2**28])  # by counters, and by the lengths of runs
def test_perplexity_of_a_batch_is_that_of_float64_on_one_device_and_many(size):
    rng = np.random.default_rng(4)
    few = rng.integers(0, size, 30)
    k = np.where(rng.uniform(size=(4, 50)) < 0.2, -1, rng.choice(few, (4, 50)))
    expected = ref.perplexity(np.unique(k[k >= 0], return_counts=True)[1])
    close(perplexity(jnp.asarray(k), size), expected, rtol=1e-5)
    of_replica = partial(perplexity, size=size, axis_name="r")
    close(jax.vmap(of_replica, axis_name="r")(k), [expected] * 4, rtol=1e-5)
    mesh = jax.make_mesh((4,), ("r",), (AxisType.Auto,), devices=jax.devices()[:4])
    sharded = jax.shard_map(of_replica, mesh=mesh, in_specs=Spec("r"), out_specs=Spec())
    close(jax.jit(sharded)(k), expected, rtol=1e-5)
    for none in (jnp.full((3, 2), -1), jnp.zeros((0, 2), jnp.int32)):
        assert perplexity(none, size) == 1


def test_counts_of_those_codes_alone_that_occur():
    counts, every = jnp.array([5.0, 1.0]), jnp.array([0.0, 5.0, 0.0, 0.0, 1.0])
    found = usage(counts, size=5)
    for name, value in usage(every).items():
        close(found[name], value, rtol=1e-6)


def test_psnr():
    close(psnr(jnp.array([1.0, 0.01, 0.001])), [0, 20, 30], atol=1e-5)
    for peak in (255, 2, 0.5):
        close(psnr(0.25, peak=peak), 10 * np.log10(peak**2 / 0.25), rtol=1e-6, atol=1e-6)
    assert psnr(0.0) == np.inf


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["noise", "shapes"])
def test_ssim_is_that_of_dm_pix(kind, channels):
    x, y = images(kind, channels)
    highest = jax.lax.Precision.HIGHEST
    expected = dm_pix.ssim(x, y, filter_size=11, filter_sigma=1.5, precision=highest)
    assert np.ptp(expected) > 1e-3
    close(ssim(x, y), expected, atol=1e-5)
    for peak in (255.0, 0.5):
        bright = dm_pix.ssim(peak * x, peak * y, max_val=peak, precision=highest)
        close(ssim(peak * x, peak * y, peak=peak), bright, atol=1e-5)
    close(ssim(x, x), 1, atol=1e-6)


@pytest.mark.parametrize("batch", [(), (2,), (2, 3), (0,)])
def test_ssim_is_taken_image_by_image(batch):
    x, y = images("noise", 2, batch, sides=(11, 12))
    each = [ssim(a, b) for a, b in zip(*(v.reshape(-1, 11, 12, 2) for v in (x, y)), strict=True)]
    chex.assert_shape(ssim(x, y), batch)
    close(ssim(x, y).ravel(), np.ravel(each), atol=1e-6)


def test_ssim_has_a_finite_gradient_where_images_are_flat():
    flat = jnp.full((12, 12, 1), 0.5)
    gradient = jax.grad(lambda x: ssim(x, flat))(flat + 0.1)
    assert np.isfinite(gradient).all() and np.any(gradient != 0)


# Sharpness ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_sharpness_is_the_mean_absolute_laplacian_of_scipy(channels):
    x, _ = images("noise", channels)
    for image, found in zip(ref.f64(x), sharpness(x), strict=True):
        planes = [scipy.ndimage.laplace(plane)[1:-1, 1:-1] for plane in np.moveaxis(image, -1, 0)]
        close(found, np.mean(np.abs(planes)), rtol=1e-5)


def test_sharpness_of_flat_and_of_slanted_images_is_zero_and_grows_with_contrast():
    flat = jnp.full((4, 5, 1), 0.5)
    slope = jnp.arange(20.0).reshape(4, 5, 1)
    close(sharpness(jnp.stack([flat, slope])), 0, atol=1e-6)
    x, _ = images("noise", 1)
    close(sharpness(3 * x - 7), 3 * sharpness(x), rtol=1e-5)
    blurred = scipy.ndimage.gaussian_filter(np.asarray(x), (0, 1, 1, 0))
    assert (sharpness(jnp.asarray(blurred)) < 0.3 * sharpness(x)).all()


# The Frechet distance -----------------------------------------------------------------------------


def gaussian(seed, features=6, rank=6):
    """A mean and a covariance of this rank."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(features, rank))
    return rng.normal(size=features), a @ a.T


@pytest.mark.parametrize(("mu", "s", "nu", "t"), [(0, 1, 3, 1), (1, 2, 1, 5), (-1, 0, 2, 0.5)])
def test_frechet_distance_in_one_dimension(mu, s, nu, t):
    one = frechet_distance(*(np.full(shape, v) for v, shape in [
        (float(mu), (1,)), (float(s**2), (1, 1)), (float(nu), (1,)), (float(t**2), (1, 1)),
    ]))  # fmt: skip
    close(one, (mu - nu) ** 2 + (s - t) ** 2, rtol=1e-12)


@pytest.mark.parametrize("rotated", [False, True])
def test_frechet_distance_of_commuting_covariances(rotated):
    rng = np.random.default_rng(0)
    s, t, mu, nu = rng.uniform(0, 2, (4, 7))
    s[0] = t[1] = 0  # singular ones too
    v = np.linalg.qr(rng.normal(size=(7, 7)))[0] if rotated else np.eye(7)
    found = frechet_distance(mu, v * s**2 @ v.T, nu, v * t**2 @ v.T)
    close(found, np.sum((mu - nu) ** 2) + np.sum((s - t) ** 2), rtol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_frechet_distance_is_that_of_the_square_root_of_a_matrix(seed):
    (mu, c), (nu, d) = gaussian(seed), gaussian(seed + 10)
    root = scipy.linalg.sqrtm(c @ d).real
    close(frechet_distance(mu, c, nu, d), np.sum((mu - nu) ** 2) + np.trace(c + d - 2 * root))
    close(frechet_distance(nu, d, mu, c), frechet_distance(mu, c, nu, d), rtol=1e-12)


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_frechet_distance_of_equal_ones_is_zero_and_never_negative(rank):
    mu, c = gaussian(0, rank=rank)
    assert 0 <= frechet_distance(mu, c, mu, c) < 1e-12 * np.trace(c)


def test_frechet_distance_of_singular_covariances():
    """Of u u^T and v v^T the trace of the root is |u . v|."""
    u, v = np.random.default_rng(1).normal(size=(2, 50))
    found = frechet_distance(np.zeros(50), np.outer(u, u), np.zeros(50), np.outer(v, v))
    close(found, u @ u + v @ v - 2 * abs(u @ v), rtol=1e-6)


def test_moments_are_those_of_numpy_and_of_float64():
    x = np.random.default_rng(0).normal(1000, 1, (50, 4)).astype(np.float32)
    mu, cov = moments(x)
    close(mu, np.mean(x, axis=0, dtype=np.float64), rtol=1e-12)
    close(cov, np.cov(x.astype(np.float64), rowvar=False), rtol=1e-10)
    close(moments(jnp.asarray(x))[1], cov)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: code_counts((4, 4), jnp.zeros((3, 1), int)), r"\[\.\.\., 2\] .*got \(3, 1\)"),
        (lambda: code_counts((4,), jnp.zeros((3, 1), int), jnp.ones(2)), r"\(3,\).*got \(2,\)"),
        (lambda: code_counts((4,), jnp.zeros((3, 1), int), 1.0), r"\(3,\).*got \(\)"),
        (lambda: code_counts((2**28,), jnp.zeros((3, 1), int)), r"268,435,456 codes .*usage\("),
        (lambda: ssim(jnp.ones((12, 12, 1)), jnp.ones((12, 12, 3))), r"x and y .*equal shapes"),
        (lambda: ssim(*[jnp.ones((12, 10, 1))] * 2), r"at least 11 x 11 .*got \(12, 10, 1\)"),
        (lambda: sharpness(jnp.ones((5, 2, 1))), r"at least 3 x 3 .*got \(5, 2, 1\)"),
        (lambda: moments(np.ones((1, 3))), r"\[N >= 2, F\], got shape \(1, 3\)"),
        (lambda: moments(np.full((3, 2), np.nan)), r"finite .*got shape \(3, 2\)"),
        (
            lambda: frechet_distance(np.ones(2), np.eye(2), np.ones(3), np.eye(3)),
            r"mu_1 and mu_2 .*equal shapes",
        ),
        (
            lambda: frechet_distance(np.ones(2), np.eye(3), np.ones(2), np.eye(2)),
            r"cov_1 must be symmetric, \(2, 2\); got shape \(3, 3\)",
        ),
        (
            lambda: frechet_distance(np.ones(2), np.eye(2), np.ones(2), np.array([[1, 2], [0, 1]])),
            r"cov_2 must be symmetric",
        ),
    ],
)
def test_input_that_does_not_fit_is_named(as_users, call, message):
    with pytest.raises(ValueError, match=message):
        call()


class Variants(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True, with_device=True, with_pmap=True)
    def test_variants_agree(self):
        counts = jnp.array([4.0, 0.0, 3.0, 1.0])
        close(self.variant(usage)(counts)["perplexity"], ref.perplexity(counts), rtol=1e-5)
        x, y = images("shapes", 1)
        close(self.variant(ssim)(x, y), dm_pix.ssim(x, y), atol=1e-5)
        close(self.variant(psnr)(jnp.float32(0.001)), 30, rtol=1e-6)
