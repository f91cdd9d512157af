"""Convolutions by matrix products on CPU, where XLA's own are slow."""

import itertools
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from functools import partial, reduce

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

LARGE = 2**21  # least number of elements, in x or y, of a large picture
# A context variable, since layers of any module call `convolve`, and Flax passes no argument to
# them.
IN_LOOP = ContextVar("IN_LOOP", default=False)
"""True while a loop body is traced, where XLA CPU has no fast gradients of convolutions."""


def convolve(
    x: Float[Array, "B *sides C"],
    w: Float[Array, "*taps I F"],
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    *,
    precision: jax.lax.PrecisionLike = None,
    **rest,
) -> Float[Array, "B *fewer F"]:
    """`jax.lax.conv_general_dilated`, channels last, as `Conv` calls it.

    On CPU, in float32 and without groups or dilations, matrix products replace two kinds for which
    XLA takes 2 to 5 times as long (for small pictures and more taps XLA is as fast):

    - stride 1 with 1 tap, or with 2 along each axis and "VALID": value and gradients.
    - large pictures with 2 or 3 spatial axes: the gradient of w.

    Where `IN_LOOP` is set they replace all kinds, in bfloat16 too, since XLA's gradients take a
    hundred times as long in loops.

    Example:
        >>> layer = Conv(4, (2, 2), padding="VALID")
        >>> layer.init_with_output(jax.random.key(0), jnp.ones((1, 5, 5, 3)))[0].shape
        (1, 4, 4, 4)
    """

    def native(x, w):
        return jax.lax.conv_general_dilated(
            x, w, window_strides, padding, precision=precision, **rest
        )

    # Anything else that `nn.Conv` may ask for (groups, dilations, padding by numbers, mixed
    # dtypes) is left to XLA rather than written twice.
    dilations = (rest.get(f"{side}_dilation") or () for side in ("lhs", "rhs"))
    plain = {1}.issuperset(itertools.chain(*dilations)) and x.shape[-1] == w.shape[-2]
    known = x.dtype == w.dtype and (x.dtype == jnp.float32 or IN_LOOP.get())
    if not (plain and isinstance(padding, str) and known):
        return native(x, w)
    taps = max(w.shape[:-2])
    # The form is chosen at lowering, by `platform_dependent`, and not now: the traced program may
    # be exported for a GPU, where the native form is fast.
    if set(window_strides) == {1} and (taps == 1 or (taps == 2 and padding == "VALID")):
        products = partial(by_products, precision=precision)
        return jax.lax.platform_dependent(x, w, cpu=products, default=native)
    large = x.ndim > 3 and is_large(x, jax.eval_shape(native, x, w))
    # All patches of a large picture would take the picture's size times the taps, more than caches
    # and perhaps more than memory hold.
    form = by_rows if large else by_patches
    products = partial(form, strides=window_strides, padding=padding, precision=precision)
    if IN_LOOP.get():
        return jax.lax.platform_dependent(x, w, cpu=products, default=native)
    # XLA's value and gradient of x are fast, so only the gradient of w is replaced.
    return (with_tangent(native, products) if large else native)(x, w)


Conv = partial(nn.Conv, conv_general_dilated=convolve)


def is_large(*arrays: Array | jax.ShapeDtypeStruct) -> bool:
    """Returns whether an array is large; False for symbolic sizes, as in exports of any batch."""
    return all(isinstance(a.size, int) for a in arrays) and max(a.size for a in arrays) >= LARGE


def with_tangent(native: Callable, products: Callable) -> Callable[[Array, Array], Array]:
    """Returns `native` with the tangent, and so the gradient, of w from `products` on CPU."""
    # A custom JVP instead of a VJP: the convolution is linear in w, so JAX transposes the tangent
    # to get the gradient, and forward mode and second derivatives keep working.
    convolution = jax.custom_jvp(native)

    @partial(convolution.defjvp, symbolic_zeros=True)
    def jvp(primals, tangents):
        (x, w), (dx, dw) = primals, tangents
        of_w = partial(jax.lax.platform_dependent, x, cpu=products, default=native)
        parts: list[tuple[Callable, Array]] = [(partial(native, w=w), dx), (of_w, dw)]
        # A tangent known to be zero, like that of the input pixels, costs no convolution.
        moves = [part(d) for part, d in parts if not isinstance(d, SymbolicZero)]
        return native(x, w), reduce(jnp.add, moves)

    return convolution


