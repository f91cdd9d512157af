"""VQ-VAE: encoder, quantizer and decoder in one module, and its methods as pure functions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vqvae_jax.conversions import boundary
from vqvae_jax.data.value_range import Domain, Input, admit
from vqvae_jax.metrics import perplexity
from vqvae_jax.models.compatibility import check_autoencoder, check_map, check_width, in_words
from vqvae_jax.models.linen import Quantize
from vqvae_jax.models.masks import hidden, masked, of_rows, of_samples
from vqvae_jax.quantizers.base import Output, Quantizer
from vqvae_jax.saving.describe import where_set


class Reconstruction(NamedTuple):
    """Output of a VQ-VAE: reconstruction, latents, indices, losses and metrics."""

    x: Float[Array, "B *spatial C"]  # x' = dec(z_q)
    z_e: Float[Array, "B *grid D"]  # enc(x)
    z_q: Float[Array, "B *grid D"]  # e_k, with the estimator's gradient
    indices: Int[Array, "B *grid Q"]
    losses: dict[str, Float[Array, ""]]  # weighted losses of the quantizer by name
    metrics: dict[str, Float[Array, ""]]

    @property
    def loss(self) -> Float[Array, ""]:
        """The sum of the quantizer's losses: add it to the task loss."""
        return sum(self.losses.values(), jnp.zeros((), jnp.float32))


class VQVAE(nn.Module):
    """VQ-VAE: z_e = enc(x), z_q = e_k with k = argmin_j |z_e - e_j|_2, x' = dec(z_q).

    arXiv:1711.00937; `vqvae_jax.equations` lists the equations one by one.

    Attributes:
        encoder: a module x `[B, ..., C]` -> z_e `[B, ..., D]`.
        quantizer: any `Quantizer` of width D.
        decoder: a module z_q `[B, ..., D]` -> x' `[B, ..., C]`.
        domain: None, or the range that x must be in: `pixels()`, which takes uint8 too, or
            `values(low, high)`. Values out of range raise a ValueError; under `jit` their example
            gets index -1.

    Example:
        >>> import jax, vqvae_jax as vj
        >>> model = VQVAE(vj.Encoder(dim=8), vj.vq(32, 8), vj.Decoder(dim=8))
        >>> x = jnp.zeros((1, 8, 8, 1))
        >>> variables = model.init(jax.random.key(0), x)
        >>> codes = model.apply(variables, x, method="tokenize")
        >>> codes.shape, model.apply(variables, codes, method="detokenize").shape
        ((1, 2, 2, 1), (1, 8, 8, 1))
    """

    encoder: nn.Module
    quantizer: Quantizer
    decoder: nn.Module
    domain: Domain | None = where_set()

    def __post_init__(self) -> None:
        check_autoencoder(self.encoder, self.quantizer.dim, self.decoder)
        super().__post_init__()

    def setup(self) -> None:
        self.codes = Quantize(self.quantizer)

    @boundary
    def __call__(
        self, x: Input, *, train: bool = False, mask=None, axis_name=None
    ) -> Reconstruction:
        """Encodes, quantizes and decodes x, for training and evaluation.

        Args:
            x: input `[B, ..., C]`, floats or what the domain takes.
            train: whether the quantizer updates its state.
            mask: None, or weights of the examples `[B]`, of the samples of x `[B, *spatial]` (see
                `sequence_mask`), or of the rows of z_e. With a mask of samples, a row counts if any
                of its samples does, and each example gets the codes and the x' that it gets alone.
                Encoder and decoder receive this mask if their calls take one; otherwise they see
                zeros as padding.
            axis_name: axis of the replicas.

        Raises:
            ValueError: if x or the mask does not fit the model.
        """
        samples = of_samples(mask, x)
        # Values are not checked in training: one bad example must not stop a run, and the train
        # step gives examples out of the domain weight 0.
        z_e = self.embed(x, samples, check=not train)
        out = self.quantize(z_e, train=train, mask=mask, axis_name=axis_name)
        metrics = out.metrics
        if train:
            metrics = metrics | batch_perplexity(self.quantizer.vocab, out.indices, axis_name)
        y = self.decode(out.quantized, samples)
        return Reconstruction(y, z_e, out.quantized, out.indices, out.losses, metrics)

    @boundary
    def encode(self, x: Input, mask=None) -> Float[Array, "B *grid D"]:
        """Returns z_e = enc(x); under a mask of samples each example is encoded as if alone."""
        return self.embed(x, of_samples(mask, x))

    def embed(self, x: Input, samples, check: bool = True) -> Float[Array, "B *grid D"]:
        """Returns enc(x) under a mask of its samples, after a check of the values of x."""
        with in_words("x", x):
            return masked(self.encoder, admit(self.domain, hidden(x, samples), check), samples)

    @boundary
    def quantize(
        self, z_e: Float[Array, "B *grid D"], *, train: bool = False, mask=None, axis_name=None
    ) -> Output:
        """Returns the `Output` of the quantizer: z_q, indices, losses, metrics."""
        check_width(z_e, self.quantizer.dim)
        return self.codes(z_e, train=train, mask=of_rows(mask, z_e), axis_name=axis_name)

    @boundary
    def decode(self, z_q: Float[Array, "B *grid D"], mask=None) -> Float[Array, "B *spatial C"]:
        """Returns x' = dec(z_q); under a mask of rows or samples, each example as if alone."""
        with in_words("z_q", z_q):
            return masked(self.decoder, z_q, of_rows(mask, z_q))

    @boundary
    def tokenize(self, x: Input, mask=None) -> Int[Array, "B *grid Q"]:
        """Encodes x to indices, with an axis of Q streams even if Q = 1; -1 where the mask is 0.

        x must have the scale of the training data, which `domain` describes and checks.
        """
        return self.quantize(self.encode(x, mask), mask=mask).indices

    @boundary
    def detokenize(
        self, indices: Int[Array, "B *grid Q"], mask=None
    ) -> Float[Array, "B *spatial C"]:
        """Decodes indices to x' in the scale of x; -1 is the zero vector; mask as in `decode`."""
        check_map("indices", indices, self.quantizer.vocab, self.decoder)
        return self.decode(self.codes.decode(indices), mask)


