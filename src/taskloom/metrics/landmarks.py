"""Mean normalised error of landmarks and the share of rows in which it is too large."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from taskloom.metrics.base import METRICS, Floats, Metric, Rows, Summary, ratio, sum_by_group, weighted_total
from taskloom.tasks import Landmarks, Task
from taskloom.tasks.values import EYES


def row_errors(task: Landmarks, rows: Rows) -> Floats:
    """Error of each row, [M]: mean over its present points of distance / reference length.

    The reference is the task's: a length, the distance between two of the row's points, or the width or the
    square root of the area of the box around its present points. Report 004 (section 4.2) divides by "the
    boundary box width": of the face it cuts where a length is given, of the labelled points with `box_width`.

    Returns:
        NaN for rows without a present point, and for rows whose reference is missing or 0.
    """
    distances, lengths, present = _distances(task, rows)
    mean_distance = ratio(
        np.where(present, distances, 0.0).sum(axis=1), present.sum(axis=1).astype(np.float64)
    )
    return ratio(mean_distance, lengths)


def point_errors(task: Landmarks, rows: Rows) -> Floats:
    """Error of each point of each row, [M, K]: its distance / the row's reference length; see `row_errors`.

    Returns:
        NaN for points that are not present, and in rows whose reference is missing or 0.
    """
    distances, lengths, present = _distances(task, rows)
    return np.where(present, ratio(distances, lengths[:, None]), np.nan)


def _distances(task: Landmarks, rows: Rows) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Distances in pixels [M, K], reference lengths [M], and which points are present [M, K]."""
    points = rows.values.double().numpy()
    present = rows.present.numpy()
    distances = np.linalg.norm(task.decode(rows.outputs.double()).numpy() - points, axis=2)
    return distances, _reference_lengths(task, points, present), present


def _reference_lengths(task: Landmarks, points: Floats, present: NDArray[np.bool_]) -> Floats:
    """Length of one unit of error per row, pixels, [M]; 0 where it cannot be told."""
    if task.reference in ("box", "sqrt_area", "box_width"):
        shown = present[:, :, None]
        lowest = np.where(shown, points, np.inf).min(axis=1)
        highest = np.where(shown, points, -np.inf).max(axis=1)
        sides = np.where(present.any(axis=1, keepdims=True), highest - lowest, 0.0)
        lengths: Floats = sides[:, 0] if task.reference == "box_width" else np.sqrt(sides.prod(axis=1))
        return lengths
    pair = task.reference
    if pair == "inter_ocular":
        pair = (task.class_names.index(EYES[0]), task.class_names.index(EYES[1]))
    if isinstance(pair, tuple):
        first, second = pair
        apart = np.linalg.norm(points[:, first] - points[:, second], axis=1)
        return np.where(present[:, first] & present[:, second], apart, 0.0)
    return np.full(len(points), float(pair))


class _LandmarkMetric(Metric):
    """Summary: `rows` [G], the rows that have an error, and `total` [G, 1], the sum of what is averaged."""

    higher_is_better: ClassVar[bool] = False

    def label_counts(self, summary: Summary) -> NDArray[np.int64]:
        counts: NDArray[np.int64] = summary["rows"]
        return counts

    def _summarize(self, task: Task, rows: Rows) -> Summary:
        if not isinstance(task, Landmarks):
            raise TypeError(f"task {task.name}: {self.name} is for landmarks, found a {task.kind} task")
        errors = row_errors(task, rows)
        counted = ~np.isnan(errors)
        groups = rows.groups[counted]
        averaged = self._averaged(task, errors[counted])
        return {
            "rows": np.bincount(groups, minlength=rows.num_groups),
            "total": sum_by_group(groups, rows.num_groups, averaged[:, None]),
        }

    def _averaged(self, task: Landmarks, errors: Floats) -> Floats:  # noqa: ARG002
        return errors

    def _evaluate(self, summary: Summary, weights: Floats) -> Floats:
        total = weighted_total(weights, summary["total"][:, 0])
        return ratio(total, weighted_total(weights, summary["rows"]))


class LandmarkError(_LandmarkMetric):
    """Mean over rows of the mean normalised distance of their present points; see `row_errors`."""

    name = "landmark_error"


class FailureRate(_LandmarkMetric):
    """Share of rows whose normalised mean error is above the task's threshold."""

    name = "failure_rate"

    def _averaged(self, task: Landmarks, errors: Floats) -> Floats:
        return (errors > task.threshold).astype(np.float64)


class FailureRate5(_LandmarkMetric):
    """Share of rows whose normalised mean error is above 5 % (report 004, section 4.2)."""

    name = "failure_rate_5"
    threshold: ClassVar[float] = 0.05

    def _averaged(self, task: Landmarks, errors: Floats) -> Floats:  # noqa: ARG002
        return (errors > self.threshold).astype(np.float64)


class FailureRate10(FailureRate5):
    """Share of rows whose normalised mean error is above 10 % (Zhang et al. 2014)."""

    name = "failure_rate_10"
    threshold: ClassVar[float] = 0.1


for _metric in (LandmarkError(), FailureRate(), FailureRate5(), FailureRate10()):
    METRICS.register(_metric.name)(_metric)
