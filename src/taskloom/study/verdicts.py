"""The verdicts of a study: every task in every cell against training alone, and all tasks together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskloom.metrics import METRICS, load_summaries
from taskloom.study.cells import SINGLE_TASK
from taskloom.study.mean_of_tasks import MeanOfTasks
from taskloom.study.results import RunRecord, run_folder
from taskloom.study.statistics import Gain, Scores, choose_on_validation, compare
from taskloom.tasks import Task, TaskSet

Groups = dict[tuple[str, str], list[RunRecord]]
"""Finished runs by (cell id, task); those of training alone under the id of their form."""


def judged_baseline(facts: Mapping[str, Any]) -> str:
    """Cell id of the single-task runs that cells are compared with."""
    return next((str(form["id"]) for form in facts.get("baselines", []) if form["judged"]), SINGLE_TASK)


def judged_only(done: Groups, facts: Mapping[str, Any]) -> Groups:
    """The runs in which those of the form of training alone that is judged by stand under `SINGLE_TASK`."""
    judged = judged_baseline(facts)
    if judged == SINGLE_TASK:
        return done
    found: Groups = defaultdict(list)
    for (cell, task), runs in done.items():
        if cell.startswith(judged):  # a companion's id goes on after its cell's
            found[SINGLE_TASK + cell.removeprefix(judged), task] = runs
        elif not cell.startswith(SINGLE_TASK):
            found[cell, task] = runs
    return found


def by_cell_and_task(records: Sequence[RunRecord]) -> Groups:
    """Sorts the finished runs; see `Groups`."""
    groups: Groups = defaultdict(list)
    for record in records:
        if record.status == "done":
            for task in record.tasks:
                groups[record.cell, task].append(record)
    return groups


def _scores(
    folder: Path,
    runs: Sequence[RunRecord],
    task: str,
    metric: str,
    *,
    groups: bool,
    part: str = "test",
) -> Scores:
    """Values of a part, and where the test set is one and the same, the summaries that resample it."""
    summaries = {}
    if groups:
        for run in runs:
            path = run_folder(folder, run.id) / "test_summary.npz"
            summaries[run.repeat] = load_summaries(path)[task][metric]
    return Scores(_values(runs, task, metric, part), summaries)


def _values(runs: Sequence[RunRecord], task: str, metric: str, part: str) -> dict[int, float]:
    return {
        run.repeat: value.value
        for run in runs
        for value in run.metrics
        if (value.task, value.part, value.metric) == (task, part, metric)
    }


def task_gains(folder: Path, tasks: TaskSet, facts: Mapping[str, Any], done: Groups) -> list[Gain]:
    """Gain of every task in every cell that trained it, over its own single-task runs."""
    gains: list[Gain] = []
    ratio = facts["test_over_train"]
    for name, task in tasks.items():
        if not task.judged:
            continue
        metric = task.primary_metric
        cells = [cell["id"] for cell in facts["cells"] if done.get((cell["id"], name))]
        if not cells or not done.get((SINGLE_TASK, name)):
            continue
        scores = {
            cell: _scores(
                folder, done[cell, name], name, metric, groups=ratio is None or facts["repeats"] == 1
            )
            for cell in [SINGLE_TASK, *cells]
        }
        baseline = scores.pop(SINGLE_TASK)
        gains += compare(name, metric, baseline, scores, test_over_train=ratio).values()
    return gains


def gain_between(
    folder: Path,
    task: Task,
    facts: Mapping[str, Any],
    without: Sequence[RunRecord],
    runs: Sequence[RunRecord],
    cell: str,
) -> Gain | None:
    """Gain of a task in one cell over another cell of the same split and seeds, paired by repeat.

    Args:
        folder: The study's folder.
        task: The task.
        facts: See `study_facts` of `taskloom.study.prepare`.
        without: Runs of the cell that it is compared with.
        runs: Runs of the cell.
        cell: Id of the cell.
    """
    metric, ratio = task.primary_metric, facts["test_over_train"]
    groups = ratio is None or facts["repeats"] == 1
    before, now = (_scores(folder, each, task.name, metric, groups=groups) for each in (without, runs))
    return compare(task.name, metric, before, {cell: now}, test_over_train=ratio).get(cell)


def chosen_cells(tasks: TaskSet, facts: Mapping[str, Any], done: Groups) -> dict[str, str]:
    """Per judged task the cell that is best on validation."""
    validation = {
        name: {
            cell["id"]: _values(done[cell["id"], name], name, task.primary_metric, "validation")
            for cell in facts["cells"]
            if done.get((cell["id"], name))
        }
        for name, task in tasks.items()
        if task.judged
    }
    return choose_on_validation(validation, {name: task.primary_metric for name, task in tasks.items()})


@dataclass(frozen=True)
class Overall:
    """All judged tasks together, where one metric judges them all.

    Args:
        name: What reports call it, "mean of 12 tasks".
        tasks: The tasks.
        metric: Their metric.
        gains: Gain of the mean, one per cell that trains all the tasks.
        chosen: The cell with the best mean on validation.
    """

    name: str
    tasks: tuple[str, ...]
    metric: str
    gains: tuple[Gain, ...]
    chosen: str


def overall(folder: Path, tasks: TaskSet, facts: Mapping[str, Any], done: Groups) -> Overall | None:
    """Compares the mean over all judged tasks, each counted once, with the mean of training each alone.

    None where tasks are judged by different metrics or in different units, or nothing can be compared yet.
    """
    judged = tuple(name for name, task in tasks.items() if task.judged)
    kinds = {
        (tasks[name].primary_metric, METRICS[tasks[name].primary_metric].unit(tasks[name])) for name in judged
    }
    if len(judged) < 2 or len(kinds) > 1:
        return None
    ((metric, _),) = kinds
    cells = [cell["id"] for cell in facts["cells"] if set(judged) <= set(cell["tasks"])]
    ratio = facts["test_over_train"]
    mean = MeanOfTasks(metric, judged)

    def scores(cell: str, part: str) -> Scores:
        per_task = {
            name: _scores(
                folder,
                done.get((cell, name), []),
                name,
                metric,
                groups=part == "test" and (ratio is None or facts["repeats"] == 1),
                part=part,
            )
            for name in judged
        }
        return _mean_scores(per_task, mean.join)

    baseline = scores(SINGLE_TASK, "test")
    test = {cell: cell_scores for cell in cells if (cell_scores := scores(cell, "test")).values}
    if not baseline.values or not test:
        return None
    name = f"mean of {len(judged)} tasks"
    validation = {cell: scores(cell, "validation").values for cell in test}
    chosen = choose_on_validation({name: validation}, {name: metric})
    gains = compare(name, metric, baseline, test, test_over_train=ratio, mean=mean)
    return Overall(name, judged, metric, tuple(gains.values()), chosen.get(name, ""))


def _mean_scores(per_task: Mapping[str, Scores], join: Callable[[Mapping[str, Any]], Any]) -> Scores:
    """Means over tasks, in the repeats that every task has."""
    repeats = set.intersection(*(set(scores.values) for scores in per_task.values()))
    values = {
        repeat: sum(scores.values[repeat] for scores in per_task.values()) / len(per_task)
        for repeat in sorted(repeats)
    }
    summaries = {
        repeat: join({task: scores.summaries[repeat] for task, scores in per_task.items()})
        for repeat in sorted(repeats)
        if all(repeat in scores.summaries for scores in per_task.values())
    }
    return Scores(values, summaries)
