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
    `[q.dim, dim]`, drawn from N(0, 1 / fan-in), besides params["inner"]. The losses are q's, in its
    narrow space, and move "down"; the task moves both. Unlike in other implementations there is no
    bias, with which codes that were not sent would not decode to 0.

    Args:
        q: the quantizer, of the small width.
        dim: D of the whole.

    Raises:
        ValueError: if dim is not an integer >= 1.
        TypeError: if q is not a Quantizer.

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
        # np.float32, because a NumPy float64 would widen the weights under x64.
        return {name: w / np.sqrt(w.shape[0], dtype=np.float32) for name, w in drawn.items()}, {}

    def down(params, state, z):
        return times(z, params["down"])

    def up(params, state, z_q):
        return times(z_q, params["up"])

    return around(q, down, up, dim=dim, draw=draw)


@described
def normalize(q: Quantizer, fn: Callable[[Array], Array]) -> Quantizer:
    """Quantizes fn(z): `quantized` lies in the range of fn, and its gradient passes through fn.

    With fn = `unit`, z / |z|, and unit codes, the nearest code has the largest cosine.

    Args:
        q: the quantizer. Params and state are {"inner": q's}.
        fn: row-wise map `[..., D] -> [..., D]`; its gradient must be finite at 0, the value of
            invalid rows.

    Raises:
        TypeError: if q is not a Quantizer, or fn not a function.

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
    # No `undo`, since fn need not have an inverse: codes are edited as q holds them.
    return around(q, lambda params, state, z: fn(z), lambda params, state, z_q: z_q)


@described
def scale(q: Quantizer, s: Number) -> Quantizer:
    """Scales rows and codes, s q(z / s), for a q of another scale, such as a lattice of step 1.

    The losses are q's at z / s.

    Args:
        q: the quantizer. Params and state are {"inner": q's}.
        s: scale, > 0.

    Raises:
        ValueError: if s is not positive and finite.
        TypeError: if q is not a Quantizer.

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
    """Rotates rows by a fixed random orthogonal R, R^T q(R z), to spread outliers over channels.

    This is incoherence processing (arXiv:2307.13304), for quantizers that treat channels one by
    one. `init` draws R `[D, D]` and keeps it in state["rotation"], where nothing moves it.

    Args:
        q: the quantizer. Params are {"inner": q's}, state is {"inner": q's, "rotation": R}.

    Raises:
        TypeError: if q is not a Quantizer.

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

    # R is state, because as a parameter it would be moved by gradients and cease to be orthogonal.
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
    """Composes after(q(before(z))); q's params and state are "inner", besides what `draw` makes.

    `before` and `after` are row-wise maps `(params, state, rows) -> rows`; `after` maps 0 to 0, so
    that codes not sent decode to 0. `undo` is the inverse of `after`, if that is linear and has
    one: codes `[K, D]` are then edited as they decode, otherwise as q holds them.
    """
    check_members([q])
    dim = q.dim if dim is None else dim

    def back(params, state, z_q):
        return uncontracted(after(params, state, z_q))

    def init(key):
        if draw is None:  # the key itself, so that q starts as it would alone
            params, state = q.init(key)
            return {"inner": params}, {"inner": state}
        key_inner, key_own = jax.random.split(key)
        (params, state), (own_params, own_state) = q.init(key_inner), draw(key_own)
        return {"inner": params} | own_params, {"inner": state} | own_state

    def apply(params, state, z, *, train=False, key=None, mask=None, axis_name=None):
        check_rows(z, dim)
        rows = valid_rows(z, mask, axis_name)
        # The map sees rows whose NaN are set to 0; else they would reach the gradient of its
        # params. Invalid rows are 0 by now, which q would take for valid rows but for the weights.
        options = {"train": train, "key": key, "mask": rows.weights, "axis_name": axis_name}
        inner = params["inner"], state["inner"]
        out, new = q.apply(*inner, before(params, state, rows.z), **options)
        quantized = back(params, state, out.quantized).astype(z.dtype)
        # q finds no invalid rows, because they are 0 by now: the ones dropped here are added.
        out = out._replace(quantized=quantized, metrics=report_rows(out.metrics, rows))
        return out, state | {"inner": new} if train else state

    def decode(params, state, indices):
        return back(params, state, q.decode(params["inner"], state["inner"], indices))

    def edit(params, state, fn, stream):
        def below(e):
            if undo is None or e.shape[-1] != q.dim:  # codes of a slice, or of a narrow space
                return fn(e)
            return undo(params, state, fn(after(params, state, e)))

        inner = params["inner"], state["inner"]
        own, new = edit_codes(q, *inner, below, stream)
        return params | {"inner": own}, state | {"inner": new}

    return Quantizer(init, apply, decode, dim, q.vocab, q.stochastic, edit)


def uncontracted(x: Array) -> Array:
    """Returns x, so that a compiler can't contract it and a following sum into a multiply-add.

    A multiply-add rounds once instead of twice, and compiled into `decode` but not into `apply` it
    would make their last bits differ.
    """
    # A clip that changes no finite number, but stands between the product and the sum.
    largest = float(np.finfo(np.float32).max)
    return jnp.clip(x, -largest, largest)


def times(x: Array, w: Array) -> Array:
    """Matrix product x w in full float32 precision, whatever the default on this device."""
    return jnp.matmul(x, w, precision=jax.lax.Precision.HIGHEST)
