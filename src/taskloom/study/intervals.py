"""Intervals and p-values of a mean whose variance is a sum of parts, each known with few degrees of freedom.

Welch and Satterthwaite's single t distribution is right on average over such sums and wrong where it matters
here: with three seeds whose spread is small by luck, nearly all degrees of freedom come from the test set.
At the levels that Holm's correction asks for, its error was up to ten times the nominal one
(docs/statistics.md).
Banerjee's interval ("Approximate confidence interval for linear functions of means of k populations when the
population variances are not equal", Sankhya 22, 1960; proved for independent normal parts) has at least its
level, whatever the parts are to each other:

    half width^2 = sum over the parts of t(1 - alpha / 2; degrees of the part)^2 * variance of the part

With one part it is the t interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

# Far below any level that a correction asks for; t quantiles of one degree of freedom are still finite there.
_LEAST_P = 1e-100


class Part(NamedTuple):
    """One part of a mean's variance, and with how many degrees of freedom it is known; both may be arrays."""

    variance: Any
    degrees: Any


def half_width(parts: Sequence[Part], alpha: float) -> Any:
    """Half of the interval at level 1 - alpha; broadcasts over arrays in the parts.

    Parts without degrees of freedom must be left out.

    Example:
        >>> round(float(half_width([Part(1.0, 2), Part(1.0, 1000)], 0.05)), 2)
        4.73
    """
    total: Any = 0.0
    for part in parts:
        total = np.hypot(total, special.stdtrit(part.degrees, alpha / 2) * np.sqrt(part.variance))
    return total


def p_value(mean: float, parts: Sequence[Part]) -> float:
    """Two-sided p-value of a mean of 0: the level at which the interval ends there.

    Args:
        mean: The mean.
        parts: Parts of its variance, not all 0.

    Example:
        >>> parts = [Part(1.0, 2), Part(1.0, 1000)]
        >>> round(p_value(4.7299, parts), 3)
        0.05
    """
    there = [part for part in parts if part.variance > 0]
    if len(there) == 1:
        (one,) = there
        return 2 * float(special.stdtr(one.degrees, -abs(mean) / math.sqrt(one.variance)))
    if mean == 0:
        return 1.0
    if float(half_width(there, _LEAST_P)) <= abs(mean):
        return _LEAST_P

    def beyond(log_level: float) -> float:
        return float(half_width(there, math.exp(log_level))) - abs(mean)

    return math.exp(optimize.brentq(beyond, math.log(_LEAST_P), 0.0))


def over_splits(
    values: NDArray[np.float64], splits: Sequence[object], test_over_train: float
) -> tuple[float, float, float]:
    """Nadeau and Bengio's variance of a mean over redrawn splits: its two summands and degrees of freedom.

    Repeats on one and the same split are no further splits: their values are averaged first.

    Args:
        values: One value per repeat, [R].
        splits: What tells the splits of the repeats apart, R of them.
        test_over_train: Rows in test over rows in training.

    Returns:
        s^2 / R, s^2 * test_over_train, R - 1; all 0 with fewer than two splits.

    Example:
        >>> over_splits(np.array([1.0, 2.0, 3.0]), [0, 1, 2], 0.5)
        (0.3333333333333333, 0.5, 2.0)
        >>> over_splits(np.array([0.5, 3.0, 1.5, 3.0]), ["a", "b", "a", "b"], 1.0)
        (1.0, 2.0, 1.0)
    """
    first = {split: number for number, split in reversed(list(enumerate(splits)))}
    _, of, counts = np.unique([first[split] for split in splits], return_inverse=True, return_counts=True)
    if len(counts) < 2:
        return 0.0, 0.0, 0.0
    spread = float((np.bincount(of, weights=values) / counts).var(ddof=1))
    shares = counts / counts.sum()
    return spread * float((shares**2).sum()), spread * test_over_train, len(counts) - 1.0
