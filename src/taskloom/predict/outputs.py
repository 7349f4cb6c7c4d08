"""Files that are whole or absent: tables by suffix, overlay videos and images.

Everything is written under another name beside its place and renamed at the end; `discard` leaves nothing.
"""

from __future__ import annotations

import contextlib
import csv
import json
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from taskloom.errors import ConfigError, DataError
from taskloom.predict.readings import Column, State

TABLE_SUFFIXES = (".csv", ".parquet", ".pq", ".jsonl", ".ndjson")
VIDEO_SUFFIXES = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".avi": "MJPG", ".mkv": "mp4v"}
STILL_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
_GROUP_ROWS = 4096
_TYPES = {"int": pa.int64(), "float": pa.float64(), "text": pa.string(), "bool": pa.bool_()}


class Partial:
    """The other name of a file or folder until it is whole.

    Args:
        place: Where it will be.
        what: What it is, for messages.

    Raises:
        DataError: Its folder is not there or cannot be written, or the place is a folder.
    """

    def __init__(self, place: Path, what: str, *, folder: bool = False) -> None:
        self.place, self.what = place, what
        if place.is_dir() and not (folder and not any(place.iterdir())):
            kind = "an empty or new folder" if folder else "a file"
            raise DataError(f"{place}: {kind} for {what} expected, found a folder; give another name.")
        # The suffix stays: OpenCV goes by it.
        self.path = place.with_name(f".{place.stem}.{secrets.token_hex(6)}.partial{place.suffix}")
        try:
            if folder:
                self.path.mkdir()
            else:
                self.path.touch(exist_ok=False)
        except OSError as error:
            raise self.unwritable(error) from error

    def unwritable(self, error: OSError) -> DataError:
        return DataError(f"{self.place}: {self.what} cannot be written there ({error.strerror or error}).")

    def move_into_place(self) -> None:
        try:
            if self.path.is_dir() and self.place.is_dir():
                self.place.rmdir()  # empty
            self.path.replace(self.place)
        except OSError as error:
            raise self.unwritable(error) from error

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            if self.path.is_dir():
                shutil.rmtree(self.path)
            else:
                self.path.unlink(missing_ok=True)


class RowWriter(Protocol):
    """Writes rows of one kind of table."""

    def write(self, cells: Sequence[Any]) -> None: ...

    def close(self) -> None: ...


class RowSink(Protocol):
    """Takes the rows of predictions."""

    def write(self, cells: Sequence[Any], state: State | None = None) -> None:
        """Takes a row: a cell per column, None where there is nothing; and the state it was read off."""

    def finish(self) -> None:
        """All rows were taken."""

    def discard(self) -> None:
        """Leaves nothing."""


class HeldRows:
    """Rows of predictions in memory, with the cells that a `TableFile` would write.

    Args:
        most: How many rows it takes at most.
        otherwise: What to do with more.

    Attributes:
        columns: Of the table; empty until rows are predicted.
        rows: A cell per column.
        states: The state that each row was read off; None where nothing was predicted.
    """

    def __init__(self, most: int, otherwise: str = "have them written to a file") -> None:
        self.most, self.otherwise = most, otherwise
        self.columns: tuple[Column, ...] = ()
        self.rows: list[list[Any]] = []
        self.states: list[State | None] = []

    def write(self, cells: Sequence[Any], state: State | None = None) -> None:
        """Takes a row. Raises DataError where that is one too many."""
        if len(self.rows) == self.most:
            raise DataError(
                f"more than {self.most:,} rows of predictions are not held in memory; {self.otherwise}, or "
                "give less at a time."
            )
        self.rows.append(list(cells))
        self.states.append(state)

    def finish(self) -> None:
        """Nothing is left to be done."""

    def discard(self) -> None:
        """Forgets all rows."""
        self.rows, self.states = [], []


