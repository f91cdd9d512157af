"""Combinators with a map before and after one quantizer: project, normalize, scale, rotate."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from vqvae_jax.checks import Number, check_positive, check_range, check_rows, check_size
from vqvae_jax.quantizers.base import Quantizer
from vqvae_jax.quantizers.codebooks.editing import edit_codes
from vqvae_jax.quantizers.combinators.composition import check_members, report_rows
from vqvae_jax.reductions import valid_rows
from vqvae_jax.saving.describe import described

Map = Callable[[dict, dict, Array], Array]


@described
def project(q: Quantizer, dim: int) -> Quantizer:
    """Quantizes in a few dimensions: factorised codes (arXiv:2110.04627, section 3.2).

    quantized = q(z W_down) W_up, with params["down"] `[dim, q.dim]` and params["up"]
    `[q.dim, dim]` beside params["inner"]; both begin as N(0, 1 / fan-in). The losses are q's, in
    its space: they move "down", and the task moves both. There is no bias, unlike in other
    implementations: with one, codes that were not sent would not decode to 0.

    Args:
        q: the quantizer, of the small width.
        dim: D of the whole.

    Raises:
        ValueError: if dim is not an integer >= 1.
        TypeError: if q is no Quantizer.

    Example:
        >>> import vqvae_jax as vj
        >>> q = project(vj.vq(8192, 8), dim=256)
        >>> params, _ = q.init(jax.random.key(0))
        >>> params["down"].shape, params["inner"]["codebook"].shape
        ((256, 8), (8192, 8))
    """
    check_members([q])
    check_size(dim=dim)
    shapes = {"down": (dim, q.dim), "up": (q.dim, dim)}

    def draw(key):
        keys = jax.random.split(key)
        drawn = {
            n: jax.random.normal(k, shapes[n], jnp.float32)
            for n, k in zip(shapes, keys, strict=True)
        }
        return {name: w / np.sqrt(w.shape[0], dtype=np.float32) for name, w in drawn.items()}, {}

    def down(params, state, z):
        return times(z, params["down"])

    def up(params, state, z_q):
        return times(z_q, params["up"])

    return around(q, down, up, dim=dim, draw=draw)


@described
def normalize(q: Quantizer, fn: Callable[[Array], Array]) -> Quantizer:
    """Quantizes fn(z): quantized lies where fn maps to, and its gradient goes through fn.

    With `unit`, z / |z|, and unit codes the nearest code is that of the largest cosine.

    Args:
        q: the quantizer. Params and state are {"inner": q's}.
        fn: `[..., D] -> [..., D]`, row by row; its gradient must be finite at 0, which is what
            invalid rows are replaced by.

    Raises:
        TypeError: if q is no Quantizer, or fn no function.

    Example:
        >>> import vqvae_jax as vj
        >>> from vqvae_jax.estimators import unit
        >>> q = normalize(vj.vq(8, 2), unit)
        >>> params, state = q.init(jax.random.key(0))
        >>> z = jnp.array([[3.0, 4.0]])
        >>> bool((q.encode(params, state, z) == q.encode(params, state, 9 * z)).all())
        True
    """
    if not callable(fn):
        raise TypeError(f"fn must be a function of z, got {fn!r}")
    # No `undo`: fn need not have an inverse, so codes are edited as q has them.
    return around(q, lambda params, state, z: fn(z), lambda params, state, z_q: z_q)


@described
def scale(q: Quantizer, s: Number) -> Quantizer:
    """Scales rows and codes, s q(z / s): for a q made for another size, as a lattice of step 1.

    Its losses are q's, of z / s.

    Args:
        q: the quantizer. Params and state are {"inner": q's}.
        s: the scale, > 0.

    Raises:
        ValueError: if s is not positive and finite.
        TypeError: if q is no Quantizer.

    Example:
        >>> import vqvae_jax as vj
        >>> q = scale(vj.vq(8, 2), 10.0)
        >>> params, state = q.init(jax.random.key(0))
        >>> codes, e = jnp.arange(8)[:, None], params["inner"]["codebook"]
        >>> bool((q.decode(params, state, codes) == 10 * e).all())
        True
    """
    check_positive(s=s)
    check_range(0, float("inf"), s=s)

    def divide(params, state, z):
        return z / s

    return around(q, divide, lambda params, state, z_q: z_q * s, undo=divide)


@described
def rotate(q: Quantizer) -> Quantizer:
    """Rotates rows, R^T q(R z), by a fixed random orthogonal R: outliers spread over all channels.

    Incoherence processing (arXiv:2307.13304): for quantizers that treat the channels one by one.
    R `[D, D]` is drawn by `init`, kept in state["rotation"], and nothing moves it.

    Args:
        q: the quantizer. Params are {"inner": q's}, state is {"inner": q's, "rotation": R}.

    Raises:
        TypeError: if q is no Quantizer.

    Example:
        >>> import vqvae_jax as vj
        >>> q = rotate(vj.vq(16, 2))
        >>> _, state = q.init(jax.random.key(0))
        >>> bool(jnp.allclose(state["rotation"] @ state["rotation"].T, jnp.eye(2), atol=1e-6))
        True
    """
    check_members([q])

    def draw(key):
        return {}, {"rotation": jax.random.orthogonal(key, q.dim, dtype=jnp.float32)}

    # R is state: as params a gradient would move it, and it would be orthogonal no longer.
    def forth(params, state, z):
        return times(z, state["rotation"].T)

    def back(params, state, z_q):
        return times(z_q, state["rotation"])

    return around(q, forth, back, draw=draw, undo=forth)


def around(
    q: Quantizer,
    before: Map,
    after: Map,
    *,
    dim: int | None = None,
    draw: Callable[[Any], tuple[dict, dict]] | None = None,
    undo: Map | None = None,
) -> Quantizer:
    """Composes after(q(before(z))); q's params and state are "inner" beside those `draw` makes.

    `before` and `after` are `(params, state, rows) -> rows` and map row by row; `after` maps 0 to
    0, so that what was not sent decodes to 0. `undo` is the inverse of `after`, if it is linear and
    has one: codes `[K, D]` are then edited as they are decoded, else as q has them.
    """
    check_members([q])
    dim = q.dim if dim is None else dim

    def back(params, state, z_q):
        return rounded(after(params, state, z_q))

    def init(key):
        if draw is None:  # the very key, so that q begins as it would alone
            params, state = q.init(key)
            return {"inner": params}, {"inner": state}
        key_inner, key_own = jax.random.split(key)
        (params, state), (own_params, own_state) = q.init(key_inner), draw(key_own)
        return {"inner": params} | own_params, {"inner": state} | own_state

    def apply(params, state, z, *, train=False, key=None, mask=None, axis_name=None):
        check_rows(z, dim)
        rows = valid_rows(z, mask, axis_name)
        # Invalid rows are 0 by now, which q would take for valid: the weights tell it.
        options = {"train": train, "key": key, "mask": rows.weights, "axis_name": axis_name}
        inner = params["inner"], state["inner"]
        out, new = q.apply(*inner, before(params, state, rows.z), **options)
        quantized = back(params, state, out.quantized).astype(z.dtype)
        out = out._replace(quantized=quantized, metrics=report_rows(out.metrics, rows))
        return out, state | {"inner": new} if train else state

    def decode(params, state, indices):
        return back(params, state, q.decode(params["inner"], state["inner"], indices))

    def edit(params, state, fn, stream):
        def below(e):
            if undo is None or e.shape[-1] != q.dim:  # of a slice, or of few dimensions
                return fn(e)
            return undo(params, state, fn(after(params, state, e)))

        inner = params["inner"], state["inner"]
        own, new = edit_codes(q, *inner, below, stream)
        return params | {"inner": own}, state | {"inner": new}

    return Quantizer(init, apply, decode, dim, q.vocab, q.stochastic, edit)


def rounded(x: Array) -> Array:
    """Returns x such that a compiler can't contract it and a following sum into a multiply-add.

    A multiply-add rounds once instead of twice; in `decode` and not in `apply`, bits would differ.
    """
    # A clip that changes no finite number, yet stands between product and sum.
    largest = float(np.finfo(np.float32).max)
    return jnp.clip(x, -largest, largest)


def times(x: Array, w: Array) -> Array:
    """Matrix product x w in full float32 precision, also where the default is less."""
    return jnp.matmul(x, w, precision=jax.lax.Precision.HIGHEST)
