"""What stands in a prepared data set: labels and holes per task, jointly and per row, groups, and leaks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom.data.batch import DataSplits, TaskDataset
from taskloom.data.relabelled import original
from taskloom.data.windows import WindowDataset
from taskloom.tasks import Binary, Labels, Landmarks, Multiclass, Multilabel, Regression, Task

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class PartLabels:
    """Labels of one task in one part.

    Args:
        present, missing: Numbers of labels: rows, or elements for multilabel, landmarks and samples.
        counts: Present labels per class; for multilabel and landmarks, per label and point: how many are 1
            (multilabel) or there (landmarks). Empty for a regression.
        mean, deviation: Of the present values of a regression, in its unit; None otherwise or where none is.
    """

    present: int
    missing: int
    counts: dict[str, int]
    mean: float | None = None
    deviation: float | None = None


@dataclass(frozen=True)
class TaskLabels:
    """One task: its kind and its labels per part."""

    name: str
    kind: str
    unit: str
    parts: dict[str, PartLabels]
    role: str = "main"

    @property
    def missing_share(self) -> float:
        """Share of labels that are missing in all parts together, 0..1."""
        present = sum(part.present for part in self.parts.values())
        missing = sum(part.missing for part in self.parts.values())
        return missing / max(1, present + missing)


@dataclass(frozen=True)
class PartGroups:
    """Groups of one part: how many, and rows of the smallest, the median and the largest one."""

    count: int
    smallest: int
    median: float
    largest: int


@dataclass(frozen=True)
class Leak:
    """Something that stands in two parts.

    Args:
        what: "groups", "inputs" (rows whose inputs are equal bit for bit) or "samples" (windows that share
            samples of a recording).
        parts: The two parts.
        count: How many groups, or how many rows of the second part.
        examples: A few groups, rows (the first row of the table is row 1) or recordings.
        fatal: Whether results on the second part cannot be trusted; equal inputs alone can be honest.
    """

    what: str
    parts: tuple[str, str]
    count: int
    examples: tuple[str, ...]
    fatal: bool


@dataclass(frozen=True)
class Inspection:
    """What `inspect_splits` found.

    Args:
        rows: Rows per part.
        tasks: Per task, in order.
        joint: [T][T] numbers of rows, all parts together, that have a label of both tasks; the diagonal
            counts rows with a label of the task.
        labels_per_row: [T + 1] numbers of rows with 0, 1, ... T tasks labelled.
        groups: Per part.
        leaks: What stands in two parts; () where nothing does.
        unchecked: What could not be compared, in words.
        about: What the reader says about the data.
    """

    rows: dict[str, int]
    tasks: tuple[TaskLabels, ...]
    joint: tuple[tuple[int, ...], ...]
    labels_per_row: tuple[int, ...]
    groups: dict[str, PartGroups]
    leaks: tuple[Leak, ...]
    unchecked: tuple[str, ...]
    about: dict[str, Any]


def inspect_splits(splits: DataSplits) -> Inspection:
    """Counts labels, holes, groups and leaks; reads inputs only to find equal rows of tables and images.

    Args:
        splits: A prepared data set.

    Returns:
        Plain data; `taskloom.data.inspect_text.render` makes it readable.

    Example:
        >>> from taskloom.data.feature_rows import FeatureRows
        >>> from taskloom.data.tables import TableDataset
        >>> from taskloom.tasks import TaskSet
        >>> import torch
        >>> tasks = TaskSet(Binary("sex", ("F", "M")))
        >>> labels = Labels({"sex": torch.tensor([0, 1, 0])}, {"sex": torch.tensor([True, True, False])})
        >>> rows = FeatureRows(np.eye(3, dtype=np.float32))
        >>> part = [TableDataset(rows, np.array([row]), tasks, labels) for row in range(3)]
        >>> found = inspect_splits(DataSplits(*part, about={}, preprocessing={}))
        >>> found.labels_per_row, found.leaks
        ((1, 2), ())
    """
    parts: dict[str, TaskDataset] = {name: getattr(splits, name) for name in PARTS}
    presence = np.concatenate([_row_presence(part) for part in parts.values()])
    joint = presence.T.astype(np.int64) @ presence.astype(np.int64)
    per_row = np.bincount(presence.sum(axis=1), minlength=len(splits.tasks) + 1)
    leaks, unchecked = _find_leaks(parts)
    return Inspection(
        rows={name: len(part) for name, part in parts.items()},
        tasks=tuple(
            TaskLabels(
                name,
                task.kind,
                task.unit if isinstance(task, Regression) else "",
                {part_name: _part_labels(task, part.labels, len(part)) for part_name, part in parts.items()},
                task.role,
            )
            for name, task in splits.tasks.items()
        ),
        joint=tuple(tuple(int(count) for count in row) for row in joint),
        labels_per_row=tuple(int(count) for count in per_row),
        groups={name: _part_groups(part.groups) for name, part in parts.items()},
        leaks=tuple(leaks),
        unchecked=tuple(unchecked),
        about=splits.about,
    )


def _row_presence(part: TaskDataset) -> NDArray[np.bool_]:
    """Whether each row has any label of each task, [N, T]."""
    presence = np.zeros((len(part), len(part.tasks)), dtype=np.bool_)
    for position, name in enumerate(part.tasks):
        if len(part) and name in part.labels.present:
            present = part.labels.present[name].numpy()
            presence[:, position] = present.reshape(len(part), -1).any(axis=1)
    return presence


def _part_labels(task: Task, labels: Labels, num_rows: int) -> PartLabels:
    if task.name not in labels.values:
        return PartLabels(0, num_rows * int(np.prod(task.presence_shape)), {})
    present = labels.present[task.name].numpy()
    values = labels.values[task.name].numpy()
    num_present = int(present.sum())
    counts: dict[str, int] = {}
    mean = deviation = None
    if isinstance(task, Binary | Multiclass):
        found = np.bincount(values[present].reshape(-1), minlength=len(task.class_names))
        counts = {name: int(count) for name, count in zip(task.class_names, found, strict=True)}
    elif isinstance(task, Multilabel | Landmarks):
        shown = present & (values == 1) if isinstance(task, Multilabel) else present
        counts = {name: int(shown[:, position].sum()) for position, name in enumerate(task.class_names)}
    elif num_present:
        numbers = values[present].astype(np.float64)
        mean, deviation = float(numbers.mean()), float(numbers.std())
    return PartLabels(num_present, int(present.size) - num_present, counts, mean, deviation)


def _part_groups(groups: NDArray[np.int64]) -> PartGroups:
    sizes = np.unique(groups, return_counts=True)[1]
    if not len(sizes):
        return PartGroups(0, 0, 0.0, 0)
    return PartGroups(len(sizes), int(sizes.min()), float(np.median(sizes)), int(sizes.max()))


def _pairs() -> Iterator[tuple[str, str]]:
    for position, first in enumerate(PARTS):
        for second in PARTS[position + 1 :]:
            yield first, second


def _find_leaks(parts: dict[str, Any]) -> tuple[list[Leak], list[str]]:
    leaks: list[Leak] = []
    unchecked: list[str] = []
    parts = {part: original(dataset) for part, dataset in parts.items()}
    names = {part: found for part, d in parts.items() if (found := _group_names(d)) is not None}
    if len(names) == len(parts):
        for first, second in _pairs():
            shared = sorted(names[first] & names[second])
            if shared:
                leaks.append(Leak("groups", (first, second), len(shared), tuple(shared[:5]), True))
    else:
        unchecked.append("groups on two sides: the dataset does not name its groups")
    if all(hasattr(dataset, "fingerprints") for dataset in parts.values()):
        leaks += _equal_inputs(parts)
    if all(isinstance(dataset, WindowDataset) for dataset in parts.values()):
        leaks += _shared_samples(parts)
    return leaks, unchecked


def _group_names(dataset: Any) -> set[str] | None:
    """Names of the groups that a dataset's rows belong to; None where the dataset does not name them."""
    if isinstance(dataset, WindowDataset):
        codes, names = dataset.group_index(dataset.group_by)
        return {names[code] for code in np.unique(codes)}
    named = getattr(dataset, "group_names", None)
    return None if named is None else {str(name) for name in named}


