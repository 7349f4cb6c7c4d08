"""Did sharing help? Gains over the single-task baseline, paired by repeat, with intervals and verdicts.

Repeat r of a cell and repeat r of the baseline share seed and split; their difference is one paired gain
d_r, signed so that positive is better. The gain is the mean of the d_r over R repeats. How far to trust it
depends on what a repeat draws anew:

**Fixed test set** (`test_over_train=None`): repeats differ in the seed of training alone. Two sources of
chance are added, the seeds and the test set:

    s^2 / R with R - 1 degrees of freedom, and the variance of the mean gain over resamples of the groups

s^2 is the sample variance of the d_r. Each of B resamples draws G groups with replacement (a row's group is
its person, trial or molecule) and gives cell and baseline the same weights; `resampling.support` makes the
bootstrap's variance unbiased for few groups (G / (G - 1), with G - 1 degrees of freedom, where the metric is
one mean over them) and for rare classes. What the seeds do differently to different groups is counted in both
parts, which widens the interval. Interval and p-value are Banerjee's (`intervals.py`): at least their level
whatever the parts are to each other, also at the small levels of Holm's correction.

**Split redrawn in every repeat** (`test_over_train` = rows in test / rows in training; also for k folds):
the d_r are not independent because their training sets overlap. Variance by Nadeau and Bengio, "Inference
for the generalization error" (Machine Learning 52, 2003), equation for the corrected resampled t-test:

    variance = s^2 * (1 / R + n_test / n_train),    R - 1 degrees of freedom

Repeats that test on the same folds again (`same_folds`) are no further splits: the d_r of a fold are averaged
first, R is the number of folds tested on, and with n_k of N repeats on fold k, 1 / R is sum (n_k / N)^2.

A verdict needs a p-value below alpha after Holm's correction over the cells of the task, and at least three
repeats that both sides finished (`LEAST_REPEATS`), in either design. How often verdicts and intervals are
wrong was simulated: docs/statistics.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from taskloom.metrics import METRICS
from taskloom.study.gains import Gain, Scores, Source, Verdict
from taskloom.study.intervals import Part, half_width, over_splits
from taskloom.study.intervals import p_value as p_value_of
from taskloom.study.resampling import NO_DRAWS, Draws, Resampling

__all__ = [
    "LEAST_REPEATS",
    "Gain",
    "Scores",
    "choose_on_validation",
    "compare",
    "corrected",
    "holm",
]

LEAST_REPEATS = 3
"""A verdict needs that many repeats on both sides."""

Floats = NDArray[np.float64]

_WITHOUT_INTERVAL = "fewer than two repeats (or folds) and fewer than two groups in test: no interval"

# A standard error below this share of the values compared is rounding, not spread.
_ROUNDING = 1e-12


def compare(
    task: str,
    metric: str,
    baseline: Scores,
    cells: Mapping[str, Scores],
    *,
    test_over_train: float | None = None,
    same_folds: int | None = None,
    alpha: float = 0.05,
    num_resamples: int = 1000,
    seed: int = 0,
    resampling: Resampling | None = None,
) -> dict[str, Gain]:
    """Compares every cell with the single-task baseline of one task, or with another cell.

    Args:
        task: The task's name.
        metric: The metric's name, from `METRICS`; it decides which direction is better.
        baseline: The single-task runs, or those of the cell that the others are compared with.
        cells: The runs of each cell.
        test_over_train: None: one fixed test set. Else the split is redrawn in every repeat, and this is the
            number of test rows over the number of training rows; k folds have 1 / (k - 1).
        same_folds: Number of folds of a cross-validation that is the same each time round: repeat r tests on
            fold r modulo that. None: no two repeats have the same split.
        alpha: Level of the verdicts; the interval's level is 1 - alpha.
        num_resamples: Resamples of the test's groups.
        seed: Seed of the resampling.
        resampling: What resamples them instead, by the metric or by a mean over several tasks: kept from
            comparison to comparison it resamples every run once.

    Returns:
        One gain per cell, in the order of `cells`.

    Raises:
        ConfigError: An unknown metric.
        ValueError: A `test_over_train` that is not above 0, or summaries of different test sets.

    Example:
        >>> alone = Scores({0: 0.80, 1: 0.82, 2: 0.81})
        >>> shared = Scores({0: 0.84, 1: 0.87, 2: 0.85})
        >>> gain = compare("gender", "accuracy", alone, {"hard_sharing": shared})["hard_sharing"]
        >>> f"{gain.gain:.3f} [{gain.low:.3f}, {gain.high:.3f}] {gain.verdict}"
        '0.043 [0.029, 0.058] helped'
    """
    if test_over_train is not None and not test_over_train > 0:
        raise ValueError(f"test_over_train above 0 expected, found {test_over_train}")
    resampling = resampling or Resampling(metric, num_resamples, seed)
    splits = None if test_over_train is None else Splits(test_over_train, same_folds)
    single = [
        _one_gain(task, metric, baseline, name, scores, splits, alpha, resampling)
        for name, scores in cells.items()
    ]
    return {gain.cell: gain for gain in corrected(single, alpha)}


def corrected(gains: Sequence[Gain], alpha: float = 0.05) -> list[Gain]:
    """The same gains with p-values and verdicts for being several together, by `holm`.

    Args:
        gains: Gains of one task.
        alpha: Level of the verdicts.
    """
    adjusted = holm([gain.p_value for gain in gains])
    return [
        dataclasses.replace(gain, p_adjusted=p, verdict=_verdict(gain, p, alpha))
        for gain, p in zip(gains, adjusted, strict=True)
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusts p-values for being several, by Holm's step-down method (Scandinavian J. Statistics 6, 1979).

    The i-th smallest of m p-values is multiplied by m - i + 1; no adjusted value is below a smaller one's,
    none above 1. NaN (no test made) stays NaN and does not count among the m.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    p[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return [float(value) for value in p]


def choose_on_validation(
    validation: Mapping[str, Mapping[str, Mapping[int, float]]], metrics: Mapping[str, str]
) -> dict[str, str]:
    """Chooses for each task the cell with the best mean validation metric. Test values have no place here.

    Cells are compared on the repeats that all of them finished. A cell with so few that no repeat would be
    common to all is left out, the one with the fewest repeats first.

    Args:
        validation: Validation metric by task, cell and repeat. Failed runs are missing, or NaN.
        metrics: Metric by task.

    Returns:
        The chosen cell by task; the first of equals. Tasks without any finished run are left out.

    Example:
        >>> choose_on_validation({"age": {"a": {0: 5.0, 1: 6.0}, "b": {0: 4.0, 1: 5.5}}}, {"age": "mae"})
        {'age': 'b'}
    """
    chosen = {}
    for task, cells in validation.items():
        finished = {cell: _defined(values) for cell, values in cells.items()}
        common: set[int] = set()
        compared: list[str] = []
        for cell in sorted(finished, key=lambda name: -len(finished[name])):
            shared = common & finished[cell].keys() if compared else set(finished[cell])
            if shared:
                common = shared
                compared.append(cell)
        if compared:
            sign = _sign(metrics[task])
            means = {
                cell: sign * float(np.mean([finished[cell][repeat] for repeat in sorted(common)]))
                for cell in finished
                if cell in compared
            }
            chosen[task] = max(means, key=lambda cell: means[cell])
    return chosen


def _one_gain(
    task: str,
    metric: str,
    baseline: Scores,
    cell: str,
    scores: Scores,
    splits: Splits | None,
    alpha: float,
    resampling: Resampling,
) -> Gain:
    """The gain of one cell before the correction for several."""
    repeats, notes = _common_repeats(baseline, scores)
    sign = _sign(metric)
    ours = np.array([scores.values[repeat] for repeat in repeats], dtype=np.float64)
    alone = np.array([baseline.values[repeat] for repeat in repeats], dtype=np.float64)
    gains = sign * (ours - alone)
    draws = NO_DRAWS
    if repeats and (splits is None or len(repeats) == 1):
        pairs = [(scores.summaries.get(repeat), baseline.summaries.get(repeat)) for repeat in repeats]
        draws = resampling.variance(pairs, notes)
    found = gain_of(
        task, metric, cell, gains, repeats, splits, draws, notes, scale=[*ours, *alone], alpha=alpha
    )
    if not repeats:
        return found
    return dataclasses.replace(found, baseline_value=float(alone.mean()), cell_value=float(ours.mean()))


def gain_of(
    task: str,
    metric: str,
    cell: str,
    gains: Floats,
    repeats: Sequence[int],
    splits: Splits | None,
    draws: Draws,
    notes: Sequence[str],
    *,
    scale: Sequence[float],
    alpha: float = 0.05,
) -> Gain:
    """The gain that paired gains of repeats come to, before any correction and without the values compared.

    Args:
        task, metric, cell: What is compared.
        gains: One per repeat, [R].
        repeats: Their numbers.
        splits: How the splits of the repeats are redrawn; None: there is one.
        draws: What the draw of the test's groups does to the mean.
        notes: What is known beside it already.
        scale: Values of the size of those compared, against which rounding is told from spread.
        alpha: 1 less the interval's level.
    """
    number, said = len(repeats), list(notes)
    variances = _variances(gains, repeats, splits, draws)
    mean = float(gains.mean()) if number else np.nan
    if number == 1:
        said.append("one repeat: the interval says nothing about other training seeds")
    if 0 < number < LEAST_REPEATS:
        said.append(f"a verdict needs {LEAST_REPEATS} repeats, there {_is_or_are(number)}")
    low, high, p_value = _interval(mean, variances, max(map(abs, scale), default=0.0), alpha, said)
    return Gain(
        task=task,
        metric=metric,
        cell=cell,
        baseline_value=np.nan,
        cell_value=np.nan,
        gain=mean,
        low=low,
        high=high,
        p_value=p_value,
        p_adjusted=np.nan,
        verdict="no difference shown",
        num_repeats=number,
        num_clusters=variances.num_clusters,
        variance_repeats=variances.repeats,
        variance_clusters=variances.clusters,
        variance_overlap=variances.overlap,
        degrees_repeats=variances.degrees_repeats,
        degrees_clusters=variances.degrees_clusters,
        dominant=variances.dominant,
        note="; ".join(said),
    )


@dataclass(frozen=True)
class _Variances:
    """The parts of a mean gain's variance and their degrees of freedom; repeats and overlap have the same."""

    repeats: float
    clusters: float
    overlap: float
    num_clusters: int
    degrees_repeats: float
    degrees_clusters: float

    @property
    def parts(self) -> list[Part]:
        """Those that are known at all."""
        found = [
            Part(self.repeats + self.overlap, self.degrees_repeats),
            Part(self.clusters, self.degrees_clusters),
        ]
        return [part for part in found if part.degrees > 0]

    @property
    def dominant(self) -> Source:
        parts: dict[Source, float] = {
            "repeats": self.repeats,
            "clusters": self.clusters,
            "overlap": self.overlap,
        }
        return max(parts, key=lambda part: parts[part]) if max(parts.values()) > 0 else ""


