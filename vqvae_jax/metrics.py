"""Metrics of evaluation: usage of the codes, and the quality of images (PSNR, SSIM, Frechet)."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Float64, Int, Shaped

from vqvae_jax.checks import check_mask, check_same_shape
from vqvae_jax.conversions import boundary
from vqvae_jax.reductions import AxisName, pmax, sum_by_code

LISTED = 2**20  # codes of a stream, at most, that a batch is counted into one by one
MOST_LISTED = 2**24  # and an evaluation set: 64 MB of counters


@boundary
def code_counts(
    vocab: Sequence[int],
    indices: Int[Array, "*rows Q"],
    mask: ArrayLike | None = None,
    axis_name: AxisName = None,
) -> tuple[Float[Array, "K"], ...]:
    """Counts how often each code of each of the Q streams occurs.

    Counts of batches are added up over an evaluation set, and read by `usage`.

    Args:
        vocab: the sizes K of the streams, `Quantizer.vocab`.
        indices: int `[..., Q]`; -1 is not counted.
        mask: weights `[...]` of the rows, or None.
        axis_name: the replicas whose rows count as well.

    Returns:
        One float32 `[K]` array for each stream.

    Raises:
        ValueError: if Q is not the number of streams, the mask does not fit, or a stream has more
            than 2^24 codes: there count those that occur, by `numpy.unique`, for `usage`.

    Example:
        >>> code_counts((3,), jnp.array([[0], [2], [2], [-1]]))
        (Array([1., 0., 2.], dtype=float32),)
    """
    rows, streams = indices.shape[:-1], indices.shape[-1]
    if streams != len(vocab):
        raise ValueError(
            f"indices must be [..., {len(vocab)}] for vocab {vocab}, got {indices.shape}"
        )
    if max(vocab, default=0) > MOST_LISTED:
        raise ValueError(
            f"a stream of {max(vocab):,} codes is too large to count them all: count those that "
            "occur, usage(numpy.unique(k[k >= 0], return_counts=True)[1], size=K)"
        )
    w = jnp.ones(rows, jnp.float32)
    if mask is not None:
        check_mask(jnp.shape(mask), rows)
        w = jnp.broadcast_to(jnp.asarray(mask, w.dtype), rows)
    return tuple(sum_by_code(w, indices[..., q], k, axis_name) for q, k in enumerate(vocab))


@boundary
def usage(counts: Shaped[Array, "K"], size: int | None = None) -> dict[str, Float[Array, ""]]:
    """Usage of one stream of codes, from its counts [K] over a whole evaluation set.

    Args:
        counts: of all codes, or in any order of those alone that occur.
        size: K, where `counts` leaves out codes.

    Returns:
        perplexity: exp(-sum_k p_k ln p_k), between 1 and K; 0 ln 0 is 0.
        bits: the entropy of the codes, log2 of the perplexity.
        used: the share of the K codes that occur at all.
        seen: the number of codes counted: a perplexity without it says nothing.

    Example:
        >>> {name: float(value) for name, value in usage(jnp.array([2.0, 2.0, 0.0, 0.0])).items()}
        {'perplexity': 2.0, 'bits': 1.0, 'used': 0.5, 'seen': 4.0}
        >>> float(usage(jnp.array([2.0, 2.0]), size=4)["used"])
        0.5
    """
    counts = jnp.asarray(counts, jnp.float32)
    seen = jnp.sum(counts)
    p = counts / jnp.where(seen > 0, seen, 1)
    entropy = -jnp.sum(p * jnp.log(jnp.where(p > 0, p, 1)))  # a finite gradient, unlike entr's
    used = jnp.mean(counts > 0, dtype=jnp.float32)
    return {
        "perplexity": jnp.exp(entropy),
        "bits": entropy / math.log(2.0),
        "used": used if size is None else used * (counts.size / size),
        "seen": seen,
    }


@boundary
def perplexity(k: Int[Array, "*rows"], size: int, axis_name: AxisName = None) -> Float[Array, ""]:
    """Perplexity of one stream's codes in one batch of all replicas, as in `usage`; -1 is left out.

    Its cost does not grow with K beyond 2^20: there the codes are sorted, and
    the lengths of the runs are the counts.

    Example:
        >>> k = jnp.array([7, -1, 2, 7, 2])
        >>> float(perplexity(k, 8)), float(perplexity(k, 2**28))
        (2.0, 2.0)
    """
    if size <= LISTED:
        return usage(code_counts((size,), k[..., None], None, axis_name)[0])["perplexity"]
    # A lookup-free quantizer may have 2^28 codes: so many counters at each step would cost far
    # more than the step. A batch has few, so its sorted codes are numbered run by run.
    everywhere = k if axis_name is None else jax.lax.all_gather(k, axis_name)
    k = jnp.sort(everywhere.ravel())
    run = jnp.cumsum(jnp.diff(k, prepend=k[:1]) != 0, dtype=jnp.int32)
    counts = jax.ops.segment_sum((k >= 0).astype(jnp.float32), run, k.size)
    return pmax(usage(counts)["perplexity"], axis_name)  # equal on all, as the types now say


@boundary
def psnr(mse: Float[Array, "*b"] | float, peak: float = 1.0) -> Float[Array, "*b"]:
    """Peak signal-to-noise ratio in dB of a mean squared error: 10 log10(peak^2 / mse).

    Infinite where nothing differs. `psnr` of the mean error and the mean of `psnr` differ; the
    tables here give the first.

    Args:
        mse: mean squared error, in units of the pixels squared.
        peak: the range of the pixels: 1 for `preprocess`ed ones, 255 for uint8.

    Example:
        >>> round(float(psnr(0.001)), 2)
        30.0
    """
    return 10 * jnp.log10(peak**2 / jnp.asarray(mse, jnp.float32))


@boundary
def ssim(
    x: Float[Array, "*b H W C"], y: Float[Array, "*b H W C"], peak: float = 1.0
) -> Float[Array, "*b"]:
    """Structural similarity of each pair of images; 1 if they are equal.

    mean of (2 mu_x mu_y + c_1)(2 s_xy + c_2) / ((mu_x^2 + mu_y^2 + c_1)(s_x^2 + s_y^2 + c_2)) with
    moments in Gaussian windows of 11 x 11 pixels, sigma 1.5, that lie inside the image;
    c_1 = (0.01 peak)^2, c_2 = (0.03 peak)^2. Wang et al. 2004, doi:10.1109/TIP.2003.819861.

    Raises:
        ValueError: if the shapes differ or a side is shorter than 11 pixels.

    Example:
        >>> x = jnp.linspace(0, 1, 12 * 12).reshape(12, 12, 1)
        >>> float(ssim(x, x)), float(ssim(x, 1 - x)) < 0
        (1.0, True)
    """
    check_same_shape("x", x, "y", y)
    if min(x.shape[-3:-1]) < 11:
        raise ValueError(f"ssim needs images of at least 11 x 11 pixels, got {x.shape}")

    def moment(v):
        # The window is separable, so two banded matrices apply it. In full precision: the variances
        # below are differences of close numbers, and TF32 or bfloat16 products would spoil them.
        rows, columns = gaussian_windows(v.shape[-3]), gaussian_windows(v.shape[-2])
        return jnp.einsum(
            "hi,wj,...ijc->...hwc", rows, columns, v, precision=jax.lax.Precision.HIGHEST
        )

    mu_x, mu_y = moment(x), moment(y)
    s_x, s_y = moment(x * x) - mu_x**2, moment(y * y) - mu_y**2
    s_xy = moment(x * y) - mu_x * mu_y
    c_1, c_2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    luminance = (2 * mu_x * mu_y + c_1) / (mu_x**2 + mu_y**2 + c_1)
    structure = (2 * s_xy + c_2) / (s_x + s_y + c_2)
    return jnp.mean(luminance * structure, axis=(-3, -2, -1))


def gaussian_windows(n: int) -> Float[Array, "m n"]:
    """Matrix of Gaussian windows of 11 pixels, sigma 1.5, sum 1: one row for each place."""
    offset = jnp.arange(n, dtype=jnp.float32) - jnp.arange(n - 10, dtype=jnp.float32)[:, None] - 5
    window = jnp.where(jnp.abs(offset) <= 5, jnp.exp(-(offset**2) / (2 * 1.5**2)), 0)
    return window / jnp.sum(window, axis=1, keepdims=True)


@boundary
def sharpness(x: Float[Array, "*b H W C"]) -> Float[Array, "*b"]:
    """Sharpness of each image, its mean absolute Laplacian: mean |x_n + x_s + x_w + x_e - 4 x|.

    The mean is over channels and over the pixels that have all four neighbours. It grows in
    proportion to contrast, in units of the pixels, and noise raises it as edges do: compare it with
    that of real images, a ratio below 1 is blur.

    Raises:
        ValueError: if a side is shorter than 3 pixels.

    Example:
        >>> x = jnp.zeros((5, 5, 1)).at[2, 2].set(1.0)
        >>> sharpness(x) * 9  # one pixel of -4 among four of 1, in the 3 x 3 inside
        Array(8., dtype=float32)
    """
    if min(x.shape[-3:-1]) < 3:
        raise ValueError(f"sharpness needs images of at least 3 x 3 pixels, got {x.shape}")
    down = x[..., 2:, 1:-1, :] + x[..., :-2, 1:-1, :]
    across = x[..., 1:-1, 2:, :] + x[..., 1:-1, :-2, :]
    return jnp.mean(jnp.abs(down + across - 4 * x[..., 1:-1, 1:-1, :]), axis=(-3, -2, -1))


def moments(
    features: Float[np.ndarray | Array, "N F"],
) -> tuple[Float64[np.ndarray, "F"], Float64[np.ndarray, "F F"]]:
    """Mean and covariance (of divisor N - 1) of the rows, in float64, for `frechet_distance`.

    Raises:
        ValueError: with fewer than 2 rows, or a value that is not finite.

    Example:
        >>> moments(np.array([[0.0, 1.0], [2.0, 1.0]]))
        (array([1., 1.]), array([[2., 0.], [0., 0.]]))
    """
    x = np.asarray(features, np.float64)
    if x.ndim != 2 or len(x) < 2 or not np.isfinite(x).all():
        raise ValueError(f"features must be finite [N >= 2, F], got shape {x.shape}")
    mu = x.mean(axis=0)
    # Centred first: E[x^2] - mu^2 loses the covariance of features with a large mean.
    return mu, (x - mu).T @ (x - mu) / (len(x) - 1)


def frechet_distance(
    mu_1: Float[np.ndarray, "F"],
    cov_1: Float[np.ndarray, "F F"],
    mu_2: Float[np.ndarray, "F"],
    cov_2: Float[np.ndarray, "F F"],
) -> float:
    """Frechet distance of two Gaussians: |mu_1 - mu_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^{1/2}).

    Computed from the `moments` of two sets of features, it measures how far apart the sets are. Any
    network may give the features, but only those of the Inception network give what the literature
    calls FID (arXiv:1706.08500). Compare values of equal N only: fewer samples give
    larger distances.

    With C = A A^T the last trace is the sum of the singular values of A_1^T A_2: exact for singular
    covariances as well, where the square root of a matrix is not. In float64 NumPy.

    Raises:
        ValueError: if the shapes don't fit, or a covariance is not symmetric.

    Example:
        >>> frechet_distance(np.zeros(1), np.eye(1), np.ones(1), 4 * np.eye(1))  # 1 + (1 - 2)^2
        2.0
    """
    mu_1, mu_2, cov_1, cov_2 = (np.asarray(v, np.float64) for v in (mu_1, mu_2, cov_1, cov_2))
    check_same_shape("mu_1", mu_1, "mu_2", mu_2)
    for name, cov in (("cov_1", cov_1), ("cov_2", cov_2)):
        if cov.shape != mu_1.shape * 2 or not np.allclose(cov, cov.T):
            raise ValueError(f"{name} must be symmetric, {mu_1.shape * 2}; got shape {cov.shape}")
    # scipy.linalg.sqrtm of C_1 C_2 may be complex, or fail, where a covariance is singular, as it
    # is with fewer rows than features; singular values are real and not negative.
    common = np.linalg.svd(factor(cov_1).T @ factor(cov_2), compute_uv=False).sum()
    distance = np.sum((mu_1 - mu_2) ** 2) + np.trace(cov_1) + np.trace(cov_2) - 2 * common
    return max(float(distance), 0.0)  # rounding, where they are equal


def factor(cov: Float64[np.ndarray, "F F"]) -> Float64[np.ndarray, "F F"]:
    """A with A A^T = C, from the eigenvalues; those that rounding made negative are 0."""
    values, vectors = np.linalg.eigh(cov)
    return vectors * np.sqrt(np.maximum(values, 0))
