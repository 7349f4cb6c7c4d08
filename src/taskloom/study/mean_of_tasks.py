"""The mean of one metric over several tasks, as something whose groups can be resampled.

Twelve assays that each gain a little, none beyond doubt, can be beyond doubt together. The tasks share rows
and networks, so their gains are not independent: the mean is resampled as one number, every task under the
same weights of the test's groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from taskloom.metrics import METRICS, Summary

Floats = NDArray[np.float64]
_BETWEEN = "\n"  # no task and no array of a summary has a line break in its name


class MeanOfTasks:
    """Mean of a metric over tasks, each counted once; NaN where it is undefined for one of them.

    Args:
        metric: The metric that all the tasks are judged by.
        tasks: Their names.

    Example:
        >>> summary = {"rows": np.ones(2, dtype=np.int64), "squared": np.array([[1.0], [3.0]])}
        >>> mean = MeanOfTasks("mse", ["a", "b"])
        >>> joined = mean.join({"a": summary, "b": {**summary, "squared": np.array([[5.0], [7.0]])}})
        >>> mean.evaluate(joined, np.array([[1.0, 1.0], [1.0, 0.0]]))
        array([4., 3.])
    """

    def __init__(self, metric: str, tasks: Sequence[str]) -> None:
        self.metric = METRICS[metric]
        self.name = f"mean {metric}"
        self.tasks = tuple(tasks)

    def join(self, summaries: Mapping[str, Summary]) -> Summary:
        """One summary from those of all tasks of one run."""
        return {
            f"{task}{_BETWEEN}{key}": array for task in self.tasks for key, array in summaries[task].items()
        }

    def label_counts(self, summary: Summary) -> NDArray[np.int64]:
        """Number of labels of all tasks together, per group, [G]."""
        counts = [self.metric.label_counts(part) for part in self._parts(summary)]
        total: NDArray[np.int64] = np.sum(counts, axis=0)
        return total

    def part_counts(self, summary: Summary) -> NDArray[np.int64]:
        """Numbers of groups behind the parts of every task's metric; see `Metric.part_counts`."""
        return np.concatenate([self.metric.part_counts(part) for part in self._parts(summary)])

    def evaluate(self, summary: Summary, weights: Floats) -> Floats:
        """Mean over the tasks under weights of the groups, [B, G] to [B]."""
        values: Floats = np.mean(
            [self.metric.evaluate(part, weights) for part in self._parts(summary)], axis=0
        )
        return values

    def _parts(self, summary: Summary) -> list[Summary]:
        parts: dict[str, Summary] = {task: {} for task in self.tasks}
        for name, array in summary.items():
            task, key = name.split(_BETWEEN)
            parts[task][key] = array
        return list(parts.values())
