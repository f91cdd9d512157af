"""Convolutions of one or two taps by matrix products on CPU, where XLA's own are slow."""

import itertools
from collections.abc import Sequence
from functools import partial, reduce

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def convolve(
    x: Float[Array, "B *sides C"],
    w: Float[Array, "*taps I F"],
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    *,
    precision: jax.lax.PrecisionLike = None,
    **rest,
) -> Float[Array, "B *fewer F"]:
    """`jax.lax.conv_general_dilated`, channels last, for `nn.Conv(conv_general_dilated=convolve)`.

    Matrix products on CPU for what `Encoder` and `Decoder` have of 1 or 2 taps along each axis:
    float32, stride 1, "VALID", no groups. XLA CPU takes 2 to 5 times as long for these and their
    gradients. With more taps or strides it is about as fast, and with few channels faster.

    Example:
        >>> import flax.linen as nn
        >>> layer = nn.Conv(4, (2, 2), padding="VALID", conv_general_dilated=convolve)
        >>> layer.init_with_output(jax.random.key(0), jnp.ones((1, 5, 5, 3)))[0].shape
        (1, 4, 4, 4)
    """

    def native(x, w):
        return jax.lax.conv_general_dilated(
            x, w, window_strides, padding, precision=precision, **rest
        )

    dilations = (rest.get(f"{side}_dilation") or () for side in ("lhs", "rhs"))
    steps = set(itertools.chain(window_strides, *dilations))
    plain = padding == "VALID" and steps == {1} and x.shape[-1] == w.shape[-2]
    if not (plain and max(w.shape[:-2]) <= 2 and x.dtype == w.dtype == jnp.float32):
        return native(x, w)
    products = partial(by_products, precision=precision)
    return jax.lax.platform_dependent(x, w, cpu=products, default=native)


def by_products(
    x: Float[Array, "B *sides C"],
    w: Float[Array, "*taps C F"],
    precision: jax.lax.PrecisionLike = None,
) -> Float[Array, "B *fewer F"]:
    """y_i = sum_t x_{i+t} w_t over the taps t: one product, before or after which pixels shift.

    Whichever moves fewer numbers: the products `[..., T F]` of each pixel with T taps, or patches
    `[..., T C]`.

    Example:
        >>> by_products(jnp.array([[[1.0], [2.0], [4.0]]]), jnp.array([[[10.0]], [[1.0]]]))
        Array([[[12.],
                [24.]]], dtype=float32)
    """
    *kernel, channels, features = w.shape
    taps = list(itertools.product(*map(range, kernel)))
    sides = [n - k + 1 for n, k in zip(x.shape[1:-1], kernel, strict=True)]
    if len(taps) == 1 or len(taps) * features <= channels:
        each = jnp.moveaxis(w, -2, 0).reshape(channels, -1)
        y = product(x, each, precision).reshape(*x.shape[:-1], len(taps), features)
        return reduce(jnp.add, [y[(slice(None), *window(t, sides), i)] for i, t in enumerate(taps)])
    patches = [x[(slice(None), *window(t, sides))] for t in taps]
    return product(jnp.concatenate(patches, -1), w.reshape(-1, features), precision)


def window(first: Sequence[int], sides: Sequence[int]) -> tuple[slice, ...]:
    """`sides` pixels of each axis from `first` on."""
    return tuple(slice(a, a + side) for a, side in zip(first, sides, strict=True))


def product(x: Float[Array, "*rows I"], w: Float[Array, "I O"], precision) -> Array:
    """x w, of matrices: XLA CPU is slower with more axes."""
    y = jnp.matmul(x.reshape(-1, x.shape[-1]), w, precision=precision)
    return y.reshape(*x.shape[:-1], -1)
