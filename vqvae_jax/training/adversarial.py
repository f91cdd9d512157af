"""Adversarial training of an autoencoder (VQGAN, arXiv:2012.09841), in one train step.

    params = {"model": ..., "discriminator": ...}

The autoencoder is the generator. One loss trains both, and each term moves only one of them: the
discriminator is held fixed in the generator's term, and x' in the discriminator's. `gradient_step`
can therefore train them like any other model, in every parallel mode.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.lax import stop_gradient as sg
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from vqvae_jax.conversions import under_defaults
from vqvae_jax.data.scaling import preprocess
from vqvae_jax.reductions import AxisName, psum
from vqvae_jax.reductions import mean as average
from vqvae_jax.training.step import (
    Aux,
    Loss,
    TaskLoss,
    TrainState,
    check_term,
    in_training,
    squared_error,
    start_state,
    valid_examples,
)

Balance = Callable[[Array, Array], Array | float]


class AdversarialLosses(NamedTuple):
    """Adversarial losses as functions of the logits of the discriminator D."""

    generator: Callable[[Array], Array]  # loss of the generator, a function of D(x')
    real: Callable[[Array], Array]  # loss of the discriminator on real x, a function of D(x)
    fake: Callable[[Array], Array]  # loss of the discriminator on x', a function of D(x')


HINGE = AdversarialLosses(
    lambda fake: -fake, lambda real: jax.nn.relu(1 - real), lambda d: jax.nn.relu(1 + d)
)
"""Hinge loss: -D(x'); max(0, 1 - D(x)) and max(0, 1 + D(x')) (arXiv:1705.02894)."""

NON_SATURATING = AdversarialLosses(
    lambda d: jax.nn.softplus(-d), lambda d: jax.nn.softplus(-d), jax.nn.softplus
)
"""Non-saturating loss: -ln s(D(x')); -ln s(D(x)) and -ln(1 - s(D(x'))) (arXiv:1406.2661).

