"""VQ-VAE-2: a hierarchy of codes, from the global top level down to the details."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vqvae_jax.conversions import boundary
from vqvae_jax.data.value_range import Domain, Input, admit
from vqvae_jax.models.compatibility import (
    check_chain,
    check_link,
    check_map,
    check_width,
    in_words,
    widths,
)
from vqvae_jax.models.linen import Quantize
from vqvae_jax.models.masks import hidden, masked, of_rows, of_samples
from vqvae_jax.models.vqvae import batch_perplexity
from vqvae_jax.quantizers.base import Output, Quantizer
from vqvae_jax.saving.describe import where_set

Maps = Sequence[Int[Array, "B ... _"] | None]


class Hierarchy(NamedTuple):
    """Output of a VQ-VAE-2: like `Reconstruction`, with one entry for each level."""

    x: Float[Array, "B *spatial C"]
    z_e: tuple[Float[Array, "B ... _"], ...]
    z_q: tuple[Float[Array, "B ... _"], ...]
    indices: tuple[Int[Array, "B ... _"], ...]
    losses: dict[str, Float[Array, ""]]  # losses of all levels, added up by name
    metrics: dict[str, Float[Array, ""]]  # named by level, such as "level1/error"

    @property
    def loss(self) -> Float[Array, ""]:
        """The sum of the quantizers' losses: add it to the task loss."""
        return sum(self.losses.values(), jnp.zeros((), jnp.float32))


