"""Runs beside those of a study whose split lets windows straddle: the same models on a split that does not.

Such a split exists for rerunning a paper (`taskloom.data.shuffled_windows`). Every run then has a companion:
same cell, seed and fractions, trained and tested on the split over which no window reaches. Companions give
no verdicts; their scores stand beside the others' in the report.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from taskloom.data.shuffled_windows import without_straddling
from taskloom.tasks import TaskSet

if TYPE_CHECKING:
    from taskloom.study.runs import DataRequest
    from taskloom.study.verdicts import Groups

SUFFIX = "@apart"
"""Ends the cell id under which a companion is kept."""

NAME_SUFFIX = ", no window straddling"


def companion_request(request: DataRequest) -> DataRequest | None:
    """What the companions of a repeat train on; None where its split needs none."""
    split = without_straddling(request.split)
    return None if split is None else replace(request, split=split)


def is_companion(cell_id: str) -> bool:
    """Whether a run of that cell id is a companion."""
    return cell_id.endswith(SUFFIX)


def leakage_rows(tasks: TaskSet, facts: Mapping[str, Any], done: Groups) -> list[dict[str, Any]]:
    """Per cell and task, the mean test value on the study's split and on the one without straddling.

    Args:
        tasks: The tasks.
        facts: What the study noted; `cells` names them.
        done: Finished runs; companions under their own cell id.

    Returns:
        One row per task alone and per task of every cell that has both, over the repeats that both have.
    """
    from taskloom.study.cells import SINGLE_TASK

    entries = [(SINGLE_TASK, "", task) for task in tasks]
    entries += [(cell["id"], cell["id"], task) for cell in facts["cells"] for task in cell["tasks"]]
    rows = []
    for cell, shown, task in entries:
        metric = tasks[task].primary_metric
        with_leak = _values(done, cell, task, metric)
        without = _values(done, cell + SUFFIX, task, metric)
        both = sorted(with_leak.keys() & without.keys())
        if both:
            rows.append(
                {
                    "task": task,
                    "cell": shown,
                    "straddling": sum(with_leak[repeat] for repeat in both) / len(both),
                    "apart": sum(without[repeat] for repeat in both) / len(both),
                    "repeats": len(both),
                }
            )
    return rows


def _values(done: Groups, cell: str, task: str, metric: str) -> dict[int, float]:
    """Test values by repeat, undefined ones left out."""
    return {
        run.repeat: value.value
        for run in done.get((cell, task), [])
        for value in run.metrics
        if (value.task, value.part, value.metric) == (task, "test", metric) and not math.isnan(value.value)
    }
