"""The default model and its train step, written plainly in Flax without code of this library."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax


class Sizes(NamedTuple):
    """Sizes of a model and its batches."""

    side: int = 28
    channels: int = 1
    width: int = 64
    depth: int = 2
    codes: int = 512
    dim: int = 64
    batch: int = 32


class Residual(nn.Module):
    """Residual blocks: x + conv1x1(relu(conv3x3(relu(x)))), `depth` times, then relu."""

    width: int
    depth: int

    @nn.compact
    def __call__(self, x):
        for _ in range(self.depth):
            h = nn.Conv(self.width, (3, 3))(nn.relu(x))
            x = x + nn.Conv(self.width, (1, 1))(nn.relu(h))
        return nn.relu(x)


class Encoder(nn.Module):
    """Encoder: x -> z_e."""

    sizes: Sizes

    @nn.compact
    def __call__(self, x):
        s = self.sizes
        h = nn.relu(nn.Conv(s.width // 2, (4, 4), 2)(x))
        h = nn.relu(nn.Conv(s.width, (4, 4), 2)(h))
        h = Residual(s.width, s.depth)(nn.Conv(s.width, (3, 3))(h))
        return nn.Conv(s.dim, (1, 1))(h)


class Decoder(nn.Module):
    """Decoder: z_q -> x'."""

    sizes: Sizes

    @nn.compact
    def __call__(self, z_q):
        s = self.sizes
        h = Residual(s.width, s.depth)(nn.Conv(s.width, (3, 3))(z_q))
        h = nn.relu(nn.ConvTranspose(s.width // 2, (4, 4), (2, 2))(h))
        return nn.ConvTranspose(s.channels, (4, 4), (2, 2))(h)


class Model(nn.Module):
    """VQ-VAE with a codebook that follows moving averages."""

    sizes: Sizes

    @nn.compact
    def __call__(self, x):
        z_q, commitment = self.quantize(Encoder(self.sizes)(x))
        return Decoder(self.sizes)(z_q), commitment

    def quantize(self, z, decay: float = 0.99, beta: float = 0.25):
        """Returns straight-through z_q and the commitment loss; moves the averages."""
        shape = (self.sizes.codes, self.sizes.dim)
        sums = self.variable(
            "ema", "sums", lambda: jax.random.normal(self.make_rng("params"), shape)
        )
        counts = self.variable("ema", "counts", jnp.ones, shape[:1])
        e = sums.value / counts.value[:, None]
        rows = jax.lax.stop_gradient(z.reshape(-1, shape[1]))
        squares = jnp.sum(rows**2, 1, keepdims=True), jnp.sum(e**2, 1)
        k = jnp.argmin(squares[0] - 2 * rows @ e.T + squares[1], 1)
        z_q = e[k].reshape(z.shape)
        if not self.is_initializing():
            hot = jax.nn.one_hot(k, shape[0])
            sums.value = decay * sums.value + (1 - decay) * hot.T @ rows
            n = decay * counts.value + (1 - decay) * hot.sum(0)
            counts.value = (n + 1e-5) / (n.sum() + shape[0] * 1e-5) * n.sum()
        return z + jax.lax.stop_gradient(z_q - z), beta * jnp.mean((z - z_q) ** 2)


def make(sizes: Sizes, x, optimizer: optax.GradientTransformation) -> tuple[Any, Any]:
    """Returns (train step, first state): `step(state, x) -> (state, loss)` for x uint8."""
    model = Model(sizes)
    variables = dict(model.init(jax.random.key(0), jnp.zeros(x.shape)))
    params = variables.pop("params")

    def loss_fn(params, variables, x):
        (y, commitment), new = model.apply(
            {"params": params, **variables}, x, mutable=list(variables)
        )
        return jnp.mean((y - x) ** 2) + commitment, new

    def step(state, x):
        params, variables, moments = state
        x = x.astype(jnp.float32) / 255 - 0.5
        (loss, variables), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, variables, x)
        updates, moments = optimizer.update(grads, moments, params)
        return (optax.apply_updates(params, updates), dict(variables), moments), loss

    return step, (params, variables, optimizer.init(params))
