"""What every split must satisfy: no part empty, nothing shared between parts, every class seen in train."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from taskloom.data.cell_texts import alike_but_for_case
from taskloom.data.windows import WindowDataset
from taskloom.errors import ConfigError, DataError
from taskloom.tasks import Binary, Labels, Multiclass, TaskSet
from taskloom.wording import counted


@dataclass(frozen=True, eq=False)
class Parts:
    """Row indices of the three parts of a data set, each ascending, int64."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]

    def items(self) -> Iterator[tuple[str, NDArray[np.int64]]]:
        """("train", rows), ("validation", rows), ("test", rows)"""
        yield from (("train", self.train), ("validation", self.validation), ("test", self.test))

    def counts(self) -> dict[str, int]:
        """Rows per part."""
        return {name: len(rows) for name, rows in self.items()}


_PART_WORDS = ("train", "training", "validation", "valid", "val", "dev", "test", "testing", "eval")


def check_not_empty(parts: Parts, rule: str = "the rule") -> None:
    """Raises DataError where a part has no row."""
    for name, rows in parts.items():
        if not len(rows):
            raise DataError(
                f"split: {rule} leaves {name} without a row ({_listed(parts)}); change the fractions or "
                "the rule."
            )


def check_not_parts(by: str, names: Sequence[str]) -> None:
    """Refuses to draw a split by a column that holds one: its parts would be drawn anew as three groups.

    Args:
        by: The column.
        names: Its values.

    Raises:
        ConfigError: They are names of parts.

    Example:
        >>> check_not_parts("city", ["Trieste", "Test"])
    """
    if len(names) < 2 or not all(name.strip().lower() in _PART_WORDS for name in names):
        return
    meant = {
        word: next((name for name in names if name.strip().lower()[:3] in starts), None)
        for word, starts in (("test", ("tes", "eva")), ("validation", ("val", "dev")))
    }
    if meant["test"] is None:  # what is held out, under whatever name, is what can be tested on
        meant = {"test": meant["validation"], "validation": None}
    said = "".join(f", {word}: {name}" for word, name in meant.items() if name not in (None, word))
    said += ", validation: 0.1" if meant["validation"] is None else ""
    raise ConfigError(
        f"split.by: rows of one value of `{by}` stay on one side of a split that is drawn, but its values "
        f"({', '.join(names)}) name the parts of a split; "
        f"`split: {{by: column, column: {by}{said}}}` takes it as it stands."
    )


def verify_no_leak(windows: WindowDataset, parts: Parts) -> None:
    """Refuses parts in which two windows share a sample, or one row stands twice.

    Windows have one length, so among windows sorted by start some pair from different parts shares samples
    if and only if two neighbours do: O(n log n).

    Raises:
        DataError: Naming the recording, the parts and the samples.
    """
    rows = np.concatenate([part for _, part in parts.items()])
    part_of = np.repeat(np.arange(3), [len(part) for _, part in parts.items()])
    starts = windows.starts[rows]
    order = np.argsort(starts, kind="stable")
    starts, part_of = starts[order], part_of[order]
    leaks = np.flatnonzero((np.diff(starts) < windows.window_samples) & (part_of[1:] != part_of[:-1]))
    if not len(leaks):
        return
    first = int(leaks[0])
    names = [name for name, _ in parts.items()]
    recording = windows.store.recordings[int(windows.recording_index[rows[order[first]]])]
    left, right = int(starts[first]), int(starts[first + 1])
    raise DataError(
        f"split: in recording {recording.name} the windows at samples {left - recording.start} "
        f"({names[part_of[first]]}) and {right - recording.start} ({names[part_of[first + 1]]}) share "
        f"{left + windows.window_samples - right} samples, and so do {len(leaks) - 1} further pairs; "
        "`by: recording`, a group, or `by: time` keep them apart."
    )


def verify_disjoint(parts: Parts) -> None:
    """Raises DataError where one row stands in two parts or twice in one."""
    rows = np.concatenate([part for _, part in parts.items()])
    values, counts = np.unique(rows, return_counts=True)
    if (counts > 1).any():
        raise DataError(f"split: row {values[counts > 1][0]} stands in more than one part.")


