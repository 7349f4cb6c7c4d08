"""What would make a gain surer: about how many repeats or groups would halve its interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom.study.gains import Gain, Source
from taskloom.study.intervals import Part, half_width
from taskloom.study.statistics import LEAST_REPEATS

Floats = NDArray[np.float64]

_SOURCES: dict[Source, str] = {
    "repeats": "Chance in training (the seeds)",
    "clusters": "The choice of the groups in test",
    "overlap": "That the splits of all repeats train on mostly the same rows",
}


@dataclass(frozen=True)
class Advice:
    """About how much more of each would halve the interval; None where no amount of it alone would."""

    repeats: int | None
    clusters: int | None
    text: str


_OF_REDRAWN = "Chance in training and in the draw of the split"


def what_would_help(gain: Gain, *, alpha: float = 0.05, same_folds: int | None = None) -> Advice:
    """Says roughly how many repeats or groups would halve the interval, the other number staying as it is.

    The parts of the variance shrink as 1 / R and 1 / G, and the t quantile falls with the degrees of freedom.
    Both parts are themselves estimates, from few repeats poor ones: a plan, not a promise.

    Args:
        gain: A gain from `compare`.
        alpha: As in `compare`.
        same_folds: Number of folds on which further repeats would test again; None where there are none, or
            they are drawn anew.

    Example:
        >>> from taskloom.study.statistics import Scores, compare
        >>> alone, shared = Scores({0: 0.80, 1: 0.82, 2: 0.81}), Scores({0: 0.84, 1: 0.87, 2: 0.85})
        >>> what_would_help(compare("gender", "accuracy", alone, {"hard": shared})["hard"]).repeats
        5
    """
    if np.isnan(gain.gain):
        return Advice(None, None, "")
    if np.isnan(gain.low) or gain.standard_error == 0:
        return Advice(None, None, _without_spread(gain.num_repeats))
    half = (gain.high - gain.low) / 4
    more = np.unique(np.geomspace(1, 1000, 2000))
    repeats = clusters = None
    if gain.degrees_repeats > 0:
        numbers = np.unique(np.ceil((gain.degrees_repeats + 1) * more))  # repeats, or folds tested on
        repeats = _first(numbers, _half_width(gain, numbers, gain.num_clusters, alpha) <= half)
    if gain.variance_clusters > 0:
        numbers = np.unique(np.ceil(gain.num_clusters * more))
        clusters = _first(numbers, _half_width(gain, gain.num_repeats, numbers, alpha) <= half)
    return Advice(repeats, clusters, _advice_text(gain, repeats, clusters, same_folds))


def _without_spread(num_repeats: int) -> str:
    if num_repeats < LEAST_REPEATS:
        return f"No spread could be measured; at least {LEAST_REPEATS} repeats, better 5, are needed."
    return (
        "The gain was the same in every repeat and every group of test, so that no spread could be measured; "
        "more rows in test would show one, if there is one."
    )


def _half_width(gain: Gain, num_repeats: Any, num_clusters: Any, alpha: float) -> Any:
    """Half of the interval with so many repeats (on further splits, where these are drawn) and groups."""
    parts = []
    if gain.degrees_repeats > 0:
        of_repeats = gain.variance_repeats * (gain.degrees_repeats + 1) / num_repeats + gain.variance_overlap
        parts.append(Part(of_repeats, np.asarray(num_repeats, dtype=np.float64) - 1))
    if gain.degrees_clusters > 0:
        times = np.asarray(num_clusters, dtype=np.float64) / gain.num_clusters
        parts.append(Part(gain.variance_clusters / times, (gain.degrees_clusters + 1) * times - 1))
    return half_width(parts, alpha)


def _first(numbers: Floats, enough: NDArray[np.bool_]) -> int | None:
    return int(numbers[np.argmax(enough)]) if enough.any() else None


def _advice_text(gain: Gain, repeats: int | None, clusters: int | None, same_folds: int | None) -> str:
    ways = []
    if repeats is not None:
        # More trainings on the folds that were tested on already say nothing about other splits.
        anew = "" if same_folds is None or repeats <= same_folds else " of folds drawn anew (`redraw: true`)"
        ways.append(f"about {repeats} repeats{anew} instead of {gain.num_repeats}")
    if clusters is not None:
        ways.append(f"about {clusters} labelled groups in test instead of {gain.num_clusters}")
    redrawn = gain.dominant == "repeats" and gain.variance_overlap > 0
    source = f"{_OF_REDRAWN if redrawn else _SOURCES[gain.dominant]} adds most to the doubt"
    if ways:
        return f"{source}; {' or '.join(ways)} would halve the interval."
    if gain.variance_overlap > 0:
        return f"{source}; only more data would halve the interval."
    return f"{source}; only more repeats together with more groups in test would halve the interval."
