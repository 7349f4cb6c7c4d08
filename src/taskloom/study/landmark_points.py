"""Errors and failure rates of single landmarks, alone and with sharing.

As thesis 004 (section 4.2) reports them: the mean error of every landmark, divided by the reference length of
its face (there the width of the boundary box), and the share of faces in which that error is above 5 % and
above 10 %; per landmark and over all of them. Of a face as a whole the error is the mean over its landmarks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from taskloom.metrics.base import checked_rows, ratio, sum_by_group
from taskloom.metrics.landmarks import point_errors, row_errors
from taskloom.study.paired import (
    Decided,
    Floats,
    Row,
    Sample,
    Sides,
    differences_within,
    judged_sides,
    signed,
    surrogate,
    weights_of,
)
from taskloom.study.verdicts import Groups
from taskloom.tasks import Landmarks, TaskSet

MEASURES = ("landmark_error", "failure_rate_5", "failure_rate_10")
OVERALL = "all landmarks"
_THRESHOLDS = (0.05, 0.1)
_LENGTHS = {
    "box": "the square root of the area of the box around the labelled points",
    "sqrt_area": "the square root of the area of the box around the labelled points",
    "box_width": "the width of the box around the labelled points",
    "inter_ocular": "the distance between the eyes",
}


def landmark_tables(
    folder: Path, tasks: TaskSet, facts: Mapping[str, Any], done: Groups, chosen: Mapping[str, str]
) -> list[Row]:
    """Returns one table per judged task of landmarks, for `summary.json`.

    A table: `task`, `cell`, `reference` (what errors are divided by, in words) and `points`: one per landmark
    and one for all of them, each `name`, `labels` and `measures`: per measure of `MEASURES` `alone`, `shared`
    and `gain` (estimates or null; a gain is positive where sharing is better).

    Args:
        folder: The study's folder.
        tasks: Its tasks.
        facts: See `study_facts` of `taskloom.study.prepare`.
        done: Its finished runs.
        chosen: Per task the id of the cell that is best on validation.
    """
    tables = []
    for task, cell, sides in judged_sides(folder, tasks, done, chosen, (Landmarks,)):
        assert isinstance(task, Landmarks)
        test_over_train = facts["test_over_train"] if facts["repeats"] > 1 else None
        points = _points(task, sides, test_over_train)
        tables.append({"task": task.name, "cell": cell, "reference": _reference(task), "points": points})
    return tables


def _reference(task: Landmarks) -> str:
    if isinstance(task.reference, str):
        return _LENGTHS[task.reference]
    if isinstance(task.reference, tuple):
        first, second = (task.class_names[index] for index in task.reference)
        return f"the distance between {first} and {second}"
    return f"{task.reference:g} pixels of the stored image"


def _points(task: Landmarks, sides: Sides, test_over_train: float | None) -> list[Row]:
    samples = {
        side: _samples(task, runs, redrawn=test_over_train is not None)
        for side, runs in sides.items()
        if runs
    }
    first = (sides["alone"] or sides["shared"])[0]
    counts = (~np.isnan(_errors(task, first))).sum(axis=0)
    rows = []
    for position, name in enumerate((*task.class_names, OVERALL)):
        measures = {
            measure: _estimates(
                {side: found[measure][position] for side, found in samples.items()}, measure, test_over_train
            )
            for measure in MEASURES
        }
        rows.append({"name": name, "labels": int(counts[position]), "measures": measures})
    return rows


def _estimates(found: Mapping[str, Sample], measure: str, test_over_train: float | None) -> Row:
    most = np.inf if measure == "landmark_error" else 1.0
    row: Row = {
        side: found[side].estimate(test_over_train, within=(0.0, most)) if side in found else None
        for side in ("alone", "shared")
    }
    both = len(found) == 2
    change = signed(found["shared"] - found["alone"], -1.0) if both else None
    within = differences_within(most)
    return {**row, "gain": None if change is None else change.estimate(test_over_train, within=within)}


def _errors(task: Landmarks, run: Decided) -> Floats:
    """Errors of every row: of each of K points, and of all of them, [N, K + 1]; NaN where undefined."""
    stand_in = surrogate(task)
    assert isinstance(stand_in, Landmarks)
    labels, groups = run.rows.labels, run.rows.groups
    values, present = labels.values[task.name], labels.present[task.name]
    rows = checked_rows(stand_in, run.outputs, values, present, groups, int(groups.max()) + 1)
    return np.concatenate([point_errors(stand_in, rows), row_errors(stand_in, rows)[:, None]], axis=1)


def _samples(task: Landmarks, runs: Sequence[Decided], *, redrawn: bool) -> dict[str, list[Sample]]:
    """Per measure and column of `_errors` its values over repeats and over draws of the clusters."""
    values: dict[str, list[Floats]] = {measure: [] for measure in MEASURES}
    resampled: dict[str, list[Floats]] = {measure: [] for measure in MEASURES}
    clusters = np.zeros(len(task.class_names) + 1, dtype=np.int64)
    for run in runs:
        errors, groups = _errors(task, run), run.rows.groups
        counted, number = ~np.isnan(errors), int(groups.max()) + 1
        counts = sum_by_group(groups, number, counted)
        clusters = (counts > 0).sum(axis=0)
        weights = None if redrawn else weights_of(task, run.rows)
        averaged = [np.where(counted, errors, 0.0), *(errors > limit for limit in _THRESHOLDS)]
        for measure, each in zip(MEASURES, averaged, strict=True):
            sums = sum_by_group(groups, number, each)
            values[measure].append(ratio(sums.sum(axis=0), counts.sum(axis=0)))
            if weights is not None:
                resampled[measure].append(ratio(weights @ sums, weights @ counts))
    return {
        measure: [
            Sample(
                np.array([each[position] for each in values[measure]]),
                np.mean([each[:, position] for each in resampled[measure]], axis=0)
                if len(resampled[measure]) == len(runs)
                else None,
                int(clusters[position]),
                tuple(run.split for run in runs),
            )
            for position in range(len(clusters))
        ]
        for measure in MEASURES
    }