def batch_perplexity(
    vocab: tuple[int, ...], indices: Int[Array, "B *grid Q"], axis_name, prefix: str = ""
) -> dict[str, Array]:
    """Metrics of one batch: the perplexity of each stream."""
    return {
        f"{prefix}{'' if len(vocab) == 1 else f'{q}/'}perplexity_batch": perplexity(
            indices[..., q], size, axis_name
        )
        for q, size in enumerate(vocab)
    }


class Functions(NamedTuple):
    """A model as pure functions of (variables, array), for pipelines without Flax."""

    init: Callable[..., Any]  # (key, x) -> variables
    encode: Callable[..., Array]  # (variables, x, mask=None) -> z_e
    quantize: Callable[..., Output]  # (variables, z_e, mask=None) -> Output
    decode: Callable[..., Array]  # (variables, z_q, mask=None) -> x'
    tokenize: Callable[..., Array]  # (variables, x, mask=None) -> indices
    detokenize: Callable[..., Array]  # (variables, indices, mask=None) -> x'


def as_functions(model: nn.Module) -> Functions:
    """Returns the methods of a VQ-VAE, or of any module that has them, as pure functions.

    Each can be jitted, vmapped and exported, and takes its method's mask as `mask=`.

    Example:
        >>> import jax, vqvae_jax as vj
        >>> f = as_functions(VQVAE(vj.MLP(4), vj.vq(32, 4), vj.MLP(10)))
        >>> variables = f.init(jax.random.key(0), jnp.zeros((1, 10)))
        >>> jax.jit(f.tokenize)(variables, jnp.zeros((3, 10))).shape
        (3, 1)
    """

    def method(name):
        def call(variables, array, mask=None):
            options = {} if mask is None else {"mask": mask}
            return model.apply(variables, array, method=name, **options)

        call.__name__ = name  # for profiles and errors of `jit`, which would all show "call"
        return call

    return Functions(model.init, *map(method, Functions._fields[1:]))