s is the logistic function.
"""


def adaptive_weight(
    reconstruction: Float[Array, ""], generator: Float[Array, ""]
) -> Float[Array, ""]:
    """Adaptive weight lambda = |grad L_rec| / (|grad L_G| + 1e-4), clipped to [0, 1e4].

    The norms are those of the gradients of the last layer, in which both terms then have equal
    weight (equation 7 of arXiv:2012.09841).

    Example:
        >>> round(float(adaptive_weight(jnp.float32(0.3), jnp.float32(0.1))), 2)
        3.0
    """
    return jnp.clip(reconstruction / (generator + 1e-4), 0, 1e4)


def with_features(
    distance: Callable[[Array, Array], Float[Array, "B"]], task_loss: TaskLoss = squared_error
) -> TaskLoss:
    """Adds the term "features" to a task loss: a distance of x and x' in a network's features.

    Args:
        distance: `(x, x') -> [B]`, a perceptual loss such as LPIPS, times its weight.
        task_loss: task loss with the other terms.

    Example:
        >>> first = lambda x, y: jnp.abs(x - y)[:, 0]
        >>> with_features(first)(jnp.ones((1, 2)), jnp.zeros((1, 2)))
        {'reconstruction': Array([1.], dtype=float32), 'features': Array([1.], dtype=float32)}
    """
    return lambda x, y: task_loss(x, y) | {"features": distance(x, y)}


def adversarial_loss(
    model,
    discriminator,
    start: int,
    last_layer: Sequence[str],
    *,
    task_loss: TaskLoss = squared_error,
    game: AdversarialLosses = HINGE,
    balance: Balance = adaptive_weight,
    r1: float = 0.0,
) -> Loss:
    """Returns the loss L_rec + lambda L_G + losses of the quantizer + L_D, for `gradient_step`.

    L_rec is the sum of the task's terms, and "generator" is lambda L_G. "discriminator" is half the
    mean loss on x plus half the mean loss on x', plus r1/2 |grad_x D(x)|^2 for the mean logit D
    (R1, arXiv:1801.04406). Before step `start` the last two are exactly 0. Means are over the valid
    examples of all replicas, and over patches; lambda is equal on all replicas and has no gradient.

    Args:
        model: an autoencoder with a method decode(z_q), such as `VQVAE` or `VQVAE2`.
        discriminator: a module x `[B, ..., C]` -> logits `[B, ...]` that holds only params.
        start: first step with adversarial terms, about when x' is as sharp as L_rec can make it.
        last_layer: path in the model's params of the layer for lambda, such as
            `("decoder", "Upsample_1")` for a `Decoder`.
        task_loss: as in `make_train_step`.
        game: adversarial losses, `HINGE` or `NON_SATURATING`.
        balance: function from the norms of the last layer's gradients of L_rec and of L_G to
            lambda; `lambda rec, gen: 0.1` makes it constant.
        r1: weight of the gradient penalty.

    Raises:
        ValueError: if the model has no such last layer.

    Example:
        >>> import vqvae_jax as vj
        >>> from vqvae_jax.training.step import gradient_step
        >>> model = vj.VQVAE(vj.Encoder(dim=8), vj.vq(32, 8), vj.Decoder(dim=8))
        >>> discriminator = vj.models.PatchDiscriminator(width=8)
        >>> optimizer = adversarial_optimizer(optax.adam(1e-3), optax.adam(1e-3, b1=0.5, b2=0.9))
        >>> x, key = jnp.zeros((2, 16, 16, 1)), jax.random.key(0)
        >>> state = adversarial_state(model, discriminator, optimizer, key, x)
        >>> loss = adversarial_loss(model, discriminator, 1000, ("decoder", "Upsample_1"))
        >>> new, metrics = jax.eval_shape(gradient_step(loss, optimizer), state, x)
        >>> sorted(model_variables(state)), sorted(set(metrics) & {"generator", "adaptive_weight"})
        (['params'], ['adaptive_weight', 'generator'])
    """

    def loss_fn(params, state: TrainState, batch, axis_name: AxisName):
        x, weights, invalid = valid_examples(batch, getattr(model, "domain", None))
        if weights.ndim > 1:
            raise ValueError(
                "adversarial training takes masks of the examples, [B], since the patches that are"
                f" judged would see padding; got a mask of samples, {weights.shape}"
            )
        # Each patch of an example has the weight of the example.
        mean = partial(average, weights=weights, axis_name=axis_name)
        judge = partial(logits_of, discriminator, params["discriminator"])
        variables = {"params": params["model"], **state.collections}
        rec, collections = in_training(model, params["model"], state, x, weights, axis_name)

        def task(y: Array) -> dict[str, Array]:
            return {k: mean(check_term(k, term, x)) for k, term in task_loss(x, y).items()}

        def generator(y: Array) -> Array:
            # The params of D are held fixed, so that this term moves only the model.
            return mean(game.generator(logits_of(discriminator, sg(params["discriminator"]), y)))

        # The norms need gradients of the last layer alone: from z_q on, without the encoder.
        last = partial(last_layer_norm, model, variables, rec.z_q, last_layer, axis_name)
        weight = balance(last(lambda y: add(task(y))), last(generator))
        played = {
            "generator": weight * generator(rec.x),
            # x' is held fixed, so that this term moves only the discriminator. Both terms are
            # evaluated at the same params, so that one gradient serves both optimizers.
            "discriminator": discriminator_loss(judge, game, x, sg(rec.x), mean)
            + (r1 / 2 * mean(squared_slope(judge, x)) if r1 else 0.0),
        }
        losses = task(rec.x) | rec.losses
        # A select instead of a Python branch, because the step is traced. Before `start` the
        # gradient is exactly 0, for the discriminator too.
        losses |= {k: jnp.where(state.step >= start, term, 0.0) for k, term in played.items()}
        metrics = {"loss": add(losses), "mse": sg(mean(jnp.square(x - rec.x))), **losses}
        metrics |= rec.metrics | {"adaptive_weight": weight}
        metrics["invalid_examples"] = psum(invalid, axis_name)
        return add(losses), Aux(dict(collections), metrics, psum(jnp.sum(weights), axis_name))

    return loss_fn


def logits_of(discriminator, params, x: Float[Array, "B *shape"]) -> Float[Array, "B *patches"]:
    """Returns the logits D(x)."""
    return discriminator.apply({"params": params}, x)


def discriminator_loss(
    judge: Callable[[Array], Array],
    game: AdversarialLosses,
    x: Array,
    y: Array,
    mean: Callable[[Array], Array],
) -> Float[Array, ""]:
    """Loss of the discriminator: half its mean loss on real x, and half that on x'."""
    return (mean(game.real(judge(x))) + mean(game.fake(judge(y)))) / 2


