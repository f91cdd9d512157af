"""Pyramid, a VQ-VAE whose codes are maps of growing size, from coarse to fine."""

import math
from collections.abc import Callable, Iterable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient as sg
from jaxtyping import Array, Float, Int

from vqvae_jax.checks import check_size
from vqvae_jax.conversions import boundary
from vqvae_jax.data.value_range import Domain, Input, admit
from vqvae_jax.estimators import straight_through
from vqvae_jax.models.compatibility import check_autoencoder, check_map, in_words
from vqvae_jax.models.linen import Quantize
from vqvae_jax.models.vqvae import Reconstruction, batch_perplexity
from vqvae_jax.quantizers.base import Output, Quantizer
from vqvae_jax.reductions import Rows, mean, valid_rows
from vqvae_jax.saving.describe import where_set

Maps = Sequence[Int[Array, "B ... Q"]]


class Phi(nn.Module):
    """Blend (1 - ratio) h + ratio conv(h), applied after upsampling (arXiv:2404.02905).

    The convolution has no bias, so that codes not sent add nothing.

    Attributes:
        ratio: weight of the convolution in [0, 1]; 0.5 in the paper's code.
        width: side of the kernel.
    """

    ratio: float = 0.5
    width: int = 3

    @boundary
    @nn.compact
    def __call__(self, h: Float[Array, "B *grid D"]) -> Float[Array, "B *grid D"]:
        conv = nn.Conv(h.shape[-1], (self.width,) * (h.ndim - 2), use_bias=False)
        return (1 - self.ratio) * h + self.ratio * conv(h)


