"""The verdicts of a study: every task in every cell against training alone, and all tasks together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskloom.metrics import METRICS, load_summaries
from taskloom.study.cells import SINGLE_TASK
from taskloom.study.choice import gain_by_others
from taskloom.study.design import same_folds
from taskloom.study.mean_of_tasks import MeanOfTasks
from taskloom.study.resampling import Resampling
from taskloom.study.results import RunRecord, run_folder
from taskloom.study.statistics import Gain, Scores, choose_on_validation, compare
from taskloom.tasks import Regression, Task, TaskSet

Groups = dict[tuple[str, str], list[RunRecord]]
"""Finished runs by (cell id, task); those of training alone under the id of their form."""
_ONE_SIZE = 3.0
"""How many times as large as another task's an error without a unit may be for a mean to say anything."""


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


def scores_of(
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


@dataclass(frozen=True)
class Compared:
    """What a comparison found.

    Args:
        gains: Of every judged task in every cell that trained it.
        overall: Of all judged tasks together; None where they are judged by different metrics or in different
            units (where none is given: by errors of another size), or nothing can be compared yet.
    """

    gains: tuple[Gain, ...]
    overall: Overall | None


def compare_all(
    folder: Path,
    tasks: TaskSet,
    facts: Mapping[str, Any],
    done: Groups,
    comparisons: Sequence[Comparison] = (ALONE,),
) -> list[Compared]:
    """Gains of every comparison. A run is read and resampled once for all of them.

    Args:
        folder: The study's folder.
        tasks: The study's tasks.
        facts: See `study_facts` of `taskloom.study.prepare`.
        done: The finished runs.
        comparisons: What is compared.
    """
    gains: list[list[Gain]] = [[] for _ in comparisons]
    for task in tasks.values():
        if task.judged:
            scored = _TaskScores(folder, facts, done, task)  # one task's runs in memory at a time
            for found, comparison in zip(gains, comparisons, strict=True):
                found += scored.compared(comparison)
    judged = tuple(name for name, task in tasks.items() if task.judged)
    kinds = {
        (tasks[name].primary_metric, METRICS[tasks[name].primary_metric].unit(tasks[name])) for name in judged
    }
    together: list[Overall | None] = [None] * len(comparisons)
    if len(judged) > 1 and len(kinds) == 1 and _one_scale(next(iter(kinds)), gains[0]):
        ((metric, _),) = kinds
        means = _MeanScores(folder, facts, done, MeanOfTasks(metric, judged))
        together = [means.compared(comparison) for comparison in comparisons]
    return [Compared(tuple(found), mean) for found, mean in zip(gains, together, strict=True)]


def _one_scale(kind: tuple[str, str], gains: Sequence[Gain]) -> bool:
    """Whether a mean over tasks says something: of errors without a unit, only where they are of one size.

    Millimetres and kilograms of a table that names no units would else be added up, and the larger numbers
    alone decide.
    """
    metric, unit = kind
    if unit or not METRICS[metric].unit(Regression("any", unit="m")):
        return True
    sizes = [gain.baseline_value for gain in gains if gain.baseline_value > 0]
    return not sizes or max(sizes) <= _ONE_SIZE * min(sizes)


class _TaskScores:
    """What the cells of a study reached on one task; each cell is read and resampled once."""

    def __init__(self, folder: Path, facts: Mapping[str, Any], done: Groups, task: Task) -> None:
        self._folder, self._facts, self._done, self._task = folder, facts, done, task
        self._resampling = Resampling(task.primary_metric)
        self._known: dict[str, Scores] = {}

    def compared(self, comparison: Comparison) -> list[Gain]:
        name = self._task.name
        cells = [cell for cell in comparison.cells_of(self._facts, ()) if self._done.get((cell, name))]
        if not cells or not self._done.get((comparison.over, name)):
            return []
        gains = compare(
            name,
            self._task.primary_metric,
            self._scores(comparison.over),
            {cell: self._scores(cell) for cell in cells},
            test_over_train=self._facts["test_over_train"],
            same_folds=same_folds(self._facts),
            resampling=self._resampling,
        )
        return list(gains.values())

    def _scores(self, cell: str) -> Scores:
        if cell not in self._known:
            name, groups = self._task.name, are_resampled(self._facts)
            runs = self._done[cell, name]
            self._known[cell] = scores_of(self._folder, runs, name, self._task.primary_metric, groups=groups)
        return self._known[cell]


def are_resampled(facts: Mapping[str, Any]) -> bool:
    """Whether the test's groups are resampled: where it is one test set, not one per repeat."""
    return facts["test_over_train"] is None or facts["repeats"] == 1


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
    metric, ratio, groups = task.primary_metric, facts["test_over_train"], are_resampled(facts)
    before, now = (scores_of(folder, each, task.name, metric, groups=groups) for each in (without, runs))
    gains = compare(
        task.name, metric, before, {cell: now}, test_over_train=ratio, same_folds=same_folds(facts)
    )
    return gains.get(cell)


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


def by_other_repeats(task: Task, facts: Mapping[str, Any], done: Groups) -> tuple[int, float]:
    """Number of cells that a task's choice is among, and its gain by `gain_by_others` (NaN where unknown)."""
    name, metric = task.name, task.primary_metric
    cells = [cell["id"] for cell in facts["cells"] if done.get((cell["id"], name))]
    test, validation = (
        {cell: _values(done[cell, name], name, metric, part) for cell in cells}
        for part in ("test", "validation")
    )
    alone = _values(done.get((SINGLE_TASK, name), []), name, metric, "test")
    return len(cells), gain_by_others(metric, alone, test, validation)


class _MeanScores:
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
            same_folds=same_folds(self._facts),
            resampling=self._resampling,
        )
        return Overall(name, tasks, metric, tuple(gains.values()), chosen.get(name, ""))

    def _scores(self, cell: str, part: str) -> Scores:
        if (cell, part) not in self._known:
            resampled = are_resampled(self._facts)
            per_task = {
                name: scores_of(
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
