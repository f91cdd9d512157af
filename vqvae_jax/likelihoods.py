"""Likelihoods p(x|z) of 8-bit pixels: distributions over the 256 grey levels, given by a decoder.

Everywhere x is in the scale of `preprocess`, k / 255 - 0.5 for grey level k; scales are in the same
unit, so that 1 / 255 is one grey level. The channels of y come in blocks as wide as x: all means,
then all log scales, and so on.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr, logsumexp
from jaxtyping import Array, Float

from vqvae_jax.checks import check_float, check_range, check_size
from vqvae_jax.saving.describe import Described, described

LEVELS = 256
GREY_LEVEL = 1 / (LEVELS - 1)
LEAST_SCALE, LARGEST_SCALE = GREY_LEVEL / 2, 10.0


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Likelihood(Described):
    """A record of pure functions: the likelihood of x [B, ..., C] given y [B, ..., C * outputs].

    Attributes:
        outputs: number of decoder channels for each channel of x.
        log_prob: `(x, y) -> float32 [B]`, ln p(x|y) in nats, summed over the elements of an
            example. x is rounded to the nearest of the 256 levels.
        mean: `(y) -> [B, ..., C]`, the reconstruction, from -0.5 to 0.5.
        sample: `(key, y) -> [B, ..., C]`, a sample.

    Example:
        >>> likelihood = logistic()
        >>> x, y = jnp.zeros((2, 8, 8, 1)), jnp.zeros((2, 8, 8, 2))
        >>> likelihood.log_prob(x, y).shape, likelihood.mean(y).shape
        ((2,), (2, 8, 8, 1))
    """

    outputs: int
    log_prob: Callable[..., Array]
    mean: Callable[[Array], Array]
    sample: Callable[..., Array]


@described
def gaussian(scale: float | None = None) -> Likelihood:
    """The discretised Gaussian: a normal variable, rounded to the nearest level and clipped.

    P(k) = F((k + 1/2 - mu) / s) - F((k - 1/2 - mu) / s) with F = Phi. Level 0 takes the whole lower
    tail and level 255 the whole upper one, so that the 256 probabilities add up to 1.

    Args:
        scale: s, the standard deviation, in the unit of x. None makes ln s the second half of the
            decoder's channels, with s clipped to [LEAST_SCALE, LARGEST_SCALE], from half a grey
            level to 10.

    Raises:
        ValueError: if the scale is outside this range.

    Example:
        >>> k = (jnp.arange(256)[:, None] - 127.5) / 255
        >>> round(float(jnp.sum(jnp.exp(gaussian(0.1).log_prob(k, jnp.full((256, 1), 0.4))))), 5)
        1.0
    """
    return location_scale(scale, gaussian_log_mass, jax.random.normal)


@described
def logistic(scale: float | None = None) -> Likelihood:
    """The discretised logistic (arXiv:1606.04934): `gaussian` with F the sigmoid, of heavier tails.

    ln P(k) = ln sigmoid(b) + ln sigmoid(-a) + ln(1 - e^{-1 / s}) for a, b = (k -+ 1/2 - mu) / s,
    which avoids a difference of close numbers.

    Args:
        scale: s, as in `gaussian`; the standard deviation is pi s / sqrt(3).

    Raises:
        ValueError: if the scale is outside [LEAST_SCALE, LARGEST_SCALE].
    """
    return location_scale(scale, logistic_log_mass, jax.random.logistic)


@described
def mixture(n: int) -> Likelihood:
    """A mixture of n discretised logistics for each element (arXiv:1701.05517).

    P(k) = sum_i pi_i P_i(k). Channels are independent given y, unlike in PixelCNN++, where green
    depends on red, and blue on both. The 3n blocks of y are logits of pi, means and log scales.

    Args:
        n: number of components.

    Raises:
        ValueError: if n < 1.
    """
    check_size(n=n)

    def read(y):
        logits, mu, log_scale = jnp.split(blocks(y, 3 * n), 3, axis=-1)
        return jax.nn.log_softmax(logits), mu, clipped_scale(log_scale)

    def log_mass(x, y):
        log_pi, mu, s = read(y)
        return logsumexp(log_pi + logistic_log_mass(grey(x)[..., None], mu, s), axis=-1)

    def mean(y):
        log_pi, mu, _ = read(y)
        return jnp.sum(jnp.exp(log_pi) * jnp.clip(mu, -0.5, 0.5), axis=-1)

    def sample(key, y):
        key_which, key_noise = jax.random.split(key)
        log_pi, mu, s = read(y)
        which = jax.random.categorical(key_which, log_pi)[..., None]
        mu, s = (jnp.take_along_axis(v, which, axis=-1)[..., 0] for v in (mu, s))
        return on_grid(mu + s * jax.random.logistic(key_noise, mu.shape, jnp.float32))

    return Likelihood(3 * n, summed(log_mass, 3 * n), mean, sample)


@described
def categorical() -> Likelihood:
    """A softmax over the 256 levels, with 256 logits for each element and no notion of order."""

    def log_mass(x, y):
        logits, k = blocks(y, LEVELS), grey(x).astype(jnp.int32)[..., None]
        return jnp.take_along_axis(logits, k, axis=-1)[..., 0] - logsumexp(logits, axis=-1)

    # The expected level, which has the least squared error, not the likeliest one.
    def mean(y):
        return jnp.sum(
            jax.nn.softmax(blocks(y, LEVELS)) * pixel(jnp.arange(LEVELS, dtype=jnp.int32)), axis=-1
        )

    def sample(key, y):
        return pixel(jax.random.categorical(key, blocks(y, LEVELS)))

    return Likelihood(LEVELS, summed(log_mass, LEVELS), mean, sample)


@described
def dequantized_gaussian(scale: float) -> Likelihood:
    """Uniform dequantization, a density: E_u ln N(k + u; mu, s^2), u uniform in [-1/2, 1/2].

    In units of grey levels the mean over u is -ln(s sqrt(2 pi)) - ((k - mu)^2 + 1/12) / (2 s^2). By
    Jensen's inequality it is a lower bound on the log mass of the level's cell (arXiv:1511.01844).

    Args:
        scale: s, at least one grey level. For smaller scales the bound is poor, and the density
            without the noise may exceed 1 per level, which is no code length.

    Raises:
        ValueError: if the scale is below one grey level.
    """
    check_range(GREY_LEVEL, math.inf, scale=scale)

    def log_mass(x, y):
        error = (grey(x) - unrounded_grey(y)) * (GREY_LEVEL / scale)
        spread = (GREY_LEVEL / scale) ** 2 / 12
        return log_normal(error) - spread / 2 + math.log(GREY_LEVEL / scale)

    def sample(key, y):
        return on_grid(y + scale * jax.random.normal(key, y.shape, jnp.float32))

    return Likelihood(1, summed(log_mass, 1), lambda y: jnp.clip(y, -0.5, 0.5), sample)


def task_loss(likelihood: Likelihood) -> Callable[[Array, Array], dict[str, Array]]:
    """Returns a `task_loss` for `make_train_step`: {"reconstruction": -ln p(x|y) / dims}, in nats.

    Example:
        >>> loss = task_loss(categorical())(jnp.zeros((2, 4, 4, 1)), jnp.zeros((2, 4, 4, 256)))
        >>> (loss["reconstruction"] / jnp.log(2)).round(3)
        Array([8., 8.], dtype=float32)
    """

    def loss(x, y):
        return {"reconstruction": -likelihood.log_prob(x, y) / math.prod(x.shape[1:])}

    return loss


def location_scale(scale: float | None, log_mass, noise) -> Likelihood:
    """Likelihood of mu + s noise, rounded to a level; mu and perhaps ln s come from the decoder."""
    if scale is not None:
        check_range(LEAST_SCALE, LARGEST_SCALE, scale=scale)
    outputs = 2 if scale is None else 1

    def read(y):
        params = blocks(y, outputs)
        mu = params[..., 0]
        return mu, clipped_scale(params[..., 1]) if scale is None else jnp.float32(scale)

    def sample(key, y):
        mu, s = read(y)
        # Rounding and clipping a draw gives exactly P(k): the mass of a cell, or of a tail.
        return on_grid(mu + s * noise(key, mu.shape, jnp.float32))

    return Likelihood(
        outputs,
        summed(lambda x, y: log_mass(grey(x), *read(y)), outputs),
        lambda y: jnp.clip(read(y)[0], -0.5, 0.5),
        sample,
    )


def logistic_log_mass(k: Array, mu: Array, s: Array) -> Array:
    """ln P(k) of the discretised logistic."""
    s = s / GREY_LEVEL
    z = (k - unrounded_grey(mu)) / s
    below = jax.nn.log_sigmoid(z + 0.5 / s)  # ln F(b)
    above = jax.nn.log_sigmoid(0.5 / s - z)  # ln(1 - F(a))
    # F(b) - F(a) = F(b) (1 - F(a)) (1 - e^(a - b)): a product has no cancellation in the tails.
    inside = below + above + jnp.log(-jnp.expm1(-1 / s))
    return jnp.where(k == 0, below, jnp.where(k == LEVELS - 1, above, inside))


def gaussian_log_mass(k: Array, mu: Array, s: Array) -> Array:
    """ln P(k) of the discretised Gaussian: ln(Q(a) - Q(b)) = ln Q(a) + ln(1 - Q(b) / Q(a))."""
    s = s / GREY_LEVEL
    z = (k - unrounded_grey(mu)) / s
    # Evaluated on the side of the upper tail, by symmetry: there both Q are small and keep their
    # digits, which a difference of numbers near 1 would lose.
    near, far = log_upper(jnp.abs(z) - 0.5 / s), log_upper(jnp.abs(z) + 0.5 / s)
    # The slope of -ln Q at t exceeds t, hence a lower bound on the difference. It matters only
    # where rounding leaves no difference, and keeps the logarithm below finite.
    difference = jnp.maximum(near - far, jnp.abs(z) / s)
    inside = near + jnp.log(-jnp.expm1(-difference))  # of the cell or its mirror image
    below, above = log_upper(-z - 0.5 / s), log_upper(z - 0.5 / s)
    return jnp.where(k == 0, below, jnp.where(k == LEVELS - 1, above, inside))


def log_upper(t: Array) -> Array:
    """ln Q(t) = ln(1 - Phi(t)), with a gradient that is accurate in the far tail."""
    # The gradient of `log_ndtr` is exp of a difference of squares, which is mere rounding noise for
    # t of some hundreds. Arguments are clipped to each branch's own side: `where` multiplies the
    # slope of the other branch by 0, and 0 times infinity is NaN.
    edge = 10.0
    far = jnp.maximum(t, edge)
    square = 1 / jnp.square(far)
    series = jnp.log1p(square * (-1 + square * (3 - 15 * square)))
    tail = log_normal(far) - jnp.log(far) + series
    return jnp.where(t > edge, tail, log_ndtr(-jnp.minimum(t, edge)))


def log_normal(z: Array) -> Array:
    """ln of the standard normal density."""
    return -0.5 * jnp.square(z) - 0.5 * math.log(2 * math.pi)


def clipped_scale(log_scale: Array) -> Array:
    """Returns s = e^log_scale, clipped to [LEAST_SCALE, LARGEST_SCALE]."""
    # Unclipped, a decoder that is far off at first would make s 0 or infinite, and gradients NaN.
    return jnp.exp(jnp.clip(log_scale, math.log(LEAST_SCALE), math.log(LARGEST_SCALE)))


def summed(log_mass, outputs: int) -> Callable[[Array, Array], Array]:
    """Returns log_prob, the sum of `log_mass` over the elements of each example."""

    def log_prob(
        x: Float[Array, "B *spatial C"], y: Float[Array, "B *spatial P"]
    ) -> Float[Array, "B"]:
        check_float("x", x)
        expected = (*x.shape[:-1], x.shape[-1] * outputs)
        if y.shape != expected:
            raise ValueError(
                f"y must be {expected}, {outputs} for each channel of x, got {y.shape}"
            )
        return jnp.sum(log_mass(x, y), axis=range(1, x.ndim))

    return log_prob


def blocks(y: Array, outputs: int) -> Float[Array, "*rows C outputs"]:
    """Splits y [..., outputs * C] into float32 [..., C, outputs]."""
    if y.shape[-1] % outputs:
        raise ValueError(f"y must have a multiple of {outputs} channels, got shape {y.shape}")
    apart = jnp.asarray(y, jnp.float32).reshape(*y.shape[:-1], outputs, -1)
    # Parameters go to the last axis, over which XLA sums fastest on a CPU.
    return jnp.swapaxes(apart, -1, -2)


def grey(x: Array) -> Array:
    """Returns the level of x, 0 to 255, as float32, which holds these integers exactly."""
    return jnp.clip(jnp.round(unrounded_grey(x)), 0, LEVELS - 1)


def unrounded_grey(x: Array) -> Array:
    """Converts x to grey levels, not rounded."""
    return (x.astype(jnp.float32) + 0.5) * (LEVELS - 1)


def pixel(k: Array) -> Array:
    """Converts a level to the scale of x, bit-equal to `preprocess`."""
    return (k.astype(jnp.float32) - (LEVELS - 1) / 2) * GREY_LEVEL


def on_grid(x: Array) -> Array:
    """Rounds x to the nearest level and clips it."""
    return pixel(grey(x))
