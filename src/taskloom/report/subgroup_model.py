"""What a report shows by class and subgroup, as plain data; see `taskloom.study.subgroups`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A value or a difference with its 95 % interval; NaN where undefined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Subgroup:
    """A task on the rows of one class of a label.

    Args:
        name: The class.
        labels: Test labels that it rests on.
        alone, shared: The task's metric alone, and in its chosen cell; None where there is none.
        gain: What sharing changes, paired; positive = better.
    """

    name: str
    labels: int
    alone: Estimate | None
    shared: Estimate | None
    gain: Estimate | None


@dataclass(frozen=True)
class Gap:
    """The best less the worst subgroup; the interval holds for all pairs at once."""

    best: str
    worst: str
    difference: Estimate


@dataclass(frozen=True)
class SubgroupTable:
    """A task by the classes of a label.

    Args:
        task, metric, unit, higher_is_better: The task and the metric that is shown.
        by: The label.
        own: Whether it is the task's own: a class's accuracy is then its recall.
        cell: Id of the cell of `shared`, "" where no cell has finished.
        subgroups: One per class with labels.
        alone, shared: Their gaps; None where fewer than two subgroups have enough labels.
        change: How much smaller (negative) or larger sharing makes the gap that training alone has.
    """

    task: str
    metric: str
    unit: str
    higher_is_better: bool
    by: str
    own: bool
    cell: str
    subgroups: Sequence[Subgroup]
    alone: Gap | None
    shared: Gap | None
    change: Gap | None


@dataclass(frozen=True)
class Confusion:
    """Mean counts over repeats, [true][decided], alone and in the chosen cell; None where there is none."""

    task: str
    cell: str
    classes: Sequence[str]
    alone: Sequence[Sequence[float]] | None
    shared: Sequence[Sequence[float]] | None


@dataclass(frozen=True)
class Mistake:
    """One picture of the gallery.

    Args:
        task, cell: Which network; cell "" is the task alone.
        truth, said, alone: The label, what the network said, and what the task alone said ("" where it is
            that network).
        picture: JPEG in base64.
    """

    task: str
    cell: str
    truth: str
    said: str
    alone: str
    picture: str


@dataclass(frozen=True)
class LandmarkPoint:
    """One landmark, or all of them.

    Args:
        name: The landmark.
        labels: Test labels of it (rows, for all of them).
        measures: Per measure alone, with sharing, and the paired gain; None where there is none.
    """

    name: str
    labels: int
    measures: Mapping[str, tuple[Estimate | None, Estimate | None, Estimate | None]]


@dataclass(frozen=True)
class LandmarkTable:
    """A task of landmarks, point by point; see `taskloom.study.landmark_points`.

    Args:
        task: The task.
        cell: Id of the cell that is best on validation, "" where no cell has finished.
        reference: What errors are divided by, in words.
        points: Its landmarks, and all of them as the last one.
    """

    task: str
    cell: str
    reference: str
    points: Sequence[LandmarkPoint]
