"""Codebooks derived from codebooks: codes normalised, held, rescaled, or mapped.

A map of the codes comes with `back`, which maps rows into the space of the codebook below, so that
first-batch initialisation, moving averages and dead-code resets work through the map.
"""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient as sg

from vqvae_jax.checks import Number, check_range, check_size
from vqvae_jax.estimators import unit
from vqvae_jax.quantizers.codebooks.moving_averages import ema_update
from vqvae_jax.quantizers.codebooks.storage import Codebook, unmoved
from vqvae_jax.reductions import is_valid, row_mean, usable_codes
from vqvae_jax.saving.describe import Described, described


def through(codebook: Codebook, init, codes, back, update=None, put=None, **facts) -> Codebook:
    """Makes a codebook whose codes are a function of another's.

    Args:
        codebook: codebook below, whose params and state become "inner".
        init: `(key, e) -> (own params, own state)`, dicts by name, given the codes below.
        codes: `(params, state, e) -> e`.
        back: `(params, state, e, z) -> z`, the rows as the codebook below must see them.
        update: `(state, rows, axis_name) -> own state`, or None if the rows don't move it.
        put: `e -> (own params, own state, e below)` that yield the codes e; None if impossible.
        facts: fields of the record that differ from those of the codebook below.
    """

    def init_both(key):
        key_inner, key_own = jax.random.split(key)
        params, state = codebook.init(key_inner)
        # The map sees the codes below: `partly_frozen` stores them, `moment_matched` takes their
        # moments.
        own_params, own_state = init(key_own, codebook.codes(params, state))
        return {"inner": params} | own_params, {"inner": state} | own_state

    def below(params, state):
        return codebook.codes(params["inner"], state["inner"])

    def moved(step, params, state, key, rows, *args):
        # The codebook below averages, fits and re-seeds with rows, so it must see them in its own
        # space. Without gradient, because rows that move statistics are data.
        rows = rows._replace(z=sg(back(params, state, below(params, state), rows.z)))
        return state | {"inner": step(params["inner"], state["inner"], key, rows, *args)}

    def update_both(params, state, key, rows, k, axis_name):
        # Own statistics come from the rows as they are. `moved` below still uses the old ones, with
        # which the codes were looked up.
        own = update(state, rows, axis_name) if update else {}
        return moved(codebook.update, params, state, key, rows, k, axis_name) | own

    def edit_both(params, state, fn):
        assert put is not None and codebook.edit is not None
        own_params, own_state, e = put(fn(codes(params, state, below(params, state))))
        # `fn` has already been applied to the codes above, so those below are simply replaced.
        inner = codebook.edit(params["inner"], state["inner"], lambda _: e)
        return params | {"inner": inner[0]} | own_params, state | {"inner": inner[1]} | own_state

    def adopt_below(state):
        assert codebook.adopt is not None
        by_hand, inner = codebook.adopt(state["inner"])
        return by_hand, state | {"inner": inner}

    # call=None, because the factory under @described sets its own call, not that of the inner
    # record.
    return dataclasses.replace(
        codebook,
        call=None,
        init=init_both,
        adopt=adopt_below if codebook.adopt else None,
        edit=edit_both if put and codebook.edit else None,
        codes=lambda params, state: codes(params, state, below(params, state)),
        begin=lambda *args: moved(codebook.begin, *args),
        update=update_both,
        **facts,
    )


def of_valid(codes: Callable) -> Callable:
    """Makes a function `codes` that maps the valid codes and makes the others NaN.

    Otherwise a NaN in one code would reach, as 0 * NaN, the gradient of the parameters that all
    codes share, and after one optimizer step every code.
    """

    def valid_codes(params, state, e):
        usable, finite = usable_codes(e)
        return jnp.where(usable[:, None], codes(params, state, finite), jnp.nan)

    return valid_codes


@described
def unit_codes(codebook: Codebook) -> Codebook:
    """Normalises codes to e_j / |e_j|; the code nearest to a unit row has the largest cosine."""
    return through(
        codebook,
        init=lambda key, e: ({}, {}),
        codes=of_valid(lambda params, state, e: unit(e)),
        back=lambda params, state, e, z: z,
        put=lambda e: ({}, {}, unit(e)),
    )


@described
def partly_frozen(codebook: Codebook, mask) -> Codebook:
    """Holds the codes where `mask` [K] is true at their initial values, bit for bit.

    Gradients, weight decay, moving averages and dead-code resets don't reach them: their values are
    stored in state["held"]. The other codes move as usual.

    Raises:
        ValueError: if mask is not K bools.

    Example:
        >>> import vqvae_jax as vj
        >>> codes = vj.codebooks.gradient(3, 2, init=vj.inits.given([[0, 0], [1, 1], [2, 2]]))
        >>> q = vj.codebook_vq(partly_frozen(codes, [True, False, False]))
    """
    chosen = np.asarray(mask)
    if chosen.shape != (codebook.size,) or chosen.dtype != bool:
        raise ValueError(f"mask must be {codebook.size} truth values, got {mask!r}")
    return through(
        codebook,
        init=lambda key, e: ({}, {"held": e}),
        # The codebook below may move all its codes. Its copies of the held ones are ignored, and
        # the select passes them no gradient.
        codes=lambda params, state, e: jnp.where(chosen[:, None], state["held"], e),
        back=lambda params, state, e, z: z,
        # The codes below are set too, since those that are not held move on from there.
        put=lambda e: ({}, {"held": e}, e),
    )


