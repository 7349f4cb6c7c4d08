"""The verdicts of a study: every task in every cell against training alone, and all tasks together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskloom.metrics import METRICS, load_summaries
from taskloom.study.cells import SINGLE_TASK
from taskloom.study.mean_of_tasks import MeanOfTasks
from taskloom.study.resampling import Resampling
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


@dataclass(frozen=True)
class Comparison:
    """Which cells are compared with which, and are corrected for being several together.

    Args:
        over: Id of the cell that the others are compared with; by default the task's own single-task runs.
        cells: Ids of the others; every cell of the study where None.
    """

    over: str = SINGLE_TASK
    cells: tuple[str, ...] | None = None

    def cells_of(self, facts: Mapping[str, Any], tasks: Collection[str]) -> list[str]:
        """Ids of the others that train all of `tasks`, in the order of the study."""
        return [
            cell["id"]
            for cell in facts["cells"]
            if set(tasks) <= set(cell["tasks"]) and (self.cells is None or cell["id"] in self.cells)
        ]


ALONE = Comparison()


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
            summaries[run.repeat] = load_summaries(path, only=(task, metric))[task][metric]
    return Scores(_values(runs, task, metric, part), summaries)


def _values(runs: Sequence[RunRecord], task: str, metric: str, part: str) -> dict[int, float]:
    return {
        run.repeat: value.value
        for run in runs
        for value in run.metrics
        if (value.task, value.part, value.metric) == (task, part, metric)
    }


def task_gains(
    folder: Path,
    tasks: TaskSet,
    facts: Mapping[str, Any],
    done: Groups,
    comparisons: Sequence[Comparison] = (ALONE,),
) -> list[list[Gain]]:
    """Gain of every task in every cell that trained it, per comparison; runs are read and resampled once.

    Args:
        folder: The study's folder.
        tasks: The study's tasks.
        facts: See `study_facts` of `taskloom.study.prepare`.
        done: The finished runs.
        comparisons: What is compared.
    """
    found: list[list[Gain]] = [[] for _ in comparisons]
    ratio = facts["test_over_train"]
    for name, task in tasks.items():
        if not task.judged:
            continue
        metric, resampling = task.primary_metric, Resampling(task.primary_metric)
        known: dict[str, Scores] = {}

        def scores(
            cell: str, name: str = name, metric: str = metric, known: dict[str, Scores] = known
        ) -> Scores:
            if cell not in known:
                groups = ratio is None or facts["repeats"] == 1
                known[cell] = _scores(folder, done[cell, name], name, metric, groups=groups)
            return known[cell]

        for gains, comparison in zip(found, comparisons, strict=True):
            cells = [cell for cell in comparison.cells_of(facts, ()) if done.get((cell, name))]
            if cells and done.get((comparison.over, name)):
                gains += compare(
                    name,
                    metric,
                    scores(comparison.over),
                    {cell: scores(cell) for cell in cells},
                    test_over_train=ratio,
                    resampling=resampling,
                ).values()
    return found


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


def overall(
    folder: Path,
    tasks: TaskSet,
    facts: Mapping[str, Any],
    done: Groups,
    comparisons: Sequence[Comparison] = (ALONE,),
) -> list[Overall | None]:
    """Compares the mean over all judged tasks, each counted once, with that of training each alone.

    Arguments as `task_gains`.

    Returns:
        One per comparison; None where tasks are judged by different metrics or in different units, or nothing
        can be compared yet.
    """
    judged = tuple(name for name, task in tasks.items() if task.judged)
    kinds = {
        (tasks[name].primary_metric, METRICS[tasks[name].primary_metric].unit(tasks[name])) for name in judged
    }
    if len(judged) < 2 or len(kinds) > 1:
        return [None] * len(comparisons)
    ((metric, _),) = kinds
    mean = _Means(folder, facts, done, MeanOfTasks(metric, judged))
    return [mean.compared(comparison) for comparison in comparisons]


class _Means:
    """Means over tasks of the cells of a study; each cell is read and resampled once."""

    def __init__(self, folder: Path, facts: Mapping[str, Any], done: Groups, mean: MeanOfTasks) -> None:
        self._folder, self._facts, self._done, self._mean = folder, facts, done, mean
        self._resampling = Resampling(mean)
        self._known: dict[tuple[str, str], Scores] = {}

    def compared(self, comparison: Comparison) -> Overall | None:
        tasks, metric = self._mean.tasks, self._mean.metric.name
        cells = comparison.cells_of(self._facts, tasks)
        baseline = self._scores(comparison.over, "test")
        test = {cell: scores for cell in cells if (scores := self._scores(cell, "test")).values}
        if not baseline.values or not test:
            return None
        name = f"mean of {len(tasks)} tasks"
        validation = {cell: self._scores(cell, "validation").values for cell in test}
        chosen = choose_on_validation({name: validation}, {name: metric})
        gains = compare(
            name,
            metric,
            baseline,
            test,
            test_over_train=self._facts["test_over_train"],
            resampling=self._resampling,
        )
        return Overall(name, tasks, metric, tuple(gains.values()), chosen.get(name, ""))

    def _scores(self, cell: str, part: str) -> Scores:
        if (cell, part) not in self._known:
            resampled = self._facts["test_over_train"] is None or self._facts["repeats"] == 1
            per_task = {
                name: _scores(
                    self._folder,
                    self._done.get((cell, name), []),
                    name,
                    self._mean.metric.name,
                    groups=part == "test" and resampled,
                    part=part,
                )
                for name in self._mean.tasks
            }
            self._known[cell, part] = _mean_scores(per_task, self._mean.join)
        return self._known[cell, part]


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
