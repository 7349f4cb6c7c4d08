"""A bundle on the data of another data set: labels mapped by name, inputs prepared as the bundle's were.

Tasks that both sides have are evaluated. Classes are matched by name (upper and lower case alike), whatever
their order; rows of a class that the bundle does not know are left out and counted, never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from taskloom.data.batch import DataSplits, TaskDataset
from taskloom.data.face_store import read_rows
from taskloom.data.face_table import with_known_columns
from taskloom.data.image_splits import moved_landmarks
from taskloom.data.image_store import ImageDataset, ImageStandardization, ImageStore
from taskloom.data.label_columns import encode_labels, resolve_label_columns
from taskloom.data.relabelled import Relabelled
from taskloom.data.row_dataset import spread_labels
from taskloom.data.table_dataset import TableDataset
from taskloom.data.windows import WindowDataset
from taskloom.deploy import Bundle
from taskloom.errors import ConfigError, DataError, did_you_mean
from taskloom.study.other_recordings import windows_as_trained
from taskloom.study.other_tables import rows_as_trained
from taskloom.study.single import part_of
from taskloom.tasks import Binary, Labels, Landmarks, Multiclass, Multilabel, Regression, Task, TaskSet
from taskloom.wording import counted


@dataclass(frozen=True)
class NameMap:
    """What is called differently in the other data.

    Args:
        tasks: Our task -> their task or column.
        classes: (our task, their class) -> our class.
        features: Our feature -> their column.
    """

    tasks: Mapping[str, str] = field(default_factory=dict)
    classes: Mapping[tuple[str, str], str] = field(default_factory=dict)
    features: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, entries: Sequence[str], tasks: TaskSet, features: Sequence[str] = ()) -> NameMap:
        """Reads `task=theirs`, `task:their class=our class` and, of a table, `feature=their column`.

        Raises:
            ConfigError: An entry of another form, or a task or class that the bundle does not have.

        Example:
            >>> tasks = tl.TaskSet(tl.Binary("gender", ("male", "female")))
            >>> NameMap.read(["gender=sex", "gender:F=female"], tasks).classes
            {('gender', 'F'): 'female'}
        """
        names: dict[str, str] = {}
        classes: dict[tuple[str, str], str] = {}
        columns: dict[str, str] = {}
        for entry in entries:
            left, equals, right = entry.partition("=")
            task, colon, theirs = left.partition(":")
            if not equals or not right or not task or (colon and not theirs):
                raise ConfigError(
                    f"--map {entry}: `task=their name` or `task:their class=our class` expected."
                )
            if task not in tasks and task in features and not colon:
                columns[task] = right
                continue
            if task not in tasks:
                which = "neither a task nor a feature" if features else "not a task"
                raise ConfigError(
                    f"--map {entry}: `{task}` is {which} of the bundle."
                    f"{did_you_mean(task, [*tasks, *features])} Tasks: {', '.join(tasks)}."
                )
            if not colon:
                names[task] = right
                continue
            known = tasks[task].class_names
            if right not in known:
                raise ConfigError(
                    f"--map {entry}: `{right}` is not a class of {task}.{did_you_mean(right, known)} "
                    f"Classes: {', '.join(known) or 'none'}."
                )
            classes[task, theirs] = right
        return cls(names, classes, columns)


@dataclass(frozen=True)
class OtherData:
    """Rows of another data set under the bundle's tasks.

    Args:
        dataset: Inputs as the bundle wants them, labels of its tasks.
        notes: What was left out and what is unlike, one sentence each.
    """

    dataset: TaskDataset
    notes: tuple[str, ...]


def other_store(bundle: Bundle, place: Path, names: NameMap) -> OtherData:
    """All faces of a store, prepared as the bundle's images were.

    Args:
        bundle: The bundle, one of images.
        place: A store that `taskloom prepare READER DIR STORE` made.
        names: What is called differently.

    Raises:
        DataError: No such store, images of another size, no task in common, or a bundle of something else.
    """
    _check_images(bundle, place)
    store, table = ImageStore.open(place), read_rows(place)
    _check_named(names, [name for name in table.columns if name != table.file_column], "column", place)
    kinds = {
        name: entry
        for name, task in bundle.tasks.items()
        if (entry := _their_settings(task, names.tasks.get(name, name), table)) is not None
    }
    if not kinds:
        columns = [name for name in table.columns if name != table.file_column]
        raise DataError(
            f"{place}: none of the bundle's tasks ({', '.join(bundle.tasks)}) is a column there; columns: "
            f"{', '.join(columns)}. `--map task=column` says what is called differently."
        )
    tasks, columns_of = resolve_label_columns(table, with_known_columns(table, kinds))
    whole = encode_labels(table, tasks, columns_of, to_train=False)
    labels, notes = moved_landmarks(whole[torch.from_numpy(store.rows)], tasks, store)
    groups = None if table.group is None else table.text(table.group)[store.rows]
    positions = np.arange(len(store.rows), dtype=np.int64)
    plain = ImageStandardization((0.0,) * 3, (1.0,) * 3)
    images = ImageDataset(store, positions, tasks, labels, plain, groups)
    ours = NameMap(classes=names.classes)  # the labels stand under our names already
    found = _with_labels(bundle, _as_trained(bundle, images, place), tasks, labels, ours, place)
    return OtherData(found.dataset, (*notes, *found.notes))


def other_study(bundle: Bundle, splits: DataSplits, part: str, names: NameMap, file: Path) -> OtherData:
    """A part of another study's data, prepared as the bundle's were.

    Args:
        bundle: The bundle.
        splits: The study's data.
        part: train, validation or test.
        names: What is called differently.
        file: The study file, for messages.

    Raises:
        DataError: Data that were prepared in another way and cannot be prepared as the bundle's were.
        ConfigError: No such part.
    """
    dataset = part_of(splits, part)
    if isinstance(dataset, ImageDataset):
        _check_images(bundle, file)
        dataset = _as_trained(bundle, dataset, file)
    notes: list[str] = []
    if isinstance(dataset, WindowDataset):
        dataset, notes = windows_as_trained(bundle, dataset, splits, file)
    if isinstance(dataset, TableDataset):
        dataset, notes = rows_as_trained(bundle, dataset, splits, file, names.features)
    theirs = part_of(splits, part)
    found = _with_labels(bundle, dataset, theirs.tasks, theirs.labels, names, file)
    return OtherData(found.dataset, (*notes, *found.notes))


def _check_images(bundle: Bundle, place: Path) -> None:
    known = bundle.preprocessing
    if known.get("reader") != "images" or "standardization" not in known:
        raise DataError(
            f"{place}: holds images, but the bundle was trained on {known.get('reader', 'something else')}; "
            "a bundle of images expected."
        )


def _as_trained(bundle: Bundle, images: ImageDataset, place: Path) -> ImageDataset:
    """The same images under the standardisation of the bundle."""
    known = bundle.preprocessing
    if images.store.size != known["size"]:
        raise DataError(
            f"{place}: images of {known['size']} pixels expected, as the bundle was trained on, found "
            f"{images.store.size}; prepare them with `--size {known['size']}` (`data.size` of a study file)."
        )
    fitted = known["standardization"]
    standardization = ImageStandardization(tuple(fitted["mean"]), tuple(fitted["deviation"]))
    names = np.asarray(images.group_names, dtype=object)[images.groups]
    everywhere = np.full(len(images.store.rows), "", dtype=object)
    everywhere[images.rows] = names
    store_labels = spread_labels(images.labels, torch.from_numpy(images.rows), len(images.store.rows))
    return ImageDataset(images.store, images.rows, images.tasks, store_labels, standardization, everywhere)


def _their_settings(task: Task, column: str, table: Any) -> dict[str, Any] | None:
    """How the other store's column of a task is read; None where it has none."""
    if isinstance(task, Landmarks):
        return {"kind": "landmarks"} if set(task.class_names) <= set(table.points) else None
    if column not in table.columns or isinstance(task, Multilabel):
        return None
    if not any(table.text(column).tolist()):
        return None
    if not isinstance(task, Binary | Multiclass):
        return {"kind": "regression", "column": column}
    known = list((table.class_names or {}).get(column, ()))
    found = known or sorted(set(table.text(column).tolist()) - {""})
    further = [name for name in task.class_names if name not in found]
    return {"kind": "multiclass", "column": column, "classes": [*found, *further[: max(0, 2 - len(found))]]}


