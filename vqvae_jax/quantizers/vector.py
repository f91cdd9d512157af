"""Vector quantization: `vq` moves its codebook by gradient, `ema_vq` by moving averages."""

from collections.abc import Callable

import jax.numpy as jnp
from jax.lax import stop_gradient as sg
from jaxtyping import Array, Float

from vqvae_jax.describe import described
from vqvae_jax.equations import lookup
from vqvae_jax.estimators import straight_through
from vqvae_jax.losses import codebook_loss, commitment_loss
from vqvae_jax.quantizers.base import (
    Output,
    Quantizer,
    check_indices,
    check_range,
    check_rows,
    check_size,
    choose,
    training_keys,
)
from vqvae_jax.quantizers.codebooks import (
    Init,
    find_dead,
    first_fit,
    look_up,
    lookup_metrics,
    uniform,
)
from vqvae_jax.reductions import sample_rows, sum_by_code, valid_rows

Estimator = Callable[[Array, Array], Array]
Revive = Callable[[Array], Array] | None


@described
def vq(
    size: int,
    dim: int,
    *,
    beta: float = 0.25,
    init: Init = uniform(),  # noqa: B008
    revive: Revive = None,
    estimator: Estimator = straight_through,
) -> Quantizer:
    """VQ-VAE's quantizer, its codebook moved by gradient (arXiv:1711.00937).

    k = argmin_j |z_e - e_j|_2, z_q = e_k; losses |sg[z_e] - z_q|^2 + beta |z_e - sg[z_q]|^2, each a
    mean over elements. The codes are params["codebook"] `[K, D]`, plus state["offset"] where data
    moves them as well (`init` from a batch, `revive`).

    Args:
        size: K.
        dim: D.
        beta: weight of the commitment term.
        init: `uniform()`, `normal()`, or from the first batch: `samples()`, `kmeans()`.
        revive: None, or a function from moving-average counts (decay 0.99) to the codes that are
            dead, such as `underused(0.1)`; they become rows of the batch, unless chosen in it.
        estimator: `(z_e, z_q) -> z_q`, which gives the gradient.

    Training needs a key if `init` uses the first batch or codes are revived. A code whose
    parameters are not finite is never chosen, and counted in metrics["invalid_codes"].

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> import jax
        >>> q = vq(size=4, dim=2)
        >>> params, state = q.init(jax.random.key(0))
        >>> out, _ = q.apply(params, state, jnp.ones((3, 2)))
        >>> bool((q.decode(params, state, out.indices) == out.quantized).all())
        True
    """
    check_size(size=size, dim=dim)
    check_range(0, float("inf"), beta=beta)
    moved_by_data = bool(init.fit or revive)

    def init_fn(key):
        offset = {"offset": jnp.zeros((size, dim))} if moved_by_data else {}
        counts = {"counts": jnp.ones(size)} if revive else {}
        initialized = {"initialized": jnp.array(False)} if init.fit else {}
        return {"codebook": init.draw(key, size, dim)}, offset | counts | initialized

    def codes(params, state):
        return params["codebook"] + state["offset"] if moved_by_data else params["codebook"]

    def begin(params, state, key, rows, axis_name):
        """The state before this batch's update: the first batch initialises the offset."""
        if init.fit is None:
            return state
        e = codes(params, state)
        offset = first_fit(init, state["initialized"], e, key, rows, axis_name) - params["codebook"]
        first = rows.some & ~state["initialized"]
        return state | {
            "offset": jnp.where(first, sg(offset), state["offset"]),
            "initialized": state["initialized"] | rows.some,
        }

    def reseed(params, state, key, rows, k, axis_name):
        if revive is None:
            return state
        hits = sum_by_code(rows.weights, k, size, axis_name)
        counts = ema_update(state["counts"], hits, 0.99)
        dead = find_dead(revive, counts, hits, codes(params, state))
        fresh = sample_rows(key, rows.z, rows.weights, size, axis_name) - params["codebook"]
        return state | {
            "offset": jnp.where(dead[:, None], fresh, state["offset"]),
            "counts": jnp.where(dead, jnp.mean(counts), counts),
        }

    def apply(params, state, z, *, train=False, key=None, mask=None, axis_name=None):
        check_rows(z, dim)
        rows = valid_rows(z, mask, axis_name)
        key_init, key_revive = training_keys(key, wanted=train and moved_by_data)
        start = begin(params, state, key_init, rows, axis_name) if train else state
        e = codes(params, start)
        k, z_q = look_up(rows, e)
        losses = {
            "codebook": codebook_loss(rows.z, z_q, rows.weights, axis_name),
            "commitment": beta * commitment_loss(rows.z, z_q, rows.weights, axis_name),
        }
        quantized = estimator(rows.z, z_q).astype(z.dtype)
        out = Output(quantized, k[..., None], losses, lookup_metrics(rows, e, z_q, axis_name))
        if not (train and moved_by_data):
            return out, state
        return out, choose(rows.some, reseed(params, start, key_revive, rows, k, axis_name), state)

    def decode(params, state, indices):
        check_indices(indices, (size,))
        return lookup(codes(params, state), indices[..., 0])

    return Quantizer(init_fn, apply, decode, dim, (size,))


