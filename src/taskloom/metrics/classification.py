"""Accuracy, balanced accuracy and the F1 family: hits, labels and predictions counted per group and class."""

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
    count_by_group,
    groups_with,
    mean_of_defined,
    ratio,
    weighted_total,
)
from taskloom.tasks import Binary, Multiclass, Multilabel, Task

Codes = NDArray[np.int64]


def _counts(task: Task, rows: Rows) -> Summary:
    """Hits, labels and predictions, each [G, L, C].

    L is the number of labels: K of a multilabel task, else 1. C is the number of classes: 2 unless the task
    is multiclass. Yes/no predictions are yes where the logit is above 0, a probability above one half;
    several classes go by the largest logit, the first one of equals.
    """
    match task:
        case Multiclass():
            num_labels, num_classes = 1, task.width
            predicted = rows.outputs.argmax(dim=1, keepdim=True)
        case Binary() | Multilabel():
            num_labels, num_classes = task.width, 2
            predicted = (rows.outputs > 0).long()
        case _:
            raise TypeError(f"task {task.name}: a {task.kind} task has no classes to count")
    present = rows.present.reshape(len(predicted), num_labels).numpy()
    row, label = np.nonzero(present)
    true: Codes = rows.values.reshape(present.shape).numpy()[present]
    chosen: Codes = predicted.numpy()[present]
    hit = true == chosen
    groups = rows.groups[row]

    def count(codes: Codes, where: NDArray[np.bool_] | slice) -> Codes:
        columns = (label * num_classes + codes)[where]
        counts = count_by_group(groups[where], rows.num_groups, columns, num_labels * num_classes)
        return counts.reshape(rows.num_groups, num_labels, num_classes)

    everything = slice(None)
    return {
        "hits": count(true, hit),
        "labels": count(true, everything),
        "predictions": count(chosen, everything),
    }


class _RecallMetric(Metric):
    """Summary: `hits` and `labels`, counts [G, L, C]; L labels of a multilabel task, else 1."""

    higher_is_better: ClassVar[bool] = True

    def label_counts(self, summary: Summary) -> NDArray[np.int64]:
        counts: NDArray[np.int64] = summary["labels"].sum(axis=(1, 2))
        return counts

    def _summarize(self, task: Task, rows: Rows) -> Summary:
        counts = _counts(task, rows)
        return {"hits": counts["hits"], "labels": counts["labels"]}


class Accuracy(_RecallMetric):
    """Share of labels predicted rightly; of a multilabel task, share of the elements that are present.

    Thesis 002, equations 3.5 and 3.6.
    """

    name = "accuracy"

    def _evaluate(self, summary: Summary, weights: Floats) -> Floats:
        hits = weighted_total(weights, summary["hits"].sum(axis=(1, 2)))
        return ratio(hits, weighted_total(weights, summary["labels"].sum(axis=(1, 2))))


class BalancedAccuracy(_RecallMetric):
    """Mean recall over the classes that occur in the labels ("average accuracy").

    Of a multilabel task, the mean over its labels of their balanced accuracy.
    """

    name = "balanced_accuracy"

    def part_counts(self, summary: Summary) -> NDArray[np.int64]:
        return groups_with(summary["labels"])

    def _evaluate(self, summary: Summary, weights: Floats) -> Floats:
        recall = ratio(weighted_total(weights, summary["hits"]), weighted_total(weights, summary["labels"]))
        return mean_of_defined(mean_of_defined(recall))


