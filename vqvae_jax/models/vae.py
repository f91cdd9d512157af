"""Autoencoders without codes: the variational autoencoder (VAE) and the plain one."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from vqvae_jax.conversions import boundary
from vqvae_jax.data.value_range import Domain, Input, admit
from vqvae_jax.models.compatibility import check_link, in_words, widths
from vqvae_jax.models.masks import hidden, masked, of_rows, of_samples
from vqvae_jax.models.vqvae import Reconstruction
from vqvae_jax.quantizers.base import RNG, local_key
from vqvae_jax.reductions import mean
from vqvae_jax.saving.describe import where_set

Posterior = tuple[Float[Array, "B *grid D"], Float[Array, "B *grid D"]]
"""Mean and log variance of each element of z."""


class VAE(nn.Module):
    """Variational autoencoder: z = mu + sigma epsilon, loss beta KL(q(z|x) | N(0, 1)).

    arXiv:1312.6114. The loss is divided by the number of elements of x, since task losses are means
    over elements: beta = 1 with `likelihoods.task_loss` gives the evidence bound in nats per
    element. `squared_error` is, up to a constant, a Gaussian of variance 1/2; the bound for
    variance s^2 needs beta = 2 s^2.

    Attributes:
        encoder: a module x `[B, ..., C]` -> `[B, ..., 2 D]`: mu, then ln sigma^2.
        decoder: a module z `[B, ..., D]` -> `[B, ..., P]`.
        beta: weight of the divergence (other than 1: beta-VAE, Higgins et al. 2017).
        domain: None, or the range that x must be in, as in `VQVAE`.

    Example:
        >>> import vqvae_jax as vj
        >>> model = VAE(vj.Encoder(dim=2 * 4), vj.Decoder(dim=4))
        >>> x = jnp.zeros((1, 8, 8, 1))
        >>> variables = model.init(jax.random.key(0), x)
        >>> rec = model.apply(variables, x, train=True, rngs={vj.quantizers.RNG: jax.random.key(1)})
        >>> rec.x.shape, rec.z_q.shape, list(rec.losses), list(rec.metrics)
        ((1, 8, 8, 1), (1, 2, 2, 4), ['kl'], ['kl_bits'])
    """

    encoder: nn.Module
    decoder: nn.Module
    beta: float = 1.0
    domain: Domain | None = where_set()

    def __post_init__(self) -> None:
        given, taken = widths(self.encoder)[1], widths(self.decoder)[0]
        check_link("the encoder", given, "the VAE, for a mean and a variance,", taken and 2 * taken)
        super().__post_init__()

    @boundary
    def __call__(
        self, x: Input, *, train: bool = False, mask=None, axis_name=None
    ) -> Reconstruction:
        """Encodes, draws z and decodes it, for training and evaluation.

        Args:
            x: input `[B, ..., C]`, floats or what the domain takes.
            train: whether z is sampled, which needs the rng stream `RNG`; otherwise z is the mean.
            mask: None, or weights of examples, of samples of x, or of rows of z, as in `VQVAE`.
            axis_name: axis of the replicas.

        Returns:
            A `Reconstruction`: z_e is the mean, z_q is z, and indices have no stream.
            metrics["kl_bits"] is the KL divergence in bits per example.
        """
        samples = of_samples(mask, x)
        mu, log_variance = halves(self.embed(x, samples, check=not train))
        z = mu
        # init has no stream of keys to draw from, and needs only shapes.
        if train and not self.is_initializing():
            if not self.has_rng(RNG):
                raise ValueError(f'needs rngs={{"{RNG}": key}} when train=True: it draws z')
            # `local_key` folds in the replica's index; else all replicas would draw the same noise.
            z = draw(local_key(self.make_rng(RNG), axis_name), mu, log_variance)
        kl = gaussian_kl(mu, log_variance)
        if mask is not None:
            mask = jnp.broadcast_to(of_rows(jnp.asarray(mask, jnp.float32), z), kl.shape)
        nats = math.prod(kl.shape[1:]) * mean(kl, mask, axis_name)  # per example
        # Divided by the number of elements of x, not of z: beta = 1 with a task loss that is a mean
        # over elements of x is then the evidence bound.
        losses = {"kl": self.beta / math.prod(x.shape[1:]) * nats}
        if samples is not None:
            # So far nats are those of an example without padding; padding reduces them.
            nats = nats * real_share(mask, axis_name)
        metrics = {"kl_bits": jax.lax.stop_gradient(nats) / math.log(2)}
        y = self.decode(z, samples)
        return Reconstruction(y, mu, z, no_streams(z), losses, metrics)

    def embed(self, x: Input, samples, check: bool = True) -> Float[Array, "B *grid W"]:
        """Returns enc(x) under a mask of its samples, after a check of the values of x."""
        with in_words("x", x):
            return masked(self.encoder, admit(self.domain, hidden(x, samples), check), samples)

    @boundary
    def posterior(self, x: Input, mask=None) -> Posterior:
        """Returns mean and log variance of the posterior q(z|x)."""
        return halves(self.embed(x, of_samples(mask, x)))

    @boundary
    def encode(self, x: Input, mask=None) -> Float[Array, "B *grid D"]:
        """Returns the mean of q(z|x)."""
        return self.posterior(x, mask)[0]

    @boundary
    def decode(self, z: Float[Array, "B *grid D"], mask=None) -> Float[Array, "B *spatial P"]:
        """Returns x' = dec(z); mask as in `VQVAE.decode`."""
        with in_words("z", z):
            return masked(self.decoder, z, of_rows(mask, z))


