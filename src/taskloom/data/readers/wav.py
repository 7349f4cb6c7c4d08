"""WAV recordings, with labels from file names and one table; for one row per file see `recordings_folder`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from taskloom.data.readers import ReadRecording
from taskloom.data.readers.after_steps import AfterSteps
from taskloom.data.readers.edf_labels import LabelSettings, RecordingLabels, layout_settings
from taskloom.data.readers.wav_file import WavHeader, read_wav, read_wav_header
from taskloom.data.signals import SignalSteps
from taskloom.errors import ConfigError, DataError, did_you_mean

LAYOUTS: dict[str, dict[str, Any]] = {
    "fsdd": {
        "files": "recordings/*.wav",
        "file_pattern": r"(?P<digit>\d)_(?P<speaker>[a-z]+)_(?P<index>\d+)",
        "table": "speakers.csv",
        "key": {"speaker": "speaker"},
    }
}
"""Settings of well-known data sets. "fsdd": spoken digits (Jackson et al.), test set: index 0 to 4."""


class WavReader(AfterSteps):
    """Reads a folder of .wav files, one at a time.

    Args:
        folder: The folder of the recordings.
        layout: Name in `LAYOUTS`: settings for all of the following that are not given.
        files: Shell pattern of the files below `folder`; `**/*.wav` looks into subfolders too.
        file_pattern: Regular expression that every file name without `.wav` matches as a whole; its named
            groups become labels; `person`, `session` and `trial` also say whom and what a recording is of.
        table: CSV or Parquet file below `folder` with one row per value of `key`, or per file.
        key: Named group -> column of the table that holds its values, one pair. Without it the column
            `file_name` or `file` names the recording.
        labels: Label -> `{from: group or column, values: {text in the data: name}}`, besides the groups and
            columns under their own names.
        channels: "all", "mix" (their mean, as channel `audio`), or names: mono is `audio`, stereo is `left`
            and `right`, more are `channel_0` and so on.
        steps: What is done to every recording before it is stored.

    Raises:
        DataError: No such folder or no file in it, two files of one name, a name that does not fit the
            pattern, a table that does not fit, or a first file that is not WAV.
        ConfigError: A setting that is unknown or out of range.
    """

    name = "wav"
    tracks: Mapping[str, Mapping[int, str]] = MappingProxyType({})

    def __init__(
        self,
        folder: str | Path,
        *,
        layout: str | None = None,
        files: str | None = None,
        file_pattern: str | None = None,
        table: str | None = None,
        key: Mapping[str, str] | None = None,
        labels: Mapping[str, Mapping[str, Any]] | None = None,
        channels: Literal["all", "mix"] | Sequence[str] = "all",
        steps: SignalSteps | None = None,
    ) -> None:
        self.root = Path(folder)
        usual = layout_settings(LAYOUTS, layout)
        self._settings = LabelSettings.choose(
            self.root, usual, file_pattern=file_pattern, table=table, key=key, labels=labels
        )
        self._recordings = find_files(self.root, files or usual.get("files", "*.wav"), (".wav",))
        _check_unique(self._recordings)
        self._labels = RecordingLabels.read(self._recordings, self._settings)
        self.files = self._settings.files(self._recordings)
        self.steps = steps or SignalSteps()
        first = read_wav_header(self._recordings[0])
        self._choice: str | tuple[str, ...] = channels if isinstance(channels, str) else tuple(channels)
        self._channels, _ = chosen_wav_channels(first, self._choice)
        self.native_rate_hz = float(first.rate_hz)
        self.steps.check(self.native_rate_hz)
        self.notes: list[str] = list(self._labels.notes)

    @property
    def label_classes(self) -> Mapping[str, Sequence[str]]:
        return self._labels.classes

    @property
    def parameters(self) -> dict[str, Any]:
        return {
            "files": [path.relative_to(self.root).as_posix() for path in self._recordings],
            **self._settings.to_dict(),
            "channels": self._choice if isinstance(self._choice, str) else list(self._choice),
            "native_rate_hz": self.native_rate_hz,
            "signals": self.steps.to_dict(),
        }

    def recordings(self) -> Iterator[ReadRecording]:
        for path in self._recordings:
            yield self.read(path)

    def read(self, path: Path) -> ReadRecording:
        """Reads one file.

        Raises:
            DataError: The file is cut off, not WAV, or differs from the first file in rate or channels.
        """
        header = read_wav_header(path)
        check_same_rate(path, header.rate_hz, self._recordings[0], self.native_rate_hz)
        names, columns = chosen_wav_channels(header, self._choice)
        if names != self._channels:
            raise DataError(
                f"{path.name}: {', '.join(header.channels)} found, {', '.join(self._channels)} expected as "
                f"in {self._recordings[0].name}; `data.channels: mix` makes one channel of all."
            )
        samples = self.steps.apply(
            pick_wav_channels(header, columns), self.native_rate_hz, path.name, self._channels
        )
        return self._labels.recording(path, samples)


def chosen_wav_channels(
    header: WavHeader, choice: str | Sequence[str]
) -> tuple[tuple[str, ...], list[int] | None]:
    """Returns the names of the chosen channels and their columns, None for the mean of all.

    Raises:
        ConfigError: Neither "all" nor "mix" nor names of channels of this file.
    """
    if choice == "all":
        return header.channels, list(range(header.num_channels))
    if choice == "mix":
        return ("audio",), None
    if isinstance(choice, str):
        raise ConfigError(f'data.channels: "all", "mix" or a list of names expected, found {choice!r}.')
    for name in choice:
        if name not in header.channels:
            raise ConfigError(
                f"data.channels: `{name}` is not a channel of {header.path.name}."
                f"{did_you_mean(name, header.channels)} Channels: {', '.join(header.channels)}."
            )
    return tuple(choice), [header.channels.index(name) for name in choice]


def pick_wav_channels(header: WavHeader, columns: list[int] | None) -> NDArray[np.float32]:
    """Samples [n, chosen] of a file; the mean of all channels [n, 1] where `columns` is None."""
    samples = read_wav(header)
    return samples.mean(axis=1, keepdims=True) if columns is None else samples[:, columns]


def find_files(root: Path, pattern: str, suffixes: Sequence[str]) -> list[Path]:
    """Returns the files below a folder that match a shell pattern and have one of the suffixes, sorted.

    Raises:
        DataError: No such folder, or no such file.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder. Give the folder of the recordings.")
    files = sorted(
        path
        for path in root.glob(pattern)
        if path.is_file() and path.suffix.lower() in suffixes and not path.name.startswith(".")
    )
    if not files:
        found = sorted(path.name for path in root.iterdir())
        raise DataError(
            f"{root}: files `{pattern}` ({', '.join(suffixes)}) expected, found "
            f"{', '.join(found[:4]) or 'an empty folder'}{' and others' if len(found) > 4 else ''}."
        )
    return files


def check_same_rate(path: Path, rate_hz: float, first: Path, expected_hz: float) -> None:
    """Raises DataError where a file's rate differs from that of the first file."""
    if rate_hz != expected_hz:
        raise DataError(
            f"{path.name}: {rate_hz:g} Hz, {first.name} has {expected_hz:g} Hz; one rate for all recordings "
            "expected, so convert one of them."
        )


def _check_unique(paths: Sequence[Path]) -> None:
    name, count = Counter(path.name for path in paths).most_common(1)[0]
    if count > 1:
        raise DataError(f"{name}: {count} files of this name in different folders; one of a name expected.")
