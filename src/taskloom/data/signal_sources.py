"""The data readers `edf`, `wav`, `recordings` and `deap`: settings, and the way from there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from taskloom.data.batch import DataSplits
from taskloom.data.readers import RecordingReader
from taskloom.data.readers.deap import RATINGS, DeapReader
from taskloom.data.readers.edf import EdfReader
from taskloom.data.readers.recordings_folder import RecordingsReader
from taskloom.data.readers.wav import WavReader
from taskloom.data.recording_source import COMMON_SETTINGS, load_recordings
from taskloom.data.setting_kinds import check_kinds
from taskloom.data.shuffled_windows import SHUFFLED_WINDOWS
from taskloom.data.signals import SIGNAL_SETTINGS, SignalSteps
from taskloom.data.sources import SOURCES, TaskSettings, as_settings, check_settings, data_folder

DEAP_SETTINGS = ("format", "channels", "baseline", "thresholds", "three_class_bounds", "trials")
FOLDER_SETTINGS = ("files", "table", "intervals", "tracks", "channels", "rate_hz", "time", "time_unit")
EDF_SETTINGS = ("layout", "file_pattern", "table", "key", "labels", "channels")
WAV_SETTINGS = ("layout", "files", "file_pattern", "table", "key", "labels", "channels")


_RATING_LABELS = {"binary": "{}_binary", "multiclass": "{}_three", "regression": "{}"}
"""Label of a rating by the kind of the task."""


class SteppedReader(RecordingReader, Protocol):
    """A reader that takes `SignalSteps` on every recording."""

    @property
    def steps(self) -> SignalSteps: ...

    @property
    def native_rate_hz(self) -> float:
        """Rate of the files, before any step."""
        ...


def rating_columns(tasks: TaskSettings) -> TaskSettings:
    """Returns the tasks with the label of each rating as `column`, by the task's kind.

    Example:
        >>> rating_columns({"v": {"kind": "binary", "column": "valence"}, "liking": {"kind": "regression"}})
        {'v': {'kind': 'binary', 'column': 'valence_binary'},
         'liking': {'kind': 'regression', 'column': 'liking'}}
    """
    named = {}
    for name, entry in as_settings(tasks).items():
        column = str(entry.get("column", name))
        if column in RATINGS and entry.get("kind") in _RATING_LABELS:
            column = _RATING_LABELS[entry["kind"]].format(column)
        named[name] = {**entry, "column": column}
    return named


def _unchanged(tasks: TaskSettings) -> TaskSettings:
    return tasks


@dataclass(frozen=True)
class SteppedSource:
    """A `SourceLoader` over a reader that takes steps; the steps stand in `preprocessing["signals"]`.

    Intervals are clustered by person where every recording has one.

    Args:
        reader: Makes a reader of a folder, its settings by name, and `steps`.
        settings: Names of the reader's settings, besides those of all recordings and steps.
        window: Window settings where the study file gives none and recordings differ in length; where
            `fit_seconds` makes them equally long, each is one window.
        columns: Gives tasks the `column` of their label, where it is not of their name.
        named_rules: Split rules that this source has besides those of all recordings.
    """

    reader: Callable[..., SteppedReader]
    settings: tuple[str, ...]
    window: Mapping[str, Any]
    columns: Callable[[TaskSettings], TaskSettings] = _unchanged
    named_rules: tuple[str, ...] = ()

    def __call__(
        self,
        settings: Mapping[str, Any],
        tasks: TaskSettings,
        split: Mapping[str, Any],
        *,
        seed: int,
        folder: Path | None,
        stores: Path,
    ) -> DataSplits:
        """Loads recordings; see `SourceLoader` for the arguments and docs/data.md for the settings."""
        check_settings("data", settings, (*COMMON_SETTINGS, *self.settings, *SIGNAL_SETTINGS))
        check_kinds("data", settings)
        reader = self.reader(
            data_folder(settings, folder),
            **{name: settings[name] for name in self.settings if name in settings},
            steps=SignalSteps.from_settings(settings),
        )
        length = reader.steps.fixed_length(reader.native_rate_hz)
        window = self.window if length is None else {"samples": length}
        splits = load_recordings(
            reader,
            settings,
            self.columns(tasks),
            split,
            seed=seed,
            stores=stores,
            window=window,
            clip=None,
            group_by="auto",
            named_rules=self.named_rules,
        )
        splits.preprocessing["signals"] = {"native_rate_hz": reader.native_rate_hz, **reader.steps.to_dict()}
        band_pass = reader.steps.band_pass
        if split.get("by") == "time" and band_pass is not None and not band_pass.causal:
            splits.about["notes"].append(
                "The band-pass looks at the future: near a cut in time the training part was filtered with "
                "samples of the next one; `band_pass.causal` avoids it, `split.gap` leaves the stretch out."
            )
        return splits


load_edf = SOURCES.register("edf")(SteppedSource(EdfReader, EDF_SETTINGS, {"seconds": 2.0, "null": "keep"}))
"""A folder of EDF recordings; a task has the name of a label of whole recordings, or names it as `column`."""

load_wav = SOURCES.register("wav")(SteppedSource(WavReader, WAV_SETTINGS, {"seconds": 1.0}))
"""A folder of WAV recordings; a task has the name of a label of whole recordings."""

load_folder = SOURCES.register("recordings")(
    SteppedSource(RecordingsReader, FOLDER_SETTINGS, {"seconds": 2.0})
)
"""A folder of recordings with tables; a task has the name of a column of one of the tables or of a track."""

load_deap = SOURCES.register("deap")(
    SteppedSource(
        DeapReader,
        DEAP_SETTINGS,
        {"seconds": 1.0, "stride_seconds": 0.5},
        rating_columns,
        (SHUFFLED_WINDOWS,),
    )
)
"""DEAP; a task has the name of a rating, and its kind decides whether the label is low or high (binary), low,
medium or high (multiclass), or the rating itself (regression). Windows are those of thesis 002."""
