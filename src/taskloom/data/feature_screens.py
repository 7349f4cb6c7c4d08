"""Conditions that a feature which tells a label must fulfil, of many features at once.

They let every telling feature pass, and hardly any other: what passes is looked at one by one
(`taskloom.data.telling_features`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_SLACK = 1.001
"""How much more than the bound is let through: far more than rounding takes away."""


def may_keep_order(
    block: NDArray[np.float32], wanted: NDArray[np.generic], least: float
) -> NDArray[np.bool_]:
    """Features whose rank correlation with a number may be `least` or more, or minus that or less.

    With u and v the ranks of feature and number, each of mean 0 and variance 1, a correlation r means
    sum (u - v)² = 2 N (1 - r). Two rows a, b with v_a < v_b whose features do not rise from a to b have
    (u_a - v_a) - (u_b - v_b) >= v_b - v_a, hence add (v_b - v_a)² / 2 or more to that sum. So over pairs of
    rows, none of them in two pairs, the squared gaps of those that do not rise sum to 4 N (1 - r) at most:
    N/2 comparisons of a feature, and nothing is sorted but the numbers.

    Args:
        block: Features, [N, F]; NaN where one is missing, which leaves the row out for that feature.
        wanted: The numbers, [N].
        least: The correlation that is asked for.

    Returns:
        [F]: false only where the correlation lies strictly between -least and least.

    Example:
        >>> ages = np.arange(20.0)
        >>> block = np.stack([ages**3, -ages, ages % 7], axis=1).astype(np.float32)
        >>> may_keep_order(block, ages, 0.99)
        array([ True,  True, False])
    """
    order = np.argsort(wanted, kind="stable")
    block, wanted = block[order], wanted[order]
    whole = ~np.isnan(block).any(axis=0)
    found = np.empty(block.shape[1], dtype=np.bool_)
    found[whole] = _few_turned(block[:, whole], wanted, np.ones((len(wanted), 1), dtype=np.bool_), least)
    found[~whole] = _few_turned(block[:, ~whole], wanted, ~np.isnan(block[:, ~whole]), least)
    return found


def _few_turned(
    block: NDArray[np.float32], wanted: NDArray[np.generic], there: NDArray[np.bool_], least: float
) -> NDArray[np.bool_]:
    """See `may_keep_order`; rows stand in the order of the numbers, `there` is [N, F], or [N, 1] for all."""
    num_pairs = len(wanted) // 2
    low, high = slice(0, num_pairs), slice(len(wanted) - 1, len(wanted) - 1 - num_pairs, -1)
    ranks = _ranks(wanted, there)
    gaps = (ranks[high] - ranks[low]) ** 2 * (there[high] & there[low])
    bound = 4 * there.sum(axis=0) * (1 - least) * _SLACK
    first, second = block[low], block[high]
    # NaN compares as false; where all rows are there, the pairs weigh the same for all features
    falling = np.einsum("nf,nf->f", np.broadcast_to(gaps, first.shape), first >= second)
    rising = np.einsum("nf,nf->f", np.broadcast_to(gaps, first.shape), first <= second)
    return np.asarray((falling <= bound) | (rising <= bound))


def _ranks(wanted: NDArray[np.generic], there: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Ranks of sorted numbers among the rows there, [N, F]: ties share theirs; of mean 0 and variance 1."""
    first = np.searchsorted(wanted, wanted, side="left")
    after = np.searchsorted(wanted, wanted, side="right")
    counts = np.zeros((len(wanted) + 1, there.shape[1]))
    np.cumsum(there, axis=0, out=counts[1:])
    ranks = (
        counts[first] + counts[after] - counts[-1]
    ) / 2  # (below + up to and with + 1) / 2, less the mean
    variance = np.einsum("nf,nf,nf->f", ranks, ranks, there) / np.maximum(counts[-1], 1)
    return np.asarray(ranks / np.sqrt(np.where(variance > 0, variance, 1)))


def may_stand_apart(
    block: NDArray[np.float32], wanted: NDArray[np.generic], *, undecided: bool
) -> NDArray[np.bool_]:
    """Features of which every class has a stretch to itself, or one class one of two values.

    Args:
        block: Features, [N, F]; NaN where one is missing, which leaves the row out for that feature.
        wanted: The classes, [N].
        undecided: What is said of a feature that shows one value, or one class, or nothing at all.

    Returns:
        [F].

    Example:
        >>> classes = np.arange(9) // 3
        >>> block = np.stack([5 - classes, classes == 1, np.arange(9) % 2], axis=1).astype(np.float32)
        >>> may_stand_apart(block, classes, undecided=False)
        array([ True,  True, False])
    """
    order = np.argsort(wanted, kind="stable")
    starts = np.unique(wanted[order], return_index=True)[1]
    lows, highs = _extremes(block[order], starts)  # a class without any row there has (inf, -inf)
    there = lows <= highs
    least, most = lows.min(axis=0), highs.max(axis=0)
    inner = np.sort(lows, axis=0)[1:], np.take_along_axis(highs, np.argsort(lows, axis=0), axis=0)[:-1]
    apart = (inner[1] < inner[0]).all(axis=0)
    at_least, at_most = (highs == least) & there, (lows == most) & there
    pure = (at_least | at_most | ~there).all(axis=0)
    indicator = pure & ((at_least.sum(axis=0) == 1) | (at_most.sum(axis=0) == 1))
    decided = (there.sum(axis=0) > 1) & (least < most)
    return np.where(decided, apart | indicator, undecided)


def _extremes(
    block: NDArray[np.float32], starts: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Smallest and largest feature of every class, each [K, F]; rows of a class stand together."""
    missing = np.isnan(block)
    infinity = np.float32(np.inf)
    lows = np.minimum.reduceat(np.where(missing, infinity, block), starts, axis=0)
    highs = np.maximum.reduceat(np.where(missing, -infinity, block), starts, axis=0)
    return lows, highs
