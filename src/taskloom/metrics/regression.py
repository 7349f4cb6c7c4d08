"""MAE, MSE, RMSE, R2 and concordance in the task's unit: sums per group."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from taskloom.metrics.base import (
    METRICS,
    Floats,
    Metric,
    Rows,
    Summary,
    mean_of_defined,
    ratio,
    sum_by_group,
    weighted_total,
)
from taskloom.tasks import Regression, Task

# Labels whose variance is below this share of their mean square about the task's centre are all equal: what
# is left of it is rounding.
_ROUNDING = 1e-12


class _ErrorMetric(Metric):
    """Summary: `rows` [G] counts; sums [G, D] of one function of the errors.

    Predictions are `task.decode(outputs)`, so clipped to the task's range. A vector's metric is the mean of
    its D entries' metrics.
    """

    higher_is_better: ClassVar[bool] = False

    def unit(self, task: Task) -> str:
        return task.unit if isinstance(task, Regression) else ""

    def label_counts(self, summary: Summary) -> NDArray[np.int64]:
        counts: NDArray[np.int64] = summary["rows"]
        return counts

    def _summarize(self, task: Task, rows: Rows) -> Summary:
        if not isinstance(task, Regression):
            raise TypeError(f"task {task.name}: {self.name} is for a regression, found a {task.kind} task")
        present = rows.present.numpy()
        groups = rows.groups[present]
        predicted = task.decode(rows.outputs.double()).reshape(-1, task.size).numpy()[present]
        # Targets about the task's centre: squares of large values would lose their digits in R2.
        target = rows.values.double().reshape(-1, task.size).numpy()[present] - task.center
        errors = predicted - task.center - target
        sums = {
            key: sum_by_group(groups, rows.num_groups, columns)
            for key, columns in self._columns(errors, target).items()
        }
        return {"rows": np.bincount(groups, minlength=rows.num_groups), **sums}

    def _columns(self, errors: Floats, target: Floats) -> dict[str, Floats]:  # noqa: ARG002
        """What is summed: arrays [M, D] by name."""
        return {"squared": errors**2}

    def _mean(self, summary: Summary, key: str, weights: Floats) -> Floats:
        """Mean of one sum over the rows, [B, D]."""
        rows = weighted_total(weights, summary["rows"])
        return ratio(weighted_total(weights, summary[key]), rows[:, None])


class MeanAbsoluteError(_ErrorMetric):
    """Mean absolute error, in the task's unit."""

    name = "mae"

    def _columns(self, errors: Floats, target: Floats) -> dict[str, Floats]:  # noqa: ARG002
        return {"absolute": np.abs(errors)}

    def _evaluate(self, summary: Summary, weights: Floats) -> Floats:
        return mean_of_defined(self._mean(summary, "absolute", weights))


class MeanSquaredError(_ErrorMetric):
    """Mean squared error, in the task's unit squared."""

    name = "mse"

    def unit(self, task: Task) -> str:
        unit = super().unit(task)
        return f"{unit}²" if unit else ""

    def _evaluate(self, summary: Summary, weights: Floats) -> Floats:
        return mean_of_defined(self._mean(summary, "squared", weights))


class RootMeanSquaredError(_ErrorMetric):
    """Root of the mean squared error, in the task's unit; of a vector, the mean of its entries' roots."""

    name = "rmse"

    def _evaluate(self, summary: Summary, weights: Floats) -> Floats:
        return mean_of_defined(np.sqrt(self._mean(summary, "squared", weights)))


class R2(_ErrorMetric):
    """Coefficient of determination, 1 - (sum of squared errors) / (sum of squares about the labels' mean).

    NaN where all labels are equal; of a vector, the mean over the entries that have a value.
    """

    name = "r2"
    higher_is_better: ClassVar[bool] = True

    def unit(self, task: Task) -> str:  # noqa: ARG002
        return ""

    def _columns(self, errors: Floats, target: Floats) -> dict[str, Floats]:
        return {"squared": errors**2, "target": target, "target_squared": target**2}

    def _evaluate(self, summary: Summary, weights: Floats) -> Floats:
        squared, target, target_squared = (
            self._mean(summary, key, weights) for key in ("squared", "target", "target_squared")
        )
        variance = target_squared - target**2
        variance = np.where(variance > _ROUNDING * target_squared, variance, 0.0)
        return mean_of_defined(1 - ratio(squared, variance))


class Concordance(_ErrorMetric):
    """Concordance correlation coefficient (Lin 1989), of valence and arousal in paper 003.

    2 cov(y, p) / (var(y) + var(p) + (mean(y) - mean(p))^2) with labels y and predictions p, variances over
    all rows: 1 where they are equal, less than a correlation where their means or spreads differ. NaN where
    labels and predictions are all one number; of a vector, the mean over its entries.
    """

    name = "ccc"
    higher_is_better: ClassVar[bool] = True

    def unit(self, task: Task) -> str:  # noqa: ARG002
        return ""

    def _columns(self, errors: Floats, target: Floats) -> dict[str, Floats]:
        predicted = errors + target
        return {
            "target": target,
            "predicted": predicted,
            "target_squared": target**2,
            "predicted_squared": predicted**2,
            "product": target * predicted,
        }

    def _evaluate(self, summary: Summary, weights: Floats) -> Floats:
        target, predicted, target_squared, predicted_squared, product = (
            self._mean(summary, key, weights)
            for key in ("target", "predicted", "target_squared", "predicted_squared", "product")
        )
        # var(y) + var(p) + (mean(y) - mean(p))^2 = mean(y^2) + mean(p^2) - 2 mean(y) mean(p)
        squares = target_squared + predicted_squared
        spread = squares - 2 * target * predicted
        spread = np.where(spread > _ROUNDING * squares, spread, 0.0)
        return mean_of_defined(ratio(2 * (product - target * predicted), spread))


for _metric in (MeanAbsoluteError(), MeanSquaredError(), RootMeanSquaredError(), R2(), Concordance()):
    METRICS.register(_metric.name)(_metric)
