"""A small classifier of real images, which judges the images that models make.

Its features give the Frechet distance and the feature loss; its answers decide whether a sample is
recognised. It learns from labelled images in less than a minute of CPU, and is saved to

    runs/classifier-<hash of images, labels, options and VERSION>/
"""

import dataclasses
import hashlib
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Float32, Int, PRNGKeyArray, Shaped

from vqvae_commands.run.batchwise import in_batches
from vqvae_jax import BundleError, load_model, save_model
from vqvae_jax.checks import check_float, check_same_shape, check_size
from vqvae_jax.data.pipeline import batches
from vqvae_jax.data.scaling import preprocess
from vqvae_jax.models.convolution import Conv
from vqvae_jax.training.loop import run_steps
from vqvae_jax.training.step import Aux, gradient_step, start_state, step_key

VERSION = 1  # raise it when the same data and options give another classifier
STEPS, BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY = 2000, 64, 3e-3, 1e-2
SHIFT = 1  # pixels: the largest shift of training images
COMPILER_OPTIONS: dict[str, Any] = {}  # of the train step, and of the look at images


class Answers(NamedTuple):
    """Outputs of the network."""

    maps: tuple[Float[Array, "B h w C"], ...]  # after each convolution
    features: Float[Array, "B F"]
    logits: Float[Array, "B K"]


