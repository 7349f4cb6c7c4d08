"""Removing training labels on purpose: what would the methods do if less were annotated?

A setting of every source, beside its own:

    remove_labels: {share: 0.8, tasks: [a, b]}        80 % of the labels of a and of b, each drawn by itself
    remove_labels: {disjoint: [[digit], [top, middle]]}   every row keeps the labels of one group of tasks
    remove_labels: [{disjoint: ...}, {share: 0.5}]    one after the other

Labels are removed from training rows only; validation and test stay as they are. The same seed removes the
same labels, and a larger share removes those of a smaller one and more.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from taskloom.data.batch import DataSplits, TaskDataset
from taskloom.data.relabelled import Relabelled
from taskloom.errors import ConfigError, DataError, did_you_mean
from taskloom.tasks import Binary, Labels, Multiclass, TaskSet

SETTING = "remove_labels"
_WHERE = f"data.{SETTING}"


@dataclass(frozen=True)
class Removal:
    """One step of removing labels.

    Args:
        share: Share of every task's present labels (elements of a multilabel task) that is removed, 0 to
            below 1; None with `disjoint`.
        tasks: The tasks that lose labels; all where empty. Not with `disjoint`.
        disjoint: Groups of tasks: every row keeps the labels of one group alone, and those of tasks that no
            group names.
        shares: Share of the rows that each group gets; equal where empty.
        seed: Of the draw; the split's where None.

    Raises:
        ConfigError: Settings that are missing, out of range or that contradict each other.
    """

    share: float | None = None
    tasks: tuple[str, ...] = ()
    disjoint: tuple[tuple[str, ...], ...] = ()
    shares: tuple[float, ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        if (self.share is None) == (not self.disjoint):
            raise ConfigError(
                f"{_WHERE}: either `share` (of the labels) or `disjoint` (groups of tasks) expected, found "
                f"{'neither' if self.share is None else 'both'}."
            )
        if self.share is not None and not 0 <= self.share < 1:
            raise ConfigError(f"{_WHERE}.share: a number from 0 to below 1 expected, found {self.share}.")
        if self.disjoint and len(self.disjoint) < 2:
            raise ConfigError(f"{_WHERE}.disjoint: two groups of tasks or more expected, found one.")
        if self.disjoint and self.tasks:
            raise ConfigError(f"{_WHERE}.tasks: goes with `share`; `disjoint` names its tasks itself.")
        if self.shares:
            if len(self.shares) != len(self.disjoint):
                raise ConfigError(
                    f"{_WHERE}.shares: one per group of `disjoint` ({len(self.disjoint)}) expected, found "
                    f"{len(self.shares)}."
                )
            if min(self.shares) <= 0 or abs(sum(self.shares) - 1) > 1e-6:
                raise ConfigError(
                    f"{_WHERE}.shares: positive shares with the sum 1 expected, found {list(self.shares)}."
                )

    @classmethod
    def from_settings(cls, given: Any) -> Self:
        """Reads one step as a study file has it.

        Raises:
            ConfigError: Not settings by name, an unknown one, or a value that does not fit.

        Example:
            >>> Removal.from_settings({"share": 0.5, "tasks": "sex"}).tasks
            ('sex',)
        """
        known = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(given, Mapping):
            raise ConfigError(f"{_WHERE}: settings by name expected ({', '.join(known)}), found {given!r}.")
        for key in given:
            if key not in known:
                raise ConfigError(
                    f"{_WHERE}.{key} is not a setting.{did_you_mean(str(key), known)} "
                    f"Settings: {', '.join(known)}."
                )
        values = dict(given)
        share, seed = values.get("share"), values.get("seed")
        if share is not None:
            values["share"] = _number(share, "share")
        if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool) or seed < 0):
            raise ConfigError(f"{_WHERE}.seed: a whole number from 0 expected, found {seed!r}.")
        values["tasks"] = _names(values.get("tasks") or (), "tasks")
        groups = values.get("disjoint") or ()
        if not isinstance(groups, list | tuple):
            raise ConfigError(f"{_WHERE}.disjoint: lists of tasks expected, found {groups!r}.")
        values["disjoint"] = tuple(_names(group, "disjoint") for group in groups)
        shares = values.get("shares") or ()
        if not isinstance(shares, list | tuple):
            raise ConfigError(
                f"{_WHERE}.shares: a list of numbers, one per group of `disjoint`, expected, found {shares!r}"
                "; a share of one task's labels is a step of its own: [{share: 0.3, tasks: a}, ...]."
            )
        values["shares"] = tuple(_number(value, "shares") for value in shares)
        return cls(**values)


def remove_labels(
    splits: DataSplits, given: Any, *, seed: int, class_weights: Mapping[str, Any] | None = None
) -> DataSplits:
    """Returns the data with labels removed from their training rows.

    Regressions are standardised anew, and balanced class weights found anew, on the training labels that are
    left.

    Args:
        splits: The data.
        given: The setting: one step's settings or a list of them.
        seed: Of draws that have no seed of their own.
        class_weights: Per task, class weights as they are declared; those that are numbers stay.

    Raises:
        ConfigError: See `Removal`; a task that is not there.
        DataError: A task loses its last training label, or the last one of a class that test has.
    """
    steps = [Removal.from_settings(step) for step in (given if isinstance(given, list) else [given])]
    before = splits.train.labels
    present = {name: tensor.clone() for name, tensor in before.present.items()}
    for step in steps:
        _check_names(step, splits.tasks)
        own = seed if step.seed is None else step.seed
        if step.share is None:
            _keep_one_group(present, step, len(splits.train), own)
        else:
            for name in step.tasks or splits.tasks.names:
                if name in present:
                    _thin(present[name], step.share, own, name)
    labels = Labels(before.values, present)
    _check_left(labels, splits)
    tasks = splits.tasks.with_class_weights(class_weights or {}).fit(labels)
    parts: dict[str, TaskDataset] = {
        "train": Relabelled(splits.train, labels, tasks),
        "validation": Relabelled(splits.validation, splits.validation.labels, tasks),
        "test": Relabelled(splits.test, splits.test.labels, tasks),
    }
    had, left = before.counts(), labels.counts()
    lost = {name: had[name] - left[name] for name in had if had[name] != left[name]}
    words = ", ".join(f"{name} {count:,} of {had[name]:,}" for name, count in lost.items())
    about = dict(splits.about)
    about["removed_labels"] = {name: {"removed": lost[name], "of": had[name]} for name in lost}
    about["notes"] = [
        *about.get("notes", []),
        f"Labels were removed from training rows on purpose: {words or 'none'}.",
    ]
    return dataclasses.replace(splits, **parts, about=about)  # type: ignore[arg-type]  # mypy reads one type


def _thin(present: torch.Tensor, share: float, seed: int, name: str) -> None:
    """Removes a share of what is there, to the nearest whole number; in place."""
    flat = present.view(-1)
    there = torch.nonzero(flat).squeeze(1)
    # Every task has a draw of its own, whatever tasks stand beside it.
    order = np.random.default_rng([seed, zlib.crc32(name.encode())]).permutation(len(there))
    flat[there[torch.from_numpy(order[: round(share * len(there))])]] = False


def _keep_one_group(present: dict[str, torch.Tensor], step: Removal, num_rows: int, seed: int) -> None:
    group_of = _draw_groups(step, num_rows, seed)
    for name in {task for group in step.disjoint for task in group}:
        keeps = [number for number, group in enumerate(step.disjoint) if name in group]
        if name in present:
            present[name][torch.from_numpy(~np.isin(group_of, keeps))] = False


def _draw_groups(step: Removal, num_rows: int, seed: int) -> NDArray[np.int64]:
    """Which group of tasks each row keeps, [N]."""
    shares = step.shares or (1 / len(step.disjoint),) * len(step.disjoint)
    ends = np.floor(np.cumsum(shares) * num_rows + 0.5).astype(np.int64)
    ends[-1] = num_rows
    position = np.empty(num_rows, dtype=np.int64)
    position[np.random.default_rng(seed).permutation(num_rows)] = np.arange(num_rows)
    return np.searchsorted(ends, position, side="right").astype(np.int64)


def _check_names(step: Removal, tasks: TaskSet) -> None:
    for setting, names in (("tasks", step.tasks), ("disjoint", [n for g in step.disjoint for n in g])):
        for name in names:
            if name not in tasks:
                raise ConfigError(
                    f"{_WHERE}.{setting}: `{name}` is not a task.{did_you_mean(name, tasks)} "
                    f"Tasks: {', '.join(tasks)}."
                )


def _check_left(labels: Labels, splits: DataSplits) -> None:
    test = splits.test.labels
    for name, count in labels.counts().items():
        task = splits.tasks[name]
        if count == 0 and splits.train.labels.present[name].any():
            raise DataError(f"{_WHERE}: no training label of task {name} would be left; remove fewer.")
        if not isinstance(task, Binary | Multiclass) or name not in test.values:
            continue
        had = torch.unique(splits.train.labels.values[name][splits.train.labels.present[name]]).tolist()
        left = torch.unique(labels.values[name][labels.present[name]]).tolist()
        wanted = torch.unique(test.values[name][test.present[name]]).tolist()
        gone = [task.class_names[code] for code in wanted if code in had and code not in left]
        if gone:
            raise DataError(
                f"{_WHERE}: no training label of class `{gone[0]}` of task {name} would be left, which the "
                "test part has; remove fewer."
            )


def _names(value: Sequence[str] | str, setting: str) -> tuple[str, ...]:
    if not isinstance(value, str | list | tuple):
        raise ConfigError(f"{_WHERE}.{setting}: names of tasks expected, found {value!r}.")
    return (value,) if isinstance(value, str) else tuple(str(name) for name in value)


def _number(value: Any, setting: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{_WHERE}.{setting}: a number expected, found {value!r}.")
    return float(value)
