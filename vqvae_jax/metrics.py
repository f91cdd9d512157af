"""Evaluation metrics: usage of the codes, and image quality (PSNR, SSIM, Frechet distance)."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Float64, Int, Shaped

from vqvae_jax.checks import check_mask, check_same_shape
from vqvae_jax.conversions import boundary
from vqvae_jax.reductions import AxisName, pmax, sum_by_code

LISTED = 2**20  # largest K for which a batch is counted into K counters
MOST_LISTED = 2**24  # the same for an evaluation set: 64 MB of counters


@boundary
def code_counts(
    vocab: Sequence[int],
    indices: Int[Array, "*rows Q"],
    mask: ArrayLike | None = None,
    axis_name: AxisName = None,
) -> tuple[Float[Array, "K"], ...]:
    """Counts how often each code of each of the Q streams occurs.

    Add up the counts of all batches of an evaluation set, and pass the sum to `usage`.

    Args:
        vocab: sizes K of the streams, `Quantizer.vocab`.
        indices: int `[..., Q]`; -1 is not counted.
        mask: weights `[...]` of the rows, or None.
        axis_name: axis of the replicas, whose rows count too.

    Returns:
        One float32 `[K]` array for each stream.

    Raises:
        ValueError: if Q is not the number of streams, the mask does not fit, or a stream has more
            than 2^24 codes; in that case count only those that occur, by `numpy.unique`.

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
            f"a stream of {max(vocab):,} codes is too large for a counter each: count the codes"
            " that occur, usage(numpy.unique(k[k >= 0], return_counts=True)[1], size=K)"
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
        counts: counts of all K codes, or of the codes that occur, in any order.
        size: K, if `counts` leaves out codes.

    Returns:
        perplexity: exp(-sum_k p_k ln p_k), between 1 and K; 0 ln 0 is 0.
        bits: entropy of the codes, log2 of the perplexity.
        used: share of the K codes that occur at all.
        seen: number of codes counted, without which a perplexity means little.

    Example:
        >>> {name: float(value) for name, value in usage(jnp.array([2.0, 2.0, 0.0, 0.0])).items()}
        {'perplexity': 2.0, 'bits': 1.0, 'used': 0.5, 'seen': 4.0}
        >>> float(usage(jnp.array([2.0, 2.0]), size=4)["used"])
        0.5
    """
    counts = jnp.asarray(counts, jnp.float32)
    seen = jnp.sum(counts)
    p = counts / jnp.where(seen > 0, seen, 1)
    entropy = -jnp.sum(p * jnp.log(jnp.where(p > 0, p, 1)))  # finite gradient at 0, unlike `entr`
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

    The cost does not grow with K beyond 2^20: there the codes are sorted, and the lengths of runs
    of equal codes are the counts.

    Example:
        >>> k = jnp.array([7, -1, 2, 7, 2])
        >>> float(perplexity(k, 8)), float(perplexity(k, 2**28))
        (2.0, 2.0)
    """
    if size <= LISTED:
        return usage(code_counts((size,), k[..., None], None, axis_name)[0])["perplexity"]
    # A lookup-free quantizer may have 2^28 codes, and as many counters in each step would cost far
    # more than the step itself. A batch holds few codes, so its sorted codes are numbered by runs.
    everywhere = k if axis_name is None else jax.lax.all_gather(k, axis_name)
    k = jnp.sort(everywhere.ravel())
    run = jnp.cumsum(jnp.diff(k, prepend=k[:1]) != 0, dtype=jnp.int32)
    counts = jax.ops.segment_sum((k >= 0).astype(jnp.float32), run, k.size)
    return pmax(usage(counts)["perplexity"], axis_name)  # equal on all; pmax makes the type say so


@boundary
def psnr(mse: Float[Array, "*b"] | float, peak: float = 1.0) -> Float[Array, "*b"]:
    """Peak signal-to-noise ratio in dB of a mean squared error: 10 log10(peak^2 / mse).

    It is infinite for an error of 0. `psnr` of the mean error and the mean of `psnr` differ; tables
    of this project give the former.

    Args:
        mse: mean squared error, in units of the pixels squared.
        peak: range of the pixels: 1 for `preprocess`ed ones, 255 for uint8.

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

    The mean of (2 mu_x mu_y + c_1)(2 s_xy + c_2) / ((mu_x^2 + mu_y^2 + c_1)(s_x^2 + s_y^2 + c_2)),
    with moments in Gaussian windows of 11 x 11 pixels and sigma 1.5 that lie inside the image;
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
        # The window is separable, so two banded matrices apply it. Full precision, because the
        # variances below are differences of close numbers, which TF32 or bfloat16 would spoil.
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
    """Matrix of Gaussian windows of 11 pixels with sigma 1.5 and sum 1, one row for each place."""
    offset = jnp.arange(n, dtype=jnp.float32) - jnp.arange(n - 10, dtype=jnp.float32)[:, None] - 5
    window = jnp.where(jnp.abs(offset) <= 5, jnp.exp(-(offset**2) / (2 * 1.5**2)), 0)
    return window / jnp.sum(window, axis=1, keepdims=True)


@boundary
def sharpness(x: Float[Array, "*b H W C"]) -> Float[Array, "*b"]:
    """Sharpness of each image, its mean absolute Laplacian: mean |x_n + x_s + x_w + x_e - 4 x|.

    The mean is over channels and over the pixels that have all four neighbours. It is in units of
    the pixels and grows in proportion to contrast; noise raises it, as edges do. Compare it with
    that of real images: a ratio below 1 means blur.

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
    """Mean and covariance (divisor N - 1) of the rows in float64, for `frechet_distance`.

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
    # Centred first, since E[x^2] - mu^2 loses the covariance of features with a large mean.
    return mu, (x - mu).T @ (x - mu) / (len(x) - 1)


def frechet_distance(
    mu_1: Float[np.ndarray, "F"],
    cov_1: Float[np.ndarray, "F F"],
    mu_2: Float[np.ndarray, "F"],
    cov_2: Float[np.ndarray, "F F"],
) -> float:
    """Frechet distance of two Gaussians: |mu_1 - mu_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^{1/2}).

    Computed from the `moments` of two sets of features, it measures how far apart the sets are. Any
    network may give the features, but the literature's FID uses those of the Inception network
    (arXiv:1706.08500). Compare values of equal N only: fewer samples give larger distances.

    With C = A A^T, tr (C_1 C_2)^{1/2} is the sum of the singular values of A_1^T A_2. This is exact
    for singular covariances too, where a matrix square root is not. NumPy computes it in float64.

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
    # scipy.linalg.sqrtm of C_1 C_2 may be complex, or fail, where a covariance is singular, which
    # it is with fewer rows than features. Singular values are always real and not negative.
    common = np.linalg.svd(factor(cov_1).T @ factor(cov_2), compute_uv=False).sum()
    distance = np.sum((mu_1 - mu_2) ** 2) + np.trace(cov_1) + np.trace(cov_2) - 2 * common
    return max(float(distance), 0.0)  # rounding may make it negative for equal sets


def factor(cov: Float64[np.ndarray, "F F"]) -> Float64[np.ndarray, "F F"]:
    """A with A A^T = C, from the eigenvalues; those that rounding made negative count as 0."""
    values, vectors = np.linalg.eigh(cov)
    return vectors * np.sqrt(np.maximum(values, 0))
