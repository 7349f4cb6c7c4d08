"""The average relative improvement over training alone, "Delta m" in the literature, with its interval.

Over T judged tasks, with the means M_t of a cell and B_t of the tasks alone on test, and l_t = 1 where less
is better (Maninis et al. 2019, "Attentive single-tasking of multiple tasks"; Vandenhende et al. 2021, "Multi-
task learning for dense prediction tasks: a survey"):

    Delta m = 100 / T * sum over t of (-1)^l_t (M_t - B_t) / B_t    (in %)

A share of B_t means something only where B_t is well above 0: tasks whose baseline is not (an R2 near 0, a
failure rate of 0) are left out and named. Its interval is made as that of a gain (`statistics.py`): over
resamples of the test's groups every M_t and B_t is taken anew, all tasks under the same weights; between
repeats r the ratio is linearised, z_r = mean over t of (-1)^l_t (m_tr / B_t - M_t b_tr / B_t^2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom.metrics import METRICS, Summary
from taskloom.study.cells import SINGLE_TASK
from taskloom.study.design import same_folds
from taskloom.study.gains import Gain
from taskloom.study.resampling import NO_DRAWS, Draws, Resampling, support
from taskloom.study.statistics import Splits, corrected, gain_of
from taskloom.study.verdicts import Groups, are_resampled, scores_of
from taskloom.tasks import Task, TaskSet

Floats = NDArray[np.float64]
METRIC = "delta_m"
LEAST_ERRORS = 3.0
"""A baseline that is fewer of its standard errors above 0 is near 0."""


@dataclass(frozen=True)
class Improvement:
    """Delta m of every cell that trains all judged tasks.

    Args:
        name: What reports call it, "average relative gain, 3 tasks".
        tasks: The tasks that it is the mean over.
        left_out: Judged tasks that are not among them, each with its reason.
        gains: One per cell, in %.
        chosen: The cell with the best Delta m on validation.
    """

    name: str
    tasks: tuple[str, ...]
    left_out: tuple[str, ...]
    gains: tuple[Gain, ...]
    chosen: str


@dataclass(frozen=True)
class _Side:
    """What one task reached, alone and in every cell, by cell id and repeat."""

    sign: float
    values: Mapping[str, Mapping[int, float]]
    resampled: Mapping[str, Mapping[int, Floats]]
    validation: Mapping[str, Mapping[int, float]]
    parts: NDArray[np.int64]


def average_improvement(
    folder: Path, tasks: TaskSet, facts: Mapping[str, Any], done: Groups
) -> Improvement | None:
    """Delta m of a study's cells; None where fewer than two tasks can be compared in any of them.

    Args:
        folder: The study's folder.
        tasks: The study's tasks.
        facts: See `study_facts` of `taskloom.study.prepare`.
        done: The finished runs.
    """
    judged = [task for task in tasks.values() if task.judged]
    cells = [
        cell["id"]
        for cell in facts["cells"]
        if all(task.name in cell["tasks"] and done.get((cell["id"], task.name)) for task in judged)
    ]
    if len(judged) < 2 or not cells or not all(done.get((SINGLE_TASK, task.name)) for task in judged):
        return None
    labelled = _labelled(folder, facts, done, judged)
    sides = {task.name: _read(folder, done, task, cells, labelled) for task in judged}
    reasons = {name: _why_not(name, tasks[name], side) for name, side in sides.items()}
    kept = [name for name in sides if not reasons[name]]
    if len(kept) < 2:
        return None
    name = f"average relative gain, {len(kept)} tasks"
    compared = [sides[name] for name in kept]
    groups = 0 if labelled is None else int(labelled.sum())
    gains = [_gain(name, cell, compared, facts, groups) for cell in cells]
    on_validation = {cell: _mean_change(compared, cell, validation=True) for cell in cells}
    known = {cell: value for cell, value in on_validation.items() if not math.isnan(value)}
    chosen = max(known, key=lambda cell: known[cell]) if known else ""
    left_out = tuple(reason for reason in reasons.values() if reason)
    return Improvement(name, tuple(kept), left_out, tuple(corrected(gains)), chosen)


def relative_change(sign: float, ours: Any, alone: Any) -> Any:
    """(-1)^l (M - B) / B in %; broadcasts.

    Example:
        >>> relative_change(1.0, 0.75, 0.5), relative_change(-1.0, 4.5, 5.0)  # accuracy, MAE
        (50.0, 10.0)
    """
    return 100 * sign * (ours - alone) / alone


def _labelled(
    folder: Path, facts: Mapping[str, Any], done: Groups, judged: Sequence[Task]
) -> NDArray[np.bool_] | None:
    """Groups with a label of any task, [G]; None where the test's groups are not resampled."""
    if not are_resampled(facts):
        return None
    counts = [
        METRICS[task.primary_metric].label_counts(next(iter(summaries.values())))
        for task in judged
        if (summaries := _summaries(folder, done, task, SINGLE_TASK))
    ]
    return np.any([count > 0 for count in counts], axis=0) if counts else None


def _summaries(folder: Path, done: Groups, task: Task, cell: str) -> Mapping[int, Summary]:
    return scores_of(folder, done[cell, task.name], task.name, task.primary_metric, groups=True).summaries


