"""Codebooks: records that keep the codes e [K, D] of a quantizer and move them.

`gradient` is moved by gradients, `ema` by the rows that choose each code, `fixed` by nothing.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient as sg
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from vqvae_jax.checks import Number, check_range, check_size
from vqvae_jax.conversions import boundary
from vqvae_jax.quantizers.codebooks.dead_codes import Reset, find_dead
from vqvae_jax.quantizers.codebooks.inits import Init, uniform
from vqvae_jax.quantizers.codebooks.moving_averages import (
    by_hand,
    ema_update,
    laplace_smoothing,
    put_in,
)
from vqvae_jax.reductions import AxisName, Rows, sample_rows, sum_by_code
from vqvae_jax.saving.describe import Described, described


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Codebook(Described):
    """Record of functions that make, read and move codes [K, D].

    Attributes:
        init: `(key) -> (params, state)`.
        codes: `(params, state) -> e [K, D]`.
        begin: `(params, state, key, rows, axis_name) -> state`, before the rows are looked up in
            training: where a first batch makes the codebook.
        update: `(params, state, key, rows, k, axis_name) -> state`, after the rows were looked up:
            statistics and codes that the rows move.
        size: K.
        dim: D.
        learnt: whether gradients move the codes: then the codebook loss applies.
        draws: whether `begin` or `update` draw rows and need a key.
        shards: the mesh axis that `codes` are sharded over: then they are this device's part.
        edit: `(params, state, fn) -> (params, state)`: the codes e become fn(e), and no first batch
            replaces them; None where they are computed from what has no room for any codes.
        adopt: `state -> (whether codes in it were written by hand, the state that goes with them)`;
            None where codes are all that is kept, or nobody could tell.
    """

    init: Callable[..., tuple[dict, dict]]
    codes: Callable[..., Array]
    begin: Callable[..., dict]
    update: Callable[..., dict]
    size: int
    dim: int
    learnt: bool
    draws: bool
    shards: AxisName = None
    edit: Callable[..., tuple[dict, dict]] | None = None
    adopt: Callable[..., tuple[Array, dict]] | None = None


@boundary  # as records of it hold it: `mapped` looks for this very function
def unmoved(params, state, key, rows, *args) -> dict:
    """Identity, for `begin` or `update`: leaves the state as it is."""
    return state


@described
def fixed(size: int, dim: int, init: Init = uniform()) -> Codebook:  # noqa: B008
    """Fixed codebook: state["codebook"], as drawn by `init`; nothing moves it."""
    check_size(size=size, dim=dim)
    if init.fit:
        raise ValueError(f"a fixed codebook can't be made from a batch: {init!r}")

    def init_fn(key):
        return {}, {"codebook": init.codes(key, size, dim)}

    def codes(params, state):
        return state["codebook"]

    def edit(params, state, fn):
        return params, state | {"codebook": fn(state["codebook"])}

    return Codebook(init_fn, codes, unmoved, unmoved, size, dim, False, False, edit=edit)


@described
def gradient(
    size: int,
    dim: int,
    *,
    init: Init = uniform(),  # noqa: B008
    reset: Reset = None,
) -> Codebook:
    """Gradient codebook: params["codebook"], plus state["offset"] where data moves it too.

    Args:
        size: K.
        dim: D.
        init: `uniform()`, `normal()`, `given(e)`, or from the first batch: `samples()`, `kmeans()`.
        reset: None, or a function from moving-average counts (decay 0.99) to the codes that are
            dead, such as `underused(0.1)`; they become rows of the batch, unless chosen in it.
    """
    check_size(size=size, dim=dim)
    # `apply` cannot write params: they are the optimizer's. So what data moves is an offset in the
    # state, and codes are the sum of both; a codebook that data never moves has none.
    moved_by_data = bool(init.fit or reset)

    def init_fn(key):
        offset = {"offset": jnp.zeros((size, dim), jnp.float32)} if moved_by_data else {}
        counts = {"counts": jnp.ones(size, jnp.float32)} if reset else {}
        initialized = {"initialized": jnp.array(False)} if init.fit else {}
        return {"codebook": init.codes(key, size, dim)}, offset | counts | initialized

    def codes(params, state):
        return params["codebook"] + state["offset"] if moved_by_data else params["codebook"]

    def begin(params, state, key, rows, axis_name):
        e = codes(params, state)
        offset = first_fit(init, state["initialized"], e, key, rows, axis_name) - params["codebook"]
        first = rows.some & ~state["initialized"]
        return state | {
            "offset": jnp.where(first, sg(offset), state["offset"]),
            "initialized": state["initialized"] | rows.some,
        }

    def update(params, state, key, rows, k, axis_name):
        assert reset is not None
        hits = sum_by_code(rows.weights, k, size, axis_name)
        counts = ema_update(state["counts"], hits, 0.99)
        dead = find_dead(reset, counts, hits, codes(params, state))
        # K rows, though few codes are dead: how many is known only when it runs.
        fresh = sample_rows(key, rows.z, rows.weights, size, axis_name) - params["codebook"]
        return state | {
            "offset": jnp.where(dead[:, None], fresh, state["offset"]),
            # The mean count gives a new code time to be chosen before it counts as dead again.
            "counts": jnp.where(dead, jnp.mean(counts), counts),
        }

    def edit(params, state, fn):
        e = fn(codes(params, state))
        # Codes go into params, where an optimizer moves them on; the offset begins anew.
        anew = {
            "offset": jnp.zeros_like(e),
            "counts": jnp.full(size, jnp.mean(state["counts"]) if reset else 1, jnp.float32),
            "initialized": jnp.array(True),
        }
        return params | {"codebook": e}, {name: anew[name] for name in state}

    first, after = begin if init.fit else unmoved, update if reset else unmoved
    return Codebook(init_fn, codes, first, after, size, dim, True, moved_by_data, edit=edit)


@described
def ema(
    size: int,
    dim: int,
    decay: Number = 0.99,
    *,
    eps: Number = 1e-5,
    init: Init = uniform(),  # noqa: B008
    reset: Reset = None,
) -> Codebook:
    """EMA codebook: codes moved by exponential moving averages of the rows that choose them.

    With n_j rows of sum m_j chosen for code j in the batch: N_j <- decay N_j + (1 - decay) n_j,
    M_j <- decay M_j + (1 - decay) m_j, e_j = M_j / N'_j (arXiv:1711.00937, appendix A.1), where
    N' is N after `laplace_smoothing`. A code that received no row keeps its value. The state holds
    "codebook", "counts" N, "sums" M, and "written", the codebook as the last update left it: where
    state["codebook"] differs from it, codes were put in by hand, and training goes on from them as
    after `set_codes`. A state without "written" is taken as it is. Params are empty.

    Args:
        size: K.
        dim: D.
        decay: of the averages, in [0, 1).
        eps: of the smoothing.
        init, reset: as in `gradient`, with N as the counts of `reset`.
    """
    check_size(size=size, dim=dim)
    check_range(0, 1, decay=decay)
    check_range(0, float("inf"), eps=eps)

    def init_fn(key):
        codebook = init.codes(key, size, dim)
        # Counts of 1 and sums that fit: M / N = e from the start, and no code begins as dead.
        counts = jnp.zeros(size, jnp.float32) if init.zero_debiased else jnp.ones(size, jnp.float32)
        state = {"codebook": codebook, "counts": counts, "sums": counts[:, None] * codebook}
        state["written"] = jnp.copy(codebook)  # a buffer of its own, which may be donated
        initialized = {"initialized": jnp.array(False)} if init.fit else {}
        weight = {"weight": jnp.zeros((), jnp.float32)} if init.zero_debiased else {}
        return {}, state | initialized | weight

    def codes(params, state):
        return state["codebook"]

    def edit(params, state, fn):
        e = fn(state["codebook"])
        return params, put_in(state | {"codebook": e}, jnp.ones(len(e), bool))

    def begin(params, state, key, rows, axis_name):
        initialized = state["initialized"] | jnp.any(by_hand(state, eps))
        # Not `initialized`: codes written by hand may be those of one shard only, and this flag is
        # the same on all.
        some = state["initialized"] | rows.some
        e = first_fit(init, initialized, state["codebook"], key, rows, axis_name)
        # Sums of the fitted codes, else the first update would average them with the random ones.
        sums = jnp.where(initialized, state["sums"], state["counts"][:, None] * e)
        return state | {"codebook": e, "sums": sums, "initialized": some}

    def update(params, state, key, rows, k, axis_name):
        hits = sum_by_code(rows.weights, k, size, axis_name)
        totals = sum_by_code(rows.z * rows.weights[..., None], k, size, axis_name)
        counts = ema_update(state["counts"], hits, decay)
        sums = ema_update(state["sums"], totals, decay)
        new = {"counts": counts, "sums": sums}
        # A code without rows keeps its value: M / N' would shrink it, as its count N falls and eps
        # stays.
        moved, weight = hits > 0, jnp.ones((), jnp.float32)
        if init.zero_debiased:  # N and M are both too small by this weight: so must eps be
            moved, weight = jnp.ones_like(moved), ema_update(state["weight"], 1.0, decay)
            new["weight"] = weight
        e = sums / laplace_smoothing(counts, eps * weight)[:, None]
        e = jnp.where(counts[:, None] > 0, e, 0)  # not 0 / 0, should eps be 0
        new["codebook"] = jnp.where(moved[:, None], e, state["codebook"])
        # Re-seeded after the averages, so that hits of this very batch decide who is dead.
        new = reseed(new, key, rows, hits, axis_name)
        new["written"] = new["codebook"]
        # Entries as they came: a state without "written", as of another library, stays one.
        return {name: new.get(name, value) for name, value in state.items()}

    def reseed(new, key, rows, hits, axis_name):
        if reset is None:
            return new
        dead = find_dead(reset, new["counts"], hits, new["codebook"])
        fresh = sample_rows(key, rows.z, rows.weights, size, axis_name)
        fair = jnp.mean(new["counts"])
        return new | {
            "codebook": jnp.where(dead[:, None], fresh, new["codebook"]),
            "counts": jnp.where(dead, fair, new["counts"]),
            # Count and sum as well, else the next update would pull the code back to the old ones.
            "sums": jnp.where(dead[:, None], fair * fresh, new["sums"]),
        }

    def adopt(state):
        own = by_hand(state, eps)
        return jnp.any(own), put_in(state, own)

    return Codebook(
        init_fn,
        codes,
        begin if init.fit else unmoved,
        update,
        size,
        dim,
        learnt=False,
        draws=bool(init.fit or reset),
        edit=edit,
        adopt=adopt,
    )


def first_fit(
    init: Init,
    initialized: Bool[Array, ""],
    codebook: Float[Array, "K D"],
    key: PRNGKeyArray,
    rows: Rows,
    axis_name: AxisName,
) -> Float[Array, "K D"]:
    """Fits the codebook to this batch if it is the first with a valid row, else returns it."""
    size, fit = codebook.shape[0], init.fit
    assert fit is not None
    # `cond`, so that k-means costs nothing from the second batch on.
    return jax.lax.cond(
        initialized | ~rows.some,
        lambda: codebook,
        lambda: fit(key, rows.z, rows.weights, size, axis_name).astype(jnp.float32),
    )
