"""Several data sets in one: rows of each have labels of its own tasks and none of the others'.

The source "combined" joins any number of data sets, each a whole `data` section with its own `tasks` and,
where it is not the study's, its own `split`:

    data:
      combined:
        expressions: {table: expressions.csv, tasks: [expression], split: {by: person}}
        units:       {images: faces, table: units.csv, tasks: [units]}
      batches: {temperature: 2}            # see `taskloom.data.mixing_batches`

Every data set is prepared by itself, its normaliser fitted on its own training rows. Groups (people,
recordings) of two sets are never the same one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from taskloom.data.batch import Batch, DataSplits, TaskDataset
from taskloom.data.mixing_batches import MixRule, RowMix
from taskloom.data.sources import (
    SOURCES,
    TaskSettings,
    as_settings,
    check_settings,
    declared_class_weights,
    load,
)
from taskloom.errors import ConfigError, DataError, TaskloomError, did_you_mean
from taskloom.tasks import Labels, Landmarks, Regression, Task, TaskSet, task_from_dict

_INFERRED = ("store", "images", "table")
_PARTS = ("train", "validation", "test")


class CombinedDataset:
    """Rows of several datasets, one after the other.

    Args:
        parts: Datasets by name, of one input shape. Tasks that a part does not have are absent in its rows.
        tasks: The tasks of all of them.
        rule: How batches are mixed.

    Raises:
        DataError: Inputs of different shapes.

    Example:
        >>> from taskloom.data.feature_rows import FeatureRows
        >>> from taskloom.data.tables import TableDataset
        >>> def part(name):
        ...     tasks = TaskSet(tl.Binary(name, ("no", "yes")))
        ...     labels = Labels({name: torch.ones(2).long()}, {name: torch.ones(2).bool()})
        ...     return TableDataset(FeatureRows(np.eye(2, dtype=np.float32)), np.arange(2), tasks, labels)
        >>> joined = CombinedDataset(
        ...     {name: part(name) for name in "ab"}, TaskSet(tl.Binary("a"), tl.Binary("b"))
        ... )
        >>> len(joined), joined.__getitems__([3, 0]).labels.present["a"].tolist()
        (4, [False, True])
    """

    def __init__(self, parts: Mapping[str, TaskDataset], tasks: TaskSet, rule: MixRule | None = None) -> None:
        self.parts, self._tasks = dict(parts), tasks
        shapes = {name: tuple(part.input_shape) for name, part in parts.items()}
        if len(set(shapes.values())) > 1:
            listed = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
            raise DataError(
                f"data.combined: inputs of one shape expected, found {listed}; set the same `size` (images), "
                "`window` and `rate_hz` (recordings) or `features` (tables) in every data set."
            )
        self._shape = next(iter(shapes.values()))
        lengths = [len(part) for part in parts.values()]
        self._ends = np.cumsum(lengths)
        sets = np.repeat(np.arange(len(lengths)), lengths)
        self.mix = RowMix(rule or MixRule(), tuple(parts), sets)
        self._labels = Labels.concatenate([_widened(part, tasks) for part in parts.values()])
        self._groups, self.group_names = _joined_groups(self.parts)

    @property
    def tasks(self) -> TaskSet:
        return self._tasks

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def labels(self) -> Labels:
        return self._labels

    @property
    def groups(self) -> NDArray[np.int64]:
        """Group of every row, [N], 0..G-1: those of the first data set, then those of the next."""
        return self._groups

    def __len__(self) -> int:
        return len(self._labels)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        rows = np.asarray(indices, dtype=np.int64)
        sets = self.mix.sets[rows]
        inputs: torch.Tensor | None = None
        for number, part in enumerate(self.parts.values()):
            places = np.flatnonzero(sets == number)
            if not len(places):
                continue
            start = int(self._ends[number]) - len(part)
            gathered = part.__getitems__((rows[places] - start).tolist()).inputs
            if len(places) == len(rows):
                inputs = gathered
                break
            if inputs is None:
                inputs = gathered.new_empty(len(rows), *gathered.shape[1:])
            inputs[torch.from_numpy(places)] = gathered
        positions = torch.from_numpy(rows)
        assert inputs is not None  # a batch has rows
        return Batch(inputs, self._labels[positions], positions)


@SOURCES.register("combined")
def load_combined(
    settings: Mapping[str, Any],
    tasks: TaskSettings,
    split: Mapping[str, Any],
    *,
    seed: int,
    folder: Path | None,
    stores: Path,
) -> DataSplits:
    """Loads several data sets as one; see `taskloom.data.sources.SourceLoader` for the arguments.

    Settings: `combined`: data sets by name (or a list, each with its `name`), each with its source's settings
    and `tasks` (names, or settings of its own by name, such as `column`; all tasks where it is missing) and
    `split` (the study's where it is missing); `batches`: see `taskloom.data.mixing_batches`.

    Raises:
        ConfigError: No data sets, a task that is in none, or settings that do not fit.
        DataError: Inputs of different shapes, two class lists for one task; what a source refuses, after
            the data set's name.
    """
    check_settings("data", settings, ("combined", "batches", "folder"))
    sets = _read_sets(settings.get("combined"))
    rule = MixRule.from_settings(settings.get("batches"), tuple(sets))
    declared = as_settings(tasks)
    root = (folder or Path()) / str(settings.get("folder", ""))
    loaded = {
        name: _load_one(name, given, declared, split, seed=seed, folder=root, stores=stores)
        for name, given in sets.items()
    }
    _check_all_there(declared, loaded)
    joined = _joined_tasks(declared, loaded)
    parts = {
        part: CombinedDataset({name: getattr(one, part) for name, one in loaded.items()}, joined, rule)
        for part in _PARTS
    }
    fitted = joined.fit(parts["train"].labels)
    for part in parts.values():
        part._tasks = fitted
    return DataSplits(**parts, about=_about(loaded, parts), preprocessing=_preprocessing(loaded))


def _read_sets(given: Any) -> dict[str, dict[str, Any]]:
    if isinstance(given, list | tuple):
        named = {}
        for number, one in enumerate(given):
            if not isinstance(one, Mapping):
                raise ConfigError(f"data.combined[{number}]: a data section expected, found {one!r}.")
            name = str(one.get("name", f"set {number + 1}"))
            if name in named:
                raise ConfigError(f"data.combined: two data sets are called `{name}`; give each a `name`.")
            named[name] = {key: value for key, value in one.items() if key != "name"}
        given = named
    if not isinstance(given, Mapping) or len(given) < 2:
        raise ConfigError(f"data.combined: two or more data sets by name expected, found {given!r}.")
    for name, one in given.items():
        if not isinstance(one, Mapping):
            raise ConfigError(f"data.combined.{name}: a data section expected, found {one!r}.")
    return {str(name): dict(one) for name, one in given.items()}


def _load_one(
    name: str,
    given: Mapping[str, Any],
    declared: Mapping[str, dict[str, Any]],
    split: Mapping[str, Any],
    *,
    seed: int,
    folder: Path,
    stores: Path,
) -> DataSplits:
    where = f"data.combined.{name}"
    own = {key: value for key, value in given.items() if key not in ("tasks", "split", "reader")}
    readers = [given["reader"]] if "reader" in given else [key for key in _INFERRED if key in own]
    if not readers:
        raise ConfigError(
            f"{where}: a `reader` expected, or `table`, `images` or `store`, from which it follows."
        )
    if readers[0] == "combined":
        raise ConfigError(f"{where}: a data set of its own expected, found another combination.")
    wanted = given.get("tasks", tuple(declared))
    wanted = (
        wanted
        if isinstance(wanted, Mapping)
        else dict.fromkeys([wanted] if isinstance(wanted, str) else wanted)
    )
    for task in wanted:
        if task not in declared:
            raise ConfigError(
                f"{where}.tasks: `{task}` is not a task of the study.{did_you_mean(str(task), declared)} "
                f"Tasks: {', '.join(declared)}."
            )
    tasks = {task: {**declared[task], **(wanted[task] or {})} for task in declared if task in wanted}
    if not tasks:
        raise ConfigError(f"{where}.tasks: at least one task expected, found none.")
    try:
        return load(
            str(readers[0]), own, tasks, given.get("split", split), seed=seed, folder=folder, stores=stores
        )
    except TaskloomError as error:
        raise type(error)(f"{where}: {error}") from error


def _check_all_there(declared: Mapping[str, Any], loaded: Mapping[str, DataSplits]) -> None:
    for task in declared:
        if not any(task in one.tasks for one in loaded.values()):
            raise ConfigError(f"data.combined: no data set has task {task}; name it in the `tasks` of one.")


def _joined_tasks(declared: Mapping[str, Any], loaded: Mapping[str, DataSplits]) -> TaskSet:
    joined: list[Task] = []
    # Each data set made numbers of "balanced" by its own labels; together they are fitted once more.
    weights = declared_class_weights(declared)
    for task in declared:
        first: str | None = None
        for name, one in loaded.items():
            if task not in one.tasks:
                continue
            own = one.tasks.with_class_weights(weights)[task]
            if first is None:
                first = name
                joined.append(own)
            elif _apart_from_scale(own) != _apart_from_scale(joined[-1]):
                numbers = isinstance(joined[-1], Regression | Landmarks)
                what = "the same settings" if numbers else "the classes"
                raise DataError(
                    f"data.combined: task {task} is not the same in two data sets: {first} has "
                    f"{_described(joined[-1])}, {name} has {_described(own)}; declare "
                    f"{what} in tasks.{task}, or make them two tasks."
                )
    return TaskSet(*joined)


def _apart_from_scale(task: Task) -> Task:
    if isinstance(task, Regression | Landmarks) and not task.fixed_scale:
        settings = {**task.to_dict(), "center": 0.0, "scale": 1.0}
        return task_from_dict(settings)
    return task


def _described(task: Task) -> str:
    names = "" if isinstance(task, Landmarks) else ", ".join(task.class_names)
    return f"the classes {names}" if names else json.dumps(task.to_dict(), default=str)


def _widened(part: TaskDataset, tasks: TaskSet) -> Labels:
    """The part's labels with every task; those it does not have are absent."""
    own = part.labels
    empty = Labels.empty(tasks, len(part))
    for name in own.values:
        shape, per_sample = empty.values[name].shape, own.values[name].shape
        if len(shape) != len(per_sample):
            raise DataError(
                f"data.combined: labels of task {name} are one per sample of a window; combined data sets "
                "need one label per row."
            )
    return Labels({**empty.values, **own.values}, {**empty.present, **own.present})


def _joined_groups(parts: Mapping[str, TaskDataset]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Groups of all parts with codes 0..G-1 and names that begin with the data set's."""
    codes, names, first = [], [], 0
    for name, part in parts.items():
        found, own = np.unique(part.groups, return_inverse=True)
        known = getattr(part, "group_names", None)
        codes.append(own.astype(np.int64) + first)
        names += [f"{name}: {known[code] if known is not None else code}" for code in found]
        first += len(found)
    return (np.concatenate(codes) if codes else np.zeros(0, dtype=np.int64)), tuple(names)


def _about(loaded: Mapping[str, DataSplits], parts: Mapping[str, CombinedDataset]) -> dict[str, Any]:
    """Plain values for the report: every data set's own, and those of all together."""
    notes, warnings = [], []
    for name, one in loaded.items():
        counts = ", ".join(f"{len(getattr(one, part)):,} {part}" for part in _PARTS)
        group = one.about.get("group")
        notes.append(
            f"{name}: {counts}; tasks {', '.join(one.tasks)}; split {_words(one.about.get('split', {}))}"
            + (f"; groups by {group}." if group else ".")
        )
        notes += [f"{name}: {note}" for note in one.about.get("notes", [])]
        warnings += [f"{name}: {warning}" for warning in one.about.get("warnings", [])]
    rule = parts["train"].mix.rule
    notes.append(f"Batches are mixed from the data sets ({_mix_words(rule)}).")
    groups = {one.about.get("group") for one in loaded.values()}
    counts_of = {part: dataset.labels.counts() for part, dataset in parts.items()}
    return {
        "reader": "combined",
        "sources": {name: one.about.get("sources", one.about) for name, one in loaded.items()},
        "rows": {part: len(dataset) for part, dataset in parts.items()},
        "labels": {task: {part: counts_of[part][task] for part in parts} for task in parts["train"].tasks},
        "split": {name: one.about.get("split", {}) for name, one in loaded.items()},
        "group": groups.pop() if len(groups) == 1 else "group",
        "sets": {name: one.about for name, one in loaded.items()},
        "notes": notes,
        "warnings": warnings,
    }


def _words(split: Any) -> str:
    if not isinstance(split, Mapping):
        return str(split)
    return ", ".join(f"{key} {value}" for key, value in split.items() if value not in (None, 0))


def _mix_words(rule: MixRule) -> str:
    if rule.mix == "temperature":
        return f"temperature {rule.temperature:g}"
    if rule.mix == "rows":
        return "rows " + ", ".join(f"{name} {count}" for name, count in rule.rows.items())
    return rule.mix


def _preprocessing(loaded: Mapping[str, DataSplits]) -> dict[str, Any]:
    """What travels with a model: the one preparation where all are equal, else each data set's own."""
    found = {name: one.preprocessing for name, one in loaded.items()}
    plain = [json.dumps(one, sort_keys=True, default=str) for one in found.values()]
    if len(set(plain)) == 1:
        return next(iter(found.values()))
    return {"reader": "combined", "sets": found}
