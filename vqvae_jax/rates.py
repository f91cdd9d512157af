"""Rates: bits of the codes under a uniform or histogram prior, and bits per dimension of x."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vqvae_jax.checks import check_indices, check_size
from vqvae_jax.conversions import boundary


class BitsPerDim(NamedTuple):
    """The terms of an upper bound on -log2 p(x), for each element of x."""

    distortion: Float[Array, "*b"]  # -log2 p(x|z) / dims
    rate: Float[Array, "*b"]  # bits of the code / dims
    total: Float[Array, "*b"]


@boundary
def bits_per_dim(
    distortion: Float[Array, "*b"] | float, rate: Float[Array, "*b"] | float, dims: int
) -> BitsPerDim:
    """Bits per dimension, (-log2 p(x|z) + R(z)) / dims: the cost of sending z, then x given z.

    -ln p(x) <= -ln p(x|z) - ln p(z) for the one z that a deterministic quantizer chooses: Jensen's
    inequality with a posterior q of zero entropy (arXiv:1711.00937, 3.3). For a VAE, distortion and
    rate are the two terms of the evidence bound, E_q -ln p(x|z) and KL(q | p).

    Args:
        distortion: -ln p(x|z) of an example in nats: `-Likelihood.log_prob`.
        rate: R(z) of an example in bits: `uniform_bits`, `static_bits`, or, with a learned prior,
            `-log_likelihood(...) / math.log(2)`.
        dims: number of elements of x: height x width x channels.

    Raises:
        ValueError: if dims < 1.

    Example:
        >>> bits = bits_per_dim(784 * 2 * math.log(2), 49 * 9, 784)
        >>> [round(float(term), 4) for term in bits]
        [2.0, 0.5625, 2.5625]
    """
    check_size(dims=dims)
    distortion = jnp.asarray(distortion, jnp.float32) / (dims * math.log(2))
    rate = jnp.asarray(rate, jnp.float32) / dims
    return BitsPerDim(distortion, rate, distortion + rate)


@boundary
def uniform_bits(vocab: Sequence[int], codes: Int[Array, "B *grid Q"]) -> Float[Array, "B"]:
    """Rate of each example under a uniform prior: N log2 K.

    Args:
        vocab: the sizes K of the Q streams.
        codes: int `[B, ..., Q]`; -1 was not sent and takes no bits.

    Raises:
        ValueError: if the codes don't fit the vocab.

    Example:
        >>> uniform_bits((512,), jnp.zeros((2, 7, 7, 1), int))
        Array([441., 441.], dtype=float32)
    """
    check_indices(codes, tuple(vocab))
    bits = jnp.asarray([math.log2(size) for size in vocab], jnp.float32)
    return jnp.sum(jnp.where(codes >= 0, bits, 0), axis=range(1, codes.ndim))


@boundary
def static_bits(
    counts: Sequence[Float[Array, "_"]], codes: Int[Array, "B *grid Q"]
) -> Float[Array, "B"]:
    """Rate of each example under a histogram: -sum log2 p(k), p(k) = (n_k + 1) / (n + K).

    New data are coded with the histogram n_k of the training data; the +1 leaves no code
    impossible. The entropy of the sent codes themselves (`usage`) is smaller but not a code length,
    since their histogram would have to be sent too.

    Args:
        counts: `code_counts` of the training set, `[K]` for each of the Q streams.
        codes: codes of the evaluation set, int `[B, ..., Q]`; -1 takes no bits.

    Raises:
        ValueError: if the codes don't fit the counts.

    Example:
        >>> bits = static_bits([jnp.array([6.0, 0.0])], jnp.array([[0], [1], [-1]]))
        >>> [round(float(b), 3) for b in bits]
        [0.193, 3.0, 0.0]
    """
    check_indices(codes, tuple(len(n) for n in counts))
    smooth = [(n + 1.0) / jnp.sum(n + 1.0) for n in counts]
    bits = [-jnp.log2(p)[codes[..., q]] for q, p in enumerate(smooth)]
    # Index -1 has read the bits of the last code, which are dropped here.
    valid = [jnp.where(codes[..., q] >= 0, b, 0) for q, b in enumerate(bits)]
    return sum(
        (b.reshape(len(codes), -1).sum(-1) for b in valid), jnp.zeros(len(codes), jnp.float32)
    )


def bpd_gauss_mse(test_mse: float, train_mse: float) -> float:
    """Bits per dimension under a Gaussian whose variance is the training error; no code length.

    1/2 log2(2 pi s^2) + MSE / (2 s^2 ln 2) + log2 255, where s^2 is the mean squared error on the
    training images: the density that a model trained by squared error implies. If both errors are
    equal, this is 1/2 log2(2 pi e MSE) + log2 255. It ignores that pixels are integers, so for
    errors below about one grey level it lies below the truth; `gaussian` does not.

    Args:
        test_mse: mean squared error on test images, of pixels in a range of 1 (`preprocess`).
        train_mse: s^2, in the same unit.

    Raises:
        ValueError: if train_mse is below the square of one grey level, or test_mse below 0.

    Example:
        >>> round(bpd_gauss_mse(0.00354, 0.00354), 2)
        5.97
    """
    if not train_mse >= 1 / 255**2 or not test_mse >= 0:
        raise ValueError(
            f"needs train_mse >= 1 / 255^2 and test_mse >= 0, got {train_mse!r}, {test_mse!r}"
        )
    error = test_mse / (2 * train_mse * math.log(2))
    return 0.5 * math.log2(2 * math.pi * train_mse) + error + math.log2(255)