def _read(
    folder: Path,
    done: Groups,
    task: Task,
    cells: Sequence[str],
    labelled: NDArray[np.bool_] | None,
) -> _Side:
    """One task's values; its runs' summaries are let go of, what they give under the resamples is kept."""
    name, metric = task.name, task.primary_metric
    resampling = Resampling(metric)
    values, validation = {}, {}
    resampled: dict[str, dict[int, Floats]] = {}
    parts = np.zeros(0, dtype=np.int64)
    for cell in (SINGLE_TASK, *cells):
        runs = done[cell, name]
        scores = scores_of(folder, runs, name, metric, groups=labelled is not None)
        on_validation = scores_of(folder, runs, name, metric, groups=False, part="validation")
        values[cell], validation[cell] = _defined(scores.values), _defined(on_validation.values)
        resampled[cell] = {}
        for repeat, summary in scores.summaries.items():
            assert labelled is not None
            resampled[cell][repeat] = resampling.values(summary, labelled)
            parts = METRICS[metric].part_counts(summary)
    sign = 1.0 if METRICS[metric].higher_is_better else -1.0
    return _Side(sign, values, resampled, validation, parts)


def _defined(values: Mapping[int, float]) -> dict[int, float]:
    return {repeat: value for repeat, value in values.items() if not np.isnan(value)}


def _why_not(name: str, task: Task, side: _Side) -> str:
    """Why a task has no relative change, "" where it has."""
    alone = np.array(list(side.values[SINGLE_TASK].values()))
    if not len(alone):
        return f"{name} (no value alone)"
    variance = float(alone.var(ddof=1)) / len(alone) if len(alone) > 1 else 0.0
    if side.resampled[SINGLE_TASK]:
        mean = np.mean(list(side.resampled[SINGLE_TASK].values()), axis=0)
        variance += float(np.nanvar(mean))
    if alone.mean() > LEAST_ERRORS * math.sqrt(variance):
        return ""
    return f"{name} (alone its {task.primary_metric} is {alone.mean():.3g}, too near 0 to be divided by)"


def _common(sides: Sequence[_Side], cell: str) -> list[int]:
    """Repeats in which every task has a value, alone and in the cell."""
    found = [set(side.values[each]) for side in sides for each in (SINGLE_TASK, cell)]
    return sorted(set.intersection(*found))


def _mean_change(sides: Sequence[_Side], cell: str, *, validation: bool) -> float:
    changes = []
    for side in sides:
        values = side.validation if validation else side.values
        common = values[cell].keys() & values[SINGLE_TASK].keys()
        if not common:
            return math.nan
        ours, alone = (np.mean([values[each][r] for r in sorted(common)]) for each in (cell, SINGLE_TASK))
        changes.append(relative_change(side.sign, ours, alone) if alone else math.nan)
    return float(np.mean(changes))


def _gain(name: str, cell: str, sides: Sequence[_Side], facts: Mapping[str, Any], num_groups: int) -> Gain:
    repeats = _common(sides, cell)
    planned = sorted({r for side in sides for each in (SINGLE_TASK, cell) for r in side.values[each]})
    notes = [] if len(repeats) == len(planned) else [f"over the {len(repeats)} repeats that all tasks have"]
    if not repeats:
        notes = ["no repeat in which all tasks have a value on both sides"]
        return gain_of(name, METRIC, cell, np.zeros(0), repeats, None, NO_DRAWS, notes, scale=[])
    changes, linear, draws = [], [], []
    for side in sides:
        ours, alone = (np.array([side.values[each][r] for r in repeats]) for each in (cell, SINGLE_TASK))
        base = alone.mean()
        changes.append(relative_change(side.sign, ours.mean(), base))
        # Of mean 0: the ratio of means follows the repeats as their linear function does.
        around = 100 * side.sign * (ours / base - ours.mean() * alone / base**2)
        linear.append(changes[-1] + around)
        if side.resampled[cell]:
            again = [
                np.mean([side.resampled[each][r] for r in repeats], axis=0) for each in (cell, SINGLE_TASK)
            ]
            # A resample in which a task alone comes to 0 has no share: `_draws` leaves it out.
            with np.errstate(divide="ignore", invalid="ignore"):
                draws.append(relative_change(side.sign, *again))
    ratio = facts["test_over_train"]
    splits = None if ratio is None else Splits(ratio, same_folds(facts))
    groups = _draws(np.mean(draws, axis=0), sides, num_groups, notes) if draws else NO_DRAWS
    # 100 %: what the changes are shares of.
    return gain_of(name, METRIC, cell, np.mean(linear, axis=0), repeats, splits, groups, notes, scale=[100.0])


def _draws(resampled: Floats, sides: Sequence[_Side], num_groups: int, notes: list[str]) -> Draws:
    """Variance of Delta m over resamples of the test's groups [B]."""
    defined = resampled[np.isfinite(resampled)]
    if len(defined) < len(resampled) / 2 or num_groups < 2:
        notes.append("the interval says nothing about other test data")
        return Draws(0.0, num_groups, 0.0)
    factor, degrees = support(np.concatenate([side.parts for side in sides]), num_groups)
    return Draws(float(defined.var(ddof=1)) * factor, num_groups, degrees)