class _F1Metric(Metric):
    """Summary: `hits`, `labels` and `predictions`, counts [G, C].

    C are the classes that are averaged over: all of a multiclass task; the positive class of a binary task;
    the positive class of each label of a multilabel task. F1 of a class is 2 hits / (labels + predictions):
    thesis 002, equations 3.7 and 3.8 with beta = 1; hits are TP, labels TP + FN, predictions TP + FP.
    """

    higher_is_better: ClassVar[bool] = True

    def label_counts(self, summary: Summary) -> NDArray[np.int64]:
        counts: NDArray[np.int64] = summary["present"]
        return counts

    def _summarize(self, task: Task, rows: Rows) -> Summary:
        counts = _counts(task, rows)
        present = counts["labels"].sum(axis=(1, 2))
        if isinstance(task, Multiclass):
            return {**{key: count[:, 0, :] for key, count in counts.items()}, "present": present}
        return {**{key: count[:, :, 1] for key, count in counts.items()}, "present": present}

    def part_counts(self, summary: Summary) -> NDArray[np.int64]:
        # Of classes that only predictions have, nothing is to be found in the groups.
        found = groups_with(summary["labels"])
        return found if len(found) else super().part_counts(summary)

    def _evaluate(self, summary: Summary, weights: Floats) -> Floats:
        hits, labels, predictions = (
            weighted_total(weights, summary[key]) for key in ("hits", "labels", "predictions")
        )
        return self._f1(hits, labels, predictions)

    def _f1(self, hits: Floats, labels: Floats, predictions: Floats) -> Floats:
        """From counts [B, C] to values [B]: the mean over the classes that occur anywhere."""
        return mean_of_defined(ratio(2 * hits, labels + predictions))


class F1(_F1Metric):
    """F1 of a binary task's positive class; NaN where that occurs neither in labels nor in predictions."""

    name = "f1"


class F1Macro(_F1Metric):
    """Mean F1 over the classes that occur in the labels or in the predictions.

    As scikit-learn's `f1_score(average="macro")` with its default `labels`, the union of both, which thesis
    002 (section 4.1) takes over; its section 3.2.3 says "the number of possible labels". Of a multilabel
    task, the mean over its labels of the positive class's F1.
    """

    name = "f1_macro"


class _PooledF1(_F1Metric):
    """Classes count by how common they are: one part, the groups that have any of them."""

    def part_counts(self, summary: Summary) -> NDArray[np.int64]:
        found = groups_with(summary["labels"].sum(axis=1))
        return found if len(found) else Metric.part_counts(self, summary)


class F1Weighted(_PooledF1):
    """Mean F1 over the classes, weighted by how often each occurs in the labels."""

    name = "f1_weighted"

    def _f1(self, hits: Floats, labels: Floats, predictions: Floats) -> Floats:
        f1 = np.nan_to_num(ratio(2 * hits, labels + predictions), nan=0.0)  # a weight of 0 where undefined
        return ratio((f1 * labels).sum(axis=1), labels.sum(axis=1))


class F1Micro(_PooledF1):
    """F1 of the pooled counts; of a multiclass task that is its accuracy."""

    name = "f1_micro"

    def _f1(self, hits: Floats, labels: Floats, predictions: Floats) -> Floats:
        return ratio(2 * hits.sum(axis=1), (labels + predictions).sum(axis=1))


class AccuracyAndF1(Metric):
    """ "AFA": mean of the F1 and the accuracy of yes/no labels (paper 003; the EmotioNet challenge).

    (mean over the labels of the positive class's F1 + mean over the labels of their accuracy) / 2, each label
    counting once, however often it is present; of a binary task, (F1 + accuracy) / 2.

    Summary: `hits`, `labels` and `predictions`, counts [G, L, 2]: of "no" and of "yes".
    """

    name = "afa"
    higher_is_better: ClassVar[bool] = True

    def label_counts(self, summary: Summary) -> NDArray[np.int64]:
        counts: NDArray[np.int64] = summary["labels"].sum(axis=(1, 2))
        return counts

    def part_counts(self, summary: Summary) -> NDArray[np.int64]:
        found = groups_with(summary["labels"][..., 1])
        return found if len(found) else super().part_counts(summary)

    def _summarize(self, task: Task, rows: Rows) -> Summary:
        if isinstance(task, Multiclass):
            raise TypeError(f"task {task.name}: {self.name} is for yes/no labels, found a {task.kind} task")
        return _counts(task, rows)

    def _evaluate(self, summary: Summary, weights: Floats) -> Floats:
        hits, labels, predictions = (
            weighted_total(weights, summary[key]) for key in ("hits", "labels", "predictions")
        )
        f1 = mean_of_defined(ratio(2 * hits[..., 1], labels[..., 1] + predictions[..., 1]))
        return (f1 + mean_of_defined(ratio(hits.sum(axis=-1), labels.sum(axis=-1)))) / 2


for _metric in (Accuracy(), BalancedAccuracy(), F1(), F1Macro(), F1Weighted(), F1Micro(), AccuracyAndF1()):
    METRICS.register(_metric.name)(_metric)