class Splits(NamedTuple):
    """How splits are redrawn; see `compare`."""

    test_over_train: float
    same_folds: int | None

    def folds_of(self, repeats: Sequence[int]) -> list[int]:
        """What tells the splits of the repeats apart."""
        return [repeat if self.same_folds is None else repeat % self.same_folds for repeat in repeats]


def _variances(gains: Floats, repeats: Sequence[int], splits: Splits | None, draws: Draws) -> _Variances:
    """Variance of the mean of paired gains [R]. A single repeat has one test set, however it was drawn."""
    number = len(repeats)
    if number == 0:
        return _Variances(0.0, 0.0, 0.0, 0, 0.0, 0.0)
    if splits is not None and number > 1:
        of_repeats, overlap, degrees = over_splits(gains, splits.folds_of(repeats), splits.test_over_train)
        return _Variances(of_repeats, 0.0, overlap, 0, degrees, 0.0)
    spread = float(gains.var(ddof=1)) if number > 1 else 0.0
    return _Variances(spread / number, draws.variance, 0.0, draws.num_clusters, number - 1.0, draws.degrees)


def _interval(
    mean: float, variances: _Variances, scale: float, alpha: float, notes: list[str]
) -> tuple[float, float, float]:
    """Interval and two-sided p-value of a mean gain; NaN where nothing can be said.

    `scale` is the size of the values compared, against which rounding is told from spread.
    """
    parts = variances.parts
    if np.isnan(mean) or not parts:
        if not np.isnan(mean):
            notes.append(_WITHOUT_INTERVAL)
        return np.nan, np.nan, np.nan
    error = float(np.sqrt(sum(part.variance for part in parts)))
    if error <= _ROUNDING * scale:
        # All paired gains equal: chance was not seen, which does not mean that there is none. Where they are
        # 0, the test was made all the same (p = 1), and counts among those that Holm corrects for.
        notes.append("the same gain in every repeat and group: its spread cannot be estimated, no interval")
        return np.nan, np.nan, 1.0 if abs(mean) <= _ROUNDING * scale else np.nan
    half = float(half_width(parts, alpha))
    return mean - half, mean + half, p_value_of(mean, parts)


