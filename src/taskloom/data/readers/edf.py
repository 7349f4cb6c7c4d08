"""EDF and EDF+C recordings (Kemp and Olivan 2003), through pyedflib; labels from file names and one table.

Labels belong to whole recordings: every named group of the file name and every column of the table is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyedflib
from numpy.typing import NDArray

from taskloom.data.readers import ReadRecording
from taskloom.data.readers.after_steps import AfterSteps
from taskloom.data.readers.edf_header import EdfHeader, read_header
from taskloom.data.readers.edf_labels import LabelSettings, RecordingLabels, layout_settings
from taskloom.data.signals import SignalSteps
from taskloom.errors import ConfigError, DataError, did_you_mean

LAYOUTS: dict[str, dict[str, Any]] = {
    "eegmat": {
        "file_pattern": r"(?P<person>Subject\d+)_(?P<condition>[12])",
        "table": "subject-info.csv",
        "key": {"person": "Subject"},
        "labels": {
            "state": {"from": "condition", "values": {"1": "rest", "2": "arithmetic"}},
            "count_quality": {"from": "Count quality", "values": {"0": "bad", "1": "good"}},
            # The headers of the recordings disagree with the table; the table is right.
            "gender": {"from": "Gender"},
            "age": {"from": "Age"},
            "subtractions": {"from": "Number of subtractions"},
        },
    }
}
"""Settings of well-known data sets. "eegmat": EEG during mental arithmetic (PhysioNet, Zyma et al. 2019)."""


class EdfReader(AfterSteps):
    """Reads a folder of .edf files, one at a time.

    Args:
        folder: The folder of the recordings.
        layout: Name in `LAYOUTS`: settings for all of the following that are not given.
        file_pattern: Regular expression that every file name without `.edf` matches as a whole; its named
            groups become labels; `person`, `session` and `trial` also say whom and what a recording is of.
        table: CSV or Parquet file below `folder` with one row per person (or file).
        key: Named group -> column of the table that holds its values, one pair. Without it the column
            `file_name` or `file` names the recording.
        labels: Label -> `{from: group or column, values: {text in the data: name}}`, besides the groups and
            columns under their own names. `values` gives classes their names and order.
        channels: Signal labels to read, in this order; all of the first file where None.
        steps: What is done to every recording before it is stored.

    Raises:
        DataError: No such folder or no .edf in it, a name that does not fit the pattern, a table that does
            not fit, or a first file that is not EDF.
        ConfigError: A setting that is unknown or out of range.
    """

    name = "edf"
    tracks: Mapping[str, Mapping[int, str]] = MappingProxyType({})

    def __init__(
        self,
        folder: str | Path,
        *,
        layout: str | None = None,
        file_pattern: str | None = None,
        table: str | None = None,
        key: Mapping[str, str] | None = None,
        labels: Mapping[str, Mapping[str, Any]] | None = None,
        channels: Sequence[str] | None = None,
        steps: SignalSteps | None = None,
    ) -> None:
        self.root = Path(folder)
        self._settings = LabelSettings.choose(
            self.root,
            layout_settings(LAYOUTS, layout),
            file_pattern=file_pattern,
            table=table,
            key=key,
            labels=labels,
        )
        self._recordings = _find_files(self.root)
        self._labels = RecordingLabels.read(self._recordings, self._settings)
        self.files = self._settings.files(self._recordings)
        first = read_header(self._recordings[0])
        self._channels = _chosen_channels(channels, first)
        self.units = [first.units[first.labels.index(channel)] for channel in self._channels]
        self.native_rate_hz = _common_rate(first, self._channels)
        self.steps = steps or SignalSteps()
        self.steps.check(self.native_rate_hz)
        self.notes: list[str] = list(self._labels.notes)

    @property
    def label_classes(self) -> Mapping[str, Sequence[str]]:
        return self._labels.classes

    @property
    def parameters(self) -> dict[str, Any]:
        return {
            **self._settings.to_dict(),
            "channels": list(self._channels),
            "units": self.units,
            "native_rate_hz": self.native_rate_hz,
            "signals": self.steps.to_dict(),
        }

    def recordings(self) -> Iterator[ReadRecording]:
        for path in self._recordings:
            yield self.read(path)

    def read(self, path: Path) -> ReadRecording:
        """Reads one file in physical units.

        Raises:
            DataError: The file is cut off, not EDF, discontinuous, lacks a channel, or differs from the first
                file in unit or rate; or a step cannot be taken on it.
        """
        header = read_header(path)
        missing = [channel for channel in self._channels if channel not in header.labels]
        if missing:
            raise DataError(
                f"{path.name}: no signal `{missing[0]}`; found {', '.join(header.labels)}. Choose signals "
                "that every file has with `data.channels`."
            )
        units = [header.units[header.labels.index(channel)] for channel in self._channels]
        for channel, unit, expected in zip(self._channels, units, self.units, strict=True):
            if unit != expected:
                raise DataError(
                    f"{path.name}: signal `{channel}` is in {unit or 'no unit'}, in "
                    f"{self._recordings[0].name} in {expected or 'no unit'}; one unit per signal expected."
                )
        rate_hz = _common_rate(header, self._channels)
        if rate_hz != self.native_rate_hz:
            raise DataError(
                f"{path.name}: {rate_hz:g} Hz, {self._recordings[0].name} has {self.native_rate_hz:g} Hz; "
                "one rate for all recordings expected, so convert one of them or leave it out of the folder."
            )
        samples = _read_signals(path, header, self._channels)
        return self._labels.recording(path, self.steps.apply(samples, rate_hz, path.name, self._channels))


@dataclass(frozen=True)
class EdfContent:
    """What one EDF file holds.

    Args:
        samples: Chosen signals in physical units, [n, channels].
        units: Their units.
        rate_hz: Samples per second.
    """

    samples: NDArray[np.float32]
    units: tuple[str, ...]
    rate_hz: float


def read_edf(path: Path, channels: Sequence[str]) -> EdfContent:
    """Reads signals of one EDF file in physical units.

    Raises:
        DataError: The file is cut off, not EDF, discontinuous, lacks a signal or has them at several rates.
    """
    header = read_header(path)
    missing = [channel for channel in channels if channel not in header.labels]
    if missing:
        raise DataError(f"{path.name}: no signal `{missing[0]}`; found {', '.join(header.labels)}.")
    units = tuple(header.units[header.labels.index(channel)] for channel in channels)
    rate_hz = _common_rate(header, tuple(channels))
    return EdfContent(_read_signals(path, header, channels), units, rate_hz)


def _find_files(root: Path) -> list[Path]:
    if not root.is_dir():
        raise DataError(f"{root}: no such folder. Give the folder that holds the .edf files.")
    files = sorted(path for path in root.iterdir() if path.suffix.lower() == ".edf")
    if not files:
        found = sorted(path.name for path in root.iterdir())
        raise DataError(
            f"{root}: .edf files expected, found {', '.join(found[:4]) or 'an empty folder'}"
            f"{' and others' if len(found) > 4 else ''}; name their folder with --data or "
            "`data.folder`."
        )
    return files


def _chosen_channels(channels: Sequence[str] | None, first: EdfHeader) -> tuple[str, ...]:
    chosen = tuple(first.labels if channels is None else map(str, channels))
    for channel in chosen:
        if channel not in first.labels:
            raise ConfigError(
                f"data.channels: `{channel}` is not a signal of {first.path.name}."
                f"{did_you_mean(channel, first.labels)} Signals: {', '.join(first.labels)}."
            )
        if first.labels.count(channel) > 1 or chosen.count(channel) > 1:
            raise DataError(f"{first.path.name}: signal `{channel}` stands twice; its name must be unique.")
    if not chosen:
        raise DataError(f"{first.path.name}: no signal besides annotations.")
    return chosen


def _common_rate(header: EdfHeader, channels: Sequence[str]) -> float:
    rates = {channel: header.rates_hz[header.labels.index(channel)] for channel in channels}
    if len(set(rates.values())) > 1:
        slow, fast = min(rates, key=rates.__getitem__), max(rates, key=rates.__getitem__)
        raise DataError(
            f"{header.path.name}: signals of one rate expected, found `{slow}` at {rates[slow]:g} Hz and "
            f"`{fast}` at {rates[fast]:g} Hz; choose signals of one rate with `data.channels`."
        )
    return next(iter(rates.values()))


def _read_signals(path: Path, header: EdfHeader, channels: Sequence[str]) -> NDArray[np.float32]:
    """Chosen signals in physical units, [n, channels]."""
    try:
        with pyedflib.EdfReader(str(path), annotations_mode=pyedflib.DO_NOT_READ_ANNOTATIONS) as file:
            signals = [file.readSignal(header.labels.index(channel)) for channel in channels]
    except (OSError, ValueError) as error:
        raise DataError(f"{path.name}: not readable as EDF ({str(error).split(': ')[-1]}).") from error
    return np.stack(signals, axis=1).astype(np.float32)