def row_sink(
    table: Path | HeldRows, columns: Sequence[Column], about: Mapping[str, Any] | None = None
) -> RowSink:
    """What takes the rows of a table of these columns: a `TableFile`, or the one that was given."""
    if isinstance(table, Path):
        return TableFile(table, columns, about)
    table.columns = tuple(columns)
    return table


class TableFile:
    """A table of predictions, row by row: CSV, Parquet or JSON lines by suffix.

    Args:
        place: The file.
        columns: Its columns.
        about: For the metadata of a Parquet file.

    Raises:
        ConfigError: A suffix that is none of `TABLE_SUFFIXES`.
        DataError: The place cannot be written.
    """

    def __init__(
        self, place: Path, columns: Sequence[Column], about: Mapping[str, Any] | None = None
    ) -> None:
        suffix = place.suffix.lower()
        if suffix not in TABLE_SUFFIXES:
            raise ConfigError(
                f"--table: a file with one of the suffixes {', '.join(TABLE_SUFFIXES)} expected, found "
                f"`{place}`."
            )
        self.place, self.rows = place, 0
        self._partial = Partial(place, "the table")
        self._writer: RowWriter
        if suffix == ".csv":
            self._writer = _Csv(self._partial.path, columns)
        elif suffix in (".jsonl", ".ndjson"):
            self._writer = _JsonLines(self._partial.path, columns)
        else:
            self._writer = _Parquet(self._partial.path, columns, about or {})

    def write(self, cells: Sequence[Any], state: State | None = None) -> None:  # noqa: ARG002
        """Writes a row: a cell per column, None where there is nothing."""
        try:
            self._writer.write(cells)
        except OSError as error:
            raise self._partial.unwritable(error) from error
        self.rows += 1

    def finish(self) -> None:
        """Puts the table in its place."""
        try:
            self._writer.close()
        except OSError as error:
            raise self._partial.unwritable(error) from error
        self._partial.move_into_place()

    def discard(self) -> None:
        """Leaves nothing."""
        with contextlib.suppress(OSError, pa.ArrowException):
            self._writer.close()
        self._partial.remove()


class _Csv:
    def __init__(self, path: Path, columns: Sequence[Column]) -> None:
        self.file = path.open("w", newline="", encoding="utf-8")
        self.writer = csv.writer(self.file)
        self.writer.writerow([column.name for column in columns])

    def write(self, cells: Sequence[Any]) -> None:
        # JSON's and Parquet's words for true and false
        self.writer.writerow([str(cell).lower() if isinstance(cell, bool) else cell for cell in cells])

    def close(self) -> None:
        self.file.close()


class _JsonLines:
    def __init__(self, path: Path, columns: Sequence[Column]) -> None:
        self.file = path.open("w", encoding="utf-8")
        self.names = [column.name for column in columns]

    def write(self, cells: Sequence[Any]) -> None:
        self.file.write(json.dumps(dict(zip(self.names, cells, strict=True)), ensure_ascii=False) + "\n")

    def close(self) -> None:
        self.file.close()


class _Parquet:
    def __init__(self, path: Path, columns: Sequence[Column], about: Mapping[str, Any]) -> None:
        fields = [pa.field(column.name, _TYPES[column.kind]) for column in columns]
        self.schema = pa.schema(fields, metadata={"taskloom": json.dumps(dict(about))})
        self.writer = pyarrow.parquet.ParquetWriter(path, self.schema)
        self.held: list[Sequence[Any]] = []

    def write(self, cells: Sequence[Any]) -> None:
        self.held.append(cells)
        if len(self.held) >= _GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self.held:
            columns = zip(*self.held, strict=True)
            arrays = [
                pa.array(list(column), field.type) for column, field in zip(columns, self.schema, strict=True)
            ]
            self.writer.write_table(pa.Table.from_arrays(arrays, schema=self.schema))
            self.held = []

    def close(self) -> None:
        self._flush()
        self.writer.close()


