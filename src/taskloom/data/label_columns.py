"""From columns of a table to tasks and labels with holes: blank cells are labels that are not there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from taskloom.data.cell_texts import (
    alike_but_for_case,
    looks_missing,
    missing_with,
    sorted_values,
    without_decimals,
)
from taskloom.data.sources import TaskSettings, resolve_tasks
from taskloom.data.tables import Table
from taskloom.errors import ConfigError, DataError, did_you_mean
from taskloom.tasks import Binary, Labels, Landmarks, Multiclass, Multilabel, Regression, Task, TaskSet
from taskloom.wording import counted

LabelColumns = dict[str, tuple[str, ...]]
"""Per task, the columns that hold its labels: one for classes and a single number, several otherwise."""

_MOST_CLASSES = 1000
_MOST_SLIPS = 6
"""Up to so many values of a binary task, a third is rather a mark or a slip than a class."""


def resolve_label_columns(
    table: Table, settings: TaskSettings, columns: Mapping[str, str | Sequence[str]] | None = None
) -> tuple[TaskSet, LabelColumns]:
    """Finds every task's columns, and its classes where the declaration names none.

    A task's column has the task's name unless its settings say otherwise: `column: name`, or `columns: [...]`
    for the labels of a multilabel task (in the order of its `labels`), the coordinates of landmarks (x and y
    of each point in turn) and the numbers of a vector regression. `labels`, `points` and `size` follow from
    `columns` where they are not given.

    Args:
        table: The table.
        settings: A TaskSet, or settings by task name as a study file gives them.
        columns: Columns by task name, for a TaskSet, which cannot name them itself.

    Raises:
        DataError: A column is not in the table, or a class column is blank throughout or holds one class.
        ConfigError: A setting does not fit, or the number of columns does not fit the task.
    """
    given = {name: _as_names(value) for name, value in (columns or {}).items()}
    if isinstance(settings, TaskSet):
        tasks = settings
    else:
        declared, named = _without_columns(settings)
        given = {**named, **given}
        tasks = resolve_tasks({name: _sized(entry, given.get(name)) for name, entry in declared.items()}, {})
    classes: dict[str, tuple[str, ...]] = {}
    for name in tasks.without_classes:
        column = _single(name, given.get(name, (name,)))
        classes[name] = classes_in_column(table, column, name)
        if isinstance(tasks[name], Binary):
            _check_two(table, column, name, classes[name])
    tasks = tasks.with_classes(classes)
    for name in given:
        if name not in tasks:
            raise ConfigError(f"columns: `{name}` is not a task.{did_you_mean(name, tasks)}")
    found = {name: _columns_of(task, given.get(name)) for name, task in tasks.items()}
    for name, task_columns in found.items():
        for column in task_columns:
            table.column_name(column, f"task `{name}`")
    return tasks, found


def classes_in_column(table: Table, column: str, task: str) -> tuple[str, ...]:
    """Returns the distinct values of a column in the whole table, sorted; numbers numerically.

    "3.0" is the class "3": programs that write tables turn whole numbers into decimals where some are blank.

    Raises:
        DataError: The column is unknown, blank throughout, has one value only, or more than 1,000; or a value
            reads like a mark of missing labels ("N/A"), which nothing says is a class.
    """
    table.column_name(column, f"task `{task}`")
    values = {without_decimals(text) for text in np.unique(table.text(column).astype(str)) if text}
    if not values:
        raise _no_label(table, column, task)
    _check_no_marks(table, column, task, values)
    if len(values) == 1:
        raise _one_class(table, column, task, values.pop())
    if len(values) > _MOST_CLASSES:
        raise DataError(
            f"{table.path}: column `{column}` holds {len(values)} distinct values, too many for classes of "
            f"task `{task}`; is it a regression?"
        )
    return sorted_values(values)


def encode_labels(table: Table, tasks: TaskSet, columns: LabelColumns, *, to_train: bool = True) -> Labels:
    """Reads the labels of all rows; a blank cell is a label that is not there.

    Args:
        table: The table, N rows.
        tasks: What to read.
        columns: Per task, its columns, as `resolve_label_columns` gives them.
        to_train: Whether a class task with one class only is refused: nothing can be learned from it, but
            a network can be tested on it.

    Returns:
        Labels of N rows in the shapes of `taskloom.tasks`.

    Raises:
        DataError: A cell is not a number, not a declared class, not 0 or 1 in a multilabel column, or outside
            a regression's `range`; a vector or a point of which only a part is there; a task with no label at
            all; a class task with one class only.

    Example:
        >>> import tempfile
        >>> from taskloom.data.tables import read_table
        >>> path = tempfile.mkdtemp() + "/people.csv"
        >>> with open(path, "w") as file:
        ...     _ = file.write("sex,age\\nF,31\\nM,\\n")
        >>> people = read_table(path)
        >>> settings = {"sex": {"kind": "binary"}, "years": {"kind": "regression", "column": "age"}}
        >>> tasks, columns = resolve_label_columns(people, settings)
        >>> labels = encode_labels(people, tasks, columns)
        >>> labels.counts(), labels.values["sex"]
        ({'sex': 2, 'years': 1}, tensor([0, 1]))
    """
    values: dict[str, torch.Tensor] = {}
    present: dict[str, torch.Tensor] = {}
    for name, task in tasks.items():
        encoded, there = _encode(table, task, columns[name])
        if to_train:
            _check_classes(table, task, columns[name], encoded[there])
        if not there.any():
            raise _no_label(table, ", ".join(columns[name]), name)
        values[name] = torch.from_numpy(encoded).to(task.value_dtype)
        present[name] = torch.from_numpy(there)
    return Labels(values, present)


def _encode(table: Table, task: Task, columns: tuple[str, ...]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    if isinstance(task, Binary | Multiclass):
        return _classes(table, task, columns[0])
    if isinstance(task, Multilabel):
        parts = [_codes(table, column, ("0", "1"), f"task `{task.name}`") for column in columns]
        there = np.stack([part_there for _, part_there in parts], axis=1)
        return np.stack([codes for codes, _ in parts], axis=1), there
    if isinstance(task, Regression):
        return _regression(table, task, columns)
    if isinstance(task, Landmarks):
        numbers = _numbers(table, columns).reshape(len(table), -1, 2)
        given = ~np.isnan(numbers)
        _check_whole(table, given.reshape(len(table), -1), columns, group=2, what="a point")
        return np.nan_to_num(numbers), np.asarray(given.all(axis=2))
    raise TypeError(f"no labels of kind {task.kind} in tables")


def _classes(
    table: Table, task: Binary | Multiclass, column: str
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    return _codes(table, column, task.class_names, f"task `{task.name}`")


def _check_classes(table: Table, task: Task, columns: tuple[str, ...], codes: NDArray[Any]) -> None:
    if not isinstance(task, Binary | Multiclass):
        return
    found = np.unique(codes)
    if len(found) == 1:
        raise _one_class(table, columns[0], task.name, task.class_names[found[0]])


def _codes(
    table: Table, column: str, classes: tuple[str, ...], owner: str
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Class codes [N] and their presence [N]; each distinct text is looked up once."""
    texts, positions = np.unique(table.text(column).astype(str), return_inverse=True)
    code_of = {name: code for code, name in enumerate(classes)}
    codes = np.zeros(len(texts), dtype=np.int64)
    for position, text in enumerate(texts):
        code = code_of.get(text, code_of.get(without_decimals(text)))
        if code is not None:
            codes[position] = code
        elif text:
            row = int(np.flatnonzero(positions == position)[0])
            raise DataError(
                f"{table.where(row, column)}: `{text}` is not a class of {owner}."
                f"{did_you_mean(text, classes)} Classes: "
                f"{', '.join(classes[:20])}{', ...' if len(classes) > 20 else ''}."
            )
    return codes[positions], (texts != "")[positions]


