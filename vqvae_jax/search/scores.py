"""Search by scores, block by block: the least score of each row, and whether it is certain.

The score of code j for row z is s_j = 1/2 |e_j|^2 - z.e_j: half the squared distance, without the
1/2 |z|^2 that all codes share.
"""

from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# A block has 2^20 scores, which bounds the memory and suits the caches of a CPU. XLA fuses an
# expression over GROUP arrays into one loop of vector instructions.
ROWS, CODES, GROUP = 2048, 512, 16
LAST = 2 * GROUP - 1  # mask of the last 5 bits of a score, which `search_block` uses for itself
MOST = 2**18  # codes in a block: 2^14 places, and `only` takes up to 2^15


class Nearest(NamedTuple):
    """The best of some codes, for each row."""

    best: Float[Array, "*rows"]  # min_j s_j
    k: Int[Array, "*rows"]  # int32: the j that attains it, where sure
    sure: Bool[Array, "*rows"]  # whether all others have s_j > best + slack


class Error(NamedTuple):
    """Bound on the error of a score: |s - computed s| <= relative |e| (|z| + 1/2 |e|)."""

    relative: float
    least: float = 0.0  # codes shorter than this times the longest one count as that long


def error(d: int) -> Error:
    """Bound on the error of `search_codes`, and of any sum of D products in float32, in any order.

    40 = 2^5, for the bits that `search_block` overwrites, + 8, for the roundings around the sum.
    """
    return Error((d + 40) * 2.0**-24)


def merge(a: Nearest, b: Nearest, slack: Float[Array, "*rows"]) -> Nearest:
    """Merges the results for two sets of codes; ties go to `a`, whose indices are lower.

    The result is sure where the winner is sure and the loser's best > the winner's best + slack.

    Example:
        >>> a = Nearest(jnp.array([1.0, 1.0]), jnp.array([0, 0]), jnp.array([True, True]))
        >>> b = Nearest(jnp.array([0.5, 0.9]), jnp.array([7, 8]), jnp.array([True, True]))
        >>> merge(a, b, jnp.array([0.2, 0.2]))
        Nearest(best=Array([0.5, 0.9], dtype=float32), k=Array([7, 8], dtype=int32),
                sure=Array([ True, False], dtype=bool))
    """
    wins = b.best < a.best
    best, loser = jnp.where(wins, b.best, a.best), jnp.where(wins, a.best, b.best)
    sure = (wins & b.sure) | (~wins & a.sure)
    return Nearest(best, jnp.where(wins, b.k, a.k), sure & (loser > best + slack))


def sides() -> tuple[int, int]:
    """Rows and codes of a block. On accelerators it has 2^26 scores, since each block costs
    launches of kernels and, where loops end when a condition holds, a wait for the device."""
    return (ROWS, CODES) if jax.default_backend() == "cpu" else (8 * ROWS, 8 * CODES)


def in_blocks(function: Callable[[Array], Any], z: Float[Array, "N D"]) -> Any:
    """Maps function over blocks of rows, one after another, so that only one block's arrays exist.

    With B blocks, block i takes the rows i, i + B, ...: a batch that is sharded over devices stays
    sharded within each block, and no device waits for another.
    """
    n, d = z.shape
    # A symbolic number of rows (jax.export) is one block.
    if not isinstance(n, int) or n <= sides()[0]:
        return function(z)
    blocks = number_of_blocks(n)
    z = jnp.pad(z, ((0, -n % blocks), (0, 0))).reshape(-1, blocks, d)
    found = jax.lax.map(lambda i: function(z[:, i]), jnp.arange(blocks, dtype=jnp.int32))
    return jax.tree.map(lambda a: a.T.reshape(-1)[:n], found)


