"""Binary quantizers LFQ and BSQ: one bit per dimension, with an entropy regularizer."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient as sg
from jaxtyping import Array, Float

from vqvae_jax.checks import Number, check_range, check_size
from vqvae_jax.estimators import unit
from vqvae_jax.losses import commitment_loss
from vqvae_jax.quantizers.base import Quantizer
from vqvae_jax.quantizers.digits import check_levels, digital
from vqvae_jax.reductions import AxisName, mean, row_mean
from vqvae_jax.saving.describe import described


@described
def lfq(
    bits: int,
    *,
    entropy: Number = 0.1,
    diversity: Number = 1.0,
    group: int = 1,
    temperature: Number = 0.01,
    beta: Number = 0.0,
) -> Quantizer:
    """Lookup-free quantization (LFQ) of MAGVIT-v2 (arXiv:2310.05737).

    z_q = +1 where z > 0, else -1; the index is sum_i 2^i [z_i > 0] from i = 0. The losses are
    entropy (E[H(p)] - diversity H(E[p])) and beta |z - sg[z_q]|^2, a mean over elements. p is
    softmax_c(-|z - c|^2 / temperature) over all codes c, so the odds of each bit are
    exp(4 z_i / temperature), and E[H(p)] is a sum over bits. H(E[p]) is computed as a sum over
    groups of bits: exact for group=bits, otherwise an upper bound, for which only 2^group codes are
    listed. Entropies are in nats, over the rows of all replicas. The gradient is straight-through.

    Args:
        bits: D; the stream has 2^bits codes.
        entropy: weight of the entropy term.
        diversity: weight of H(E[p]) within that term.
        group: number of bits whose joint distribution is listed; it must divide `bits`.
        temperature: temperature of the softmax.
        beta: weight of the commitment term.

    Raises:
        ValueError: if an argument is out of range, or there are more than 30 bits, or more than 20
            in a group.

    Example:
        >>> q = lfq(bits=3)
        >>> out, _ = q.apply({}, {}, jnp.array([[0.5, -2.0, 0.1]]))
        >>> out.quantized, out.indices, q.vocab
        (Array([[ 1., -1.,  1.]], dtype=float32), Array([[5]], dtype=int32), (8,))
    """
    return binary(bits, lambda z: z, 1.0, entropy, diversity, group, temperature, beta)


@described
def bsq(
    bits: int,
    *,
    entropy: Number = 0.1,
    diversity: Number = 1.0,
    group: int = 1,
    temperature: Number = 1.0,
    beta: Number = 0.0,
) -> Quantizer:
    """Binary spherical quantization: codes are a cube's corners on the unit sphere.

    BSQ, arXiv:2406.07548. u = z / |z|, z_q = sign(u) / sqrt(bits), and
    |u - z_q| <= sqrt(2 - 2 / sqrt(bits)). Index and losses are those of `lfq` for u and these
    codes, so the odds of a bit are exp(4 u_i / (sqrt(bits) temperature)). The gradient is
    straight-through to u. A zero row has u = 0, index 0, and a finite gradient.

    Args:
        bits, entropy, diversity, group, temperature, beta: as in `lfq`; the paper's inverse
            temperature tau is 2 / temperature.

    Raises:
        ValueError: if an argument is out of range, or there are more than 30 bits.

    Example:
        >>> bsq(bits=4).apply({}, {}, jnp.array([[3.0, -1.0, 0.2, 7.0]]))[0].quantized
        Array([[ 0.5, -0.5,  0.5,  0.5]], dtype=float32)
    """
    check_size(bits=bits)
    return binary(bits, unit, bits**-0.5, entropy, diversity, group, temperature, beta)


def binary(
    bits: int,
    bound: Callable[[Array], Array],
    scale: Number,
    entropy: Number,
    diversity: Number,
    group: int,
    temperature: Number,
    beta: Number,
) -> Quantizer:
    """Makes a quantizer with the codes {-scale, +scale}^bits for y = bound(z): `lfq` and `bsq`."""
    check_size(bits=bits, group=group)
    if bits > 30:
        raise ValueError(f"bits must be at most 30, got {bits}: make several streams with grouped")
    levels = check_levels((2,) * bits)
    check_range(0, float("inf"), entropy=entropy, diversity=diversity, beta=beta)
    check_range(1e-6, float("inf"), temperature=temperature)
    if bits % group:
        raise ValueError(f"group must divide bits = {bits}, got {group}")
    if group > 20:
        raise ValueError(f"group must be at most 20: 2^group codes are listed, got {group}")

    # 0 counts as -1, so that a zero row of `bsq` gets index 0.
    def digits(params, y):
        return y > 0

    # float32, since a 64-bit NumPy scalar would widen the codes under x64.
    def values(params, d):
        return (2 * d - 1) * np.float32(scale)

    def terms(params, rows, y, z_q, axis_name):
        # |y - c|^2 differs by 4 scale y_i between the two values of a bit. This gives the log odds
        # of each bit without computing any distance to a code.
        logits = 4 * scale / temperature * y
        each, whole = entropies(logits, group, rows.weights, axis_name)
        return {
            "entropy": entropy * (each - diversity * whole),
            "commitment": beta * commitment_loss(y, z_q, rows.weights, axis_name),
        }, {"row_entropy": sg(each), "code_entropy": sg(whole)}

    return digital(levels, bound, digits, values, terms)


def entropies(
    logits: Float[Array, "*rows D"],
    group: int,
    weights: Float[Array, "*rows"],
    axis_name: AxisName = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """E[H(p)] and the sum over groups of H(E[p]), in nats, for independent bits of these log odds.

    The joint distribution of each group is listed, with 2^group entries.

    Example:
        >>> logits = jnp.array([[-50.0, -50.0], [50.0, 50.0]])  # two bits, always equal
        >>> [round(float(h / jnp.log(2)), 3) for h in entropies(logits, 1, jnp.ones(2))]
        [0.0, 2.0]
        >>> [round(float(h / jnp.log(2)), 3) for h in entropies(logits, 2, jnp.ones(2))]
        [0.0, 1.0]
    """
    *rows, bits = logits.shape
    a = jnp.abs(logits)
    # A sum of positive terms, where log(1 + e^l) - l p would be a difference of large numbers.
    each = jnp.log1p(jnp.exp(-a)) + a * jax.nn.sigmoid(-a)
    # The bits of a row are independent, so E[H(p)] is a sum over them. Averaged over rows they are
    # not: H(E[p]) needs the joint distribution, which is feasible for a few bits at a time. A bit
    # with log odds l has the log probabilities l / 2 and -l / 2, but for a term that both share and
    # the softmax cancels.
    signs = 2 * (np.arange(2**group)[:, None] >> np.arange(group) & 1) - 1
    halves = 0.5 * logits.reshape(*rows, bits // group, group)
    scores = jnp.einsum(
        "...i,ci->...c", halves, signs.astype(np.float32), precision=jax.lax.Precision.HIGHEST
    )
    p = jax.nn.softmax(scores).reshape(*rows, bits // group * 2**group)
    average = row_mean(p, weights, axis_name)
    # 0 log 0 = 0, in the gradient too; plain log(0) would make it NaN.
    whole = -jnp.sum(average * jnp.log(jnp.where(average > 0, average, 1)))
    return mean(jnp.sum(each, axis=-1), weights, axis_name), whole