def _regression(
    table: Table, task: Regression, columns: tuple[str, ...]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    numbers = _numbers(table, columns)
    there = ~np.isnan(numbers)
    _check_whole(table, there, columns, group=len(columns), what="a vector")
    if task.range is not None:
        low, high = task.range
        outside = np.argwhere((numbers < low) | (numbers > high))
        if len(outside):
            row, column = outside[0]
            raise DataError(
                f"{table.where(int(row), columns[column])}: {numbers[row, column]:g} is outside the range "
                f"[{low:g}, {high:g}] of task `{task.name}`."
            )
    numbers = np.nan_to_num(numbers)
    return (numbers[:, 0] if task.size == 1 else numbers), there[:, 0]


def _numbers(table: Table, columns: tuple[str, ...]) -> NDArray[np.float64]:
    return np.stack([table.numbers(column) for column in columns], axis=1)


def _check_whole(
    table: Table, there: NDArray[np.bool_], columns: tuple[str, ...], *, group: int, what: str
) -> None:
    """Refuses rows [N, columns] in which only some of each `group` neighbouring columns are there."""
    grouped = there.reshape(len(there), -1, group)
    broken = np.argwhere(grouped.any(axis=2) & ~grouped.all(axis=2))
    if len(broken):
        row, position = (int(value) for value in broken[0])
        column = columns[position * group + int(np.flatnonzero(~grouped[row, position])[0])]
        raise DataError(
            f"{table.where(row, column)}: a part of {what} is missing while the rest is there; fill in the "
            "cell or leave all of them blank."
        )


def _without_columns(
    settings: Mapping[str, Mapping[str, Any]],
) -> tuple[dict[str, dict[str, Any]], LabelColumns]:
    """Takes `column` and `columns` out of the settings; what remains describes the task itself."""
    declared: dict[str, dict[str, Any]] = {}
    named: LabelColumns = {}
    for name, entry in settings.items():
        if "column" in entry and "columns" in entry:
            raise ConfigError(f"tasks.{name}: `column` and `columns` exclude each other.")
        for key in ("column", "columns"):
            if key in entry:
                named[name] = _as_names(entry[key])
        declared[name] = {key: value for key, value in entry.items() if key not in ("column", "columns")}
    return declared, named


def _sized(entry: dict[str, Any], columns: tuple[str, ...] | None) -> dict[str, Any]:
    """Fills in `labels`, `points` or `size` from the columns, where they are not given."""
    if columns is None:
        return entry
    implied: dict[str, tuple[str, Any]] = {
        "multilabel": ("labels", columns),
        "landmarks": ("points", len(columns) // 2),
        "regression": ("size", len(columns)),
    }
    key, value = implied.get(str(entry.get("kind")), ("", None))
    return {key: value, **entry} if key else entry


def _columns_of(task: Task, given: tuple[str, ...] | None) -> tuple[str, ...]:
    """The task's columns; refuses a number of them that does not fit its values."""
    expected = task.width if isinstance(task, Multilabel | Landmarks) else 1
    if isinstance(task, Regression):
        expected = task.size  # an ordinal task has several outputs for its one value
    if given is None:
        if isinstance(task, Multilabel):
            return task.class_names
        if expected > 1:
            raise ConfigError(
                f"tasks.{task.name}.columns: a {task.kind} task of {expected} numbers a row needs `columns`."
            )
        return (task.name,)
    if len(given) != expected:
        raise ConfigError(
            f"tasks.{task.name}.columns: {expected} for this {task.kind} task expected, found {len(given)}."
        )
    return given


def _as_names(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(str(name) for name in given)


def _single(task: str, columns: tuple[str, ...]) -> str:
    if len(columns) != 1:
        raise ConfigError(f"tasks.{task}.columns: one column of classes expected, found {len(columns)}.")
    return columns[0]


def _check_no_marks(table: Table, column: str, task: str, values: set[str]) -> None:
    """Refuses "N/A" as a class that nobody named: the network would learn where labels are missing."""
    marks = sorted(filter(looks_missing, values))
    if marks:
        rows = np.flatnonzero(table.text(column) == marks[0])
        raise DataError(
            f"{table.where(int(rows[0]), column)}: `{marks[0]}` reads like a missing label ({len(rows)} in "
            f"all); say `{missing_with(table.missing, marks)}` in `data` if it is one, or name the `classes` "
            f"of task `{task}` if it is a class."
        )


def _check_two(table: Table, column: str, task: str, classes: tuple[str, ...]) -> None:
    """Refuses a third class of a binary task, which is more often a mark of missing labels than a class."""
    if len(classes) <= 2:
        return
    begin = f"tasks.{task}.classes: a binary task has two classes, column `{column}` holds {len(classes):,}"
    if len(classes) > _MOST_SLIPS:
        raise ConfigError(f"{begin}; use a multiclass task, or for amounts a regression.")
    texts = [without_decimals(text) for text in table.text(column)]
    found = ", ".join(f"`{name}` ({counted(texts.count(name), 'row')})" for name in classes)
    alike = alike_but_for_case(classes)
    if len(classes) - sum(len(names) - 1 for names in alike) == 2:
        ways = "; ".join(" and ".join(f"`{name}`" for name in names) for names in alike)
        raise ConfigError(
            f"{begin}: {found}; {ways} differ in capital letters or blanks only: write them alike in "
            "the table."
        )
    # -1 and -99 stand for "unknown" in many tables, as in the files of CelebA and EmotioNet
    marks = [name for name in classes if name.startswith("-")] if len(classes) == 3 else []
    mark = f"`{marks[0]}`" if marks else "one"
    raise ConfigError(
        f"{begin}: {found}; if {mark} means a missing label, say "
        f"`{missing_with(table.missing, marks[:1] or ['...'])}` in `data`, else use a multiclass task."
    )


def _no_label(table: Table, column: str, task: str) -> DataError:
    return DataError(
        f"{table.path}: task `{task}` has no label at all: column `{column}` is blank in all {len(table)} "
        "rows; remove the task or name another `column`."
    )


def _one_class(table: Table, column: str, task: str, name: str) -> DataError:
    return DataError(
        f"{table.path}: task `{task}` has one class only: column `{column}` holds `{name}` wherever it is "
        "not blank; two classes or more expected."
    )
