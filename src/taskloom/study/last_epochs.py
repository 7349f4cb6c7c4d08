"""What the report shows of a training's course: metrics by epoch, and their means over the last epochs.

As thesis 002 (sections 4.1 and 4.5) evaluates: curves of F1 (macro, weighted, micro) and accuracy after every
epoch, and in its tables the mean over the last 10 epochs with its interval, training time with the overhead
over one single-task network, and parameters. Asked for by the study file's `report` section.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from taskloom.report.smoothing import mean_interval
from taskloom.study.cells import SINGLE_TASK
from taskloom.study.results import RunRecord
from taskloom.study.verdicts import Groups
from taskloom.tasks import TaskSet

METRICS_SHOWN = ("f1_macro", "f1_weighted", "f1_micro", "f1", "balanced_accuracy", "accuracy")
"""Of these the ones that a task has; its primary metric where it has none of them."""


def course(tasks: TaskSet, facts: Mapping[str, Any], done: Groups) -> dict[str, Any] | None:
    """Returns `{last_epochs, loess_span, trajectories, settled}` for `summary.json`; None unless asked for.

    Args:
        tasks: The tasks.
        facts: What the study noted; `report` holds the section of the study file.
        done: Finished runs.
    """
    settings = facts.get("report")
    if settings is None:
        return None
    trajectories: list[dict[str, Any]] = []
    settled: list[dict[str, Any]] = []
    for name, task in tasks.items():
        if not task.judged:
            continue
        shown = [metric for metric in METRICS_SHOWN if metric in task.metrics] or [task.primary_metric]
        for cell, shown_cell in [(SINGLE_TASK, ""), *((each["id"], each["id"]) for each in facts["cells"])]:
            runs = sorted(done.get((cell, name), []), key=lambda run: run.repeat)
            if not runs:
                continue
            part = "test" if all(_has_test(run) for run in runs) else "validation"
            curves = {metric: [_curve(run, part, name, metric) for run in runs] for metric in shown}
            where = {"task": name, "cell": shown_cell, "part": part}
            trajectories += [{**where, "metric": metric, "runs": curves[metric]} for metric in shown]
            settled.append(
                {
                    **where,
                    "repeats": len(runs),
                    "values": {metric: _settled(curves[metric], settings["last_epochs"]) for metric in shown},
                    "seconds": _mean([run.seconds_training for run in runs]),
                    "overhead": math.nan if cell == SINGLE_TASK else _overhead(runs, tasks, done),
                    "num_parameters": int(runs[0].num_parameters or 0),
                }
            )
    return {**settings, "trajectories": trajectories, "settled": settled}


def _has_test(run: RunRecord) -> bool:
    return all(epoch.get("test_metrics") for epoch in run.history["epochs"])


def _curve(run: RunRecord, part: str, task: str, metric: str) -> list[float | None]:
    return [epoch[f"{part}_metrics"][task][metric] for epoch in run.history["epochs"]]


def _settled(curves: Sequence[Sequence[float | None]], last_epochs: int) -> dict[str, float]:
    """Mean over the last epochs; half widths of its interval over epochs, and over repeats.

    Over epochs: the epochs' means over repeats, which with one repeat is the thesis' interval. Over repeats:
    the repeats' means over epochs.
    """
    last = [[math.nan if value is None else value for value in curve[-last_epochs:]] for curve in curves]
    length = min(map(len, last))
    by_epoch = [_mean([run[-length:][index] for run in last]) for index in range(length)]
    by_repeat = [_mean(run) for run in last]
    mean, over_epochs = mean_interval(by_epoch)
    return {"mean": mean, "over_epochs": over_epochs, "over_repeats": mean_interval(by_repeat)[1]}


def _overhead(runs: Sequence[RunRecord], tasks: TaskSet, done: Groups) -> float:
    """Training time over that of one single-task network, less 1: the mean of the cell's main tasks'."""
    main = [name for name in runs[0].tasks if tasks[name].role == "main"] or list(runs[0].tasks)
    alone = [_mean([run.seconds_training for run in done.get((SINGLE_TASK, name), [])]) for name in main]
    once = sum(alone) / len(alone)
    return _mean([run.seconds_training for run in runs]) / once - 1 if once > 0 else math.nan


def _mean(values: Sequence[float | None]) -> float:
    numbers = [value for value in values if value is not None and not math.isnan(value)]
    return sum(numbers) / len(numbers) if numbers else math.nan
