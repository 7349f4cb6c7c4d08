"""Ways to look at a task's test rows: by the classes of a label, by bands of a number, by a column.

`report: {subgroups: {age: [13, 20, 40, 60], camera: classes}}` names the ways that a study does not have of
itself: bands of a task of numbers (or of a column of numbers), and columns of the data that are no task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from taskloom.data.batch import TaskDataset
from taskloom.data.row_cells import row_cells
from taskloom.errors import ConfigError, DataError
from taskloom.study.test_rows import TestRows
from taskloom.tasks import Binary, Multiclass, Regression, Task, TaskSet

MOST_SUBGROUPS = 24
"""A label with more classes is not a way to look at another task; by its own classes every task is shown."""
CLASSES = "classes"
Asked = Mapping[str, Sequence[float] | str]
"""`report.subgroups`: per task or column the edges of its bands, or "classes"."""


@dataclass(frozen=True)
class Way:
    """One way to divide test rows.

    Args:
        name: The label, or "age in bands".
        names: Its subgroups.
        codes: The subgroup of every row, [N]; -1 where the row is in none.
        task: The task whose label it is; "" for a column.
    """

    name: str
    names: tuple[str, ...]
    codes: Callable[[TestRows], Tensor]
    task: str = ""


def band_names(edges: Sequence[float]) -> tuple[str, ...]:
    """Names of the bands that edges make: a number that is an edge belongs to the band above it.

    Example:
        >>> band_names([13, 20])
        ('below 13', '13 to below 20', '20 and above')
    """
    inner = [f"{low:g} to below {high:g}" for low, high in pairwise(edges)]
    return (f"below {edges[0]:g}", *inner, f"{edges[-1]:g} and above")


def ways_to_look(tasks: TaskSet, asked: Asked, rows: Iterable[TestRows]) -> list[Way]:
    """Every way to look at tasks: labels of classes, and what `report.subgroups` asks for.

    Args:
        tasks: The study's tasks.
        asked: See `Asked`.
        rows: Test rows of all runs that are compared, for the values of columns.
    """
    found = list(rows)
    ways = [way for task in tasks.values() if (way := _of_classes(task)) is not None]
    for name, entry in asked.items():
        edges = None if isinstance(entry, str) else tuple(float(edge) for edge in entry)
        if name in tasks:
            if edges is not None:
                ways.append(Way(f"{name} in bands", band_names(edges), _label_bands(name, edges), name))
        elif all(name in one.columns for one in found):
            ways.append(_of_column(name, edges, found))
    return ways


def _of_classes(task: Task) -> Way | None:
    if not isinstance(task, Binary | Multiclass) or len(task.class_names) > MOST_SUBGROUPS:
        return None

    def codes(rows: TestRows) -> Tensor:
        if task.name not in rows.labels.values:
            return torch.full((len(rows.groups),), -1)
        return torch.where(rows.labels.present[task.name], rows.labels.values[task.name], -1)

    return Way(task.name, task.class_names, codes, task.name)


def _label_bands(name: str, edges: Sequence[float]) -> Callable[[TestRows], Tensor]:
    def codes(rows: TestRows) -> Tensor:
        values = rows.labels.values[name].numpy().astype(np.float64)
        band = torch.from_numpy(np.digitize(values.reshape(len(values), -1)[:, 0], edges))
        present = rows.labels.present[name]
        return torch.where(present.reshape(len(present), -1).all(dim=1), band, -1)

    return codes


def _of_column(name: str, edges: Sequence[float] | None, rows: Sequence[TestRows]) -> Way:
    if edges is not None:

        def banded(one: TestRows) -> Tensor:
            cells = one.columns[name]
            numbers = np.array([float(cell) if cell else np.nan for cell in cells])
            return torch.from_numpy(np.where(np.isnan(numbers), -1, np.digitize(numbers, edges)))

        return Way(f"{name} in bands", band_names(edges), banded)
    names = tuple(sorted({str(cell) for one in rows for cell in one.columns[name]} - {""}))
    index = {text: code for code, text in enumerate(names)}

    def coded(one: TestRows) -> Tensor:
        return torch.tensor([index.get(str(cell), -1) for cell in one.columns[name]])

    return Way(name, names, coded)


def asked_columns(asked: Asked, tasks: TaskSet, test: TaskDataset) -> dict[str, NDArray[np.str_]]:
    """Checks `report.subgroups` against the data; returns the columns that are no task, for the test rows.

    Args:
        asked: See `Asked`.
        tasks: The tasks of the data.
        test: A test part.

    Raises:
        ConfigError, DataError: Begins with the setting's path: no such task or column, bands of a task that
            is no number, classes of one that is, a column with too many values or with text in place of
            numbers.
    """
    columns = {}
    for name, entry in asked.items():
        where = f"report.subgroups.{name}"
        if name in tasks:
            _check_task(where, tasks[name], entry)
            continue
        try:
            columns[name] = row_cells(test, name)
        except DataError as error:
            raise DataError(f"{where}: neither a task nor a column: {error}") from error
        _check_cells(where, columns[name], entry)
    return columns


def _check_task(where: str, task: Task, entry: Any) -> None:
    number = isinstance(task, Regression) and task.value_shape == ()
    if not isinstance(entry, str) and not number:
        raise ConfigError(f"{where}: bands go with a number, and {task.name} is a {task.kind} task.")
    if isinstance(entry, str) and not isinstance(task, Binary | Multiclass):
        raise ConfigError(
            f"{where}: `{CLASSES}` goes with classes, and {task.name} is a {task.kind} task; give the edges "
            "of its bands, such as [20, 40, 60]."
        )


def _check_cells(where: str, cells: NDArray[np.str_], entry: Any) -> None:
    values = set(cells.tolist()) - {""}
    if not values:
        raise DataError(f"{where}: the column is blank in every test row.")
    if isinstance(entry, str):
        if len(values) > MOST_SUBGROUPS:
            raise DataError(
                f"{where}: {len(values)} values, at most {MOST_SUBGROUPS} expected; where they are numbers, "
                "give the edges of bands, such as [20, 40, 60]."
            )
        return
    for value in sorted(values):
        try:
            finite = np.isfinite(float(value))
        except ValueError:
            finite = False
        if not finite:
            raise DataError(f"{where}: bands go with numbers, and the column holds `{value}`.")