def _common_repeats(baseline: Scores, scores: Scores) -> tuple[list[int], list[str]]:
    """Repeats with a value on both sides, and a note on those that were left out."""
    ours, alone = _defined(scores.values), _defined(baseline.values)
    common = sorted(ours.keys() & alone.keys())
    everything = sorted(scores.values.keys() | baseline.values.keys())
    left_out = [str(repeat + 1) for repeat in everything if repeat not in common]  # people count from 1
    if not common:
        return common, ["no repeat in which both sides have a value"]
    if left_out:
        return common, [
            f"paired on {len(common)} of {len(everything)} repeats: a run or its value is missing in repeat "
            + ", ".join(left_out)
        ]
    return common, []


def _defined(values: Mapping[int, float]) -> dict[int, float]:
    return {repeat: value for repeat, value in values.items() if not np.isnan(value)}


def _is_or_are(number: int) -> str:
    return "is 1" if number == 1 else f"are {number}"


def _sign(metric: str) -> float:
    return 1.0 if METRICS[metric].higher_is_better else -1.0


def _verdict(gain: Gain, p_adjusted: float, alpha: float) -> Verdict:
    if gain.num_repeats < LEAST_REPEATS:
        return "no verdict"
    if np.isnan(p_adjusted) or p_adjusted >= alpha:
        return "no difference shown"
    return "helped" if gain.gain > 0 else "hurt"
