"""One's own recordings: a folder of CSV, NPY, NPZ, EDF or WAV files, and tables that say what they show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom.data.readers import ReadRecording
from taskloom.data.readers.after_steps import AfterSteps
from taskloom.data.readers.recordings_files import (
    SUFFIXES,
    FileContent,
    FileSettings,
    TimeUnit,
    read_file,
    same_rate,
)
from taskloom.data.readers.recordings_table import NULL_NAME, FileTable, IntervalTable, class_table, in_order
from taskloom.data.readers.wav import find_files
from taskloom.data.recordings import NULL_CODE
from taskloom.data.signals import SignalSteps
from taskloom.errors import ConfigError, DataError, did_you_mean


class RecordingsReader(AfterSteps):
    """Reads a folder of recordings, one file at a time.

    Labels come from any of three places: `table` (of whole recordings), `intervals` (stretches of time), and
    `tracks` (a label per sample, in the files themselves). The last two are NULL where there is no label.

    Args:
        folder: The folder of the recordings and tables.
        files: Shell pattern of the files below `folder`, all of one kind; `**/*.csv` looks into subfolders.
        table: Table with one row per file; see `FileTable`.
        intervals: Table with one row per labelled stretch; see `IntervalTable`.
        tracks: Columns of CSV (arrays of NPZ) with a label per sample, or such names with their classes in
            order; blank and NULL mean no label.
        channels, rate_hz, time, time_unit: See `FileSettings`.
        steps: What is done to every recording before it is stored.

    Raises:
        DataError: No such folder or file, files of several kinds, a table that does not fit, a first file
            that cannot be read, or no rate anywhere.
        ConfigError: A setting that is out of range; one name for two sources of labels.
    """

    name = "recordings"

    def __init__(
        self,
        folder: str | Path,
        *,
        files: str = "*",
        table: str | None = None,
        intervals: str | None = None,
        tracks: Sequence[str] | Mapping[str, Sequence[str]] = (),
        channels: Sequence[str] | None = None,
        rate_hz: float | None = None,
        time: str | None = None,
        time_unit: TimeUnit = "s",
        steps: SignalSteps | None = None,
    ) -> None:
        self.root = Path(folder)
        self._settings = FileSettings(
            None if channels is None else tuple(str(channel) for channel in channels),
            rate_hz,
            time,
            time_unit,
            tuple(str(track) for track in tracks),
        )
        tables = [self.root / name for name in (table, intervals) if name]
        self._names = _recording_names(self.root, files, tables)
        paths = [self.root / path for path in self._names.values()]
        self.files = [*paths, *tables]
        self._table = FileTable(self.root / table, self._names) if table else None
        self._intervals = IntervalTable(self.root / intervals, self._names) if intervals else None
        self._given_classes = dict(tracks) if isinstance(tracks, Mapping) else {}
        self._track_tables: dict[str, dict[int, str]] | None = None
        self.steps = steps or SignalSteps()
        self._first = paths[0]
        first = read_file(self._first, self._settings)
        self._channels = first.channels
        self.native_rate_hz = _nominal_rate(self._first, first, rate_hz)
        self.steps.check(self.native_rate_hz)
        self.notes: list[str] = [
            note for source in (self._table, self._intervals) if source is not None for note in source.notes
        ]
        self._check_names()

    @property
    def tracks(self) -> Mapping[str, Mapping[int, str]]:
        """Code -> name of every track. Reads all files where `tracks` does not name the classes."""
        if self._track_tables is None:
            self._track_tables = {name: class_table(self._classes_of(name)) for name in self._settings.tracks}
        return {**(self._intervals.tracks if self._intervals else {}), **self._track_tables}

    @property
    def label_classes(self) -> Mapping[str, Sequence[str]]:
        return MappingProxyType(self._table.classes if self._table else {})

    @property
    def parameters(self) -> dict[str, Any]:
        settings = self._settings
        return {
            "files": list(self._names.values()),
            "tables": [path.relative_to(self.root).as_posix() for path in self.files[len(self._names) :]],
            "channels": list(self._channels),
            "native_rate_hz": self.native_rate_hz,
            "time": settings.time,
            "time_unit": settings.time_unit,
            "tracks": {name: list(self._given_classes.get(name, ())) for name in settings.tracks},
            "signals": self.steps.to_dict(),
        }

    def recordings(self) -> Iterator[ReadRecording]:
        for name in self._names:
            yield self.read(name)

    def read(self, name: str) -> ReadRecording:
        """Reads one recording.

        Raises:
            DataError: The file is broken, differs from the first one in rate or channels, or has holes longer
                than `carry_forward_seconds`; an interval leaves the recording; an unknown class in a track.
        """
        path = self.root / self._names[name]
        content = self._content(path)
        labels = self._table.labels_of(name) if self._table else {}
        identity = self._table.identity_of(name) if self._table else {}
        rate_hz = self.native_rate_hz
        return ReadRecording(
            name=name,
            samples=self.steps.apply(content.samples, rate_hz, path.name, self._channels),
            tracks=self.steps.apply_codes(self._codes(name, path, content), rate_hz) if self.tracks else None,
            labels=labels,
            person=identity.get("person"),
            session=identity.get("session"),
            trial=identity.get("trial"),
        )

    def _content(self, path: Path) -> FileContent:
        """A file, of the same channels and rate as the first one."""
        content = read_file(path, self._settings)
        if content.channels != self._channels:
            raise DataError(
                f"{path.name}: channels {', '.join(self._channels[:5])} ({len(self._channels)}) expected as "
                f"in {self._first.name}, found {', '.join(content.channels[:5])} ({len(content.channels)}); "
                "`data.channels` chooses those that every file has."
            )
        found = self.native_rate_hz if content.rate_hz is None else content.rate_hz
        if not same_rate(found, self.native_rate_hz, measured=content.measured):
            raise DataError(
                f"{path.name}: {found:.6g} Hz, {self.native_rate_hz:.6g} Hz expected as in "
                f"{self._first.name} or `data.rate_hz`; one rate for all recordings expected, so "
                "convert one or leave it out by `data.files`."
            )
        return content

    def _codes(self, name: str, path: Path, content: FileContent) -> NDArray[np.int32]:
        """Label codes [n, tracks] at the rate of the files."""
        length = len(content.samples)
        parts = (
            [] if self._intervals is None else [self._intervals.codes_of(name, length, self.native_rate_hz)]
        )
        parts += [
            _encoded(path, track, content.tracks[track], self.tracks[track])[:, None]
            for track in self._settings.tracks
        ]
        return np.concatenate(parts, axis=1)

    def _classes_of(self, track: str) -> list[str]:
        """Classes as given, else what stands in all the files."""
        if self._given_classes.get(track):
            return [str(name) for name in self._given_classes[track]]
        found: set[str] = set()
        for path in self._names.values():
            found |= set(np.unique(read_file(self.root / path, self._settings).tracks[track]).tolist())
        classes = found - {"", NULL_NAME}
        if not classes:
            raise DataError(f"{self.root}: track `{track}` has no label in any file; leave it out.")
        if all(text.lstrip("-").isdigit() for text in classes):
            return sorted(classes, key=int)
        return in_order(classes)

    def _check_names(self) -> None:
        for track in self._settings.tracks:
            if self._first.suffix.lower() not in (".csv", ".npz"):
                raise ConfigError(
                    f"data.tracks: only CSV and NPZ hold labels per sample, found {self._first.name}; use "
                    "`data.intervals`."
                )
            if self._intervals and track in self._intervals.tracks:
                raise ConfigError(f"data.tracks: `{track}` is a column of `data.intervals` too; rename one.")
        named = [*self._settings.tracks, *(self._intervals.tracks if self._intervals else ())]
        double = next((name for name in named if self._table and name in self._table.labels), None)
        if double is not None:
            raise ConfigError(f"data.table: `{double}` is a track too; rename one of them.")


def _recording_names(root: Path, pattern: str, tables: Sequence[Path]) -> dict[str, str]:
    """Name of every recording -> its file's path below the folder."""
    chosen = [path for path in find_files(root, pattern, SUFFIXES) if path not in tables]
    if not chosen:
        raise DataError(f"{root}: recordings expected besides {', '.join(path.name for path in tables)}.")
    kinds = sorted({path.suffix.lower() for path in chosen})
    if len(kinds) > 1:
        raise DataError(
            f"{root}: recordings of one kind expected, found {', '.join(kinds)}; choose with `data.files`, "
            f"for example `*{kinds[0]}`."
        )
    return {
        path.relative_to(root).with_suffix("").as_posix(): path.relative_to(root).as_posix()
        for path in chosen
    }


