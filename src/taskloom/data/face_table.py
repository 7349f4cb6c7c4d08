"""Rows of faces: what every reader of face data gives, whatever its native files look like.

One row is one face: its image file, the box around it and its landmarks where they are known, and its labels,
blank where one is missing. It is a `Table`, so that labels, holes, groups and splits are read from it by the
same code as from a CSV file; only where a row stands is said in the reader's own words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from taskloom.data.face_detectors import Box
from taskloom.data.sources import TaskSettings, as_settings
from taskloom.data.tables import Table
from taskloom.errors import ConfigError, DataError, did_you_mean

FILE_COLUMN = "file"
"""The column of the image files, in the tables that readers make."""
BOX_COLUMNS = ("x", "y", "w", "h")
"""The box around the face, in pixels of the upright source image."""


@dataclass(frozen=True)
class NamedSplit:
    """A split that comes with a data set: a column of train, test and perhaps validation.

    Args:
        column: The column.
        validation: Fraction of train to draw for validation where the column has none and the study file says
            nothing; None where the column names it.
    """

    column: str
    validation: float | None = None


@dataclass(frozen=True)
class FaceTable(Table):
    """Faces of one data set; `face_table` makes it.

    Args:
        places: Per row, where it stands (a file, or a file and line), for messages.
        reader: Name of the reader that made it.
        images: Folder that the file names are relative to.
        sources: The files besides the images that decide the rows.
        class_names: Per label column, its classes in code order, where the data set defines them.
        label_groups: Columns that belong together, by a name that a multilabel task takes them all by.
        points: Names of the landmarks; the columns are `<name>_x` and `<name>_y`.
        notes: What a report should say about the rows, one sentence each.
        named_splits: The splits that come with the data set, by the name that `split.by` gives.
        group: The column that says which rows belong together (a person), where there is one.
        file_column: The column of the image files.
        box_columns: The columns of the box: x, y, width and height; None for no boxes.
    """

    places: tuple[str, ...] = ()
    reader: str = "images"
    images: Path = Path()
    sources: tuple[Path, ...] = ()
    class_names: Mapping[str, tuple[str, ...]] | None = None
    label_groups: Mapping[str, tuple[str, ...]] | None = None
    points: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    named_splits: Mapping[str, NamedSplit] | None = None
    group: str | None = None
    file_column: str = FILE_COLUMN
    box_columns: tuple[str, ...] | None = None

    def where(self, row: int, column: str) -> str:
        """Says where a label stands: the reader's place of the row, and the column."""
        return f"{self.places[row]}: {column}" if self.places else super().where(row, column)

    @property
    def data(self) -> Any:
        """The rows as a pyarrow table."""
        return self._data

    @property
    def files(self) -> list[str]:
        """The image of every row, relative to `images`."""
        found: list[str] = self.text(self.file_column).tolist()
        if "" in found:
            raise DataError(
                f"{self.where(found.index(''), self.file_column)}: the cell is blank; a file name expected."
            )
        return found

    def check_faces(self) -> bool:
        """Refuses two rows of one image that do not tell faces apart; says whether an image has several rows.

        Raises:
            DataError: Two rows name the same image and the same box, or no box.
        """
        files = self.files
        boxes = self.boxes() or [None] * len(files)
        seen: dict[tuple[str, Box | None], int] = {}
        for row, face in enumerate(zip(files, boxes, strict=True)):
            first = seen.setdefault(face, row)
            if first != row:
                raise DataError(
                    f"{self.where(row, self.file_column)}: `{face[0]}` stands in an earlier row too "
                    f"({self.where(first, self.file_column)}); one row per image expected, or boxes that "
                    "tell its faces apart."
                )
        return len(set(files)) < len(files)

    def taken(self, rows: NDArray[np.int64]) -> FaceTable:
        """The table of these rows, in this order."""
        places = tuple(self.places[int(row)] for row in rows) if self.places else ()
        return replace(self, _data=self._data.take(rows), places=places)

    def with_columns(self, columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> FaceTable:
        """The table with further columns, [N] each, behind its own."""
        data = self._data
        for name, values in columns.items():
            data = data.append_column(name, pa.array(values, from_pandas=True))
        return replace(self, columns=(*self.columns, *columns), _data=data)

    @property
    def landmark_columns(self) -> tuple[str, ...]:
        """Columns of the landmarks, x and y of each point in turn."""
        return point_columns(self.points)

    def landmarks(self) -> NDArray[np.float64] | None:
        """Landmarks of all rows in pixels of the upright source image, [N, K, 2], NaN where missing."""
        if not self.points:
            return None
        numbers = np.stack([self.numbers(column) for column in self.landmark_columns], axis=1)
        return numbers.reshape(len(self), -1, 2)

    def boxes(self) -> list[Box | None] | None:
        """The box of every row, None where all four cells are blank; None where there are no boxes.

        Raises:
            DataError: A part of a box is missing, or it is not above 0 wide and high.
        """
        if self.box_columns is None:
            return None
        numbers = np.stack([self.numbers(column) for column in self.box_columns], axis=1)
        missing = np.isnan(numbers)
        for row in np.flatnonzero(missing.any(axis=1) & ~missing.all(axis=1)):
            column = self.box_columns[int(np.flatnonzero(missing[row])[0])]
            raise DataError(
                f"{self.where(int(row), column)}: a part of the box is missing while the rest is there."
            )
        flat = np.flatnonzero((numbers[:, 2:] <= 0).any(axis=1))
        if len(flat):
            raise DataError(
                f"{self.where(int(flat[0]), self.box_columns[2])}: a box of width and height above 0 "
                f"expected, found {numbers[flat[0], 2]:g} x {numbers[flat[0], 3]:g}."
            )
        return [None if np.isnan(x) else (x, y, w, h) for x, y, w, h in numbers.tolist()]


def face_table(
    columns: Mapping[str, Sequence[Any] | NDArray[Any]],
    *,
    path: Path,
    reader: str,
    images: Path,
    places: Sequence[str],
    **about: Any,
) -> FaceTable:
    """Makes rows of faces from columns; None, NaN and "" are missing.

    Args:
        columns: `file`, and boxes, landmarks, labels and groups by name, [N] each.
        path: The file or folder that the rows come from, for messages.
        reader, images, places: See `FaceTable`.
        **about: Its other fields.

    Raises:
        DataError: There is no row.

    Example:
        >>> rows = face_table(
        ...     {"file": ["a.jpg", "b.jpg"], "age": [31, None]},
        ...     path=Path("faces"), reader="utkface", images=Path("faces"), places=["a.jpg", "b.jpg"],
        ... )
        >>> rows.numbers("age"), rows.where(1, "age")
        (array([31., nan]), 'b.jpg: age')
    """
    data = pa.table({name: pa.array(values, from_pandas=True) for name, values in columns.items()})
    if data.num_rows == 0:
        raise DataError(f"{path}: no image found there.")
    if all(name in columns for name in BOX_COLUMNS):
        about = {"box_columns": BOX_COLUMNS, **about}
    return FaceTable(
        path, tuple(columns), None, (), data, places=tuple(places), reader=reader, images=images, **about
    )


def point_columns(points: Sequence[str]) -> tuple[str, ...]:
    """Columns of landmarks by name.

    Example:
        >>> point_columns(("nose",))
        ('nose_x', 'nose_y')
    """
    return tuple(f"{point}_{axis}" for point in points for axis in "xy")


def with_known_columns(table: FaceTable, tasks: TaskSettings) -> TaskSettings:
    """Fills in what the data set knows: classes in their order, and the columns of landmarks.

    A landmarks task without `columns` takes all points, or those that its `points` names. A multilabel task
    takes the columns of the group that it is named after, or those that patterns such as `has_bill*` match.

    Raises:
        ConfigError: A point that the data set does not have, or a pattern that matches no column.
    """
    filled = as_settings(tasks)
    for name, entry in list(filled.items()):
        kind, column = entry.get("kind"), str(entry.get("column", name))
        known = (table.class_names or {}).get(column)
        if known and kind in ("binary", "multiclass") and not entry.get("classes"):
            filled[name]["classes"] = list(known)
        if kind == "landmarks" and "columns" not in entry:
            points = _points(table, name, entry.get("points"))
            filled[name] |= {"points": list(points), "columns": list(point_columns(points))}
        if kind == "multilabel":
            filled[name] = _with_label_columns(table, name, filled[name])
    return filled


def _with_label_columns(table: FaceTable, task: str, entry: dict[str, Any]) -> dict[str, Any]:
    groups = table.label_groups or {}
    group = str(entry.get("column", task))
    if "columns" not in entry and "labels" not in entry and group in groups:
        return {
            **{key: value for key, value in entry.items() if key != "column"},
            "columns": [*groups[group]],
        }
    wanted = entry.get("columns")
    if not isinstance(wanted, list | tuple) or not any("*" in str(name) for name in wanted):
        return entry
    columns: dict[str, None] = {}
    for name in wanted:
        found = [known for known in table.columns if fnmatchcase(known, str(name))]
        if "*" in str(name) and not found:
            raise ConfigError(f"tasks.{task}.columns: no column of {table.path} matches `{name}`.")
        columns |= dict.fromkeys(found if "*" in str(name) else [str(name)])
    return {**entry, "columns": list(columns)}


def _points(table: FaceTable, task: str, wanted: Any) -> tuple[str, ...]:
    if not table.points:
        raise ConfigError(
            f"tasks.{task}.columns: {table.path} has no landmarks of its own; name the columns."
        )
    if wanted is None or wanted == len(table.points):
        return table.points
    if not isinstance(wanted, list | tuple):
        raise ConfigError(
            f"tasks.{task}.points: names among {', '.join(table.points)} expected, found {wanted!r}."
        )
    for point in wanted:
        if point not in table.points:
            raise ConfigError(
                f"tasks.{task}.points: `{point}` is not a point of {table.path}."
                f"{did_you_mean(str(point), table.points)} Points: {', '.join(table.points)}."
            )
    return tuple(wanted)
