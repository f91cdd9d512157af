"""Items that share all codes: how many there are, and two ways to tell them apart."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Int32
from scipy.optimize import linear_sum_assignment

Codes = Int[np.ndarray, "N Q"]


class Collisions(NamedTuple):
    """Counts of items that share all codes with others.

    Attributes:
        items: number of items whose codes another item has too.
        distinct: number of different ids.
        largest: number of items in the largest group of one id.
    """

    items: int
    distinct: int
    largest: int


def collisions(codes: Codes) -> Collisions:
    """Counts the collisions.

    Example:
        >>> collisions(np.array([[0, 1], [0, 2], [0, 1], [0, 1]]))
        Collisions(items=3, distinct=2, largest=3)
    """
    _, times = np.unique(codes, axis=0, return_counts=True)
    return Collisions(int(times[times > 1].sum()), len(times), int(times.max()))


def groups(codes: Codes) -> list[Int[np.ndarray, "n"]]:
    """Returns the numbers of the rows that equal each other, in ascending order, for each group.

    Example:
        >>> groups(np.array([[7], [3], [7]]))
        [array([1]), array([0, 2])]
    """
    _, group = np.unique(codes, axis=0, return_inverse=True)
    group = group.ravel()
    order = np.argsort(group, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(group[order])) + 1)


def numbered(codes: Codes) -> Int32[np.ndarray, "N L"]:
    """Adds a last level, which numbers the items of each group 0, 1, 2, ... in their order.

    As in TIGER, arXiv:2305.05065: items that share their codes with no other get 0.

    Example:
        >>> numbered(np.array([[7, 1], [3, 3], [7, 1]])).tolist()
        [[7, 1, 0], [3, 3, 0], [7, 1, 1]]
    """
    level = np.zeros((len(codes), 1), np.int32)
    for rows in groups(codes):
        level[rows, 0] = np.arange(len(rows))
    return np.concatenate([codes.astype(np.int32), level], axis=1)


def balanced(
    codes: Codes, size: int, cost: Callable[[Int[np.ndarray, "n"]], Float[np.ndarray, "n K"]]
) -> Int32[np.ndarray, "N Q"]:
    """Gives the items of each group that shares all codes but the last different last codes.

    Of all such assignments it is one of least total cost. Groups without collisions keep theirs.

    Args:
        codes: codes of the items, each the nearest.
        size: K of the last stage.
        cost: from the numbers of n rows of a group to the cost of each last code.

    Raises:
        ValueError: if a group has more than K items.
    """
    found = codes.astype(np.int32)
    for rows in groups(codes[:, :-1]):
        if len(rows) > size:
            raise ValueError(
                f"expected at most {size} items, one for each last code, with the same codes "
                f"before it, found {len(rows)} with {tuple(codes[rows[0], :-1].tolist())}: "
                "take more --codes or --stages, or --resolve level"
            )
        if len(np.unique(codes[rows, -1])) < len(rows):
            found[rows, -1] = linear_sum_assignment(cost(rows))[1]
    return found
