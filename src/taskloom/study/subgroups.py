"""How good a network is for every class and for every subgroup of another label: bias, with intervals.

As thesis 001 (section 5.3) asks it: a task's accuracy may rise while one class pays for it. Each judged task
is looked at alone and in the cell that is best on validation, by its own classes (recall) and by the classes
of every other task of classes ("age error by ethnicity"), all on the test rows that have both labels.

Intervals: whole clusters of the test set (people, where rows are grouped) are drawn with replacement, the
same draws for both networks and all subgroups, so that differences are paired; to that comes the spread
between the repeats. Where each repeat draws its own split, the spread between them stands for both (Nadeau
and Bengio 2003). The difference between the best and the worst subgroup is one that was picked by looking, so
its interval has the level that holds for all pairs of subgroups at once (Bonferroni).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from taskloom.metrics import METRICS
from taskloom.study.cells import SINGLE_TASK
from taskloom.study.decisions import load_decisions, load_numbers
from taskloom.study.results import RunRecord, run_folder
from taskloom.study.statistics import degrees_of_freedom_of
from taskloom.study.test_rows import TestRows, load_test_rows
from taskloom.study.verdicts import Groups
from taskloom.tasks import Binary, Landmarks, Multiclass, Multilabel, Ordinal, Regression, Task, TaskSet
from taskloom.training.evaluation import resample_groups

Floats = NDArray[np.float64]
Row = dict[str, Any]

NUM_RESAMPLES = 1000
LEAST_RESAMPLES = 200
MOST_SUBGROUPS = 24
"""A label with more classes is not a way to look at another task; by its own classes every task is shown."""
LEAST_LABELS = 20
"""Subgroups with fewer labels are shown, but the best and the worst are not chosen among them."""
ALPHA = 0.05
_ROUNDING = 1e-9
_MOST_ELEMENTS = 8_000_000
"""Multiplicities laid out at once; 64 MB."""


@dataclass(frozen=True)
class Sample:
    """A value over repeats and over draws of the test's clusters; differences are paired.

    Args:
        values: Per repeat, [R].
        resampled: Mean over repeats in every draw, [B]; None where splits are redrawn.
        clusters: Number of clusters that it rests on.
    """

    values: Floats
    resampled: Floats | None
    clusters: int

    def __sub__(self, other: Sample) -> Sample:
        together = None
        if self.resampled is not None and other.resampled is not None:
            together = self.resampled - other.resampled
        return Sample(self.values - other.values, together, min(self.clusters, other.clusters))

    def estimate(
        self,
        test_over_train: float | None,
        alpha: float = ALPHA,
        within: tuple[float, float] = (-math.inf, math.inf),
    ) -> Row:
        """`value`, `low`, `high`, the bounds kept within the metric's range; NaN where undefined.

        Where all values are equal, chance was not seen, which does not mean that there is none: no bounds.
        """
        number = len(self.values)
        spread = float(self.values.var(ddof=1)) if number > 1 else 0.0
        if test_over_train is not None and number > 1:
            variance, degrees = spread / number + spread * test_over_train, number - 1.0
        else:
            clusters = self._clusters_variance()
            degrees = degrees_of_freedom_of(spread / number, number, clusters, self.clusters)
            variance = spread / number + clusters
        value = float(self.values.mean())
        if not (degrees > 0 and variance > (_ROUNDING * max(1.0, abs(value))) ** 2):
            return {"value": value, "low": math.nan, "high": math.nan}
        half = float(stats.t.ppf(1 - alpha / 2, degrees)) * math.sqrt(variance)
        least, most = within
        return {"value": value, "low": max(least, value - half), "high": min(most, value + half)}

    def _clusters_variance(self) -> float:
        if self.resampled is None or self.clusters < 2:
            return 0.0
        defined = self.resampled[~np.isnan(self.resampled)]
        if len(defined) < len(self.resampled) / 2:
            return math.nan
        return float(defined.var(ddof=1)) * self.clusters / (self.clusters - 1)


def shown_metric(task: Task) -> str:
    """The metric that is shown within subgroups: no F1 or AUC, which hang on how common a class is."""
    if isinstance(task, Binary | Multiclass | Multilabel):
        return "accuracy"
    if isinstance(task, Landmarks):
        return "landmark_error"
    return task.primary_metric if task.primary_metric in ("mae", "mse", "rmse") else "mae"


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
    for name, task in tasks.items():
        if not task.judged:
            continue
        sides = _sides(folder, task, done, chosen.get(name, ""))
        if sides is None:
            continue
        for by in tasks.values():
            table = _table(task, by, sides, facts["test_over_train"] if facts["repeats"] > 1 else None)
            if table is not None:
                tables.append({**table, "cell": chosen.get(name, "")})
    return tables


def confusions(folder: Path, tasks: TaskSet, done: Groups, chosen: Mapping[str, str]) -> list[Row]:
    """Confusion matrices of every judged task of classes, alone and in its chosen cell.

    A row: `task`, `cell`, `classes`, `alone` and `shared`: mean counts over repeats [true][decided], or null.
    """
    rows = []
    for name, task in tasks.items():
        if not task.judged or not isinstance(task, Binary | Multiclass):
            continue
        sides = _sides(folder, task, done, chosen.get(name, ""))
        if sides is None or len(task.class_names) > MOST_SUBGROUPS:
            continue
        found = {
            side: None if not runs else np.mean([_confusion(task, run) for run in runs], axis=0).tolist()
            for side, runs in sides.items()
        }
        rows.append({"task": name, "cell": chosen.get(name, ""), "classes": list(task.class_names), **found})
    return rows


@dataclass(frozen=True)
class Decided:
    """What one run decided for the test rows.

    Args:
        repeat: Which repeat.
        outputs: Outputs that decide as it did, [N, width], for `surrogate(task)`.
        rows: Labels and clusters of the rows.
    """

    repeat: int
    outputs: Tensor
    rows: TestRows


Sides = dict[str, list[Decided]]
"""The runs that are compared: "alone" and "shared", the same repeats in both where both have some."""


def surrogate(task: Task) -> Task:
    """A task whose outputs are the decisions: numbers in the unit, without scale and center."""
    if isinstance(task, Ordinal):
        return Regression(task.name, unit=task.unit)
    if isinstance(task, Regression | Landmarks):
        return dataclasses.replace(task, center=0.0, scale=1.0)
    return task


def decided_by(folder: Path, task: Task, run: RunRecord) -> Decided | None:
    """Reads what a run decided; None where it was not kept (runs of before, labels per sample)."""
    rows = load_test_rows(folder, run.details.get("test_rows", ""))
    if rows is None or task.name not in rows.labels.values:
        return None
    own = run_folder(folder, run.id)
    if isinstance(task, Regression | Landmarks):
        outputs = load_numbers(own, task.name)
        outputs = None if outputs is None else outputs.reshape(len(outputs), -1)
    else:
        outputs = (load_decisions(own, TaskSet(task)) or {}).get(task.name)
    return None if outputs is None or outputs.ndim != 2 else Decided(run.repeat, outputs, rows)


def _sides(folder: Path, task: Task, done: Groups, cell: str) -> Sides | None:
    sides: Sides = {}
    for side, key in (("alone", SINGLE_TASK), ("shared", cell)):
        runs = sorted(done.get((key, task.name), []), key=lambda run: run.repeat) if key else []
        found = [decided for run in runs if (decided := decided_by(folder, task, run)) is not None]
        sides[side] = found
    common = {one.repeat for one in sides["alone"]} & {one.repeat for one in sides["shared"]}
    if common:
        sides = {side: [one for one in found if one.repeat in common] for side, found in sides.items()}
    return sides if any(sides.values()) else None


def _confusion(task: Task, run: Decided) -> NDArray[np.int64]:
    present = run.rows.labels.present[task.name].numpy()
    truth = run.rows.labels.values[task.name].numpy()[present]
    output = run.outputs[torch.from_numpy(present)]
    said = (output[:, 0] > 0).long() if isinstance(task, Binary) else output.argmax(dim=1)
    number = len(task.class_names)
    return np.bincount(truth * number + said.numpy(), minlength=number**2).reshape(number, number)


def _table(task: Task, by: Task, sides: Sides, test_over_train: float | None) -> Row | None:
    """One table; None where the label is none to look by, or stands beside the task's in no row."""
    own = by.name == task.name
    first = (sides["alone"] or sides["shared"])[0].rows.labels
    if not isinstance(by, Binary | Multiclass) or by.name not in first.values:
        return None
    if len(by.class_names) > MOST_SUBGROUPS:
        return None
    metric = shown_metric(task)
    samples = {
        side: [_sample(task, by, code, runs, metric, test_over_train) for code in range(len(by.class_names))]
        for side, runs in sides.items()
        if runs
    }
    labels = [
        _count(task, by, code, (sides["alone"] or sides["shared"])) for code in range(len(by.class_names))
    ]
    if not any(labels):
        return None
    sign = 1.0 if METRICS[metric].higher_is_better else -1.0
    enough = [code for code, count in enumerate(labels) if count >= LEAST_LABELS]
    return {
        "task": task.name,
        "metric": metric,
        "unit": METRICS[metric].unit(task),
        "higher_is_better": METRICS[metric].higher_is_better,
        "by": by.name,
        "own": own,
        "subgroups": [
            {
                "name": name,
                "labels": labels[code],
                **_estimates(samples, code, metric, sign, test_over_train),
            }
            for code, name in enumerate(by.class_names)
            if labels[code]
        ],
        "gaps": _gaps(samples, by.class_names, enough, sign, test_over_train),
    }


