"""Area under the ROC curve: a metric that does not decompose into sums, so its summary keeps the scores."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from taskloom.metrics.base import METRICS, Floats, Metric, Rows, Summary, mean_of_defined, ratio
from taskloom.tasks import Binary, Multilabel, Task

# Most weights laid out at once, so that 1000 resamples of a large test set need no more than ~100 MB.
_MOST_ELEMENTS = 4_000_000
_PRODUCT_OVER_SORTED = 800
"""How many terms of a product of matrices take as long as one score that is sorted in and added up."""
_PAIRS_PER_SCORE = 8
"""How many pairs are compared as fast; a single line of weights is better sorted."""


class AreaUnderCurve(Metric):
    """Probability that a positive row scores above a negative one, ties counted half.

    Of a multilabel task, the mean over the labels that have both classes. NaN without one of the classes.

    Summary, one entry per present label: `scores` (logits), `positive`, `column` (which label), `group`;
    beside them the scalars `num_groups` and `num_columns`.
    """

    name = "auc"
    higher_is_better: ClassVar[bool] = True

    def label_counts(self, summary: Summary) -> NDArray[np.int64]:
        return np.bincount(summary["group"], minlength=int(summary["num_groups"]))

    def part_counts(self, summary: Summary) -> NDArray[np.int64]:
        found = []
        for column in range(int(summary["num_columns"])):
            here = summary["column"] == column
            sides = [here & summary["positive"], here & ~summary["positive"]]
            if all(side.any() for side in sides):
                found += [len(np.unique(summary["group"][side])) for side in sides]
        return np.array(found, dtype=np.int64) if found else super().part_counts(summary)

    def merge(self, first: Summary, second: Summary) -> Summary:
        """Joins the summaries of two parts of one evaluation: their scores are put one after the other."""
        for key in ("num_groups", "num_columns"):
            if first[key] != second[key]:
                raise ValueError(
                    f"{self.name}: summaries of one evaluation expected, found `{key}` "
                    f"{int(first[key])} and {int(second[key])}"
                )
        joined = {
            key: np.concatenate([first[key], second[key]])
            for key in ("scores", "positive", "column", "group")
        }
        return {**joined, "num_groups": first["num_groups"], "num_columns": first["num_columns"]}

    def _summarize(self, task: Task, rows: Rows) -> Summary:
        if not isinstance(task, Binary | Multilabel):
            raise TypeError(f"task {task.name}: {self.name} needs yes/no labels, found a {task.kind} task")
        outputs = rows.outputs.float() if rows.outputs.dtype != torch.float64 else rows.outputs
        present = rows.present.reshape(outputs.shape).numpy()
        row, column = np.nonzero(present)
        return {
            "scores": outputs.numpy()[present],
            "positive": rows.values.reshape(outputs.shape).numpy()[present] == 1,
            "column": column,
            "group": rows.groups[row],
            "num_groups": np.array(rows.num_groups),
            "num_columns": np.array(task.width),
        }

    def _evaluate(self, summary: Summary, weights: Floats) -> Floats:
        per_column = np.full((len(weights), int(summary["num_columns"])), np.nan)
        for column in range(per_column.shape[1]):
            here = summary["column"] == column
            per_column[:, column] = _weighted_auc(
                summary["scores"][here], summary["positive"][here], summary["group"][here], weights
            )
        return mean_of_defined(per_column)


def _weighted_auc(
    scores: NDArray[np.floating], positive: NDArray[np.bool_], group: NDArray[np.int64], weights: Floats
) -> Floats:
    """AUC of M scores under weights per group, [B, G] -> [B].

    With P_u and N_u the weights of the positive and negative rows at the u-th distinct score, the area is
    sum_u P_u (sum_{v<u} N_v + N_u / 2) / (sum P sum N). It is bilinear in the group weights: where there are
    fewer groups than resamples, or few positives or negatives, the wins of each group's positives over each
    group's negatives are counted once, and all resamples follow from that matrix.
    """
    if positive.all() or not positive.any():
        return np.full(len(weights), np.nan)
    num_pairs = int(positive.sum()) * int((~positive).sum())
    if num_pairs <= min(_MOST_ELEMENTS, _PAIRS_PER_SCORE * len(weights) * len(scores)):
        winners, of_winners = np.unique(group[positive], return_inverse=True)
        losers, of_losers = np.unique(group[~positive], return_inverse=True)
        if len(winners) * len(losers) <= _PRODUCT_OVER_SORTED * len(scores):
            won = _wins(scores[positive], of_winners, scores[~positive], of_losers)
            ours, theirs = weights[:, winners], weights[:, losers]
            pairs = (ours @ np.bincount(of_winners)) * (theirs @ np.bincount(of_losers))
            return ratio(np.einsum("bg,bg->b", ours @ won, theirs), pairs)
    order = np.argsort(scores, kind="stable")
    scores, positive, group = scores[order], positive[order], group[order]
    starts = np.flatnonzero(np.r_[True, scores[1:] != scores[:-1]])

    def by_score(lines: Floats) -> tuple[Floats, Floats]:
        """Positives at each distinct score, and negatives below it with half of those at it, [lines, U]."""
        laid_out = lines[:, group]
        positives, negatives = laid_out * positive, laid_out * ~positive
        if len(starts) < len(scores):
            positives = np.add.reduceat(positives, starts, axis=1)
            negatives = np.add.reduceat(negatives, starts, axis=1)
        return positives, np.cumsum(negatives, axis=1) - negatives / 2

    labelled, group = np.unique(group, return_inverse=True)
    weights = weights[:, labelled]
    num_groups = len(labelled)
    totals = [np.bincount(group, weights=chosen, minlength=num_groups) for chosen in (positive, ~positive)]
    pairs = (weights @ totals[0]) * (weights @ totals[1])
    if num_groups <= len(weights) and num_groups * len(scores) <= _MOST_ELEMENTS:
        positives, below = by_score(np.eye(num_groups))
        wins = ((weights @ (positives @ below.T)) * weights).sum(axis=1)
        return ratio(wins, pairs)
    lines = max(1, _MOST_ELEMENTS // len(scores))
    wins = np.empty(len(weights))
    for start in range(0, len(weights), lines):
        positives, below = by_score(weights[start : start + lines])
        wins[start : start + lines] = (positives * below).sum(axis=1)
    return ratio(wins, pairs)


def _wins(
    positives: NDArray[np.floating],
    of_positives: NDArray[np.int64],
    negatives: NDArray[np.floating],
    of_negatives: NDArray[np.int64],
) -> Floats:
    """How often positives of one group score above negatives of another, ties counted half, [G, H].

    Args:
        positives, of_positives: Their scores, and their groups from 0 to G - 1.
        negatives, of_negatives: The same of the negatives, groups from 0 to H - 1.
    """
    won = (positives[:, None] > negatives) + 0.5 * (positives[:, None] == negatives)
    lines, columns = (
        csr_array((np.ones(len(of)), (of, np.arange(len(of))))) for of in (of_positives, of_negatives)
    )
    found: Floats = (columns @ (lines @ won).T).T
    return found


METRICS.register(AreaUnderCurve.name)(AreaUnderCurve())
