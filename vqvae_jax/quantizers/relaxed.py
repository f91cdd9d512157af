"""Gumbel-softmax quantizers and SQ-VAE: a relaxed choice passes the gradient to all codes."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient as sg
from jaxtyping import Array, Float

from vqvae_jax.checks import (
    Number,
    check_indices,
    check_positive,
    check_range,
    check_rows,
    check_size,
)
from vqvae_jax.estimators import exactly
from vqvae_jax.quantizers.base import Output, Quantizer, local_key
from vqvae_jax.quantizers.codebooks.assignments import squared_distances
from vqvae_jax.quantizers.codebooks.inits import Init, normal
from vqvae_jax.reductions import Rows, lookup, mean, usable_codes, valid_rows
from vqvae_jax.saving.describe import described, named


@named
def hard(one_hot: Float[Array, "*rows K"], p: Float[Array, "*rows K"]) -> Float[Array, "*rows K"]:
    """Straight-through relaxation: the sampled code in value, the mixture of codes in gradient."""
    return exactly(one_hot, p)


@named
def soft(one_hot: Float[Array, "*rows K"], p: Float[Array, "*rows K"]) -> Float[Array, "*rows K"]:
    """Soft relaxation: in training a mixture of all codes, in value and in gradient."""
    return p


@described
def gumbel_vq(
    size: int,
    dim: int,
    *,
    temperature: Number = 1.0,
    kl: Number = 5e-4,
    init: Init = normal(),  # noqa: B008
    relax: Callable[[Array, Array], Array] = hard,
) -> Quantizer:
    """Gumbel-softmax quantization (arXiv:1611.01144, as in VQGAN, arXiv:2012.09841).

    l = z_e W + b, y = softmax((l + g) / temperature) with g ~ Gumbel(0, 1), z_q = y E; eval mode
    takes argmax_j l_j. The loss is kl KL(softmax(l) | uniform), a mean over rows, a regularizer
    that keeps all codes in use. Params are "codebook" E `[K, D]`, "weight" W `[D, K]` and "bias" b
    `[K]`.

    Args:
        size: K.
        dim: D.
        temperature: > 0, usually annealed: `scheduled(gumbel_vq(...), temperature=...)`.
        kl: weight of the loss.
        init: initializer of E; it must not need a batch.
        relax: `hard` (one code in value, straight-through) or `soft` (a mixture in training, which
            differs from what the indices decode to).

    Raises:
        ValueError: if an argument is out of range, or training has no key.

    Example:
        >>> gumbel_vq(8, 2, temperature=0.5).stochastic
        True
    """
    check_size(size=size, dim=dim)
    check_positive(temperature=temperature)
    check_range(0, float("inf"), kl=kl)
    # All parameters are params, so there is no state that a first batch could fit.
    check_drawn(init)

    def init_fn(key):
        key_e, key_w = jax.random.split(key)
        weight = jax.random.normal(key_w, (dim, size), jnp.float32) / math.sqrt(dim)
        return {
            "codebook": init.codes(key_e, size, dim),
            "weight": weight,
            "bias": jnp.zeros(size, jnp.float32),
        }, {}

    def logits(params, usable, z):
        product = jnp.dot(z, params["weight"], precision=jax.lax.Precision.HIGHEST)
        return jnp.where(usable, product + params["bias"], -jnp.inf)

    def apply(params, state, z, *, train=False, key=None, mask=None, axis_name=None):
        check_rows(z, dim)
        rows, (usable, e) = valid_rows(z, mask, axis_name), usable_codes(params["codebook"])
        clean = noisy = logits(params, usable, rows.z)
        # The KL uses the logits without noise: it regularizes the distribution, not the sample.
        losses = {"kl": kl * mean(kl_to_uniform(clean), rows.weights, axis_name)}
        if train:
            noisy = clean + jax.random.gumbel(local_key(key, axis_name), clean.shape, jnp.float32)
        # The largest of logits plus Gumbel noise is a sample of their softmax, at any temperature.
        k = jnp.argmax(noisy, axis=-1)
        # The gradient is that of the mixture in both modes. In eval mode the value is the code, so
        # that with `soft` too it equals what the indices decode to.
        y = relax(jax.nn.one_hot(k, size, dtype=jnp.float32), jax.nn.softmax(noisy / temperature))
        quantized = mix(y, e) if train else exactly(lookup(e, k), mix(y, e))
        return finish(z, rows, usable, k, quantized, losses, axis_name), state

    decode = decode_codebook(size)
    return Quantizer(init_fn, apply, decode, dim, (size,), stochastic=True, edit=edit_codebook)


@described
def sqvae(
    size: int,
    dim: int,
    *,
    temperature: Number = 0.5,
    variance: Number = 1.0,
    weight: Number = 0.1,
    init: Init = normal(),  # noqa: B008
) -> Quantizer:
    """SQ-VAE: codes sampled from a Gaussian posterior of learnt variance (arXiv:2205.07547).

    P(k | z_e) = softmax_j(-|z_e - e_j|^2 / 2 s^2), relaxed by Gumbel-softmax: z_q = y E. The losses
    are those of its ELBO: weight / D times the means over rows of |z_e - z_q|^2 / 2 s^2 and of
    KL(P | uniform) = log K - H(P). s^2 falls by itself during training (metrics["variance"]), and
    the choice turns from random to nearest. Eval mode takes the nearest code. Params are "codebook"
    E `[K, D]` and "log_variance" log s^2.

    Args:
        size: K.
        dim: D.
        temperature: temperature of the relaxation, > 0; the paper anneals it as exp(-1e-5 t).
        variance: initial s^2.
        weight: weight of both losses relative to the task's. If the task loss is
            -log p(x | z) / (elements of x), the ELBO has weight = elements of z / elements of x. If
            codes start far from the rows, a large weight makes the choice random for good.
        init: initializer of E; it must not need a batch.

    Raises:
        ValueError: if an argument is out of range, or training has no key.

    Example:
        >>> sqvae(8, 2).stochastic
        True
    """
    check_size(size=size, dim=dim)
    check_positive(temperature=temperature, variance=variance)
    check_range(0, float("inf"), weight=weight)
    check_drawn(init)

    def init_fn(key):
        log_variance = jnp.log(jnp.asarray(variance, jnp.float32))
        return {"codebook": init.codes(key, size, dim), "log_variance": log_variance}, {}

    def apply(params, state, z, *, train=False, key=None, mask=None, axis_name=None):
        check_rows(z, dim)
        rows, (usable, e) = valid_rows(z, mask, axis_name), usable_codes(params["codebook"])
        # The logarithm is learnt, so that no optimizer step makes the variance negative.
        precision = 0.5 * jnp.exp(-params["log_variance"])
        logits = jnp.where(usable, -precision * squared_distances(rows.z, e), -jnp.inf)
        if train:
            noisy = logits + jax.random.gumbel(local_key(key, axis_name), logits.shape, jnp.float32)
            k, z_q = jnp.argmax(noisy, axis=-1), mix(jax.nn.softmax(noisy / temperature), e)
        else:
            # Straight-through here: without a relaxation no other gradient reaches z.
            k = jnp.argmax(logits, axis=-1)
            z_q = exactly(lookup(e, k), rows.z)
        terms = {
            "continuous": precision * jnp.sum(jnp.square(rows.z - z_q), axis=-1),
            "discrete": kl_to_uniform(logits),
        }
        # Divided by D, so that both are means over elements, like the task loss.
        losses = {n: weight / dim * mean(t, rows.weights, axis_name) for n, t in terms.items()}
        out = finish(z, rows, usable, k, z_q, losses, axis_name)
        return out._replace(metrics=out.metrics | {"variance": sg(0.5 / precision)}), state

    decode = decode_codebook(size)
    return Quantizer(init_fn, apply, decode, dim, (size,), stochastic=True, edit=edit_codebook)


def finish(z, rows: Rows, usable, k, quantized, losses, axis_name) -> Output:
    """Makes the Output for codes k and their vectors; invalid rows get index -1 and vector 0."""
    # Invalid rows are 0 by now, and have got a code and a vector like any other row.
    valid = rows.weights > 0
    quantized = jnp.where(valid[..., None], quantized, 0)
    error = mean(jnp.square(sg(rows.z - quantized)), rows.weights, axis_name)
    metrics = {
        "error": error,
        "invalid_rows": rows.invalid,
        "invalid_codes": jnp.sum(~usable, dtype=jnp.float32),
    }
    k = jnp.where(valid, k, -1).astype(jnp.int32)
    return Output(quantized.astype(z.dtype), k[..., None], losses, metrics)


def mix(y: Float[Array, "*rows K"], e: Float[Array, "K D"]) -> Float[Array, "*rows D"]:
    """y E in full precision, so that a one-hot y gives exactly a code."""
    return jnp.dot(y, e, precision=jax.lax.Precision.HIGHEST)


def kl_to_uniform(logits: Float[Array, "*rows K"]) -> Float[Array, "*rows"]:
    """KL(softmax(logits) | uniform) = log K - H, in nats.

    Example:
        >>> kl_to_uniform(jnp.array([[0.0, 0.0], [0.0, 1e3]])).round(3)
        Array([0.   , 0.693], dtype=float32)
    """
    # log_softmax, because p log p would be NaN where a softmax underflows to 0. The bound, because
    # 0 times -inf is NaN too, and -inf is log p of a code that can't be chosen.
    log_p = jnp.maximum(jax.nn.log_softmax(logits), jnp.finfo(jnp.float32).min)
    return jnp.sum(jnp.exp(log_p) * log_p, axis=-1) + math.log(logits.shape[-1])


def decode_codebook(size: int) -> Callable[..., Array]:
    """Makes `decode` for a quantizer whose codes are params["codebook"]."""

    def decode(params, state, indices):
        check_indices(indices, (size,))
        return lookup(params["codebook"], indices[..., 0])

    return decode


def edit_codebook(params, state, fn, stream):
    """Implements `edit` for a quantizer whose codes are params["codebook"]."""
    return params | {"codebook": fn(params["codebook"])}, state


def check_drawn(init: Init) -> None:
    """Raises a ValueError for an init that needs a batch."""
    if init.fit:
        raise ValueError(f"init must not need a batch here, got {init!r}")