class Pyramid(nn.Module):
    """The multi-scale VQ-VAE of VAR: one codebook quantizes the residual once at each size.

    f = enc(x), then from coarse to fine k_s = codes of area(f - f_s, size_s) and
    f_{s+1} = f_s + phi_s(upsample(e[k_s])) with f_0 = 0, and x' = dec(f_S) (arXiv:2404.02905,
    algorithms 1 and 2). The losses are the quantizer's, over the rows of all scales, and "pyramid",
    mean_s |sg[f] - f_s|^2 over the sums after each scale, from which phi learns.

    Flat indices `[B, N, Q]` hold the maps one after another, from coarse to fine and each in raster
    order; `split` separates the maps. In training the codes are those of the state before the step.

    Attributes:
        encoder: a module x `[B, ..., C]` -> f `[B, *grid, D]`.
        quantizer: a `Quantizer` of width D that is not stochastic.
        decoder: a module `[B, *grid, D]` -> x' `[B, ..., C]`.
        sizes: sizes of the maps, coarse to fine; the last one is the grid of f.
        phi: None, or a module `[B, *grid, D]` -> the same, of which each scale has its own copy.
        upsampling: method of `jax.image.resize`.
        estimator: `(f, f_S)` -> f_S in value, with a gradient for f.
        domain: None, or the range that x must be in, as in `VQVAE`.

    Example:
        >>> import vqvae_jax as vj
        >>> model = Pyramid(vj.MLP(4), vj.ema_vq(32, 4), vj.MLP(3), sizes=((1, 1), (2, 2)))
        >>> f, x = vj.as_functions(model), jnp.zeros((5, 2, 2, 3))
        >>> variables = jax.jit(f.init)(jax.random.key(0), x)
        >>> maps = jax.jit(f.tokenize)(variables, x)
        >>> [m.shape for m in maps]
        [(5, 1, 1, 1), (5, 2, 2, 1)]
        >>> jax.jit(f.detokenize)(variables, maps[:1]).shape
        (5, 2, 2, 3)
    """

    encoder: nn.Module
    quantizer: Quantizer
    decoder: nn.Module
    sizes: Sequence[Sequence[int]] = ((1, 1), (2, 2), (4, 4), (7, 7))
    phi: nn.Module | None = Phi()
    upsampling: str = "cubic"
    estimator: Callable[[Array, Array], Array] = straight_through
    domain: Domain | None = where_set()

    def __post_init__(self) -> None:
        check_autoencoder(self.encoder, self.quantizer.dim, self.decoder)
        super().__post_init__()

    def setup(self) -> None:
        check_sizes(self.sizes)
        # Codes are chosen twice, in `chain` and for the update; a stochastic quantizer would choose
        # different ones.
        if self.quantizer.stochastic:
            raise ValueError(f"Pyramid takes no stochastic quantizer, got {self.quantizer}")
        self.codes = Quantize(self.quantizer)
        if self.phi is not None:
            self.phis = [self.phi.clone() for _ in self.sizes]

    @boundary
    def __call__(
        self, x: Input, *, train: bool = False, mask=None, axis_name=None
    ) -> Reconstruction:
        """Encodes, quantizes and decodes x, for training and evaluation.

        Args:
            x: input `[B, ..., C]`, floats or what the domain takes.
            train: whether the quantizer updates its state.
            mask: None, or weights of the examples `[B]`.
            axis_name: axis of the replicas.

        Raises:
            ValueError: if the grid of f is not the last of the sizes, or the mask does not fit.
        """
        check_examples(mask, x.shape[0])
        f = self.embed(x, check=not train)
        out = self.quantize(f, train=train, mask=mask, axis_name=axis_name)
        metrics = out.metrics
        if train:
            vocab = self.quantizer.vocab
            metrics = metrics | batch_perplexity(vocab, out.indices, axis_name)
            for name, indices in self.named(self.split(out.indices)).items():
                metrics |= batch_perplexity(vocab, indices, axis_name, name)
        y = self.decode(out.quantized)
        return Reconstruction(y, f, out.quantized, out.indices, out.losses, metrics)

    @boundary
    def encode(self, x: Input) -> Float[Array, "B *grid D"]:
        """Returns f = enc(x)."""
        return self.embed(x)

    def embed(self, x: Input, check: bool = True) -> Float[Array, "B *grid D"]:
        """Returns f = enc(x), after a check of the values of x."""
        with in_words("x", x):
            f = self.encoder(admit(self.domain, x, check=check))
        if f.shape[1:-1] != tuple(self.sizes[-1]):
            raise ValueError(
                f"x must have sides that the encoder maps to the last of the sizes,"
                f" {tuple(self.sizes[-1])}; it maps shape {x.shape} to {f.shape[1:-1]}"
            )
        return f

    @boundary
    def quantize(
        self, f: Float[Array, "B *grid D"], *, train: bool = False, mask=None, axis_name=None
    ) -> Output:
        """Returns the `Output` of the pyramid: f_S, flat indices, losses, metrics.

        An example counts if all of its f is finite and its mask is > 0; else its indices are -1.
        """
        check_grid(f.shape, self.sizes)
        # Here a row is a whole example, since the smallest maps see all of f.
        rows = valid_rows(f.reshape(f.shape[0], -1), mask, axis_name)
        z = rows.z.reshape(f.shape)
        residuals, maps, sums = self.chain(z, rows)
        # One call for all scales: the codebook gets one update, and losses are means over all rows.
        inner = self.codes(
            flat(residuals), train=train, mask=rows.weights[:, None], axis_name=axis_name
        )
        # sg keeps this loss from the encoder, which has the commitment terms of each scale.
        errors = [mean(jnp.square(sg(z) - f_s), rows.weights, axis_name) for f_s in sums]
        losses = inner.losses | {"pyramid": sum(errors, jnp.zeros((), jnp.float32)) / len(errors)}
        metrics = inner.metrics | self.named(map(sg, errors), "error")
        # An invalid example counts as the rows of all its maps.
        metrics["invalid_rows"] = rows.invalid * maps_length(self.sizes)
        # straight_through passes no gradient to f_S, so phi learns from the pyramid loss alone.
        return Output(self.estimator(z, sums[-1]).astype(f.dtype), flat(maps), losses, metrics)

    def chain(self, z: Float[Array, "B *grid D"], rows: Rows):
        """Returns, for each scale, the rows that are quantized, their indices, and f_s after it."""
        f_s, residuals, maps, sums = jnp.zeros_like(z), [], [], []
        valid = (rows.weights > 0).reshape(-1, *(1,) * (z.ndim - 1))
        for s, size in enumerate(self.sizes):
            # sg, or the commitment terms of finer scales would move coarser codes, and phi.
            residuals.append(area(z - sg(f_s), size))
            # Runs in eval mode, so that neither weights nor noise affect the codes of this scale,
            # on which all finer scales depend; `quantize` updates the codebook from all scales at
            # once.
            maps.append(jnp.where(valid, self.codes(residuals[-1]).indices, -1))
            f_s = f_s + self.layer(s, maps[-1])
            sums.append(f_s)
        return residuals, maps, sums

    def layer(self, s: int, indices: Int[Array, "B *size Q"]) -> Float[Array, "B *grid D"]:
        """Returns phi_s(upsample(e[k_s])), the term that scale s adds to the sum."""
        # Index -1 decodes to 0, which resizing and phi keep: a map that was not sent adds nothing.
        e = self.codes.decode(indices)
        shape = (e.shape[0], *self.sizes[-1], e.shape[-1])
        h = e if e.shape == shape else jax.image.resize(e, shape, self.upsampling)
        return h if self.phi is None else self.phis[s](h)

    @boundary
    def decode(self, z_q: Float[Array, "B *grid D"]) -> Float[Array, "B *spatial C"]:
        """Returns x' = dec(f_S); the sum after fewer scales will do too."""
        return self.decoder(z_q)

    @boundary
    def tokenize(self, x: Input) -> Maps:
        """Encodes x to a map of indices `[B, *size, Q]` for each scale, coarse to fine."""
        f = self.encode(x)
        rows = valid_rows(f.reshape(f.shape[0], -1))
        return tuple(self.chain(rows.z.reshape(f.shape), rows)[1])

    @boundary
    def assemble(self, maps: Maps) -> Float[Array, "B *grid D"]:
        """Returns f_m, the sum of the first m maps; index -1 adds nothing.

        Raises:
            ValueError: if there is no map or one too many, or a map has not the size of its scale.
        """
        if not 1 <= len(maps) <= len(self.sizes):
            raise ValueError(f"needs 1 to {len(self.sizes)} maps of indices, got {len(maps)}")
        for s, (indices, size) in enumerate(zip(maps, self.sizes, strict=False)):
            check_map(f"map {s}", indices, self.quantizer.vocab, self.decoder)
            if indices.shape[1:-1] != tuple(size):
                raise ValueError(f"map {s} must be [B, {size}, Q], got shape {indices.shape}")
        layers = [self.layer(s, indices) for s, indices in enumerate(maps)]
        return sum(layers[1:], layers[0])

    @boundary
    def detokenize(self, maps: Maps) -> Float[Array, "B *spatial C"]:
        """Decodes all maps, or the first m, to x'."""
        return self.decode(self.assemble(maps))

    @boundary
    def split(self, indices: Int[Array, "B N Q"]) -> tuple[Int[Array, "B ... Q"], ...]:
        """Splits flat indices into a map for each scale."""
        ends = np.cumsum([math.prod(size) for size in self.sizes])[:-1]
        parts = jnp.split(indices, ends, axis=1)
        return tuple(
            part.reshape(len(part), *size, part.shape[-1])
            for part, size in zip(parts, self.sizes, strict=True)
        )

    def named(self, values: Iterable, name: str = "") -> dict:
        """Names the value of each scale by its size: "2x2/error"."""
        sizes = ("x".join(map(str, size)) for size in self.sizes)
        return {f"{size}/{name}": value for size, value in zip(sizes, values, strict=True)}


