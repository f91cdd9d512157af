"""Shared parts of combinators: members' keys, params and state, streams, losses and metrics.

The members of a combinator are numbered: params and state are {"0": ..., "1": ...}, and metrics get
the number as a prefix, "1/error". A combinator calls `valid_rows` once on its input, passes the
weights to its members as the mask, and reports the rows that it dropped.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vqvae_jax.quantizers.base import Output, Quantizer
from vqvae_jax.quantizers.codebooks.editing import edit_codes
from vqvae_jax.reductions import Rows


def member_keys(key, n: int) -> list:
    """A key for each of n members; a single member gets the key itself."""
    # So `residual(q)` and `grouped(q)` draw what q alone would draw, and equal it.
    if key is None or n == 1:
        return [key] * n
    return list(jax.random.split(key, n))


def init_members(qs: Sequence[Quantizer]) -> Callable[..., tuple[dict, dict]]:
    """Makes `init` of a combinator, with params and state of each member under its number."""

    def init(key):
        made = [q.init(k) for q, k in zip(qs, member_keys(key, len(qs)), strict=True)]
        params = {str(i): params for i, (params, _) in enumerate(made)}
        return params, {str(i): state for i, (_, state) in enumerate(made)}

    return init


def edit_members(qs: Sequence[Quantizer]) -> Callable[..., tuple[dict, dict]]:
    """Makes `edit` of a combinator, which calls `edit` of the member that owns the stream."""

    def edit(params, state, fn, stream):
        for i, q in enumerate(qs):
            if stream < len(q.vocab):
                own, new = edit_codes(q, params[str(i)], state[str(i)], fn, stream)
                return params | {str(i): own}, state | {str(i): new}
            stream -= len(q.vocab)
        raise AssertionError  # `set_codes` has checked the stream

    return edit


def edit_shared(q: Quantizer) -> Callable[..., tuple[dict, dict]]:
    """Makes `edit` of a combinator that uses q several times with the same params and state."""

    def edit(params, state, fn, stream):
        return edit_codes(q, params, state, fn, stream % len(q.vocab))

    return edit


def split_streams(qs: Sequence[Quantizer], indices: Int[Array, "*rows Q"]) -> list[Array]:
    """Splits indices into the streams of each member."""
    parts, begin = [], 0
    for q in qs:
        parts.append(indices[..., begin : begin + len(q.vocab)])
        begin += len(q.vocab)
    return parts


def join_outputs(
    outs: Sequence[Output],
    quantized: Float[Array, "*rows D"],
    rows: Rows,
    shares: Sequence[float] | None = None,
) -> Output:
    """Joins the members' Outputs into one: streams side by side, losses added up by name.

    Args:
        outs: Outputs of the members.
        quantized: vectors of the whole combinator.
        rows: valid rows of the whole, which also count the invalid ones for the metrics.
        shares: weight of each member's losses; None for 1.
    """
    # Losses add up by name, without the member's number: "commitment" is one term to weigh and to
    # plot, however many stages there are. Metrics are no sums, so they keep the number.
    losses: dict[str, Any] = {}
    for out, share in zip(outs, shares or [1.0] * len(outs), strict=True):
        for name, value in out.losses.items():
            losses[name] = losses.get(name, 0.0) + share * value
    metrics = {f"{i}/{name}": v for i, out in enumerate(outs) for name, v in out.metrics.items()}
    indices = jnp.concatenate([out.indices for out in outs], axis=-1)
    # Members find no invalid rows, since those were set to 0 and masked before.
    return Output(quantized, indices, losses, metrics | {"invalid_rows": rows.invalid})


def report_rows(metrics: dict[str, Array], rows: Rows) -> dict[str, Array]:
    """Adds the rows that a combinator dropped to the metrics of its only member."""
    return metrics | {"invalid_rows": metrics.get("invalid_rows", 0) + rows.invalid}


def check_members(qs: Sequence[Quantizer]) -> None:
    """Raises unless there is at least one member and all are quantizers."""
    if not qs:
        raise ValueError("needs at least one quantizer, got none")
    for i, q in enumerate(qs):
        if not isinstance(q, Quantizer):
            raise TypeError(f"member {i} must be a Quantizer, got {type(q).__name__}")


def check_streams(number: int) -> None:
    """Raises a ValueError if there are too many streams to list, as in a hostile description."""
    if number > 2**16:
        raise ValueError(f"a quantizer must have at most 65536 streams of codes, got {number}")


def check_same_dim(qs: Sequence[Quantizer]) -> None:
    """Raises unless all members have the same D."""
    dims = [q.dim for q in qs]
    if len(set(dims)) > 1:
        raise ValueError(f"members must have the same dim, got {dims}")