def _check_named(names: NameMap, known: Sequence[str], what: str, place: Path) -> None:
    """Refuses a `--map task=name` that names nothing there: the task would be left out without a word."""
    for task, other in names.tasks.items():
        if other not in known:
            raise ConfigError(
                f"--map {task}={other}: {place} has no {what} `{other}`.{did_you_mean(other, known)} "
                f"There: {', '.join(known)}."
            )


def _with_labels(
    bundle: Bundle, dataset: TaskDataset, theirs: TaskSet, labels: Labels, names: NameMap, place: Path
) -> OtherData:
    values: dict[str, Tensor] = {}
    present: dict[str, Tensor] = {}
    notes: list[str] = []
    _check_named(names, list(theirs), "task", place)
    for name, task in bundle.tasks.items():
        other = names.tasks.get(name, name)
        if other not in theirs or other not in labels.values:
            notes.append(f"{name}: no labels there, not evaluated.")
            continue
        found = _mapped(task, theirs[other], labels.values[other], labels.present[other], names)
        values[name], present[name] = found[0], found[1]
        notes += found[2]
    if not any(bool(there.any()) for there in present.values()):
        raise DataError(
            f"{place}: no label there that the bundle's tasks ({', '.join(bundle.tasks)}) can be evaluated "
            f"on. {' '.join(notes)} `--map` says what is called differently."
        )
    return OtherData(Relabelled(dataset, Labels(values, present), bundle.tasks), tuple(notes))


