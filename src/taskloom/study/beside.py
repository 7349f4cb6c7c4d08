"""What a summary says beside the verdicts: tasks that are not judged, and every form of training alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from taskloom.metrics import METRICS
from taskloom.study.results import RunRecord
from taskloom.tasks import Task, TaskSet

Groups = Mapping[tuple[str, str], Sequence[RunRecord]]
"""Finished runs by (cell id, task)."""


def auxiliary_rows(tasks: TaskSet, facts: Mapping[str, Any], done: Groups) -> list[dict[str, Any]]:
    """One row per auxiliary or adversarial task and cell that trained it, its baseline first: no verdicts."""
    names = {form["id"]: form["name"] for form in facts.get("baselines", [])}
    names |= {cell["id"]: cell["name"] for cell in facts["cells"]}
    rows = []
    for name, task in tasks.items():
        if task.judged:
            continue
        for cell, title in names.items():
            if runs := done.get((cell, name)):
                rows.append({"task": name, "role": task.role, "cell": title, **_values(runs, task)})
    return rows


def baseline_rows(tasks: TaskSet, facts: Mapping[str, Any], done: Groups) -> list[dict[str, Any]]:
    """One row per main task and form of training alone, where there are several forms."""
    forms = facts.get("baselines", [])
    if len(forms) < 2:
        return []
    return [
        {"task": name, "form": form["name"], "judged": form["judged"], **_values(runs, task)}
        for name, task in tasks.items()
        if task.judged
        for form in forms
        if (runs := done.get((form["id"], name)))
    ]


def _values(runs: Sequence[RunRecord], task: Task) -> dict[str, Any]:
    """Mean and standard deviation over repeats of the primary metric on test, and the parameters."""
    metric = task.primary_metric
    values = [
        value.value
        for run in runs
        for value in run.metrics
        if (value.task, value.part, value.metric) == (task.name, "test", metric)
    ]
    defined = np.array([value for value in values if not math.isnan(value)])
    return {
        "metric": metric,
        "unit": METRICS[metric].unit(task),
        "value": float(defined.mean()) if len(defined) else math.nan,
        "deviation": float(defined.std(ddof=1)) if len(defined) > 1 else math.nan,
        "num_done": len(runs),
        "num_parameters": int(np.mean([run.num_parameters or 0 for run in runs])),
    }
