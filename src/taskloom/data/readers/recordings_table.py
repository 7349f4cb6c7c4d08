"""Tables beside a folder of recordings: one row per file, or one row per labelled interval."""

from __future__ import annotations

import itertools
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom.data.readers.edf_labels import _column_values
from taskloom.data.recordings import NULL_CODE
from taskloom.data.tables import Table, read_table
from taskloom.errors import DataError
from taskloom.wording import counted

IDENTITY = ("person", "session", "trial")
_FILE_COLUMNS = ("file", "file_name")
_START, _STOP = "start_s", "stop_s"
NULL_NAME = "NULL"


def class_table(classes: Sequence[str]) -> dict[int, str]:
    """Returns code -> name: NULL is 0, the classes follow from 1 in their order.

    Example:
        >>> class_table(["walk", "lie"])
        {0: 'NULL', 1: 'walk', 2: 'lie'}
    """
    return {NULL_CODE: NULL_NAME, **{code: name for code, name in enumerate(classes, 1) if name != NULL_NAME}}


def in_order(values: set[Any]) -> list[str]:
    """Returns distinct values as text: numbers by size, before text.

    Example:
        >>> in_order({10, 9, "b"})
        ['9', '10', 'b']
    """
    return [str(value) for value in sorted(values, key=lambda value: (isinstance(value, str), value))]


class FileTable:
    """One row per file: whom it is of, and its labels.

    Args:
        path: CSV, TSV or Parquet with a column `file` (or `file_name`): the file's path below the folder,
            with or without suffix. Columns `person`, `session` and `trial` say whom and what it is of, all
            others are labels; a blank cell is a label that is missing.
        names: Name of every recording -> its file's path below the folder.

    Raises:
        DataError: No such column, two rows for one file, or no row for any file.
    """

    def __init__(self, path: Path, names: Mapping[str, str]) -> None:
        table = read_table(path)
        column = _file_column(table)
        self._rows = _rows_of_files(table, column, names)
        self.labels = tuple(name for name in table.columns if name != column and name not in IDENTITY)
        self._cells = {name: _column_values(table, name) for name in table.columns if name != column}
        self.notes = _what_is_missing(path, table.text(column), self._rows, names, "row")
        used = set(self._rows.values())
        self.classes = {
            name: in_order({value for row, value in enumerate(self._cells[name]) if row in used} - {None})
            for name in self.labels
        }

    def labels_of(self, recording: str) -> dict[str, Any]:
        """Labels of a recording; None where missing."""
        row = self._rows.get(recording)
        return {name: None if row is None else self._cells[name][row] for name in self.labels}

    def identity_of(self, recording: str) -> dict[str, str]:
        """`person`, `session` and `trial`, where known."""
        row = self._rows.get(recording)
        if row is None:
            return {}
        found = {name: self._cells[name][row] for name in IDENTITY if name in self._cells}
        return {name: str(value) for name, value in found.items() if value is not None}


@dataclass(frozen=True)
class Interval:
    """One labelled stretch of a recording, in seconds since its first sample."""

    start: float
    stop: float
    code: int
    where: str