class VQVAE2(nn.Module):
    """Hierarchical VQ-VAE: each level sees the decoded levels above it (arXiv:1906.00446).

    With L levels, from 0, the top, to L - 1, the bottom:

        h_{L-1} = enc_{L-1}(x),  h_l = enc_l(h_{l+1})           from the bottom up
        z_0 = h_0,  z_l = conv1x1([h_l, d_{l-1}])               from the top down
        q_l = quantize_l(z_l),  d_l = dec_l([q_l, d_{l-1}])
        x' = d_{L-1}

    so that the bottom need not repeat what the top says, and x' depends on the codes of all levels.
    A single level is a `VQVAE`.

    Attributes:
        encoders: modules, the top one first; the last one takes x. The output of level 0 has the
            width of its quantizer, that of other levels any width.
        quantizers: a `Quantizer` for each level.
        decoders: modules, the top one first. The output of level l has the grid of level l + 1, and
            the last one makes x'. All but the first take d_{l-1} next to q_l, in the last channels.
        domain: None, or the range that x must be in, as in `VQVAE`.

    Raises:
        ValueError: if there is no level, the three numbers differ, or the widths of two connected
            modules don't fit.

    Example:
        >>> import jax, vqvae_jax as vj
        >>> model = VQVAE2(
        ...     encoders=(vj.Encoder(channels=8, dim=4, downsamplings=1), vj.Encoder(dim=8)),
        ...     quantizers=(vj.vq(32, 4), vj.fsq([8, 6, 5])),
        ...     decoders=(vj.Decoder(8, 4, upsamplings=1), vj.Decoder(1, 3 + 8)),
        ... )
        >>> f, x = vj.as_functions(model), jnp.zeros((5, 16, 16, 1))
        >>> variables = jax.jit(f.init)(jax.random.key(0), x)
        >>> maps = jax.jit(f.tokenize)(variables, x)
        >>> [m.shape for m in maps]
        [(5, 2, 2, 1), (5, 4, 4, 1)]
        >>> jax.jit(f.detokenize)(variables, [maps[0], None]).shape  # what the top alone says
        (5, 16, 16, 1)
    """

    encoders: Sequence[nn.Module]
    quantizers: Sequence[Quantizer]
    decoders: Sequence[nn.Module]
    domain: Domain | None = where_set()

    def __post_init__(self) -> None:
        check_levels(self.encoders, self.quantizers, self.decoders)
        super().__post_init__()

    def setup(self) -> None:
        sizes = len(self.encoders), len(self.quantizers), len(self.decoders)
        if len(set(sizes)) != 1 or not all(sizes):
            raise ValueError(
                "VQVAE2 needs an encoder, a quantizer and a decoder for each level,"
                " got {} encoders, {} quantizers, {} decoders".format(*sizes)
            )
        self.codes = [Quantize(quantizer) for quantizer in self.quantizers]
        self.joins = [nn.Dense(quantizer.dim) for quantizer in self.quantizers[1:]]

    @boundary
    def __call__(self, x: Input, *, train: bool = False, mask=None, axis_name=None) -> Hierarchy:
        """Encodes, quantizes and decodes x; arguments as in `VQVAE`.

        The mask may be one of examples, `[B]`, or of samples of x, `[B, *spatial]`; with the latter
        a row of any level counts if any of its samples does.
        """
        samples = of_samples(mask, x)
        h = self.ascend(admit(self.domain, hidden(x, samples), check=not train), samples)
        z_e, outs, y = self.descend(h, train=train, mask=mask, axis_name=axis_name)
        losses: dict[str, Array] = {}
        metrics: dict[str, Array] = {}
        for level, (quantizer, out) in enumerate(zip(self.quantizers, outs, strict=True)):
            # Losses add up by name, as in `residual`: one term to weigh and to plot.
            for name, loss in out.losses.items():
                losses[name] = losses.get(name, 0) + loss
            prefix = f"level{level}/"
            metrics |= {prefix + name: value for name, value in out.metrics.items()}
            if train:
                metrics |= batch_perplexity(quantizer.vocab, out.indices, axis_name, prefix)
        z_q, indices = zip(*((out.quantized, out.indices) for out in outs), strict=True)
        return Hierarchy(y, z_e, z_q, indices, losses, metrics)

    @boundary
    def encode(self, x: Input, mask=None) -> tuple[Float[Array, "B ... _"], ...]:
        """Returns h_l of each level, the top one first."""
        samples = of_samples(mask, x)
        return self.ascend(admit(self.domain, hidden(x, samples)), samples)

    def ascend(self, x: Input, samples) -> tuple[Float[Array, "B ... _"], ...]:
        """Encodes x, in the scale of the domain, from the bottom up; returns h_l of each level."""
        check_chain(x, self.encoders)
        h = [x]
        for encoder in reversed(self.encoders):
            # The mask shrinks with the maps: a place of a level is real if any of its samples is.
            with in_words("x", x):
                h.append(masked(encoder, h[-1], of_rows(samples, h[-1])))
        return tuple(reversed(h[1:]))

    def descend(self, h: Sequence[Float[Array, "B ... _"]], **options):
        """Quantizes and decodes h_l, top-down; returns z_l and `Output` of each level, and x'."""
        mask = options.pop("mask", None)
        # A mask of whole examples hides nothing within an example, so decoders need not see it.
        samples = None if mask is None or jnp.ndim(mask) < 2 else mask
        z_e, outs = [], []
        d = h[0][..., :0]  # no channels from above the top
        for level, h_l in enumerate(h):
            # Dense over channels is a 1x1 convolution, whatever the rank of the grid.
            z = self.joins[level - 1](together(h_l, d)) if level else h_l
            check_width(z, self.quantizers[level].dim)
            out = self.codes[level](z, mask=of_rows(mask, z), **options)
            d = masked(self.decoders[level], together(out.quantized, d), of_rows(samples, z))
            z_e.append(z)
            outs.append(out)
        return tuple(z_e), tuple(outs), d

    @boundary
    def quantize(
        self,
        h: Sequence[Float[Array, "B ... _"]],
        *,
        train: bool = False,
        mask=None,
        axis_name=None,
    ) -> tuple[Output, ...]:
        """Returns the `Output` of each level: z_q, indices, losses, metrics."""
        return self.descend(h, train=train, mask=mask, axis_name=axis_name)[1]

    @boundary
    def decode(
        self, z_q: Sequence[Float[Array, "B ... _"] | None], mask=None
    ) -> Float[Array, "B *spatial C"]:
        """Decodes the vectors of each level, top-down, to x'; None below the top stands for zeros.

        Raises:
            ValueError: if the number of entries is not that of the levels, or the top is None.
        """
        check_given(z_q, len(self.quantizers))
        top: Any = z_q[0]
        d = top[..., :0]
        for level, (decoder, z_l) in enumerate(zip(self.decoders, z_q, strict=True)):
            # A level that is not sent has the grid that the decoder above makes.
            missing = jnp.zeros((*d.shape[:-1], self.quantizers[level].dim), d.dtype)
            with in_words(f"level {level}", d if z_l is None else z_l):
                x = together(missing if z_l is None else z_l, d)
                d = masked(decoder, x, of_rows(mask, x))
        return d

    @boundary
    def tokenize(self, x: Input, mask=None) -> tuple[Int[Array, "B ... _"], ...]:
        """Encodes x to a map of indices `[B, *grid, Q]` for each level, the top one first."""
        return tuple(out.indices for out in self.quantize(self.encode(x, mask), mask=mask))

    @boundary
    def detokenize(self, maps: Maps, mask=None) -> Float[Array, "B *spatial C"]:
        """Decodes a map for each level, top-down, to x'; indices -1 and None decode to 0.

        The grid of each level follows from that of the top, which must be given.
        """
        check_given(maps, len(self.quantizers))
        z_q = []
        for level, (codes, indices) in enumerate(zip(self.codes, maps, strict=True)):
            if indices is not None:
                check_map(f"level {level}", indices, codes.quantizer.vocab, self.decoders[level])
            z_q.append(None if indices is None else codes.decode(indices))
        return self.decode(z_q, mask)