def by_products(
    x: Float[Array, "B *sides C"],
    w: Float[Array, "*taps C F"],
    precision: jax.lax.PrecisionLike = None,
) -> Float[Array, "B *fewer F"]:
    """Convolution by one matrix product: y_i = sum_t x_{i+t} w_t over the taps t.

    It shifts either the products `[..., T F]` of each pixel with the T taps, or the pixels, as
    patches `[..., T C]`, whichever are fewer numbers.

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
        # Shift and add after the product: with few features that moves less memory than patches.
        y = product(x, each, precision).reshape(*x.shape[:-1], len(taps), features)
        return reduce(jnp.add, [y[(slice(None), *window(t, sides), i)] for i, t in enumerate(taps)])
    return by_patches(x, w, [1] * len(kernel), "VALID", precision)


def by_patches(
    x: Float[Array, "B *sides C"],
    w: Float[Array, "*taps C F"],
    strides: Sequence[int],
    padding: str,
    precision: jax.lax.PrecisionLike = None,
) -> Float[Array, "B *fewer F"]:
    """Convolution with strides s by patches `[..., T C]`: y_i = sum_t x_{i s + t} w_t."""
    *kernel, _, features = w.shape
    x = padded(x, kernel, strides, padding)
    sides = [(n - k) // s + 1 for n, k, s in zip(x.shape[1:-1], kernel, strides, strict=True)]
    taps = itertools.product(*map(range, kernel))
    patches = [x[(slice(None), *window(t, sides, strides))] for t in taps]
    return product(jnp.concatenate(patches, -1), w.reshape(-1, features), precision)


def by_rows(
    x: Float[Array, "B *sides C"],
    w: Float[Array, "*taps C F"],
    strides: Sequence[int],
    padding: str,
    precision: jax.lax.PrecisionLike = None,
) -> Float[Array, "B *fewer F"]:
    """Convolution of `by_patches` in a loop over the first spatial axis: patches fit in caches.

    Patches are recomputed for the gradient.

    Example:
        >>> by_rows(jnp.ones((1, 2, 3, 1)), jnp.ones((3, 3, 1, 1)), (1, 1), "SAME")[0, ..., 0]
        Array([[4., 6., 4.],
               [4., 6., 4.]], dtype=float32)
    """
    kernel = w.shape[:-2]
    x = padded(x, kernel, strides, padding)

    # A loop over rows instead of the batch, which may be sharded over devices. Without checkpoint
    # the loop would keep the patches of all rows for the gradient.
    @jax.checkpoint
    def row(i):
        rows = jax.lax.dynamic_slice_in_dim(x, i * strides[0], kernel[0], axis=1)
        return by_patches(rows, w, strides, "VALID", precision)[:, 0]

    n = (x.shape[1] - kernel[0]) // strides[0] + 1
    return jnp.moveaxis(jax.lax.map(row, jnp.arange(n, dtype=jnp.int32)), 0, 1)


def padded(x: Array, kernel: Sequence[int], strides: Sequence[int], padding: str) -> Array:
    """Pads x with the zeros that `padding` asks for."""
    pads = jax.lax.padtype_to_pads(x.shape[1:-1], kernel, strides, padding)
    return jnp.pad(x, ((0, 0), *pads, (0, 0)))


def window(
    first: Sequence[int], sides: Sequence[int], strides: Sequence[int] | None = None
) -> tuple[slice, ...]:
    """Slices of `sides` pixels along each axis, starting at `first`."""
    each = zip(first, sides, strides or [1] * len(sides), strict=True)
    return tuple(slice(a, a + s * n, s) for a, n, s in each)


def product(x: Float[Array, "*rows I"], w: Float[Array, "I O"], precision) -> Array:
    """Product x w, flattened to matrices, since XLA CPU is slower with more axes."""
    y = jnp.matmul(x.reshape(-1, x.shape[-1]), w, precision=precision)
    return y.reshape(*x.shape[:-1], -1)