def _nominal_rate(path: Path, content: FileContent, given: float | None) -> float:
    """The given rate, else that of the first file; a measured one is rounded to whole Hz where it is near."""
    if given is not None:
        return float(given)
    if content.rate_hz is None:
        raise DataError(
            f"{path.name}: its rate is not known; give `data.rate_hz`"
            + (", or a column of times as `data.time`." if path.suffix.lower() == ".csv" else ".")
        )
    whole = round(content.rate_hz)
    near = content.measured and whole > 0 and abs(content.rate_hz - whole) < 0.002 * whole
    return float(whole if near else content.rate_hz)


def _encoded(path: Path, track: str, texts: NDArray[Any], table: Mapping[int, str]) -> NDArray[np.int32]:
    """Label codes [n] of labels as text."""
    code_of = {**{name: code for code, name in table.items()}, "": NULL_CODE, NULL_NAME: NULL_CODE}
    values, position = np.unique(texts, return_inverse=True)
    for value in values.tolist():
        if value not in code_of:
            row = int(np.flatnonzero(texts == value)[0])
            raise DataError(
                f"{path.name}: track `{track}` is `{value}` at sample {row}, which is not one of its classes."
                f"{did_you_mean(value, table.values())} Classes: {', '.join(table.values())}."
            )
    return np.array([code_of[value] for value in values.tolist()], dtype=np.int32)[position]