@described
def affine(codebook: Codebook, rate: Number = 10.0) -> Codebook:
    """Affine codes (1 + rate s) e_j + rate b, with s, b [D] learnt and shared (arXiv:2305.08842).

    A code that no row chooses moves with the others. s and b start at 0; `rate` makes them learn
    faster than the codes.
    """
    check_range(0, float("inf"), rate=rate)

    def init(key, e):
        return {name: jnp.zeros(codebook.dim, jnp.float32) for name in ("scale", "shift")}, {}

    def codes(params, state, e):
        return (1 + rate * params["scale"]) * e + rate * params["shift"]

    def back(params, state, e, z):
        scale = 1 + rate * params["scale"]
        # A dimension of scale 0 can't be inverted: all codes are the shift there.
        return (z - rate * params["shift"]) / jnp.where(scale == 0, 1, scale)

    def put(e):
        return *init(None, e), e

    return through(codebook, init, of_valid(codes), back, put=put, learnt=True)


@described
def moment_matched(codebook: Codebook, decay: Number = 0.99) -> Codebook:
    """Matches mean and deviation of the codes to those of the rows: (e_j - mean e) / std e * s + m.

    m and s^2 [D] are moving averages of the rows' mean and variance. Before the first batch, which
    sets them, they are those of the codes. This is the affine reparameterisation of
    arXiv:2305.08842 by statistics instead of gradients.
    """
    check_range(0, 1, decay=decay)
    eps = 1e-5

    def moments(e):
        of = is_valid(e)[:, None]  # one broken code must not move all others
        return {"mean": jnp.mean(e, axis=0, where=of), "variance": jnp.var(e, axis=0, where=of)}

    def init(key, e):
        return {}, moments(e) | {"matched": jnp.array(False)}

    def put(e):
        own_params, own_state = init(None, e)
        return own_params, own_state | {"matched": jnp.array(True)}, e

    # eps in the denominator keeps the ratio finite in a dimension where all codes are equal; eps in
    # the numerator gives equal variances the ratio 1.
    def ratio(state, own):
        return jnp.sqrt((state["variance"] + eps) / (own["variance"] + eps))

    def codes(params, state, e):
        own = moments(e)
        return (e - own["mean"]) * ratio(state, own) + state["mean"]

    def back(params, state, e, z):
        own = moments(e)
        return (z - state["mean"]) / ratio(state, own) + own["mean"]

    def update(state, rows, axis_name):
        average = partial(row_mean, weights=rows.weights, axis_name=axis_name)
        # Decay 0 on the first batch; otherwise the moments of the initial codes would linger for
        # about 1 / (1 - decay) batches.
        keep = jnp.where(state["matched"], decay, 0)
        m = average(rows.z)
        variance = average(jnp.square(rows.z - m))
        return {
            "mean": ema_update(state["mean"], m, keep),
            "variance": ema_update(state["variance"], variance, keep),
            "matched": state["matched"] | rows.any_valid,
        }

    return through(codebook, init, codes, back, update, put)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Transform(Described):
    """Learnt map of codes, for `mapped`.

    Attributes:
        init: `(key, C) -> params` for codes [K, C].
        apply: `(params, e [K, C]) -> e [K, D]`, such as a Flax module's.
        dim: D.
    """

    init: Callable
    apply: Callable
    dim: int


@described
def linear(dim: int) -> Transform:
    """Linear map e W, W [C, D] learnt; initially the identity if C = D, else from N(0, 1 / C)."""
    check_size(dim=dim)

    def init(key, width):
        eye = width == dim
        return (
            jnp.eye(dim, dtype=jnp.float32)
            if eye
            else jax.random.normal(key, (width, dim), jnp.float32) / width**0.5
        )

    return Transform(init, lambda w, e: jnp.dot(e, w, precision=jax.lax.Precision.HIGHEST), dim)


@described
def mapped(codebook: Codebook, transform: Transform) -> Codebook:
    """Maps codes to transform(e), so that all move together with the parameters params["map"].

    With a `fixed` codebook and `linear` this is SimVQ (arXiv:2411.02038). The map is not inverted,
    so rows can't move the codes below it.

    Raises:
        ValueError: if data moves the codebook below.
    """
    if (codebook.begin, codebook.update) != (unmoved, unmoved):
        raise ValueError(f"mapped needs a codebook that no data moves, got {codebook!r}")
    return through(
        codebook,
        init=lambda key, e: ({"map": transform.init(key, codebook.dim)}, {}),
        codes=of_valid(lambda params, state, e: transform.apply(params["map"], e)),
        # Never read, since nothing below moves, but rows need the width of the codes below.
        back=lambda params, state, e, z: jnp.zeros((*z.shape[:-1], codebook.dim), jnp.float32),
        dim=transform.dim,
        learnt=True,
    )
