"""Training losses of autoregressive and masked priors, for `gradient_step`."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped

from vqvae_jax.conversions import boundary
from vqvae_jax.priors.conditioning import UNCONDITIONAL, Condition, check_label, is_code
from vqvae_jax.priors.masked import random_mask
from vqvae_jax.priors.sampling import log_probs
from vqvae_jax.quantizers.base import local_key
from vqvae_jax.reductions import AxisName, mean, psum
from vqvae_jax.training.step import Aux, Loss, TrainState, step_key


class CodeBatch(NamedTuple):
    """A batch for priors: codes, the condition of each example, and weights of the examples."""

    codes: Int[Array, "B *grid Q"]  # -1 for unknown codes, which do not count
    condition: Condition = UNCONDITIONAL
    mask: Shaped[Array, "B"] | None = None


def prior_loss(prior, unconditional: float = 0.1) -> Loss:
    """Loss of an autoregressive prior: the mean of -log p(k_t | k_1, ..., k_{t-1}, c), in nats.

    Args:
        prior: `TransformerPrior` or `PixelCNN`.
        unconditional: share of examples whose label is dropped, for guidance in sampling.

    Returns:
        A loss of a `CodeBatch` for `gradient_step`, a mean over all codes of the valid examples of
        all replicas. Metrics are loss and nll (both this mean), bits (the sum over an example's
        codes, a mean over examples) and accuracy (of the likeliest code). Examples whose metadata
        is not finite (metrics["invalid_examples"]), or whose mask is 0, do not count. A label
        beyond the classes raises. Under tracing it is dropped instead; if `unconditional` is 0, so
        that the prior does not learn dropped labels, its example does not count
        (metrics["invalid_labels"]). Except for dropout, the randomness of an example does not
        depend on the number of replicas that share a batch.

    Example:
        >>> import optax
        >>> from vqvae_jax.priors import TransformerPrior
        >>> from vqvae_jax.training.step import gradient_step, start_state
        >>> prior = TransformerPrior((4,), (2, 2), width=8, depth=1, heads=1)
        >>> batch, optimizer = CodeBatch(jnp.zeros((3, 2, 2, 1), int)), optax.adam(0.1)
        >>> init = lambda key: prior.init(key, *batch[:2])
        >>> state = start_state(init, optimizer, jax.random.key(0))
        >>> step = jax.jit(gradient_step(prior_loss(prior), optimizer))
        >>> for _ in range(5):
        ...     state, metrics = step(state, batch)
        >>> float(metrics["nll"]) < 0.5
        True
    """
    return code_loss(prior, unconditional, all_codes)


def masked_prior_loss(prior, unconditional: float = 0.1) -> Loss:
    """Loss of a `MaskedPrior`: the mean of -log p(k_t | unmasked codes, c), nats per masked code.

    `random_mask` draws a new mask for each example. All else is as in `prior_loss`, with nll, bits
    and accuracy of the masked codes alone.
    """
    return code_loss(prior, unconditional, masked_codes)


def all_codes(key: PRNGKeyArray, codes: Int[Array, "*grid Q"]) -> tuple[Array, Array]:
    """Returns (codes that the prior sees, mask of those it predicts) of one example: all codes."""
    return codes, jnp.ones(codes.shape, bool)


def masked_codes(key: PRNGKeyArray, codes: Int[Array, "*grid Q"]) -> tuple[Array, Array]:
    """Returns (codes that a `MaskedPrior` sees, mask of those it predicts): the masked codes."""
    masked = random_mask(key, codes.shape)
    return jnp.where(masked, -1, codes), masked


def code_loss(prior, unconditional: float, show: Callable) -> Loss:
    """Returns the loss of `prior_loss` over the codes that `show` selects for prediction."""
    if not 0 <= unconditional <= 1:
        raise ValueError(f"unconditional must be in [0, 1], got {unconditional!r}")

    def loss_fn(params, state: TrainState, batch: CodeBatch, axis_name: AxisName):
        codes, condition, mask = with_int32_codes(batch)
        condition, weights, invalid = valid_conditions(condition, len(codes), mask)
        condition, wrong = known_labels(prior, condition)
        # "Not given" has its own vector, trained on dropped labels. If none is dropped it stays
        # random, and would put noise in place of a wrong label.
        weights = weights if unconditional else jnp.where(wrong, 0, weights)
        keys = example_keys(step_key(state), len(codes), axis_name)
        # Two keys per example, so that dropped labels are independent of which codes are masked.
        condition = drop_labels(keys[:, 0], condition, unconditional)
        seen, predicted = jax.vmap(show)(keys[:, 1], codes)
        logits = prior.apply(
            {"params": params, **state.collections},
            seen,
            condition,
            train=True,
            # Flax draws dropout for whole arrays, so with one key all replicas would drop alike.
            rngs={"dropout": local_key(step_key(state), axis_name)},
        )
        counted = (is_code(codes, prior.vocab) & predicted).astype(jnp.float32)
        # The mean is over codes, not over examples: an example with few masked codes counts less.
        nll = -log_probs(logits, codes) * counted
        each = counted * jnp.expand_dims(weights, range(1, codes.ndim))
        loss = mean(nll, each, axis_name)
        # A sum, where nll is a mean: the code length of an example, comparable between priors.
        bits = jnp.sum(nll, axis=range(1, codes.ndim)) / jnp.log(2.0)
        right = (jnp.argmax(logits, axis=-1) == codes).astype(jnp.float32)
        metrics = {
            "loss": loss,
            "nll": loss,
            "bits": mean(bits, weights, axis_name),
            "accuracy": mean(right, each, axis_name),
            "invalid_examples": psum(invalid, axis_name),
        }
        if condition.label is not None:
            metrics["invalid_labels"] = psum(jnp.sum(wrong, dtype=jnp.float32), axis_name)
        return loss, Aux(state.collections, metrics, psum(jnp.sum(weights), axis_name))

    return loss_fn


@boundary
def with_int32_codes(batch: CodeBatch) -> CodeBatch:
    """Returns the batch with codes and labels converted to int32 by `boundary`."""
    # A separate function, since the loss that `gradient_step` calls is no boundary itself.
    return batch


def known_labels(prior, condition: Condition) -> tuple[Condition, Bool[Array, "*B"]]:
    """Replaces labels beyond the classes by -1; returns the condition and which were replaced."""
    if condition.label is None:
        return condition, jnp.zeros((), bool)
    check_label(condition.label, prior.classes)
    wrong = (condition.label < -1) | (condition.label >= prior.classes)
    return condition._replace(label=jnp.where(wrong, -1, condition.label)), wrong


def valid_conditions(
    condition: Condition, batch: int, mask: Float[Array, "B"] | None
) -> tuple[Condition, Float[Array, "B"], Float[Array, ""]]:
    """Sets metadata that is not finite to 0; returns condition, weights and number of examples."""
    weights = jnp.ones(batch, jnp.float32) if mask is None else jnp.asarray(mask, jnp.float32)
    if condition.metadata is None:
        return condition, weights, jnp.zeros((), jnp.float32)
    finite = jnp.isfinite(condition.metadata).all(axis=1)
    # Weight 0 alone is not enough: 0 times the NaN gradient of such an example is NaN.
    condition = condition._replace(metadata=jnp.where(finite[:, None], condition.metadata, 0))
    invalid = jnp.sum(~finite, dtype=jnp.float32)
    return condition, jnp.where(finite, weights, 0), invalid


def example_keys(key: PRNGKeyArray, batch: int, axis_name: AxisName) -> Array:
    """Two keys `[B, 2]` for each example, from its number in the global batch."""
    # A key for each example instead of each replica: the same examples then draw the same masks on
    # any number of replicas, and parallel modes agree with one device.
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * batch
    return jax.vmap(lambda i: jax.random.split(jax.random.fold_in(key, i)))(
        first + jnp.arange(batch, dtype=jnp.int32)
    )


def drop_labels(keys: Array, condition: Condition, rate: float) -> Condition:
    """Drops the labels of a share of the examples, which classifier-free guidance needs."""
    if condition.label is None:
        return condition
    drop = jax.vmap(lambda key: jax.random.bernoulli(key, jnp.float32(rate)))(keys)
    return condition._replace(label=jnp.where(drop, -1, condition.label))