def _equal_inputs(parts: dict[str, Any]) -> list[Leak]:
    """Rows whose inputs stand in another part too."""
    prints = {name: part.fingerprints() for name, part in parts.items()}
    leaks = []
    for first, second in _pairs():
        doubled = np.flatnonzero(np.isin(prints[second], prints[first]))
        if len(doubled):
            examples = tuple(f"row {parts[second].rows[row] + 1}" for row in doubled[:5])
            leaks.append(Leak("inputs", (first, second), len(doubled), examples, False))
    return leaks


def _shared_samples(parts: Mapping[str, WindowDataset]) -> list[Leak]:
    """Windows that share samples with a window of another part.

    `splits.verify_no_leak` refuses such a split; here they are counted, whatever made the split.
    """
    leaks = []
    for first, second in _pairs():
        earlier, later = parts[first], parts[second]
        if not len(earlier) or earlier.store.folder.resolve() != later.store.folder.resolve():
            continue
        starts = np.sort(earlier.starts)
        right = np.searchsorted(starts, later.starts)
        to_next = starts[np.minimum(right, len(starts) - 1)] - later.starts
        to_previous = later.starts - starts[np.maximum(right - 1, 0)]
        # Of all windows only the nearest ones before and after can share samples.
        shares = ((to_next >= 0) & (to_next < later.window_samples)) | (
            (to_previous >= 0) & (to_previous < earlier.window_samples)
        )
        found = np.flatnonzero(shares)
        if len(found):
            recordings = later.store.recordings
            names = sorted({recordings[int(index)].name for index in later.recording_index[found]})
            leaks.append(Leak("samples", (first, second), len(found), tuple(names[:5]), True))
    return leaks