@dataclass
class IntervalTable:
    """Labelled stretches of recordings; every label column is a track, NULL where no interval is.

    Args:
        path: CSV, TSV or Parquet with columns `file` (or `file_name`), `start_s` and `stop_s` (seconds since
            the first sample) and one column per track; a blank cell: the interval has no label there.
        names: Name of every recording -> its file's path below the folder.

    Raises:
        DataError: A column is missing, a start is not before its stop, two intervals of one track overlap, or
            no interval belongs to any file.
    """

    path: Path
    names: Mapping[str, str]
    tracks: dict[str, dict[int, str]] = field(init=False)
    notes: list[str] = field(init=False)
    _intervals: dict[tuple[str, str], list[Interval]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        table = read_table(self.path)
        column = _file_column(table)
        for name in (_START, _STOP):
            table.column_name(name, "`data.intervals`")
        labels = [name for name in table.columns if name not in (column, _START, _STOP)]
        if not labels:
            raise DataError(
                f"{self.path}: besides file, start and stop a column of labels expected, found none."
            )
        values = {name: _column_values(table, name) for name in labels}
        self.tracks = {name: class_table(in_order(set(values[name]) - {None})) for name in labels}
        codes = {name: {text: code for code, text in table.items()} for name, table in self.tracks.items()}
        owner = _names_by_text(self.names)
        starts, stops = table.numbers(_START), table.numbers(_STOP)
        found = set()
        for row, text in enumerate(table.text(column)):
            recording = owner.get(_path_text(text))
            where = table.where(row, _START)
            if not starts[row] < stops[row]:  # also where one is blank
                raise DataError(
                    f"{where}: a start before the stop expected, found {starts[row]:g} and {stops[row]:g} s."
                )
            if recording is None:
                continue
            found.add(recording)
            for name in labels:
                value = values[name][row]
                if value is not None:
                    interval = Interval(starts[row], stops[row], codes[name][str(value)], where)
                    self._intervals.setdefault((recording, name), []).append(interval)
        rows = dict.fromkeys(found, 0)
        self.notes = _what_is_missing(self.path, table.text(column), rows, self.names, "interval")
        for intervals in self._intervals.values():
            _check_apart(intervals)

    def codes_of(self, recording: str, num_samples: int, rate_hz: float) -> NDArray[np.int32]:
        """Label codes [num_samples, tracks] of a recording; sample i is at i / rate_hz seconds.

        Raises:
            DataError: An interval that begins before or ends after the recording.
        """
        codes = np.full((num_samples, len(self.tracks)), NULL_CODE, dtype=np.int32)
        seconds = num_samples / rate_hz
        for column, name in enumerate(self.tracks):
            for interval in self._intervals.get((recording, name), ()):
                if interval.start < 0 or interval.stop > seconds + 0.5 / rate_hz:
                    raise DataError(
                        f"{interval.where}: the interval {interval.start:g} to {interval.stop:g} s leaves "
                        f"the recording {recording}, which lasts {seconds:g} s."
                    )
                first, last = round(interval.start * rate_hz), round(interval.stop * rate_hz)
                last = max(last, first + 1)  # however short, an interval labels a sample
                codes[first:last, column] = interval.code
        return codes


def _check_apart(intervals: list[Interval]) -> None:
    """Raises DataError where two intervals of one track share time."""
    intervals.sort(key=lambda interval: interval.start)
    for before, after in itertools.pairwise(intervals):
        if after.start < before.stop:
            raise DataError(
                f"{after.where}: the interval {after.start:g} to {after.stop:g} s overlaps the one from "
                f"{before.start:g} to {before.stop:g} s ({before.where}); one label at a time expected."
            )


def _file_column(table: Table) -> str:
    column = next((name for name in _FILE_COLUMNS if name in table.columns), _FILE_COLUMNS[0])
    return table.column_name(column, "a folder of recordings")


def _names_by_text(names: Mapping[str, str]) -> dict[str, str]:
    """Recording by what a table may call it: its path below the folder, with or without suffix."""
    return {**{path: name for name, path in names.items()}, **{name: name for name in names}}


def _path_text(text: Any) -> str:
    """A path as the folder's own are written: `./rec/a.csv` and `rec\\a.csv` are `rec/a.csv`."""
    return posixpath.normpath(str(text).replace("\\", "/"))


def _rows_of_files(table: Table, column: str, names: Mapping[str, str]) -> dict[str, int]:
    """Row of every recording that has one."""
    owner = _names_by_text(names)
    rows: dict[str, int] = {}
    seen: dict[str, int] = {}
    for row, text in enumerate(table.text(column)):
        if not text:
            raise DataError(f"{table.where(row, column)}: the name of a file expected, found a blank cell.")
        recording = owner.get(_path_text(text), _path_text(text))
        if recording in seen:
            raise DataError(
                f"{table.where(row, column)}: {text} has a row already "
                f"({table.where(seen[recording], column)}); one row per file expected."
            )
        seen[recording] = row
        if recording in names:
            rows[recording] = row
    return rows


def _what_is_missing(
    path: Path, texts: Iterable[Any], rows: Mapping[str, int], names: Mapping[str, str], noun: str
) -> list[str]:
    """What a report says about files without rows and rows without files; refuses a table of other files."""
    owner = _names_by_text(names)
    strange = list(dict.fromkeys(str(text) for text in texts if _path_text(text) not in owner))
    without = [file for name, file in names.items() if name not in rows]
    if not rows:
        raise DataError(
            f"{path}: it names {counted(len(strange), 'file')}, and none is there, for example {strange[0]}; "
            f"the folder holds files such as {next(iter(names.values()))}."
        )
    notes = []
    if strange:
        notes.append(f"{counted(len(strange), 'file')} of {path.name} not there ({_shown(strange)}).")
    if without:
        notes.append(
            f"{len(without)} of {len(names)} recordings have no {noun} in {path.name} ({_shown(without)}): "
            "their labels from it are missing."
        )
    return notes


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" and others" if len(names) > 3 else "")
