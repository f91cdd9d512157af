"""Codebook initializers: random, given, or fitted to the first batch."""

import dataclasses
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vqvae_jax.checks import check_range, check_size
from vqvae_jax.reductions import AxisName, sample_rows, sum_by_code
from vqvae_jax.saving.describe import Described, described
from vqvae_jax.search.exact import nearest


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Init(Described):
    """Initializer of a codebook.

    Attributes:
        draw: `(key, K, D) -> [K, D]`, without data.
        fit: None, or `(key, z, weights, K, axis_name) -> [K, D]`, which makes the codebook from the
            first batch that has a valid row, equal on every replica.
        zero_debiased: whether moving averages start at 0 and are corrected for it; see
            `zero_debiased`.
    """

    draw: Callable[..., Array]
    fit: Callable[..., Array] | None = None
    zero_debiased: bool = False

    def codes(self, key, size: int, dim: int) -> Float[Array, "K D"]:
        """Codes from `draw`, as float32."""
        return self.draw(key, size, dim).astype(jnp.float32)


@described
def uniform(scale: float | None = None) -> Init:
    """Codes drawn from U(-scale, scale); None is 1 / K, as in the code of arXiv:1711.00937."""
    check_range(0, float("inf"), scale=0 if scale is None else scale)

    def draw(key, size, dim):
        bound = 1 / size if scale is None else scale
        return jax.random.uniform(key, (size, dim), minval=-bound, maxval=bound, dtype=jnp.float32)

    return Init(draw)


@described
def normal(scale: float = 1.0) -> Init:
    """Codes drawn from N(0, scale^2)."""
    check_range(0, float("inf"), scale=scale)
    return Init(lambda key, size, dim: scale * jax.random.normal(key, (size, dim), jnp.float32))


@described
def given(codebook) -> Init:
    """Codes given as an array [K, D], such as those of another model.

    Its values are part of the description, and JSON holds them all.

    Raises:
        ValueError: if they are not [K, D], or a codebook is made with another K or D.

    Example:
        >>> given([[0.0, 1.0], [2.0, 3.0]]).draw(None, 2, 2)
        Array([[0., 1.],
               [2., 3.]], dtype=float32)
    """
    # NumPy, since the values are part of a hashable call, and no device is needed to describe them.
    values = np.asarray(codebook, np.float32)
    if values.ndim != 2:
        raise ValueError(f"codebook must be [K, D], got shape {values.shape}")

    def draw(key, size, dim):
        if values.shape != (size, dim):
            raise ValueError(f"the given codebook must be {(size, dim)}, got {values.shape}")
        return jnp.asarray(values)

    return Init(draw)


@described
def samples() -> Init:
    """Rows of the first batch as codes; rows repeat if there are fewer than K."""
    return Init(uniform().draw, fit_samples)


@described
def kmeans(steps: int = 10) -> Init:
    """Centroids of k-means (Lloyd) on the first batch, started from K of its rows."""
    check_size(steps=steps)

    def fit(key, z, weights, size, axis_name):
        return lloyd(z, weights, fit_samples(key, z, weights, size, axis_name), steps, axis_name)

    return Init(uniform().draw, fit)


@described
def zero_debiased(init: Init = uniform()) -> Init:  # noqa: B008
    """Zero-debiased moving averages, which start at 0 and are corrected for it (Haiku, Sonnet).

    The codebook of `init` then serves for the first batch only: after it, every code without rows
    is exactly 0, often most of the codebook. It exists for parity with those libraries.
    """
    return dataclasses.replace(init, zero_debiased=True)


def fit_samples(key, z, weights, size: int, axis_name: AxisName = None) -> Float[Array, "K D"]:
    """Draws K rows of the global batch; warns if a single replica's batch has fewer than K."""
    # Other replicas' rows are not known while this one is traced, so with an axis nothing is said.
    rows = z.size // z.shape[-1] if isinstance(z.size, int) else size
    if axis_name is None and 0 < rows < size:  # an empty batch fits nothing
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
    """Runs `steps` steps of k-means; a centroid without rows stays where it is."""

    def step(e, _):
        # Each replica assigns its own rows, and only sums and counts cross the replicas, so that
        # all end with the same centroids.
        k = nearest(z, e)
        n = sum_by_code(weights, k, len(e), axis_name)[:, None]
        total = sum_by_code(z * weights[..., None], k, len(e), axis_name)
        return jnp.where(n > 0, total / jnp.where(n > 0, n, 1), e), None

    return jax.lax.scan(step, centroids, length=steps)[0]