class ConvNet(nn.Module):
    """Three convolutions of stride 2 and two linear layers: x [B, H, W, C] -> `Answers`.

    Attributes:
        classes: number of classes, K.
        width: number of features, F; the convolutions have F / 2, F and 2 F channels.
    """

    classes: int
    width: int = 64

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Answers:
        check_size(classes=self.classes, width=self.width)
        check_float("x", x)
        maps = []
        for features, kernel in ((self.width // 2, 4), (self.width, 3), (2 * self.width, 3)):
            x = nn.leaky_relu(Conv(features, (kernel, kernel), 2)(x))
            maps.append(x)
        features = nn.leaky_relu(nn.Dense(self.width)(x.reshape(len(x), -1)))
        return Answers(tuple(maps), features, nn.Dense(self.classes)(features))


@dataclasses.dataclass(frozen=True, eq=False)
class Classifier:
    """A trained network; images are uint8, or floats as `preprocess` makes them, `[N, H, W, C]`."""

    net: ConvNet
    variables: Any

    def see(self, x: Float[Array, "B H W C"]) -> Answers:
        """Returns all outputs for one batch of floats, with gradients."""
        return self.net.apply(self.variables, x)  # type: ignore[return-value]

    def features(self, images: Shaped[np.ndarray, "N H W C"]) -> Float32[np.ndarray, "N F"]:
        """Returns the outputs of the layer before the last."""
        return self.outputs(images).features

    def logits(self, images: Shaped[np.ndarray, "N H W C"]) -> Float32[np.ndarray, "N K"]:
        """Returns one logit for each class."""
        return self.outputs(images).logits

    def predict(self, images: Shaped[np.ndarray, "N H W C"]) -> Int[np.ndarray, "N"]:
        """Returns the most likely class of each image."""
        return self.logits(images).argmax(axis=1)

    def accuracy(
        self, images: Shaped[np.ndarray, "N H W C"], labels: Int[np.ndarray, "N"]
    ) -> float:
        """Returns the share of the images whose most likely class is their label."""
        return float(np.mean(self.predict(images) == np.asarray(labels)))

    def outputs(self, images: Shaped[np.ndarray, "N H W C"]) -> Answers:
        """Returns features and logits of any number of images."""
        look = partial(compiled_look(self.net), self.variables)
        return Answers((), *in_batches(look, images, 200))


@cache
def compiled_look(net: ConvNet) -> Callable[..., tuple[Array, Array]]:
    """Returns (variables, images) -> (features, logits), compiled once."""
    look = lambda variables, x: net.apply(variables, preprocess(x))[1:]  # noqa: E731
    return jax.jit(look, compiler_options=COMPILER_OPTIONS)


def perceptual(classifier: Classifier) -> Callable[[Array, Array], Float[Array, "B"]]:
    """Returns the feature loss of two batches of floats: (x, x') -> [B].

    sum_l mean_hw |n_l(x) - n_l(x')|^2, with n_l the maps of layer l, each place of unit length:
    LPIPS (arXiv:1801.03924) with all weights 1, and the features of this classifier.
    """

    def unit(y: Array) -> Array:
        return y * jax.lax.rsqrt(jnp.sum(y * y, axis=-1, keepdims=True) + 1e-6)

    def distance(x: Float[Array, "B H W C"], y: Float[Array, "B H W C"]) -> Float[Array, "B"]:
        check_same_shape("x", x, "x'", y)
        layers = zip(classifier.see(x).maps, classifier.see(y).maps, strict=True)
        return sum(
            (jnp.mean(jnp.sum(jnp.square(unit(a) - unit(b)), -1), (1, 2)) for a, b in layers),
            jnp.zeros(len(x)),
        )

    return distance


def train_classifier(
    images: Shaped[np.ndarray, "N H W C"],
    labels: Int[np.ndarray, "N"],
    steps: int = STEPS,
    seed: int = 0,
    width: int = 64,
) -> Classifier:
    """Trains a classifier by AdamW with cosine decay, on flipped and shifted batches.

    Raises:
        ValueError: if there are not as many labels as images, or a label is below 0.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    check_labels(images, labels)
    check_size(steps=steps)
    net = ConvNet(int(labels.max()) + 1, width)
    optimizer, step = compiled_step(net, steps)
    example = jnp.zeros((1, *images.shape[1:]))
    state = start_state(lambda key: net.init(key, example), optimizer, jax.random.key(seed))
    order = batches(np.arange(len(images)), seed, BATCH_SIZE)
    state = run_steps(state, step, ((images[rows], labels[rows]) for rows in order), steps, {})
    return Classifier(net, jax.device_get(state.variables))


@cache
def compiled_step(net: ConvNet, steps: int):
    """Returns the optimizer and the train step of batches (images, labels)."""
    rate = optax.warmup_cosine_decay_schedule(0, LEARNING_RATE, max(steps // 10, 1), steps + 1)
    optimizer = optax.adamw(rate, weight_decay=WEIGHT_DECAY)

    def loss_fn(params, state, batch, axis_name):
        x, labels = batch
        logits = net.apply({"params": params}, augment(step_key(state), preprocess(x))).logits
        loss = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))
        return loss, Aux({}, {"loss": loss}, jnp.float32(len(x)))

    step = gradient_step(loss_fn, optimizer)
    return optimizer, jax.jit(step, donate_argnums=0, compiler_options=COMPILER_OPTIONS)


def augment(key: PRNGKeyArray, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    """Flips each image from left to right or not, and shifts it by up to `SHIFT` pixels."""
    key_flip, key_shift = jax.random.split(key)
    flip = jax.random.bernoulli(key_flip, 0.5, (len(x), 1, 1, 1))
    x = jnp.where(flip, x[:, :, ::-1], x)
    places = jax.random.randint(key_shift, (len(x), 2), 0, 2 * SHIFT + 1)
    larger = jnp.pad(x, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), mode="edge")
    cut = partial(jax.lax.dynamic_slice, slice_sizes=x.shape[1:])
    return jax.vmap(lambda image, at: cut(image, (*at, 0)))(larger, places)


def kept_classifier(
    images: Shaped[np.ndarray, "N H W C"],
    labels: Int[np.ndarray, "N"],
    steps: int = STEPS,
    seed: int = 0,
    width: int = 64,
    folder: Path = Path("runs"),
) -> Classifier:
    """Loads the classifier of these arguments and this `VERSION`, or trains and saves it."""
    images, labels = np.asarray(images), np.asarray(labels)
    check_labels(images, labels)
    place = folder / f"classifier-{digest(images, labels, steps, seed, width)}"
    names = {"ConvNet": ConvNet}
    try:
        bundle = load_model(place, names)
    except BundleError:  # missing, or damaged
        classifier = train_classifier(images, labels, steps, seed, width)
        save_model(place, classifier.net, classifier.variables, names)
        return classifier
    return Classifier(bundle.model, bundle.variables)


def digest(images: np.ndarray, labels: np.ndarray, *options: int) -> str:
    """Returns a hash of all that a classifier depends on: `VERSION`, data and options."""
    found = hashlib.sha256(
        f"{VERSION} {images.shape} {images.dtype} {labels.dtype} {options}".encode()
    )
    for array in (images, labels):
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:12]


def check_labels(images: np.ndarray, labels: np.ndarray) -> None:
    """Raises a ValueError unless each image [N, H, W, C] has a label from 0 on."""
    if images.ndim != 4 or labels.shape != images.shape[:1] or not len(images):
        raise ValueError(
            f"expected images [N, H, W, C] and labels [N], found {images.shape}, {labels.shape}"
        )
    if labels.min() < 0:
        raise ValueError(f"expected labels of at least 0, found {labels.min()}")