def together(x: Float[Array, "B *grid D"], d: Float[Array, "B *grid W"]) -> Array:
    """Joins [x, d] along the channels.

    Raises:
        ValueError: if their grids differ.
    """
    if x.shape[:-1] != d.shape[:-1]:
        raise ValueError(
            f"a level must have the batch and grid of the decoder above, {d.shape[:-1]},"
            f" got {x.shape[:-1]}"
        )
    # Cast to the dtype of x: a decoder's float32 output must not turn a bfloat16 level into
    # float32.
    return jnp.concatenate([x, d.astype(x.dtype)], axis=-1) if d.shape[-1] else x


def check_given(given: Sequence[Array | None], levels: int) -> None:
    """Raises a ValueError unless there is an entry for each level, an array for the top."""
    found = ["None" if a is None else str(a.shape) for a in given]
    if len(given) != levels or given[0] is None:
        raise ValueError(
            f"needs an entry for each of {levels} levels, top-down, with None for levels below the"
            f" top that are not sent; got {len(given)}: {', '.join(found)}"
        )


def check_levels(encoders: Sequence, quantizers: Sequence, decoders: Sequence) -> None:
    """Raises a ValueError if the widths of two connected modules don't fit."""
    if not len(encoders) == len(quantizers) == len(decoders) > 0:
        return  # `setup` says so
    for i, (above, below) in enumerate(itertools.pairwise(encoders)):
        given, taken = widths(below)[1], widths(above)[0]
        check_link(f"encoders[{i + 1}]", given, f"encoders[{i}]", taken)
    check_link("encoders[0]", widths(encoders[0])[1], "quantizers[0]", quantizers[0].dim)
    d: int | None = 0
    for i, (quantizer, decoder) in enumerate(zip(quantizers, decoders, strict=True)):
        given = None if d is None else quantizer.dim + d
        above = f" with decoders[{i - 1}]" if i else ""
        check_link(f"quantizers[{i}]{above}", given, f"decoders[{i}]", widths(decoder)[0])
        d = widths(decoder)[1]