def _estimates(
    samples: Mapping[str, Sequence[Sample]],
    code: int,
    metric: str,
    sign: float,
    test_over_train: float | None,
) -> Row:
    within = (0.0, 1.0 if metric == "accuracy" else math.inf)
    found: Row = {
        side: samples[side][code].estimate(test_over_train, within=within) if side in samples else None
        for side in ("alone", "shared")
    }
    found["gain"] = None
    if len(samples) == 2:
        gain = samples["shared"][code] - samples["alone"][code]
        found["gain"] = _signed(gain, sign).estimate(test_over_train)
    return found


def _gaps(
    samples: Mapping[str, Sequence[Sample]],
    names: Sequence[str],
    enough: Sequence[int],
    sign: float,
    test_over_train: float | None,
) -> Row:
    """The best less the worst subgroup of every side, at least 0; and how much sharing closes or opens it."""
    gaps: Row = {"alone": None, "shared": None, "change": None}
    # A subgroup that some repeat's test part lacks has no value there, and is neither best nor worst.
    enough = [
        code for code in enough if all(np.isfinite(found[code].values).all() for found in samples.values())
    ]
    if len(enough) < 2:
        return gaps
    alpha = ALPHA / math.comb(len(enough), 2)
    pairs = {}
    for side, found in samples.items():
        ordered = sorted(enough, key=lambda code: float(sign * found[code].values.mean()))
        worst, best = ordered[0], ordered[-1]
        pairs[side] = (best, worst)
        difference = _signed(found[best] - found[worst], sign)
        gaps[side] = {
            "best": names[best],
            "worst": names[worst],
            **difference.estimate(test_over_train, alpha),
        }
    if len(samples) == 2:  # of the pair that stands out alone, so that the same groups are compared
        best, worst = pairs["alone"]
        before, now = (samples[side][best] - samples[side][worst] for side in ("alone", "shared"))
        change = _signed(now - before, sign).estimate(test_over_train, alpha)
        gaps["change"] = {"best": names[best], "worst": names[worst], **change}
    return gaps