def number_of_blocks(n: int) -> int:
    """The least number of blocks that hold n rows, or a number near it that divides n."""
    # A divisor of n needs no padding, and padding would copy all rows.
    least = -(-n // sides()[0])
    return next((b for b in range(least, 2 * least) if n % b == 0), least)


def search_codes(
    z: Float[Array, "N D"],
    e: Float[Array, "K D"],
    half: Float[Array, "K"],
    slack: Float[Array, "N"],
) -> Nearest:
    """The least score of each row, a block of codes at a time."""
    blocks = code_blocks(e, half, z.shape[0])
    if blocks.half.shape[0] == 1:
        return search_block(z, slack, jax.tree.map(lambda a: a[0], blocks))
    # Derived from the slack: the carry of a scan must vary over the same mesh axes as its results.
    nothing = Nearest(jnp.full_like(slack, jnp.inf), slack.astype(jnp.int32), slack >= 0)

    def step(found, block):
        return merge(found, search_block(z, slack, block), slack), None

    return jax.lax.scan(step, nothing, blocks)[0]


class Codes(NamedTuple):
    """A block of codes, or a stack of blocks."""

    e: Float[Array, "*B C D"]
    half: Float[Array, "*B C"]  # 1/2 |e|^2, or inf: never chosen
    first: Int[Array, "*B"]  # the index of the first code


def code_blocks(e: Float[Array, "K D"], half: Float[Array, "K"], n, group: int = GROUP) -> Codes:
    """Divides the codes into blocks of one size, a multiple of `group`, padded with unusable codes.

    All scores of a block for n rows exist at once, so the fewer the rows, the larger the block.
    """
    (size, d), (rows, least) = e.shape, sides()
    codes = least * rows // max(n, 1) if isinstance(n, int) else 0
    blocks = -(-size // min(max(codes, least), MOST))
    each = -(-size // (blocks * group)) * group
    spare = blocks * each - size
    e = jnp.pad(e, ((0, spare), (0, 0))).reshape(blocks, each, d)
    half = jnp.pad(half, (0, spare), constant_values=jnp.inf).reshape(blocks, each)
    return Codes(e, half, each * jnp.arange(blocks, dtype=jnp.int32))


def search_block(z: Float[Array, "N D"], slack: Float[Array, "N"], codes: Codes) -> Nearest:
    """The least score of each row in a block.

    The scores lie in GROUP sheets of C / GROUP places: code j is in sheet j // (C / GROUP). They
    are read once, and each place is reduced to one integer: the least score over its sheets, whose
    last 5 bits are replaced by 4 bits for the sheet and 1 bit that is set if another sheet comes
    within the slack. `slack` must cover the error that these bits introduce.
    """
    # For speed the scores are read once. `argmin`, which XLA reduces slowly, as pairs, on a CPU,
    # and a second minimum for the runner-up would each read them again.
    products = product(codes.e, z).reshape(GROUP, -1, z.shape[0])
    half = codes.half.reshape(GROUP, -1, 1)
    scores = [h - p for h, p in zip(half, products, strict=True)]
    least = minimum(scores)
    limit, zero = least + slack, jnp.int32(0)
    # Each near sheet adds 1 and 32 times its number: up to 16 ones fit the 5 bits, and where the
    # count is 1 the bits above are the sheet itself.
    marks = [jnp.where(s <= limit, jnp.int32(i << 5 | 1), zero) for i, s in enumerate(scores)]
    near = reduce(jnp.add, marks)
    # The sheet if it is alone, else 1 in the last bit: "not sure", whichever place wins.
    found = ordered(least) & ~LAST | jnp.where(near & LAST == 1, near >> 5 << 1, 1)
    found = jax.lax.optimization_barrier(found)  # else XLA computes it again for each use
    first = jax.lax.optimization_barrier(jnp.min(found, axis=0))
    best = unordered(first & ~LAST)
    # | LAST, so that the sheet bits don't decide whether a place comes near.
    place, alone = only(found <= ordered(best + slack) | LAST)
    k = codes.first + (first >> 1 & LAST >> 1) * found.shape[0] + place
    return Nearest(best, k, alone & (first & 1 == 0))


def ordered(x: Float[Array, "*shape"]) -> Int[Array, "*shape"]:
    """The bits of a float32 as an integer that is ordered as the floats are.

    Example:
        >>> ordered(jnp.array([-2.0, -1.0, -0.0, 0.0, 1.0, jnp.inf]))
        Array([-1073741825, -1065353217,          -1,           0,  1065353216,
                2139095040], dtype=int32)
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.int32)
    # Floats are sign and magnitude, integers two's complement: the order of negatives is flipped.
    return bits ^ (bits >> 31 & 0x7FFFFFFF)


def unordered(i: Int[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The inverse of `ordered`."""
    return jax.lax.bitcast_convert_type(i ^ (i >> 31 & 0x7FFFFFFF), jnp.float32)


def product(e: Float[Array, "C D"], z: Float[Array, "N D"]) -> Float[Array, "C N"]:
    """e.z in full float32 precision, on accelerators too."""
    return jnp.dot(e, z.T, precision=jax.lax.Precision.HIGHEST)


def minimum(arrays: list[Array]) -> Array:
    """Elementwise minimum of arrays, ignoring how NaN compares: a third faster than jnp.minimum."""
    return reduce(lambda a, b: jnp.where(b < a, b, a), arrays)


def only(near: Bool[Array, "C N"]) -> tuple[Int[Array, "N"], Bool[Array, "N"]]:
    """Place of the true value in each column, and whether there is exactly one (C < 2^15)."""
    place = jnp.arange(near.shape[0], dtype=jnp.int32)[:, None]
    marks = jnp.where(near, (1 << 16) + place, 0)
    # One sum finds both. If several values are true, their places add up and may even spill into
    # the count, which is then 2 or more and only grows.
    count_and_place = jnp.sum(marks, axis=0, dtype=jnp.int32)
    return count_and_place & 0xFFFF, count_and_place >> 16 == 1
