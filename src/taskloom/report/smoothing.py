"""Local regression over the epochs of a training: the LOESS of thesis 002, section 4.1 [Cle79]."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student


def loess(
    x: ArrayLike, y: ArrayLike, at: ArrayLike | None = None, *, span: float = 0.75
) -> NDArray[np.float64]:
    """Locally weighted linear regression (Cleveland 1979, without the robustness iterations).

    At a point z the q = max(2, floor(span n + 0.5)) nearest points count, with the tricube weights

        w_i = (1 - (|x_i - z| / h)^3)^3,    h = distance of the q-th nearest point,

    and the value there of the line that minimises sum of w_i (y_i - a - b x_i)^2 is the smoothed one. Where
    all weight is on one x, it is the weighted mean.

    Args:
        x, y: The points, [n]; those with an undefined y are left out. Several may share one x.
        at: Where the curve is wanted, [m]; the distinct x where None.
        span: Share of the points that count at each place, in (0, 1].

    Returns:
        Smoothed values, [m]; NaN where no point is left.

    Raises:
        ValueError: A span outside (0, 1], or x and y of different lengths.

    Example:
        >>> loess([1, 2, 3, 4], [2, 4, 6, 8], span=1.0).round(6)  # a line stays a line
        array([2., 4., 6., 8.])
    """
    if not 0 < span <= 1:
        raise ValueError(f"span: a number above 0 and at most 1 expected, found {span}")
    given_x, given_y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if given_x.shape != given_y.shape:
        raise ValueError(f"x and y of one length expected, found {given_x.shape} and {given_y.shape}")
    places = np.unique(given_x) if at is None else np.asarray(at, dtype=np.float64)
    defined = np.isfinite(given_y)
    xs, ys = given_x[defined], given_y[defined]
    if not len(xs):
        return np.full(len(places), np.nan)
    count = min(len(xs), max(2, int(np.floor(span * len(xs) + 0.5))))
    distance = np.abs(xs[None, :] - places[:, None])
    # A hair wider than the q-th nearest point: where all q are equally far, they count alike instead of not.
    reach = np.partition(distance, count - 1, axis=1)[:, count - 1 : count] * (1 + 1e-9)
    # A reach of 0 means that all counted points stand at z.
    relative = np.divide(distance, reach, out=np.where(distance > 0, np.inf, 0.0), where=reach > 0)
    weights = np.clip(1 - relative**3, 0, None) ** 3
    total = weights.sum(axis=1)
    centre = (weights @ xs) / total
    level = (weights @ ys) / total
    spread = (weights * (xs[None, :] - centre[:, None]) ** 2).sum(axis=1)
    slope = (weights * (xs[None, :] - centre[:, None]) * (ys[None, :] - level[:, None])).sum(axis=1)
    # Relative to the scale of x: a spread of rounding errors is none.
    has_slope = spread > 1e-12 * np.maximum(1.0, centre**2) * total
    slope = np.divide(slope, spread, out=np.zeros_like(slope), where=has_slope)
    return np.asarray(level + slope * (places - centre), dtype=np.float64)


def mean_interval(values: ArrayLike, *, level: float = 0.95) -> tuple[float, float]:
    """Mean of values and half the width of its t interval, as thesis 002 has them behind its "±".

    The interval takes the values as drawn independently of each other. Epochs of one training are not, so
    that over epochs it says how steady a training had become, and nothing about another one.

    Args:
        values: The values; undefined ones are left out.
        level: Probability that the interval is to hold.

    Returns:
        Mean and half width; NaN for a mean of nothing, and for the width of fewer than two values.

    Example:
        >>> mean, half = mean_interval([1.0, 2.0, 3.0])
        >>> mean, round(half, 4)
        (2.0, 2.4841)
    """
    kept = np.asarray(values, dtype=np.float64)
    kept = kept[np.isfinite(kept)]
    if not len(kept):
        return float("nan"), float("nan")
    if len(kept) < 2:
        return float(kept.mean()), float("nan")
    error = kept.std(ddof=1) / np.sqrt(len(kept))
    return float(kept.mean()), float(student.ppf((1 + level) / 2, len(kept) - 1) * error)