def _signed(sample: Sample, sign: float) -> Sample:
    resampled = None if sample.resampled is None else sign * sample.resampled
    return Sample(sign * sample.values, resampled, sample.clusters)


def _mask(task: Task, by: Task, code: int, rows: TestRows) -> Tensor:
    """Which of the task's labels count, shaped like its presence."""
    in_subgroup = rows.labels.present[by.name] & (rows.labels.values[by.name] == code)
    present = rows.labels.present[task.name]
    return present & in_subgroup.reshape(-1, *(1,) * (present.ndim - 1))


def _count(task: Task, by: Task, code: int, runs: Sequence[Decided]) -> int:
    """Labels of the first repeat."""
    return int(_mask(task, by, code, runs[0].rows).sum())


def _sample(
    task: Task, by: Task, code: int, runs: Sequence[Decided], metric: str, test_over_train: float | None
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
            weights = _weights(task, run.rows)
            if weights is not None:
                resampled.append(judge.evaluate(summary, weights))
    together = np.mean(resampled, axis=0) if len(resampled) == len(runs) else None
    return Sample(np.array(values), together, clusters)


def _weights(task: Task, rows: TestRows) -> Floats | None:
    """Draws among the clusters that have a label of the task: the same ones at every call."""
    present = rows.labels.present[task.name]
    present = present.reshape(len(present), -1).any(dim=1)
    counts = np.bincount(rows.groups, weights=present.numpy(), minlength=int(rows.groups.max()) + 1)
    return _draws((counts > 0).tobytes())


@functools.lru_cache(maxsize=2)
def _draws(labelled: bytes) -> Floats | None:
    counts = np.frombuffer(labelled, dtype=np.bool_).astype(np.int64)
    number = min(NUM_RESAMPLES, max(LEAST_RESAMPLES, _MOST_ELEMENTS // len(counts)))
    return resample_groups(counts, number, seed=0)
