"""How good a network is for every class and for every subgroup of another label: bias, with intervals.

As thesis 001 (section 5.3) asks it: a task's accuracy may rise while one class pays for it. Each judged task
is looked at alone and in the cell that is best on validation, by its own classes (recall) and by the classes
of every other task of classes ("age error by ethnicity"), all on the test rows that have both labels; further
ways to look are asked for (`subgroup_ways`).

Intervals: whole clusters of the test set (people, where rows are grouped) are drawn with replacement, the
same draws for both networks and all subgroups, so that differences are paired; to that comes the spread
between the repeats. Where each repeat draws its own split, the spread between them stands for both (Nadeau
and Bengio 2003). The difference between the best and the worst subgroup is one that was picked by looking, so
its interval has the level that holds for all pairs of subgroups at once (Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from taskloom.metrics import METRICS
from taskloom.study.paired import (
    ALPHA,
    Decided,
    Row,
    Sample,
    Sides,
    differences_within,
    judged_sides,
    signed,
    surrogate,
    weights_of,
)
from taskloom.study.subgroup_ways import MOST_SUBGROUPS, Way, ways_to_look
from taskloom.study.test_rows import TestRows
from taskloom.study.verdicts import Groups
from taskloom.tasks import Binary, Landmarks, Multiclass, Multilabel, Task, TaskSet

LEAST_LABELS = 20
"""Subgroups with fewer labels are shown, but the best and the worst are not chosen among them."""


def shown_metric(task: Task) -> str:
    """The metric that is shown within subgroups: no F1 or AUC, which hang on how common a class is."""
    if isinstance(task, Binary | Multiclass | Multilabel):
        return "accuracy"
    if isinstance(task, Landmarks):
        return "landmark_error"
    return task.primary_metric if task.primary_metric in ("mae", "mse", "rmse") else "mae"


def sign_of(metric: str) -> float:
    """1 where more is better, -1 where less is."""
    return 1.0 if METRICS[metric].higher_is_better else -1.0


def most_of(metric: str) -> float:
    """The largest value of a metric that is shown within subgroups; the least is 0."""
    return 1.0 if metric == "accuracy" else math.inf


def subgroup_tables(
    folder: Path, tasks: TaskSet, facts: Mapping[str, Any], done: Groups, chosen: Mapping[str, str]
) -> list[Row]:
    """Returns one table per judged task and label to look by, for `summary.json`.

    A table: `task`, `metric`, `unit`, `higher_is_better`, `by`, `own` (by its own classes), `cell`,
    `subgroups` (each `name`, `labels`, `alone`, `shared` and `gain`, estimates or null) and `gaps` (`alone`,
    `shared`, `change`: the best less the worst subgroup; null where fewer than two have enough labels).

    Args:
        folder: The study's folder.
        tasks: Its tasks.
        facts: See `study_facts` of `taskloom.study.prepare`.
        done: Its finished runs.
        chosen: Per task the id of the cell that is best on validation.
    """
    tables = []
    for task, cell, sides in judged_sides(folder, tasks, done, chosen):
        rows = [run.rows for runs in sides.values() for run in runs]
        for by in ways_to_look(tasks, facts.get("subgroups", {}), rows):
            table = _table(task, by, sides, facts["test_over_train"] if facts["repeats"] > 1 else None)
            if table is not None:
                tables.append({**table, "cell": cell})
    return tables


def confusions(folder: Path, tasks: TaskSet, done: Groups, chosen: Mapping[str, str]) -> list[Row]:
    """Confusion matrices of every judged task of classes, alone and in its chosen cell.

    A row: `task`, `cell`, `classes`, `alone` and `shared`: mean counts over repeats [true][decided], or null.
    """
    rows = []
    for task, cell, sides in judged_sides(folder, tasks, done, chosen, (Binary, Multiclass)):
        if len(task.class_names) > MOST_SUBGROUPS:
            continue
        found = {
            side: None if not runs else np.mean([_confusion(task, run) for run in runs], axis=0).tolist()
            for side, runs in sides.items()
        }
        rows.append({"task": task.name, "cell": cell, "classes": list(task.class_names), **found})
    return rows


def _confusion(task: Task, run: Decided) -> NDArray[np.int64]:
    present = run.rows.labels.present[task.name].numpy()
    truth = run.rows.labels.values[task.name].numpy()[present]
    output = run.outputs[torch.from_numpy(present)]
    said = (output[:, 0] > 0).long() if isinstance(task, Binary) else output.argmax(dim=1)
    number = len(task.class_names)
    return np.bincount(truth * number + said.numpy(), minlength=number**2).reshape(number, number)


def _table(task: Task, by: Way, sides: Sides, test_over_train: float | None) -> Row | None:
    """One table; None where the label stands beside the task's in no row."""
    metric = shown_metric(task)
    samples = {
        side: [_sample(task, by, code, runs, metric, test_over_train) for code in range(len(by.names))]
        for side, runs in sides.items()
        if runs
    }
    labels = [_count(task, by, code, (sides["alone"] or sides["shared"])) for code in range(len(by.names))]
    if not any(labels):
        return None
    sign = sign_of(metric)
    enough = [code for code, count in enumerate(labels) if count >= LEAST_LABELS]
    return {
        "task": task.name,
        "metric": metric,
        "unit": METRICS[metric].unit(task),
        "higher_is_better": METRICS[metric].higher_is_better,
        "by": by.name,
        "own": by.task == by.name == task.name,
        "subgroups": [
            {
                "name": name,
                "labels": labels[code],
                **_estimates(samples, code, metric, sign, test_over_train),
            }
            for code, name in enumerate(by.names)
            if labels[code]
        ],
        "gaps": gaps(samples, by.names, enough, metric, test_over_train),
    }


