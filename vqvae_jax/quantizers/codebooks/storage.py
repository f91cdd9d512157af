"""Codebooks: records of functions that store and update the codes e [K, D] of a quantizer.

Gradients move `gradient`, the rows that choose each code move `ema`, and nothing moves `fixed`.
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
    """Record of functions that make, read and update codes [K, D].

    Attributes:
        init: `(key) -> (params, state)`.
        codes: `(params, state) -> e [K, D]`.
        begin: `(params, state, key, rows, axis_name) -> state`, called in training before the rows
            are looked up; here a first batch initialises the codebook.
        update: `(params, state, key, rows, k, axis_name) -> state`, called in training after the
            rows were looked up; here the rows move statistics and codes.
        size: K.
        dim: D.
        learnt: whether gradients move the codes, so that the codebook loss applies.
        draws: whether `begin` or `update` draw rows of the batch and need a key.
        shards: mesh axis over which the codes are sharded; `codes` then returns this device's part.
        edit: `(params, state, fn) -> (params, state)` replaces the codes e by fn(e), which no first
            batch replaces in turn; None if the codes are computed and can't take any value.
        adopt: `state -> (whether codes were written into it by hand, the state that fits them)`;
            None if the state holds nothing besides the codes, or hand-written ones can't be told.
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


@boundary  # records wrap their functions so, and `mapped` compares with this very function
def unmoved(params, state, key, rows, *args) -> dict:
    """Returns the state as it is, for `begin` or `update`."""
    return state


