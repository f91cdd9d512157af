"""Train state, and train steps as pure functions, which `parallel` compiles."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped, UInt32

from vqvae_jax.checks import check_same_shape
from vqvae_jax.conversions import arrays, boundary, under_defaults
from vqvae_jax.data.scaling import preprocess
from vqvae_jax.data.value_range import Domain, admit, inside
from vqvae_jax.quantizers.base import RNG
from vqvae_jax.reductions import AxisName, psum
from vqvae_jax.reductions import mean as average

TaskLoss = Callable[[Array, Array], dict[str, Array]]
Loss = Callable[..., tuple[Array, "Aux"]]
TrainStep = Callable[..., tuple["TrainState", dict[str, Array]]]


class TrainState(NamedTuple):
    """State of a run, a pytree of arrays from which the run can resume."""

    step: Int[Array, ""]  # number of batches seen
    skipped: Int[Array, ""]  # number of those that changed nothing
    params: Any
    collections: Any  # state that data moves: Flax collections other than "params"
    opt_state: Any
    seed: UInt32[Array, "2"]  # raw key data, from which `step_key` derives the key of each step

    @property
    def variables(self) -> dict[str, Any]:
        """Variables of the model: for `apply`, and for `save_model`."""
        return {"params": self.params, **self.collections}


class Batch(NamedTuple):
    """Examples with weights; without weights a plain array will do.

    Weights of the samples of each example, as from `sequence_mask`, mark padding: each example
    trains as if alone, and terms of the loss are means over the samples that count.
    """

    x: Array  # uint8 pixels or floats [B, ...]
    mask: Shaped[Array, "B *spatial"] | None = None


@boundary
def squared_error(x: Float[Array, "B *shape"], y: Float[Array, "B *shape"]) -> dict[str, Array]:
    """Task loss L_rec = |x - x'|^2, a mean over each example's elements: {"reconstruction": [B]}.

    Example:
        >>> squared_error(jnp.ones((2, 4)), jnp.zeros((2, 4)))
        {'reconstruction': Array([1., 1.], dtype=float32)}
    """
    check_same_shape("x", x, "x'", y)
    return {"reconstruction": jnp.mean(jnp.square(x - y), axis=range(1, x.ndim))}


class Aux(NamedTuple):
    """Auxiliary results of a loss, besides its value."""

    collections: Any  # collections after the step
    metrics: dict[str, Array]
    weight: Float[Array, ""]  # total weight of the valid examples of all replicas


@under_defaults
def init_state(
    model,
    optimizer: optax.GradientTransformation,
    key: PRNGKeyArray,
    example: Shaped[Array | np.ndarray, "B *shape"],
) -> TrainState:
    """Returns the state of an autoencoder before the first step.

    Args:
        model: a Flax module such as `VQVAE`.
        optimizer: optax optimizer.
        key: random key.
        example: a batch, of which only shape and dtype matter.
    """
    x = preprocess(example[:1])
    # The zeros are made within `jit`, where no check of a domain without 0 raises.
    return start_state(lambda key: model.init(key, jnp.zeros_like(x)), optimizer, key)


@under_defaults
def start_state(
    init: Callable[[PRNGKeyArray], Any], optimizer: optax.GradientTransformation, key: PRNGKeyArray
) -> TrainState:
    """Returns the state of any model before the first step, from `init(key) -> variables`."""
    key_init, key_steps = jax.random.key_data(jax.random.split(key))
    # The generator "rbg" compiles in a fifth of the default's time.
    key_init = jax.random.wrap_key_data(jnp.tile(key_init, 2), impl="rbg")
    variables = dict(jax.jit(init)(key_init))
    params = variables.pop("params")
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        params=params,
        collections=variables,
        opt_state=optimizer.init(params),
        seed=key_steps,
    )


def make_train_step(
    model,
    optimizer: optax.GradientTransformation,
    task_loss: TaskLoss = squared_error,
    mean: Callable[[Array], Array] = lambda y: y,
) -> TrainStep:
    """Returns a train step of an autoencoder, for L = L_rec + the losses of the quantizer.

    Args:
        model: a Flax module whose call returns x', loss, losses and metrics, such as `VQVAE`.
        optimizer: optax optimizer.
        task_loss: `(x, x') -> dict` of named terms with one value for each example `[B]`, which are
            averaged over the valid examples of all replicas and added up. Under a mask of samples
            each sample `[C]` is passed as an example, so terms must work on single elements.
        mean: map from the decoder's output, which may hold all parameters of a likelihood, to the
            reconstruction whose squared error is metrics["mse"].

    Returns:
        `train_step` as in `gradient_step`, for batches that are arrays or `Batch`. Examples that
        are not finite or out of the model's domain (metrics["invalid_examples"]), or whose mask is
        0, do not count.
    """
    return gradient_step(autoencoder_loss(model, task_loss, mean), optimizer)


def autoencoder_loss(model, task_loss: TaskLoss, mean: Callable[[Array], Array]) -> Loss:
    """Returns the loss of `make_train_step`."""

    def loss_fn(params, state: TrainState, batch, axis_name: AxisName):
        x, weights, invalid = valid_examples(batch, getattr(model, "domain", None))
        rec, collections = in_training(model, params, state, x, weights, axis_name)
        # A term such as squared_error averages over an example, padding included. So under a mask
        # of samples each sample becomes an example of its own.
        each_weight, each, y = in_samples(weights, x, rec.x)
        terms = {
            name: average(check_term(name, term, each), each_weight, axis_name)
            for name, term in task_loss(each, y).items()
        }
        error = jax.lax.stop_gradient(average(jnp.square(x - mean(rec.x)), weights, axis_name))
        losses = terms | rec.losses
        loss = sum(losses.values(), jnp.zeros((), jnp.float32))
        metrics = {"loss": loss, "mse": error, **losses, **rec.metrics}
        metrics["invalid_examples"] = psum(invalid, axis_name)
        return loss, Aux(dict(collections), metrics, psum(jnp.sum(weights), axis_name))

    return loss_fn


def in_training(model, params, state: TrainState, x, weights, axis_name: AxisName):
    """Applies the model to x in training mode; returns its output and new collections."""
    return model.apply(
        {"params": params, **state.collections},
        x,
        train=True,
        mask=weights,
        axis_name=axis_name,
        mutable=list(state.collections),
        rngs={RNG: step_key(state)},
    )


def gradient_step(loss_fn: Loss, optimizer: optax.GradientTransformation) -> TrainStep:
    """Returns a train step for any loss: one step of the optimizer along its gradient.

    Args:
        loss_fn: `(params, state, batch, axis_name) -> (loss, Aux)`, where the loss is a mean over
            the examples of all replicas, and randomness comes from `step_key(state)`.
        optimizer: optax optimizer.

    Returns:
        The pure function `train_step(state, batch, *, axis_name=None) -> (state, metrics)`. A step
        without any valid example, or whose gradient is not finite, leaves everything except the two
        counters bit-identical.
    """

    @under_defaults
    def train_step(state: TrainState, batch, *, axis_name: AxisName = None):
        grads, aux = jax.grad(loss_fn, has_aux=True)(state.params, state, batch, axis_name)
        # The loss is a global mean already, since its sums cross the replicas; pmean of its
        # gradient is then right in every parallel mode. A loss of local means would need a
        # different factor in each mode.
        grads = grads if axis_name is None else jax.lax.pmean(grads, axis_name)
        norm = optax.tree.norm(grads)
        # Decided from sums over all replicas, so that all of them skip or none does. Without
        # skipping, one NaN gradient would stay in Adam's moments forever.
        good = jnp.isfinite(norm) & (aux.weight > 0)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        moved = state._replace(
            params=optax.apply_updates(state.params, updates),
            collections=aux.collections,
            opt_state=opt_state,
        )
        # Collections too: a skipped step must not move the codebook while the encoder stays.
        new = jax.tree.map(lambda new, old: jnp.where(good, new, old), moved, state)
        new = new._replace(step=state.step + 1, skipped=state.skipped + jnp.where(good, 0, 1))
        return new, {**aux.metrics, "gradient_norm": norm, "skipped": new.skipped}

    return train_step


def step_key(state: TrainState) -> Array:
    """Returns the key of this step, from seed and step alone, so that a run can resume anywhere."""
    return jax.random.fold_in(jax.random.wrap_key_data(state.seed), state.step)


def valid_examples(
    batch, domain: Domain | None = None
) -> tuple[Array, Float[Array, "B *spatial"], Float[Array, ""]]:
    """Returns preprocessed x, 0 in invalid examples; the weights; the number of invalid examples.

    An example is valid if it is finite and, if given as floats, in the model's domain. Samples that
    a mask of samples hides may be anything.
    """
    x, given = batch if isinstance(batch, Batch) else (batch, None)
    x = arrays("x", x)
    mask: Any = None if given is None else jnp.asarray(given)
    of_samples = mask is not None and mask.ndim > 1
    mask = spread(mask, x.shape[:-1]) if of_samples else mask
    floats = jnp.issubdtype(x.dtype, jnp.floating)
    # Hidden samples are set to 0 first: they may be NaN, which would make the whole example
    # invalid.
    given = jnp.where(mask[..., None] > 0, x, 0) if of_samples and floats else x
    x = preprocess(given) if domain is None else admit(domain, given, check=False)
    each = tuple(range(1, x.ndim))
    finite = jnp.isfinite(x).all(axis=each)
    if domain is not None and given.dtype != jnp.uint8:
        # Bytes are in every domain of pixels. A float example out of the domain counts as invalid:
        # compiled code can't raise, and training on it would go unnoticed.
        finite &= inside(domain, jnp.where(mask[..., None] > 0, x, jnp.nan) if of_samples else x)
    of_each = jnp.expand_dims(finite, each[:-1]) if of_samples else finite
    weights = jnp.where(of_each, jnp.float32(1) if mask is None else mask, 0).astype(jnp.float32)
    invalid = jnp.sum(~finite, dtype=jnp.float32)
    # x is zeroed too, since a NaN in x would reach the gradient as 0 times NaN.
    return jnp.where(jnp.expand_dims(weights > 0, each[weights.ndim - 1 :]), x, 0), weights, invalid


def spread(mask: Array, shape: tuple[int, ...]) -> Array:
    """Broadcasts a mask `[B, *spatial]`, whose sides may be 1, to all samples."""
    fits = (m in (1, n) for m, n in zip(mask.shape, shape, strict=False))
    if mask.ndim != len(shape) or not all(fits):
        raise ValueError(
            f"mask must be of the {shape[0]} examples, [B], or of the samples of x, {shape},"
            f" got shape {mask.shape}"
        )
    return jnp.broadcast_to(mask, shape)


def in_samples(weights: Float[Array, "B *spatial"], *arrays: Array) -> tuple[Array, ...]:
    """Flattens weights and arrays to samples, `[N]` and `[N, C]`, if the weights are of samples."""
    if weights.ndim == 1:
        return weights, *arrays
    return weights.reshape(-1), *(a.reshape(weights.size, -1) for a in arrays)


def check_term(name: str, term: Array, x: Array) -> Array:
    """Returns a term of the task loss; raises a ValueError unless it has a value per example."""
    if term.shape != x.shape[:1]:
        raise ValueError(
            f"task loss {name!r} must have one value for each of {x.shape[0]} examples,"
            f" got shape {term.shape}"
        )
    return term