def _estimates(
    samples: Mapping[str, Sequence[Sample]],
    code: int,
    metric: str,
    sign: float,
    test_over_train: float | None,
) -> Row:
    most = most_of(metric)
    found: Row = {
        side: samples[side][code].estimate(test_over_train, within=(0.0, most)) if side in samples else None
        for side in ("alone", "shared")
    }
    found["gain"] = None
    if len(samples) == 2:
        gain = samples["shared"][code] - samples["alone"][code]
        found["gain"] = signed(gain, sign).estimate(test_over_train, within=differences_within(most))
    return found


def gaps(
    samples: Mapping[str, Sequence[Sample]],
    names: Sequence[str],
    enough: Sequence[int],
    metric: str,
    test_over_train: float | None,
) -> Row:
    """The best less the worst subgroup of every side, at least 0; and how much sharing closes or opens it.

    Args:
        samples: Per side ("alone", "shared") a sample of every subgroup.
        names: Of the subgroups.
        enough: Positions of those with enough labels.
        metric: What the samples are values of.
        test_over_train: See `taskloom.study.statistics.compare`.
    """
    sign, most = sign_of(metric), most_of(metric)
    rows: Row = {"alone": None, "shared": None, "change": None}
    # A subgroup that some repeat's test part lacks has no value there, and is neither best nor worst.
    enough = [
        code for code in enough if all(np.isfinite(found[code].values).all() for found in samples.values())
    ]
    if len(enough) < 2:
        return rows
    alpha = ALPHA / math.comb(len(enough), 2)
    pairs = {}
    for side, found in samples.items():
        ordered = sorted(enough, key=lambda code: float(sign * found[code].values.mean()))
        worst, best = ordered[0], ordered[-1]
        pairs[side] = (best, worst)
        difference = signed(found[best] - found[worst], sign)
        rows[side] = {
            "best": names[best],
            "worst": names[worst],
            **difference.estimate(test_over_train, alpha, differences_within(most)),
        }
    if len(samples) == 2:  # of the pair that stands out alone, so that the same groups are compared
        best, worst = pairs["alone"]
        before, now = (samples[side][best] - samples[side][worst] for side in ("alone", "shared"))
        # From all the metric's range apart to as much the other way round.
        change = signed(now - before, sign).estimate(test_over_train, alpha, differences_within(2 * most))
        rows["change"] = {"best": names[best], "worst": names[worst], **change}
    return rows


def _mask(task: Task, by: Way, code: int, rows: TestRows) -> Tensor:
    """Which of the task's labels count, shaped like its presence."""
    in_subgroup = by.codes(rows) == code
    present = rows.labels.present[task.name]
    return present & in_subgroup.reshape(-1, *(1,) * (present.ndim - 1))


def _count(task: Task, by: Way, code: int, runs: Sequence[Decided]) -> int:
    """Labels of the first repeat."""
    return int(_mask(task, by, code, runs[0].rows).sum())


def _sample(
    task: Task, by: Way, code: int, runs: Sequence[Decided], metric: str, test_over_train: float | None
) -> Sample:
    judge, stand_in = METRICS[metric], surrogate(task)
    values, resampled, clusters = [], [], 0
    for run in runs:
        groups = run.rows.groups
        summary = judge.summarize(
            stand_in,
            run.outputs,
            run.rows.labels.values[task.name],
            _mask(task, by, code, run.rows),
            groups,
            int(groups.max()) + 1,
        )
        values.append(judge.evaluate(summary))
        clusters = int((judge.label_counts(summary) > 0).sum())
        if test_over_train is None:
            weights = weights_of(task, run.rows)
            if weights is not None:
                resampled.append(judge.evaluate(summary, weights))
    together = np.mean(resampled, axis=0) if len(resampled) == len(runs) else None
    return Sample(np.array(values), together, clusters, tuple(run.split for run in runs))
