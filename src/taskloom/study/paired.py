"""What two networks decided for the same test rows: values over repeats and draws, differences paired.

What subgroups and single landmarks share. Intervals: whole clusters of the test set (people, where rows are
grouped) are drawn with replacement, the same draws for both networks, so that differences are paired; to that
comes the spread between the repeats. Where each repeat draws its own split, the spread between them stands
for both (Nadeau and Bengio 2003); repeats on the same fold are one split.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from taskloom.study.cells import SINGLE_TASK
from taskloom.study.decisions import load_decisions, load_numbers
from taskloom.study.intervals import Part, half_width, over_splits
from taskloom.study.results import RunRecord, run_folder
from taskloom.study.test_rows import TestRows, load_test_rows
from taskloom.study.verdicts import Groups
from taskloom.tasks import Landmarks, Ordinal, Regression, Task, TaskSet
from taskloom.training.evaluation import resample_groups

Floats = NDArray[np.float64]
Row = dict[str, Any]

NUM_RESAMPLES = 1000
LEAST_RESAMPLES = 200
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
        splits: Of redrawn splits, what tells those of the repeats apart; all differ where empty.
    """

    values: Floats
    resampled: Floats | None
    clusters: int
    splits: tuple[str, ...] = ()

    def __sub__(self, other: Sample) -> Sample:
        together = None
        if self.resampled is not None and other.resampled is not None:
            together = self.resampled - other.resampled
        return Sample(self.values - other.values, together, min(self.clusters, other.clusters), self.splits)

    def estimate(
        self,
        test_over_train: float | None,
        alpha: float = ALPHA,
        within: tuple[float, float] = (-math.inf, math.inf),
    ) -> Row:
        """`value`, `low`, `high`, the bounds kept within what is possible; NaN where undefined.

        A t interval of few repeats or clusters may go further than any value can. Cut there it covers the
        true value as often as before.

        Where all values are equal, chance was not seen, which does not mean that there is none: no bounds.
        """
        number = len(self.values)
        if test_over_train is not None and number > 1:
            own, overlap, degrees = over_splits(self.values, self.splits or range(number), test_over_train)
            parts = [Part(own + overlap, degrees)]
        else:
            spread = float(self.values.var(ddof=1)) if number > 1 else 0.0
            parts = [
                Part(spread / number, number - 1),
                Part(self._clusters_variance(), self.clusters - 1),
            ]
        parts = [part for part in parts if part.degrees > 0]
        value = float(self.values.mean())
        if not sum(part.variance for part in parts) > (_ROUNDING * max(1.0, abs(value))) ** 2:
            return {"value": value, "low": math.nan, "high": math.nan}
        half = float(half_width(parts, alpha))
        least, most = within
        return {"value": value, "low": max(least, value - half), "high": min(most, value + half)}

    def _clusters_variance(self) -> float:
        if self.resampled is None or self.clusters < 2:
            return 0.0
        defined = self.resampled[~np.isnan(self.resampled)]
        if len(defined) < len(self.resampled) / 2:
            return math.nan
        return float(defined.var(ddof=1)) * self.clusters / (self.clusters - 1)


@dataclass(frozen=True)
class Decided:
    """What one run decided for the test rows.

    Args:
        repeat: Which repeat.
        outputs: Outputs that decide as it did, [N, width], for `surrogate(task)`.
        rows: Labels and clusters of the rows.
        split: What tells its test part from others.
    """

    repeat: int
    outputs: Tensor
    rows: TestRows
    split: str


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
    split = run.details.get("test_rows", "")
    rows = load_test_rows(folder, split)
    if rows is None or task.name not in rows.labels.values:
        return None
    own = run_folder(folder, run.id)
    if isinstance(task, Regression | Landmarks):
        outputs = load_numbers(own, task.name)
        outputs = None if outputs is None else outputs.reshape(len(outputs), -1)
    else:
        outputs = (load_decisions(own, TaskSet(task)) or {}).get(task.name)
    return None if outputs is None or outputs.ndim != 2 else Decided(run.repeat, outputs, rows, split)


def judged_sides(
    folder: Path,
    tasks: TaskSet,
    done: Groups,
    chosen: Mapping[str, str],
    kinds: tuple[type[Task], ...] = (Task,),
) -> Iterator[tuple[Task, str, Sides]]:
    """Every judged task of which runs have kept something, its chosen cell, and its runs alone and in it.

    Args:
        folder: The study's folder.
        tasks: Its tasks.
        done: Its finished runs.
        chosen: Per task the id of the cell that is best on validation; without one the cell is "".
        kinds: Only tasks of these kinds.
    """
    for name, task in tasks.items():
        if task.judged and isinstance(task, kinds):
            cell = chosen.get(name, "")
            sides = _sides(folder, task, done, cell)
            if any(sides.values()):
                yield task, cell, sides


def _sides(folder: Path, task: Task, done: Groups, cell: str) -> Sides:
    """The runs of a task alone and in a cell, of the same repeats."""
    sides: Sides = {}
    for side, key in (("alone", SINGLE_TASK), ("shared", cell)):
        runs = sorted(done.get((key, task.name), []), key=lambda run: run.repeat) if key else []
        found = [decided for run in runs if (decided := decided_by(folder, task, run)) is not None]
        sides[side] = found
    common = {one.repeat for one in sides["alone"]} & {one.repeat for one in sides["shared"]}
    if common:
        sides = {side: [one for one in found if one.repeat in common] for side, found in sides.items()}
    return sides


def differences_within(most: float) -> tuple[float, float]:
    """Bounds of the difference of two values of a metric that goes from 0 to `most`."""
    return -most, most


def signed(sample: Sample, sign: float) -> Sample:
    """The sample times 1 or -1: positive is better."""
    resampled = None if sample.resampled is None else sign * sample.resampled
    return Sample(sign * sample.values, resampled, sample.clusters, sample.splits)


def weights_of(task: Task, rows: TestRows) -> Floats | None:
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
