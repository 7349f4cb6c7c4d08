"""What a metric is: summaries per group that add up or join, evaluated under weights per group.

A metric is computed in two steps. `summarize` turns outputs and labels into a *summary*: small arrays that
keep the groups (persons, trials, molecules) apart. `evaluate` turns a summary into the metric, optionally
under weights per group. A row weighted with an integer k counts exactly as k copies of it would, so a
cluster bootstrap is one call with the multiplicities of all resamples, and no prediction is looked at
twice.

Undefined is NaN, never 0: no label at all, an AUC without one of its classes, an F1 of classes that occur
neither in the labels nor in the predictions, an R2 of labels that are all equal.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, overload

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from taskloom.errors import DataError, TrainingError
from taskloom.losses import check_shapes
from taskloom.registry import Registry
from taskloom.tasks import Binary, Multiclass, Multilabel, Task

Summary = dict[str, NDArray[Any]]
"""Named arrays. Additive ones have the groups as their first axis; see each metric for the others."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rows:
    """Checked outputs and labels of one task, labels per sample laid out as rows.

    Args:
        outputs: Head outputs, [M, width].
        values: Values, [M, ...].
        present: Which are there, [M] or [M, K].
        groups: Group of each row, [M], 0..num_groups-1.
        num_groups: Number of groups, G.
    """

    outputs: Tensor
    values: Tensor
    present: Tensor
    groups: NDArray[np.int64]
    num_groups: int


class Metric(ABC):
    """A number that judges one task. Subclasses implement `_summarize`, `_evaluate` and `label_counts`."""

    name: ClassVar[str]
    higher_is_better: ClassVar[bool]

    def unit(self, task: Task) -> str:  # noqa: ARG002 - most metrics have none, whatever the task
        """Unit of the metric's values for this task; "" where it is a pure number such as a fraction."""
        return ""

    def summarize(
        self,
        task: Task,
        outputs: Tensor,
        values: Tensor,
        present: Tensor,
        groups: NDArray[np.int64],
        num_groups: int,
    ) -> Summary:
        """Summarises N rows per group.

        Args:
            task: The task.
            outputs: Head outputs, [N, width], or [N, width, W] for labels per sample.
            values: Values of the labels, as in `Labels.values`.
            present: Presence of the labels, as in `Labels.present`.
            groups: Group of each row, [N], 0..num_groups-1.
            num_groups: Number of groups of the whole evaluation, so that batches can be merged.

        Raises:
            ValueError: Shapes, or groups, that do not fit.
            DataError: A class code that the task does not have.
            TrainingError: Outputs that are NaN where a label is present; of regressions and landmarks also
                infinite ones.
        """
        return self._summarize(task, checked_rows(task, outputs, values, present, groups, num_groups))

    @overload
    def evaluate(self, summary: Summary, weights: None = None) -> float: ...
    @overload
    def evaluate(self, summary: Summary, weights: Floats) -> Floats: ...
    def evaluate(self, summary: Summary, weights: Floats | None = None) -> float | Floats:
        """Computes the metric.

        Args:
            summary: From `summarize` or `merge`.
            weights: Non-negative weights of the groups, [B, G]: one metric value per line.

        Returns:
            The metric with every group counted once, a float; with weights, B values. NaN where undefined.

        Raises:
            ValueError: Weights of another shape than [B, G].
        """
        num_groups = len(self.label_counts(summary))
        if weights is None:
            return float(self._evaluate(summary, np.ones((1, num_groups)))[0])
        if weights.ndim != 2 or weights.shape[1] != num_groups:
            raise ValueError(
                f"{self.name}: weights of shape [B, {num_groups}] expected, found {weights.shape}"
            )
        return self._evaluate(summary, np.asarray(weights, dtype=np.float64))

    def merge(self, first: Summary, second: Summary) -> Summary:
        """Joins the summaries of two parts of one evaluation: the sums are added.

        Raises:
            ValueError: Summaries of evaluations with different numbers of groups or classes.
        """
        for key in first:
            if first[key].shape != second[key].shape:
                raise ValueError(
                    f"{self.name}: summaries of one evaluation expected, found `{key}` of shapes "
                    f"{first[key].shape} and {second[key].shape}"
                )
        return {key: first[key] + second[key] for key in first}

    @abstractmethod
    def label_counts(self, summary: Summary) -> NDArray[np.int64]:
        """Number of labels that the metric rests on, per group, [G]."""

    def part_counts(self, summary: Summary) -> NDArray[np.int64]:
        """Number of groups behind each of the parts that count alike in the metric, [P], all above 0.

        Most metrics are one mean over all groups with a label. Where classes count alike, a rare one decides
        how well the metric is known: an AUC of three positives among a thousand rows is known as a mean of
        three is.
        """
        return _above_zero(np.array([np.count_nonzero(self.label_counts(summary))]))

    @abstractmethod
    def _summarize(self, task: Task, rows: Rows) -> Summary: ...

    @abstractmethod
    def _evaluate(self, summary: Summary, weights: Floats) -> Floats: ...