def flat(maps: Sequence[Array]) -> Array:
    """Flattens maps [B, *size, W] and joins them: [B, N, W]."""
    return jnp.concatenate([m.reshape(m.shape[0], -1, m.shape[-1]) for m in maps], axis=1)


def maps_length(sizes: Sequence[Sequence[int]]) -> int:
    """N, the total number of elements of the maps."""
    return sum(math.prod(size) for size in sizes)


def area(x: Float[Array, "B *grid D"], size: Sequence[int]) -> Float[Array, "B *size D"]:
    """Mean of x over the cells of a grid of this size.

    Cell i of n along a side of m elements spans floor(i m / n) to ceil((i + 1) m / n): cells share
    elements where n does not divide m.

    Example:
        >>> area(jnp.arange(5.0).reshape(1, 5, 1), (2,)).ravel()
        Array([1., 3.], dtype=float32)
    """
    for axis, n in enumerate(size, start=1):
        if n != x.shape[axis]:
            # Full precision, since the rows that are quantized here decide the codes.
            cells = jnp.asarray(cell_means(n, x.shape[axis]))
            y = jnp.tensordot(x, cells, (axis, 1), precision=jax.lax.Precision.HIGHEST)
            x = jnp.moveaxis(y, -1, axis)
    return x


def cell_means(n: int, m: int) -> np.ndarray:
    """Matrix [n, m] whose row i averages over cell i."""
    i, j = np.arange(n)[:, None], np.arange(m)
    inside = (j >= i * m // n) & (j < -(-(i + 1) * m // n))
    return (inside / inside.sum(1, keepdims=True)).astype(np.float32)


def check_sizes(sizes: Sequence[Sequence[int]]) -> None:
    """Raises a ValueError unless sizes have one rank, 1 to 3, and none exceeds the last one."""
    ranks = {len(size) for size in sizes}
    if len(ranks) != 1 or not ranks <= {1, 2, 3}:
        raise ValueError(f"sizes must be sizes of one rank, 1 to 3, got {sizes}")
    for size in sizes:
        for side, last in zip(size, sizes[-1], strict=True):
            check_size(side=side)
            if side > last:  # `area` can't enlarge
                raise ValueError(f"sizes must not exceed the last one, {sizes[-1]}, got {size}")


def check_examples(mask, batch: int) -> None:
    """Raises a ValueError unless the mask is one of examples."""
    if mask is not None and jnp.shape(mask) not in ((batch,), (1,)):
        raise ValueError(
            f"mask must be of the {batch} examples, [B]: each of the coarse maps sees all of x;"
            f" got shape {jnp.shape(mask)}"
        )


def check_grid(shape: tuple[int, ...], sizes: Sequence[Sequence[int]]) -> None:
    """Raises a ValueError unless f [B, *grid, D] has the last size as its grid."""
    if shape[1:-1] != tuple(sizes[-1]):
        raise ValueError(f"f must be [B, {sizes[-1]}, D] as the last size, got shape {shape}")