class Overlay(Protocol):
    """Takes drawn pictures."""

    place: Path

    def write(self, file: str, picture: NDArray[np.uint8]) -> None:
        """Takes the drawn picture of a file or of the next frame, BGR [H, W, 3]."""

    def finish(self) -> None:
        """Puts what was drawn in its place."""

    def discard(self) -> None:
        """Leaves nothing."""


class OverlayVideo:
    """An overlay video: MPEG-4 in .mp4, .m4v, .mov and .mkv, motion JPEG in .avi; without sound.

    Args:
        place: The file.
        rate_hz: Frames per second.
    """

    def __init__(self, place: Path, rate_hz: float) -> None:
        if place.suffix.lower() not in VIDEO_SUFFIXES:
            raise ConfigError(
                f"--overlay: a video with one of the suffixes {', '.join(VIDEO_SUFFIXES)} expected, found "
                f"`{place}`."
            )
        self.place, self.rate_hz = place, rate_hz
        self._partial = Partial(place, "the overlay video")
        self._writer: Any = None
        self._size = (0, 0)

    def write(self, file: str, picture: NDArray[np.uint8]) -> None:  # noqa: ARG002
        if self._writer is None:
            self._open(picture.shape[1], picture.shape[0])
        if (picture.shape[1], picture.shape[0]) != self._size:  # a stream whose size changes on the way
            picture = np.asarray(cv2.resize(picture, self._size, interpolation=cv2.INTER_AREA), np.uint8)
        self._writer.write(picture)

    def _open(self, width: int, height: int) -> None:
        code = cv2.VideoWriter.fourcc(*VIDEO_SUFFIXES[self.place.suffix.lower()])
        self._writer = cv2.VideoWriter(str(self._partial.path), code, self.rate_hz, (width, height))
        self._size = (width, height)
        if not self._writer.isOpened():
            raise DataError(
                f"{self.place}: OpenCV cannot write a video of {width} x {height} there; use --overlay with "
                "another suffix, or `--overlay none`."
            )

    def finish(self) -> None:
        if self._writer is not None:
            self._writer.release()
        if self._partial.path.stat().st_size == 0:
            raise DataError(f"{self.place}: OpenCV wrote nothing to the overlay video; is the disk full?")
        self._partial.move_into_place()

    def discard(self) -> None:
        if self._writer is not None:
            self._writer.release()
        self._partial.remove()


class OverlayStill:
    """The drawn picture of one image."""

    def __init__(self, place: Path) -> None:
        if place.suffix.lower() not in STILL_SUFFIXES:
            raise ConfigError(
                f"--overlay: an image with one of the suffixes {', '.join(STILL_SUFFIXES)} expected, found "
                f"`{place}`."
            )
        self.place = place
        self._partial = Partial(place, "the overlay")

    def write(self, file: str, picture: NDArray[np.uint8]) -> None:  # noqa: ARG002
        _write_image(self._partial.path, picture, self.place)

    def finish(self) -> None:
        self._partial.move_into_place()

    def discard(self) -> None:
        self._partial.remove()


class OverlayFolder:
    """The drawn pictures of a folder, each under the name of its file, in subfolders like the source's."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._partial = Partial(place, "the overlay images", folder=True)

    def write(self, file: str, picture: NDArray[np.uint8]) -> None:
        name = file if Path(file).suffix.lower() in STILL_SUFFIXES else f"{file}.png"
        _write_image(self._partial.path / name, picture, self.place / name)

    def finish(self) -> None:
        self._partial.move_into_place()

    def discard(self) -> None:
        self._partial.remove()


def _write_image(path: Path, picture: NDArray[np.uint8], place: Path) -> None:
    done, data = cv2.imencode(path.suffix.lower(), picture)
    if not done:
        raise DataError(f"{place}: OpenCV cannot write such an image.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)  # of a file in a subfolder
        path.write_bytes(data.tobytes())
    except OSError as error:
        raise DataError(f"{place}: the overlay cannot be written there ({error.strerror}).") from error
