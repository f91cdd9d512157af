"""Random permutations of any size, computed at the requested places without a table.

`grain.experimental.index_shuffle` is similar but not used here: it belongs to an extra, takes one
index at a time, and may change between versions of Grain, while a resumed run needs the order that
it started with.
"""

import numpy as np
from jaxtyping import Int64, UInt64

ROUNDS = 4  # rounds of the Feistel network, enough to look random (Luby and Rackoff, 1988)
ODD = np.uint64(0xD6E8FEB86659FD93)  # constant of the mixer known as degski64


def shuffled(
    seed: int, epoch: int, n: int, places: Int64[np.ndarray, "B"]
) -> Int64[np.ndarray, "B"]:
    """Returns the values at these places of the permutation of 0, ..., n - 1 for (seed, epoch).

    A Feistel network permutes the numbers of 2 h bits, of which there are between n and 4 n. A
    result of n or more goes through the network again, until it is below n.

    Args:
        seed, epoch: numbers that are not negative, together the key.
        n: from 2 to 2^62.
        places: int64 `[B]`, each in [0, n).

    Returns:
        int64 `[B]`, each in [0, n), different for different places.

    >>> shuffled(0, 0, 5, np.arange(5)), shuffled(0, 0, 10**10, np.arange(2))
    (array([2, 3, 0, 1, 4]), array([3391764230, 9337040674]))
    """
    half = ((n - 1).bit_length() + 1) // 2
    keys = np.random.SeedSequence([seed, epoch]).generate_state(ROUNDS, np.uint64)
    x = places.astype(np.uint64)
    outside = np.ones(len(x), bool)
    # Cycle walking: the network is a bijection, so the cycle of a number below n returns below n.
    # There are at most 4 n numbers, so 4 passes are enough on average.
    while outside.any():
        x[outside] = feistel(x[outside], np.uint64(half), keys)
        outside = x >= n
    return x.astype(np.int64)


def feistel(
    x: UInt64[np.ndarray, "B"], half: np.uint64, keys: UInt64[np.ndarray, "R"]
) -> UInt64[np.ndarray, "B"]:
    """Feistel network on two halves of bits: (left, right) -> (right, left xor f(right))."""
    left, right = x >> half, x & ((np.uint64(1) << half) - np.uint64(1))
    # A round can be undone whatever `mixed` does, so this is a bijection for any key. Sums and
    # products are meant to wrap at 2^64.
    for key in keys:
        left, right = right, left ^ (mixed(right + key) >> (np.uint64(64) - half))
    return left << half | right


def mixed(x: UInt64[np.ndarray, "B"]) -> UInt64[np.ndarray, "B"]:
    """Mixes bits: each bit of x flips each bit of the result with probability of about 1/2."""
    for _ in range(2):
        x = (x ^ (x >> np.uint64(32))) * ODD
    return x ^ (x >> np.uint64(32))