@described
def ema_vq(
    size: int,
    dim: int,
    decay: float = 0.99,
    *,
    eps: float = 1e-5,
    beta: float = 0.25,
    init: Init = uniform(),  # noqa: B008
    revive: Revive = None,
    estimator: Estimator = straight_through,
) -> Quantizer:
    """VQ-VAE's quantizer, its codebook moved by exponential moving averages.

    With n_j rows of sum m_j chosen for code j in the batch: N_j <- decay N_j + (1 - decay) n_j,
    M_j <- decay M_j + (1 - decay) m_j, e_j = M_j / N'_j (arXiv:1711.00937, appendix A.1), where
    N' is N after `laplace_smoothing`. A code that received no row keeps its value. The loss is
    beta |z_e - sg[z_q]|^2, a mean over elements; params are empty, state holds "codebook",
    "counts" N and "sums" M.

    Args:
        size: K.
        dim: D.
        decay: of the averages, in [0, 1).
        eps: of the smoothing.
        beta, init, revive, estimator: as in `vq`, with N as the counts of `revive`.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> import jax
        >>> from vqvae_jax import normal
        >>> q = ema_vq(size=2, dim=1, decay=0.5, init=normal())
        >>> params, state = q.init(jax.random.key(0))
        >>> for _ in range(20):
        ...     out, state = q.apply(params, state, jnp.array([[-1.0], [3.0]]), train=True)
        >>> q.decode(params, state, out.indices).round(1)
        Array([[-1.],
               [ 3.]], dtype=float32)
    """
    check_size(size=size, dim=dim)
    check_range(0, 1, decay=decay)
    check_range(0, float("inf"), beta=beta, eps=eps)
    needs_key = bool(init.fit or revive)

    def init_fn(key):
        codebook = init.draw(key, size, dim)
        counts = jnp.zeros(size) if init.zero_debiased else jnp.ones(size)
        state = {"codebook": codebook, "counts": counts, "sums": counts[:, None] * codebook}
        initialized = {"initialized": jnp.array(False)} if init.fit else {}
        weight = {"weight": jnp.zeros(())} if init.zero_debiased else {}
        return {}, state | initialized | weight

    def begin(state, key, rows, axis_name):
        """The state before this batch's update: the first batch initialises the codebook."""
        if init.fit is None:
            return state
        initialized = state["initialized"]
        e = first_fit(init, initialized, state["codebook"], key, rows, axis_name)
        sums = jnp.where(initialized, state["sums"], state["counts"][:, None] * e)
        return state | {"codebook": e, "sums": sums, "initialized": initialized | rows.some}

    def update(state, key, rows, k, axis_name):
        """The averages N and M, and the codebook that follows from them."""
        hits = sum_by_code(rows.weights, k, size, axis_name)
        totals = sum_by_code(rows.z * rows.weights[..., None], k, size, axis_name)
        counts = ema_update(state["counts"], hits, decay)
        sums = ema_update(state["sums"], totals, decay)
        new = {"counts": counts, "sums": sums}
        moved, weight = hits > 0, jnp.ones(())
        if init.zero_debiased:  # N and M are both too small by this weight: so must eps be
            moved, weight = jnp.ones_like(moved), ema_update(state["weight"], 1.0, decay)
            new["weight"] = weight
        e = sums / laplace_smoothing(counts, eps * weight)[:, None]
        e = jnp.where(counts[:, None] > 0, e, 0)  # not 0 / 0, should eps be 0
        new["codebook"] = jnp.where(moved[:, None], e, state["codebook"])
        return state | reseed(new, key, rows, hits, axis_name)

    def reseed(new, key, rows, hits, axis_name):
        if revive is None:
            return new
        dead = find_dead(revive, new["counts"], hits, new["codebook"])
        fresh = sample_rows(key, rows.z, rows.weights, size, axis_name)
        fair = jnp.mean(new["counts"])
        return new | {
            "codebook": jnp.where(dead[:, None], fresh, new["codebook"]),
            "counts": jnp.where(dead, fair, new["counts"]),
            "sums": jnp.where(dead[:, None], fair * fresh, new["sums"]),
        }

    def apply(params, state, z, *, train=False, key=None, mask=None, axis_name=None):
        check_rows(z, dim)
        rows = valid_rows(z, mask, axis_name)
        key_init, key_revive = training_keys(key, wanted=train and needs_key)
        start = begin(state, key_init, rows, axis_name) if train else state
        k, z_q = look_up(rows, start["codebook"])
        losses = {"commitment": beta * commitment_loss(rows.z, z_q, rows.weights, axis_name)}
        metrics = lookup_metrics(rows, start["codebook"], z_q, axis_name)
        out = Output(estimator(rows.z, z_q).astype(z.dtype), k[..., None], losses, metrics)
        if not train:
            return out, state
        return out, choose(rows.some, update(start, key_revive, rows, k, axis_name), state)

    def decode(params, state, indices):
        check_indices(indices, (size,))
        return lookup(state["codebook"], indices[..., 0])

    return Quantizer(init_fn, apply, decode, dim, (size,))


def ema_update(average: Array, value: Array | float, decay: float) -> Array:
    """decay * average + (1 - decay) * value.

    Example:
        >>> ema_update(jnp.ones(2), 3.0, decay=0.75)
        Array([1.5, 1.5], dtype=float32)
    """
    return decay * average + (1 - decay) * value


def laplace_smoothing(counts: Float[Array, "K"], eps: float | Array) -> Float[Array, "K"]:
    """N'_j = (N_j + eps) / (N + K eps) N with N = sum_j N_j: no count is 0, their sum stays.

    Example:
        >>> laplace_smoothing(jnp.array([3.0, 1.0, 0.0]), eps=1.0)
        Array([2.2857144, 1.1428572, 0.5714286], dtype=float32)
    """
    total = jnp.sum(counts)
    return (counts + eps) / (total + counts.size * eps) * total