METRICS: Registry[Metric] = Registry("metric")
"""Metrics by name."""


def checked_rows(
    task: Task,
    outputs: Tensor,
    values: Tensor,
    present: Tensor,
    groups: NDArray[np.int64],
    num_groups: int,
) -> Rows:
    """Checks what `Metric.summarize` is given, for errors see there, and lays samples out as rows."""
    outputs, values, present = (tensor.detach().cpu() for tensor in (outputs, values, present))
    check_shapes(task, outputs, values, present)
    groups = np.asarray(groups)
    if groups.shape != (len(values),):
        raise ValueError(
            f"task {task.name}: one group per row expected ({len(values)}), found {groups.shape}"
        )
    if len(groups) and not 0 <= groups.min() <= groups.max() < num_groups:
        raise ValueError(
            f"task {task.name}: groups 0..{num_groups - 1} expected, found {groups.min()}..{groups.max()}"
        )
    if isinstance(task, Binary | Multiclass) and outputs.ndim == 3:
        groups = np.repeat(groups, outputs.shape[2])
        outputs = outputs.movedim(1, -1).flatten(0, 1)
        values, present = values.flatten(), present.flatten()
    _check_values(task, outputs, values, present)
    return Rows(outputs, values, present, groups.astype(np.int64, copy=False), num_groups)


def _check_values(task: Task, outputs: Tensor, values: Tensor, present: Tensor) -> None:
    per_label = outputs.shape[1] // present[:1].numel() if len(present) else 1
    # An infinite logit is a very sure one; an infinite value is no prediction.
    broken = outputs.isnan() if isinstance(task, Binary | Multiclass | Multilabel) else ~outputs.isfinite()
    broken = broken.reshape(*present.shape, per_label).any(dim=-1) & present
    if broken.any():
        raise TrainingError(
            f"task {task.name}: the network's outputs are NaN or infinite for {int(broken.sum())} of "
            f"{int(present.sum())} labels, so no metric can be computed; training has diverged."
        )
    if isinstance(task, Binary | Multiclass | Multilabel):
        codes = values[present]
        num_classes = task.width if isinstance(task, Multiclass) else 2
        wrong = codes[(codes < 0) | (codes >= num_classes)]
        if len(wrong):
            raise DataError(
                f"task {task.name}: class codes 0..{num_classes - 1} expected, found {int(wrong[0])}."
            )


def sum_by_group(groups: NDArray[np.int64], num_groups: int, columns: NDArray[Any]) -> Floats:
    """Sums rows [M, K] per group, giving [G, K] in float64."""
    sums = [np.bincount(groups, weights=column, minlength=num_groups) for column in columns.T]
    return np.stack(sums, axis=1) if sums else np.zeros((num_groups, 0))


def count_by_group(
    groups: NDArray[np.int64], num_groups: int, codes: NDArray[np.int64], num_codes: int
) -> NDArray[np.int64]:
    """Counts each code 0..num_codes-1 per group: [M] and [M] give [G, num_codes]."""
    counts = np.bincount(groups * num_codes + codes, minlength=num_groups * num_codes)
    return counts.reshape(num_groups, num_codes)


def groups_with(counts: NDArray[Any]) -> NDArray[np.int64]:
    """In how many groups each count [G, ...] is above 0, without those that are in none: [P]."""
    return _above_zero(np.count_nonzero(counts.reshape(len(counts), -1), axis=0))


def _above_zero(numbers: NDArray[Any]) -> NDArray[np.int64]:
    found: NDArray[np.int64] = numbers[numbers > 0].astype(np.int64)
    return found


def weighted_total(weights: Floats, sums: NDArray[Any]) -> Floats:
    """Total of sums per group [G, ...] under weights [B, G], giving [B, ...]."""
    flat = sums.reshape(len(sums), -1).astype(np.float64)
    total: Floats = weights @ flat
    return total.reshape(len(weights), *sums.shape[1:])


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Element-wise quotient; NaN where the denominator is 0."""
    result: Floats = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result


def mean_of_defined(values: Floats) -> Floats:
    """Mean over the last axis of what is not NaN; NaN where nothing is."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=-1), defined.sum(axis=-1).astype(np.float64))
