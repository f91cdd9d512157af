"""Codebooks: where codes come from, which of them count as dead, and how a row finds its code."""

import dataclasses
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient as sg
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from vqvae_jax.describe import Described, Function, described
from vqvae_jax.equations import lookup
from vqvae_jax.quantizers.base import check_range, check_size
from vqvae_jax.reductions import AxisName, Rows, is_valid, mean, sample_rows, sum_by_code
from vqvae_jax.search import nearest


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Init(Described):
    """How a codebook begins.

    Attributes:
        draw: `(key, K, D) -> [K, D]`, without any data.
        fit: None, or `(key, z, weights, K, axis_name) -> [K, D]`: replaces the codebook by one made
            from the first batch that has a valid row, the same on every replica.
        zero_debiased: moving averages begin at zero and are corrected for it, see `zero_debiased`.
    """

    draw: Callable[..., Array]
    fit: Callable[..., Array] | None = None
    zero_debiased: bool = False


@described
def uniform(scale: float | None = None) -> Init:
    """Codes from U(-scale, scale); scale = 1 / K if None, as in the code of arXiv:1711.00937."""
    check_range(0, float("inf"), scale=0 if scale is None else scale)

    def draw(key, size, dim):
        bound = 1 / size if scale is None else scale
        return jax.random.uniform(key, (size, dim), minval=-bound, maxval=bound)

    return Init(draw)


@described
def normal(scale: float = 1.0) -> Init:
    """Codes from N(0, scale^2)."""
    check_range(0, float("inf"), scale=scale)
    return Init(lambda key, size, dim: scale * jax.random.normal(key, (size, dim)))


@described
def samples() -> Init:
    """Codes are rows of the first batch; rows repeat where there are fewer than K."""
    return Init(uniform().draw, fit_samples)


@described
def kmeans(steps: int = 10) -> Init:
    """Codes are the centroids of k-means (Lloyd) on the first batch, from K of its rows."""
    check_size(steps=steps)

    def fit(key, z, weights, size, axis_name):
        return lloyd(z, weights, fit_samples(key, z, weights, size, axis_name), steps, axis_name)

    return Init(uniform().draw, fit)


@described
def zero_debiased(init: Init = uniform()) -> Init:  # noqa: B008
    """Moving averages as in Haiku and Sonnet: they begin at 0 and are corrected for it.

    The codebook of `init` is then used for the first batch only: after it a code that received no
    row is exactly 0, often most of the codebook. For parity with those libraries.
    """
    return dataclasses.replace(init, zero_debiased=True)


def fit_samples(key, z, weights, size: int, axis_name: AxisName = None) -> Float[Array, "K D"]:
    """K rows of the global batch; warns where one replica's batch is smaller than K."""
    rows = z.size // z.shape[-1] if isinstance(z.size, int) else size
    if axis_name is None and 0 < rows < size:  # no row: no fit
        warnings.warn(
            f"{rows} rows for {size} codes: codes of the first batch repeat", stacklevel=2
        )
    return sample_rows(key, z, weights, size, axis_name)


def lloyd(
    z: Float[Array, "*rows D"],
    weights: Float[Array, "*rows"],
    centroids: Float[Array, "K D"],
    steps: int,
    axis_name: AxisName = None,
) -> Float[Array, "K D"]:
    """k-means: `steps` times each centroid becomes the mean of its rows; without rows it stays."""

    def step(e, _):
        k = nearest(z, e)
        n = sum_by_code(weights, k, len(e), axis_name)[:, None]
        total = sum_by_code(z * weights[..., None], k, len(e), axis_name)
        return jnp.where(n > 0, total / jnp.where(n > 0, n, 1), e), None

    return jax.lax.scan(step, centroids, length=steps)[0]


@described
def underused(share: float = 0.1) -> Function:
    """Dead codes: those whose moving-average count lies under `share` of the codebook's mean.

    For the argument `revive` of `vq` and `ema_vq`. It does not depend on the size of the batch.

    Example:
        >>> underused(0.5)(jnp.array([1.0, 0.1, 1.0]))
        Array([False,  True, False], dtype=bool)
    """
    check_range(0, 1, share=share)

    def dead(counts: Float[Array, "K"]) -> Bool[Array, "K"]:
        return counts < share * jnp.mean(counts)

    return Function(dead)


def first_fit(
    init: Init,
    initialized: Bool[Array, ""],
    codebook: Float[Array, "K D"],
    key: PRNGKeyArray,
    rows: Rows,
    axis_name: AxisName,
) -> Float[Array, "K D"]:
    """The codebook, fitted to this batch if it is the first that has a valid row."""
    size, fit = codebook.shape[0], init.fit
    assert fit is not None
    return jax.lax.cond(
        initialized | ~rows.some,
        lambda: codebook,
        lambda: fit(key, rows.z, rows.weights, size, axis_name),
    )


def find_dead(
    revive: Callable[[Array], Array],
    counts: Float[Array, "K"],
    hits: Float[Array, "K"],
    codebook: Float[Array, "K D"],
) -> Bool[Array, "K"]:
    """Codes to re-seed: dead or not finite, but never one that was chosen in this batch."""
    return (revive(counts) | ~is_valid(codebook)) & (hits == 0)


def look_up(rows: Rows, codebook: Float[Array, "K D"]) -> tuple[Array, Array]:
    """(k, z_q) of each row; (-1, 0) for a row that is not valid."""
    k = jnp.where(rows.weights > 0, nearest(rows.z, codebook), -1)
    return k, lookup(codebook, k)


def lookup_metrics(rows: Rows, codebook, z_q, axis_name) -> dict[str, Array]:
    """error: |z_e - z_q|^2, the mean over elements; how many rows and codes are not finite."""
    return {
        "error": mean(jnp.square(sg(rows.z - z_q)), rows.weights, axis_name),
        "invalid_rows": rows.invalid,
        "invalid_codes": jnp.sum(~is_valid(sg(codebook)), dtype=jnp.float32),
    }