def squared_slope(judge: Callable[[Array], Array], x: Array) -> Float[Array, "B"]:
    """Squared norm |grad_x D(x)|^2 of each example, where D is the mean over its patches."""

    def total(x: Array) -> Array:
        logits = judge(x)
        return jnp.sum(jnp.mean(logits, axis=range(1, logits.ndim)))

    # The gradient of the sum over examples gives that of each, as no logit depends on other
    # examples.
    return jnp.sum(jnp.square(jax.grad(total)(x)), axis=range(1, x.ndim))


def last_layer_norm(
    model, variables, z_q, path: Sequence[str], axis_name: AxisName, loss: Callable[[Array], Array]
) -> Float[Array, ""]:
    """Norm of the gradient, in one decoder layer, of a loss of x' = dec(z_q); a constant."""
    # lambda is a weight, not a term to minimise, so it must carry no gradient.
    variables, z_q = sg((variables, z_q))

    def of_layer(layer):
        changed = variables | {"params": put(variables["params"], path, layer)}
        return loss(model.apply(changed, z_q, method="decode"))

    gradient = jax.grad(of_layer)(get(variables["params"], path))
    # Averaged over replicas before the norm: norms of local gradients, and so lambda, would differ.
    return optax.tree.norm(gradient if axis_name is None else jax.lax.pmean(gradient, axis_name))


def get(tree, path: Sequence[str]) -> Any:
    """Returns the part of nested dicts at a path."""
    for i, name in enumerate(path):
        if not isinstance(tree, dict) or name not in tree:
            known = sorted(tree) if isinstance(tree, dict) else "an array"
            raise ValueError(f"no layer {tuple(path)}: at {i} there is {known}")
        tree = tree[name]
    return tree


def put(tree, path: Sequence[str], value) -> Any:
    """Returns nested dicts with the part at a path replaced."""
    if not path:
        return value
    return {**tree, path[0]: put(tree[path[0]], path[1:], value)}


def add(terms: dict[str, Array]) -> Float[Array, ""]:
    """The sum of named terms."""
    return sum(terms.values(), jnp.zeros((), jnp.float32))


def adversarial_optimizer(
    model: optax.GradientTransformation, discriminator: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Combines the optimizers of model and discriminator into one for `gradient_step`."""
    # Labels of whole subtrees suffice, since optax accepts a prefix of the params.
    labels = {"model": "model", "discriminator": "discriminator"}
    return optax.partition({"model": model, "discriminator": discriminator}, labels)


@under_defaults
def adversarial_state(
    model,
    discriminator,
    optimizer: optax.GradientTransformation,
    key: PRNGKeyArray,
    example: Shaped[Array | np.ndarray, "B *shape"],
) -> TrainState:
    """Returns the state of model and discriminator before the first step.

    Args:
        model, discriminator: as in `adversarial_loss`.
        optimizer: optimizer of both, made by `adversarial_optimizer`.
        key: random key.
        example: a batch, of which only shape and dtype matter.

    Raises:
        ValueError: if the discriminator has collections other than params.
    """
    x = jnp.zeros_like(preprocess(example[:1]))

    def init(key: PRNGKeyArray):
        key_model, key_discriminator = jax.random.split(key)
        variables = dict(model.init(key_model, x))
        of_discriminator = discriminator.init(key_discriminator, x)
        if set(of_discriminator) != {"params"}:
            raise ValueError(f"a discriminator holds params alone, got {sorted(of_discriminator)}")
        params = {"model": variables["params"], "discriminator": of_discriminator["params"]}
        return variables | {"params": params}

    return start_state(init, optimizer, key)


def model_variables(state: TrainState) -> dict[str, Any]:
    """Returns the variables of the model alone, for `apply` or `save_model`."""
    return {"params": state.params["model"], **state.collections}