class Autoencoder(nn.Module):
    """Plain autoencoder x' = dec(enc(x)): a `VQVAE` without its quantizer.

    Its reconstruction is the limit that a `VQVAE` can approach.

    Attributes:
        encoder: a module x `[B, ..., C]` -> z `[B, ..., D]`.
        decoder: a module z `[B, ..., D]` -> x' `[B, ..., C]`.
        domain: None, or the range that x must be in, as in `VQVAE`.

    Example:
        >>> import vqvae_jax as vj
        >>> model = Autoencoder(vj.Encoder(dim=4), vj.Decoder(dim=4))
        >>> model.init_with_output(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))[0].x.shape
        (1, 8, 8, 1)
    """

    encoder: nn.Module
    decoder: nn.Module
    domain: Domain | None = where_set()

    def __post_init__(self) -> None:
        check_link("the encoder", widths(self.encoder)[1], "the decoder", widths(self.decoder)[0])
        super().__post_init__()

    @boundary
    def __call__(
        self, x: Input, *, train: bool = False, mask=None, axis_name=None
    ) -> Reconstruction:
        """Encodes and decodes x; z_q is z_e, and there are no losses.

        `train` and `axis_name` have no effect on the result; the mask is that of `VQVAE`.
        """
        samples = of_samples(mask, x)
        z = self.embed(x, samples, check=not train)
        return Reconstruction(self.decode(z, samples), z, z, no_streams(z), {}, {})

    def embed(self, x: Input, samples, check: bool = True) -> Float[Array, "B *grid W"]:
        """Returns enc(x) under a mask of its samples, after a check of the values of x."""
        with in_words("x", x):
            return masked(self.encoder, admit(self.domain, hidden(x, samples), check), samples)

    @boundary
    def encode(self, x: Input, mask=None) -> Float[Array, "B *grid D"]:
        """Returns z = enc(x); mask as in `VQVAE.encode`."""
        return self.embed(x, of_samples(mask, x))

    @boundary
    def decode(self, z: Float[Array, "B *grid D"], mask=None) -> Float[Array, "B *spatial P"]:
        """Returns x' = dec(z); mask as in `VQVAE.decode`."""
        with in_words("z", z):
            return masked(self.decoder, z, of_rows(mask, z))


def halves(both: Float[Array, "B *grid W"]) -> Posterior:
    """Splits an encoder's output into mean and log variance.

    Raises:
        ValueError: if its width is odd.
    """
    if both.shape[-1] % 2:
        raise ValueError(f"the encoder must give [B, ..., 2 D], got shape {both.shape}")
    # float32 even for a bfloat16 encoder, in which e^v - 1 - v would vanish near the prior.
    mu, log_variance = jnp.split(both.astype(jnp.float32), 2, axis=-1)
    return mu, log_variance


def draw(
    key: PRNGKeyArray, mu: Float[Array, "*rows D"], log_variance: Float[Array, "*rows D"]
) -> Float[Array, "*rows D"]:
    """Samples mu + sigma epsilon, epsilon ~ N(0, 1), so that gradients reach mu and sigma."""
    return mu + jnp.exp(0.5 * log_variance) * jax.random.normal(key, mu.shape, jnp.float32)


@boundary
def gaussian_kl(
    mu: Float[Array, "*rows D"], log_variance: Float[Array, "*rows D"]
) -> Float[Array, "*rows"]:
    """KL(N(mu, sigma^2) | N(0, 1)) = 1/2 sum_i (mu_i^2 + sigma_i^2 - 1 - ln sigma_i^2), in nats.

    Example:
        >>> gaussian_kl(jnp.array([[1.0, 1.0]]), jnp.zeros((1, 2)))
        Array([1.], dtype=float32)
    """
    # expm1, since e^v - 1 - v would be mere rounding error where q is almost the prior.
    excess = jnp.expm1(log_variance) - log_variance
    return 0.5 * jnp.sum(jnp.square(mu) + excess, axis=-1)


def real_share(mask: Float[Array, "B *grid"], axis_name) -> Float[Array, ""]:
    """Mean share of rows that count, over the examples in which any does."""
    each = jnp.mean(jnp.float32(mask > 0), axis=tuple(range(1, mask.ndim)))
    return mean(each, jnp.float32(each > 0), axis_name)


def no_streams(z: Float[Array, "B *grid D"]) -> Array:
    """Empty indices [B, *grid, 0] of a model without codes."""
    return jnp.zeros((*z.shape[:-1], 0), jnp.int32)
