"""VQ-VAE-2: codes in levels, from the top, which sees all of x, down to the details."""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vqvae_jax.boundary import boundary
from vqvae_jax.data.domain import Domain, Input, admit
from vqvae_jax.describe import where_set
from vqvae_jax.modules.quantize import Quantize
from vqvae_jax.modules.vqvae import batch_perplexity, of_rows
from vqvae_jax.quantizers.base import Output, Quantizer

Maps = Sequence[Int[Array, "B ... _"]]


class Hierarchy(NamedTuple):
    """What a VQ-VAE-2 makes of x: as `Reconstruction`, with one entry for each level."""

    x: Float[Array, "B *spatial C"]
    z_e: tuple[Float[Array, "B ... _"], ...]
    z_q: tuple[Float[Array, "B ... _"], ...]
    indices: tuple[Int[Array, "B ... _"], ...]
    losses: dict[str, Float[Array, ""]]  # those of all levels, added up by name
    metrics: dict[str, Float[Array, ""]]  # of level 1 as "level1/error"

    @property
    def loss(self) -> Float[Array, ""]:
        """The sum of the quantizers' losses: add it to the task loss."""
        return sum(self.losses.values(), jnp.zeros((), jnp.float32))


class VQVAE2(nn.Module):
    """Hierarchical VQ-VAE: each level is told what the levels above decode to (arXiv:1906.00446).

    With L levels, 0 the top and L - 1 the bottom:

        h_{L-1} = enc_{L-1}(x),  h_l = enc_l(h_{l+1})           from the bottom up
        z_0 = h_0,  z_l = conv1x1([h_l, d_{l-1}])               from the top down
        q_l = quantize_l(z_l),  d_l = dec_l([q_l, d_{l-1}])
        x' = d_{L-1}

    so that the bottom need not repeat what the top says, and x' depends on the codes of all levels.
    One level is a `VQVAE`.

    Attributes:
        encoders: modules, the top one first; the last one takes x. That of level 0 has the width
            of its quantizer, the others any.
        quantizers: a `Quantizer` for each level.
        decoders: modules, the top one first; that of level l makes the grid of level l + 1, the
            last one x'. All but the first see d_{l-1} beside q_l, in the last channels.
        domain: None, or what x may be, as of `VQVAE`.

    Raises:
        ValueError: if there is no level, or the numbers of the three differ.

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
        >>> jax.jit(f.detokenize)(variables, maps[:1]).shape  # what the top alone says
        (5, 16, 16, 1)
    """

    encoders: Sequence[nn.Module]
    quantizers: Sequence[Quantizer]
    decoders: Sequence[nn.Module]
    domain: Domain | None = where_set()

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
        """All of it, for training and evaluation; arguments as of `VQVAE`.

        A mask must have one weight for each example, `[B]`.
        """
        h = self.ascend(admit(self.domain, x, check=not train))
        z_e, outs, y = self.descend(h, train=train, mask=mask, axis_name=axis_name)
        losses: dict[str, Array] = {}
        metrics: dict[str, Array] = {}
        for level, (quantizer, out) in enumerate(zip(self.quantizers, outs, strict=True)):
            for name, loss in out.losses.items():
                losses[name] = losses.get(name, 0) + loss
            prefix = f"level{level}/"
            metrics |= {prefix + name: value for name, value in out.metrics.items()}
            if train:
                metrics |= batch_perplexity(quantizer.vocab, out.indices, axis_name, prefix)
        z_q, indices = zip(*((out.quantized, out.indices) for out in outs), strict=True)
        return Hierarchy(y, z_e, z_q, indices, losses, metrics)

    @boundary
    def encode(self, x: Input) -> tuple[Float[Array, "B ... _"], ...]:
        """h_l of each level, the top one first."""
        return self.ascend(admit(self.domain, x))

    def ascend(self, x: Input) -> tuple[Float[Array, "B ... _"], ...]:
        """From x in the scale of the domain: h_l of each level."""
        h = [x]
        for encoder in reversed(self.encoders):
            h.append(encoder(h[-1]))
        return tuple(reversed(h[1:]))

    def descend(self, h: Sequence[Float[Array, "B ... _"]], **options):
        """From h_l of each level: (z_l of each level, their `Output`s, x')."""
        mask = options.pop("mask", None)
        z_e, outs = [], []
        d = h[0][..., :0]  # nothing is above the top
        for level, h_l in enumerate(h):
            z = self.joins[level - 1](together(h_l, d)) if level else h_l
            out = self.codes[level](z, mask=of_rows(mask, z), **options)
            d = self.decoders[level](together(out.quantized, d))
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
        """The `Output` of each level: z_q, indices, losses, metrics."""
        return self.descend(h, train=train, mask=mask, axis_name=axis_name)[1]

    @boundary
    def decode(self, z_q: Sequence[Float[Array, "B ... _"]]) -> Float[Array, "B *spatial C"]:
        """x' from the vectors of the first m levels, top-down; the others are 0.

        Raises:
            ValueError: if there are none, or more than levels.
        """
        check_levels(z_q, len(self.quantizers))
        d = z_q[0][..., :0]
        for level, decoder in enumerate(self.decoders):
            missing = jnp.zeros((*d.shape[:-1], self.quantizers[level].dim), d.dtype)
            d = decoder(together(z_q[level] if level < len(z_q) else missing, d))
        return d

    @boundary
    def tokenize(self, x: Input) -> tuple[Int[Array, "B ... _"], ...]:
        """x -> a map of indices `[B, *grid, Q]` for each level, the top one first."""
        return tuple(out.indices for out in self.quantize(self.encode(x)))

    @boundary
    def detokenize(self, maps: Maps) -> Float[Array, "B *spatial C"]:
        """The maps of the first m levels, top-down, or of all -> x'. Indices of -1 decode to 0."""
        check_levels(maps, len(self.quantizers))
        return self.decode([codes.decode(k) for codes, k in zip(self.codes, maps, strict=False)])


def together(x: Float[Array, "B *grid D"], d: Float[Array, "B *grid W"]) -> Array:
    """[x, d] along the channels.

    Raises:
        ValueError: if their grids differ.
    """
    if x.shape[:-1] != d.shape[:-1]:
        raise ValueError(
            f"a level must have the grid that the decoder above makes, {d.shape[1:-1]},"
            f" got {x.shape[1:-1]}"
        )
    return jnp.concatenate([x, d.astype(x.dtype)], axis=-1) if d.shape[-1] else x


def check_levels(given: Sequence[Array], levels: int) -> None:
    """Raises a ValueError unless 1 to all levels are given."""
    if not 1 <= len(given) <= levels:
        raise ValueError(f"needs 1 to {levels} levels, top-down, got {len(given)}")
