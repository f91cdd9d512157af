"""Codebook regularizers for `terms` of `codebook_vq`: functions from a `Lookup` to losses."""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient as sg
from jaxtyping import Array, Float

from vqvae_jax.checks import Number, check_positive, check_range
from vqvae_jax.estimators import unit
from vqvae_jax.quantizers.codebooks.assignments import squared_distances
from vqvae_jax.reductions import mean, row_mean, sum_by_code
from vqvae_jax.saving.describe import Function, described


@described
def orthogonal(weight: Number = 10.0) -> Function:
    """Orthogonal loss |E E^T|_F^2 / K^2 - 1 / K, with E [K, D] the normalised codes.

    arXiv:2112.00384, equation 2. It is computed as |E^T E|_F^2, which is equal and takes D^2
    numbers instead of K^2, so that the number of codes needs no cap. It is for codebooks that
    gradients move.
    """
    check_range(0, float("inf"), weight=weight)

    def term(found):
        value = gram_excess(found.codes, jnp.ones(len(found.codes), jnp.float32))
        # By the contract a batch without a valid row has loss 0, though only codes enter this one.
        return {"orthogonal": weight * jnp.where(found.rows.any_valid, value, 0)}

    return Function(term)


@described
def orthogonal_active(weight: Number = 10.0) -> Function:
    """Orthogonal loss over the codes that the batch chose."""
    check_range(0, float("inf"), weight=weight)

    def term(found):
        hits = sum_by_code(found.rows.weights, found.k, len(found.codes), found.axis_name)
        return {"orthogonal": weight * gram_excess(found.codes, (hits > 0).astype(jnp.float32))}

    return Function(term)


def gram_excess(e: Float[Array, "K D"], of: Float[Array, "K"]) -> Float[Array, ""]:
    """|E E^T|_F^2 / n^2 - 1 / n for the n codes where `of` is 1, normalised; 0 if n = 0."""
    # A weight of 0 instead of a selection of rows: how many codes count is known only at run time.
    e, n = unit(e) * of[:, None], jnp.sum(of)
    gram = jnp.dot(e.T, e, precision=jax.lax.Precision.HIGHEST)
    some = jnp.where(n > 0, n, 1)
    return jnp.where(n > 0, jnp.sum(gram * gram) / some**2 - 1 / some, 0)


@described
def diversity(weight: Number = 1.0, temperature: Number = 1.0) -> Function:
    """Diversity loss -H(E[p]), p = softmax_j(-|z_e - e_j|^2 / temperature); least at equal use.

    E is the mean over the rows of all replicas; H is in nats.
    """
    check_range(0, float("inf"), weight=weight)
    check_positive(temperature=temperature)

    def term(found):
        rows, axis = found.rows, found.axis_name
        p = jax.nn.softmax(-squared_distances(rows.z, found.codes) / temperature)
        share = row_mean(p, rows.weights, axis)
        log = jnp.log(jnp.where(share > 0, share, 1))  # 0 log 0 = 0, in the gradient too
        return {"diversity": weight * jnp.sum(share * log)}

    return Function(term)


@described
def cross_entropy(weight: Number = 1.0, temperature: Number = 1.0) -> Function:
    """Cross-entropy -log softmax_j(-|z_e - sg[e_j]|^2 / temperature) of the chosen code.

    A mean over rows. It is a commitment loss that also moves z_e away from the other codes; with
    beta = 0 it replaces the squared one.
    """
    check_range(0, float("inf"), weight=weight)
    check_positive(temperature=temperature)

    def term(found):
        logits = -squared_distances(found.rows.z, sg(found.codes)) / temperature
        log_p = jax.nn.log_softmax(logits)
        # Index -1 reads code 0 here, but such rows have weight 0 in the mean.
        chosen = jnp.take_along_axis(log_p, jnp.maximum(found.k, 0)[..., None], axis=-1)[..., 0]
        return {"cross_entropy": -weight * mean(chosen, found.rows.weights, found.axis_name)}

    return Function(term)