def verify_groups(
    groups: NDArray[np.integer[Any]],
    names: Sequence[str],
    parts: Parts,
    *,
    by: str,
    rows: str = "rows",
    column: str | None = None,
    declared: bool = False,
) -> None:
    """Refuses parts in which a group stands on two sides.

    Args:
        groups: Group of every row of the data set, [N], positions in `names`.
        names: Names of the groups.
        parts: The parts.
        by: What a group is, for the message: "person".
        rows: What a row is, for the message: "windows".
        column: The table's column that decided the parts, where one did.
        declared: Whether the data declare the groups and the rule is about something else, so that
            `shared_groups: allowed` is a way out.

    Raises:
        DataError: Naming the group and how many of its rows stand where.
    """
    counts, shared = _spread(groups, len(names), parts)
    if not len(shared):
        return
    group = int(shared[0])
    found = [
        (name, int(count)) for (name, _), count in zip(parts.items(), counts[:, group], strict=True) if count
    ]
    (first, first_count), *others = found
    where = f"{first} ({first_count:,} {rows})" + "".join(
        f" and {name} ({count:,})" for name, count in others
    )
    number = {2: "two", 3: "three"}[len(found)]
    cause = f"; {by} {names[group]} has {number} values of `{column}`" if column else ""
    others_too = f" ({len(shared) - 1} more likewise)" if len(shared) > 1 else ""
    way_out = "; `shared_groups: allowed` takes the split as it is, with a warning" if declared else ""
    raise DataError(
        f"split: {by} {names[group]} stands in {where}{others_too}. `by: {by}` keeps a {by} on one side"
        f"{cause}{way_out}."
    )


def count_shared_groups(groups: NDArray[np.integer[Any]], parts: Parts) -> int:
    """Returns how many groups stand in more than one part; `groups` is the group of every row, [N]."""
    return len(_spread(groups, int(groups.max(initial=-1)) + 1, parts)[1])


def _spread(
    groups: NDArray[np.integer[Any]], num_groups: int, parts: Parts
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows per part and group, [3, G], and the groups that stand in more than one part."""
    counts = np.stack([np.bincount(groups[part], minlength=num_groups) for _, part in parts.items()])
    return counts, np.flatnonzero((counts > 0).sum(axis=0) > 1)


def check_classes(labels: Labels, tasks: TaskSet, parts: Parts, *, stratify: str | None = None) -> None:
    """Refuses a split from which a task cannot be learned or judged.

    Args:
        labels: Labels of all rows of the data set.
        tasks: The tasks.
        parts: The parts.
        stratify: What the split was stratified by, which is then no advice.

    Raises:
        DataError: A task without any label in train; a binary or multiclass task with a single class in
            train; a class in validation or test that train does not have.
    """
    for name, task in tasks.items():
        if name not in labels.values:
            raise DataError(f"tasks.{name}: no row has a label for it; leave the task out.")
        values, present = labels.values[name], labels.present[name]
        if not present[torch.from_numpy(parts.train)].any():
            nowhere = "" if present.any() else " (no other row has one either)"
            raise DataError(
                f"split: task {name}: none of the {len(parts.train):,} rows of train has a label for it"
                f"{nowhere}; leave the task out, or change `split.by`, its fractions or `split.seed`."
            )
        if isinstance(task, Binary | Multiclass):
            _check_task_classes(name, task.class_names, values, present, parts, stratified=stratify == name)


def _check_task_classes(
    task: str, classes: Sequence[str], values: Tensor, present: Tensor, parts: Parts, *, stratified: bool
) -> None:
    counts = {
        part: torch.bincount(values[index][present[index]].flatten(), minlength=len(classes))
        for part, index in ((part, torch.from_numpy(rows)) for part, rows in parts.items())
    }
    seen = counts["train"] > 0
    in_all = torch.stack(list(counts.values())).sum(dim=0).tolist()
    if int(seen.sum()) == 1:
        only = int(seen.nonzero()[0])
        others = counted(sum(in_all) - in_all[only], "label")
        raise DataError(
            f"split: task {task}: every label of train is `{classes[only]}`; at least two classes are needed "
            f"to learn it ({others} of other classes in all). {_ways_out(task, stratified)}, or leave the "
            "task out."
        )
    for part in ("validation", "test"):
        strange = (counts[part] > 0) & ~seen
        if bool(strange.any()):
            index = int(strange.nonzero()[0])
            raise DataError(
                f"split: task {task}: {part} has {counted(int(counts[part][index]), 'label')} of class "
                f"`{classes[index]}`, which train never shows ({counted(in_all[index], 'label')} in all). "
                f"{_written_otherwise(classes, index)}{_ways_out(task, stratified)}, or blank these labels."
            )


def _ways_out(task: str, stratified: bool) -> str:
    others = "another `split.seed`, `split.by` or fractions"
    if stratified:
        return f"`split.stratify: {task}` could not spread so few: set {others}"
    return f"Set `split.stratify: {task}` (where groups or rows are drawn), {others}"


def _written_otherwise(classes: Sequence[str], index: int) -> str:
    """The likeliest cause of a rare class: a slip of the pen in one cell."""
    for alike in alike_but_for_case(classes):
        if classes[index] in alike:
            other = next(name for name in alike if name != classes[index])
            return f"If it is `{other}`, write them alike in the table. "
    return ""


def _listed(parts: Parts) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in parts.counts().items())