def _mapped(
    ours: Task, theirs: Task, values: Tensor, present: Tensor, names: NameMap
) -> tuple[Tensor, Tensor, list[str]]:
    """Their labels as ours: values, presence and what was left out."""
    if isinstance(ours, Binary | Multiclass) and isinstance(theirs, Binary | Multiclass):
        return _mapped_classes(ours, theirs, values, present, names)
    numbers = isinstance(ours, Regression) and isinstance(theirs, Regression)
    alike = ours.value_shape == theirs.value_shape and (numbers or ours.class_names == theirs.class_names)
    if not alike or (not numbers and ours.kind != theirs.kind):
        raise DataError(
            f"task {ours.name}: {ours.kind} labels of shape {list(ours.value_shape)} expected, found "
            f"{theirs.kind} ones of shape {list(theirs.value_shape)} under `{theirs.name}`."
        )
    units = (getattr(ours, "unit", ""), getattr(theirs, "unit", ""))
    if all(units) and units[0] != units[1]:
        raise DataError(f"task {ours.name}: labels in {units[0]} expected, found {units[1]}.")
    return values, present, []


def _mapped_classes(
    ours: Task, theirs: Task, values: Tensor, present: Tensor, names: NameMap
) -> tuple[Tensor, Tensor, list[str]]:
    for task, other in names.classes:
        if task == ours.name and other not in theirs.class_names:
            known_there = ", ".join(theirs.class_names)
            raise ConfigError(
                f"--map {task}:{other}={names.classes[task, other]}: `{other}` is not a class of "
                f"`{theirs.name}` there.{did_you_mean(other, theirs.class_names)} Classes: {known_there}."
            )
    known = {name.casefold(): code for code, name in enumerate(ours.class_names)}
    codes = []
    for name in theirs.class_names:
        wanted = names.classes.get((ours.name, name), name)
        codes.append(known.get(wanted.casefold(), -1))
    table = torch.tensor(codes, dtype=torch.int64)
    mapped = table[values.clamp(min=0)]
    unknown = present & (mapped < 0)
    notes = []
    for code, name in enumerate(theirs.class_names):
        number = int((present & (values == code)).sum())
        if codes[code] < 0 and number:
            notes.append(
                f"{ours.name}: the bundle does not know the class `{name}`: {counted(number, 'row')} left "
                f"out (`--map {ours.name}:{name}=CLASS` counts them as another)."
            )
    absent = [name for code, name in enumerate(ours.class_names) if code not in codes]
    if absent:
        notes.append(f"{ours.name}: the other data have no class {', '.join(f'`{n}`' for n in absent)}.")
    return mapped.clamp(min=0), present & ~unknown, notes