@described
def fixed(size: int, dim: int, init: Init = uniform()) -> Codebook:  # noqa: B008
    """Fixed codebook: state["codebook"] as drawn by `init`, which nothing moves."""
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
    """Gradient codebook: params["codebook"], plus state["offset"] if data moves it too.

    Args:
        size: K.
        dim: D.
        init: `uniform()`, `normal()`, `given(e)`, or from the first batch: `samples()`, `kmeans()`.
        reset: None, or a function that marks dead codes by their moving-average counts (decay
            0.99), such as `underused(0.1)`; rows of the batch replace them, unless the batch chose
            them.
    """
    check_size(size=size, dim=dim)
    # `apply` cannot write params, which belong to the optimizer. Data therefore moves an offset in
    # the state, and the codes are the sum of both. A codebook that data never moves has no offset.
    moved_by_data = bool(init.fit or reset)

    def init_fn(key):
        offset = {"offset": jnp.zeros((size, dim), jnp.float32)} if moved_by_data else {}
        counts = {"counts": jnp.ones(size, jnp.float32)} if reset else {}
        initialized = {"initialized": jnp.array(False)} if init.fit else {}
        return {"codebook": init.codes(key, size, dim)}, offset | counts | initialized

    def codes(params, state):
        return params["codebook"] + state["offset"] if moved_by_data else params["codebook"]

    def begin(params, state, key, rows, axis_name):
        # Params stay as they are; the offset leads from them to the fitted codes.
        e = codes(params, state)
        offset = first_fit(init, state["initialized"], e, key, rows, axis_name) - params["codebook"]
        first = rows.any_valid & ~state["initialized"]
        return state | {
            "offset": jnp.where(first, sg(offset), state["offset"]),
            "initialized": state["initialized"] | rows.any_valid,
        }

    def update(params, state, key, rows, k, axis_name):
        assert reset is not None
        hits = sum_by_code(rows.weights, k, size, axis_name)
        counts = ema_update(state["counts"], hits, 0.99)
        dead = find_dead(reset, counts, hits, codes(params, state))
        # K rows, though few codes are dead, since their number is known only at run time.
        fresh = sample_rows(key, rows.z, rows.weights, size, axis_name) - params["codebook"]
        return state | {
            "offset": jnp.where(dead[:, None], fresh, state["offset"]),
            # The mean count gives a new code time to be chosen before it looks dead again.
            "counts": jnp.where(dead, jnp.mean(counts), counts),
        }

    def edit(params, state, fn):
        e = fn(codes(params, state))
        # The codes go into params, where the optimizer moves them on, and the offset is reset.
        anew = {
            "offset": jnp.zeros_like(e),
            "counts": jnp.full(size, jnp.mean(state["counts"]) if reset else 1, jnp.float32),
            "initialized": jnp.array(True),
        }
        # Only the entries that this codebook has: under jit the structure of the state must stay.
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

    If n_j rows of the batch, with sum m_j, choose code j: N_j <- decay N_j + (1 - decay) n_j,
    M_j <- decay M_j + (1 - decay) m_j, e_j = M_j / N'_j (arXiv:1711.00937, appendix A.1), where N'
    is N after `laplace_smoothing`. A code without rows keeps its value. The state holds "codebook",
    "counts" N, "sums" M, and "written", the codebook as the last update left it. Where
    state["codebook"] differs from that, codes were written by hand, and training continues from
    them as after `set_codes`; a state without "written" is not checked for this. Params are empty.

    Args:
        size: K.
        dim: D.
        decay: decay of the averages, in [0, 1).
        eps: constant of the Laplace smoothing.
        init, reset: as in `gradient`; `reset` sees the counts N.
    """
    check_size(size=size, dim=dim)
    check_range(0, 1, decay=decay)
    check_range(0, float("inf"), eps=eps)

    def init_fn(key):
        codebook = init.codes(key, size, dim)
        # Counts of 1 and matching sums: M / N = e from the start, and no code looks dead at first.
        counts = jnp.zeros(size, jnp.float32) if init.zero_debiased else jnp.ones(size, jnp.float32)
        state = {"codebook": codebook, "counts": counts, "sums": counts[:, None] * codebook}
        state["written"] = jnp.copy(codebook)  # `jit` refuses to donate one buffer twice
        initialized = {"initialized": jnp.array(False)} if init.fit else {}
        weight = {"weight": jnp.zeros((), jnp.float32)} if init.zero_debiased else {}
        return {}, state | initialized | weight

    def codes(params, state):
        return state["codebook"]

    def edit(params, state, fn):
        e = fn(state["codebook"])
        return params, put_in(state | {"codebook": e}, jnp.ones(len(e), bool))

    def begin(params, state, key, rows, axis_name):
        # Codes that were written by hand before the first batch count as initialised.
        initialized = state["initialized"] | jnp.any(by_hand(state, eps))
        # Not `initialized` itself: codes may have been written by hand on one shard only, but this
        # flag must be equal on all.
        some = state["initialized"] | rows.any_valid
        e = first_fit(init, initialized, state["codebook"], key, rows, axis_name)
        # Sums follow the fitted codes; else the first update would mix in the random initial ones.
        sums = jnp.where(initialized, state["sums"], state["counts"][:, None] * e)
        return state | {"codebook": e, "sums": sums, "initialized": some}

    def update(params, state, key, rows, k, axis_name):
        hits = sum_by_code(rows.weights, k, size, axis_name)
        totals = sum_by_code(rows.z * rows.weights[..., None], k, size, axis_name)
        counts = ema_update(state["counts"], hits, decay)
        sums = ema_update(state["sums"], totals, decay)
        new = {"counts": counts, "sums": sums}
        # A code without rows keeps its value: M / N' would shrink it, since N falls while eps
        # stays.
        moved, weight = hits > 0, jnp.ones((), jnp.float32)
        if init.zero_debiased:  # N and M are both too small by this factor, so eps must be as well
            moved, weight = jnp.ones_like(moved), ema_update(state["weight"], 1.0, decay)
            new["weight"] = weight
        e = sums / laplace_smoothing(counts, eps * weight)[:, None]
        e = jnp.where(counts[:, None] > 0, e, 0)  # avoids 0 / 0 if eps is 0
        new["codebook"] = jnp.where(moved[:, None], e, state["codebook"])
        # Re-seeded after the averages, so that the hits of this very batch decide which are dead.
        new = reseed(new, key, rows, hits, axis_name)
        new["written"] = new["codebook"]
        # Only entries that were there: a state without "written", from another library, stays so.
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
            # Sums are replaced too; else the next update would pull the code back to its old place.
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
    """Returns the codebook, fitted to this batch if it is the first one with a valid row."""
    size, fit = codebook.shape[0], init.fit
    assert fit is not None
    # `cond`, so that k-means costs nothing from the second batch on.
    return jax.lax.cond(
        initialized | ~rows.any_valid,
        lambda: codebook,
        lambda: fit(key, rows.z, rows.weights, size, axis_name).astype(jnp.float32),
    )
