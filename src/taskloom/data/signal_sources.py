"""The data readers `wav`, `recordings` and `deap`: settings, and the way from there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from taskloom.data.batch import DataSplits
from taskloom.data.readers import RecordingReader
from taskloom.data.readers.deap import RATINGS, DeapReader
from taskloom.data.readers.recordings_folder import RecordingsReader
from taskloom.data.readers.wav import WavReader
from taskloom.data.recording_source import COMMON_SETTINGS, load_recordings
from taskloom.data.signals import SIGNAL_SETTINGS, SignalSteps
from taskloom.data.sources import SOURCES, TaskSettings, check_settings, data_folder
from taskloom.tasks import TaskSet

DEAP_SETTINGS = ("format", "channels", "baseline", "thresholds", "three_class_bounds", "trials")
FOLDER_SETTINGS = ("files", "table", "intervals", "tracks", "channels", "rate_hz", "time", "time_unit")
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


@SOURCES.register("wav")
def load_wav(
    settings: Mapping[str, Any],
    tasks: TaskSettings,
    split: Mapping[str, Any],
    *,
    seed: int,
    folder: Path | None,
    stores: Path,
) -> DataSplits:
    """Loads a folder of WAV recordings; see `SourceLoader` for the arguments, docs/data.md for the settings.

    A task has the name of a label of whole recordings, or names it as `column`. Defaults: one window per
    recording where `fit_seconds` makes them equally long, else windows of 1 s side by side; intervals
    clustered by person where every recording has one.
    """
    check_settings("data", settings, (*COMMON_SETTINGS, *WAV_SETTINGS, *SIGNAL_SETTINGS))
    reader = WavReader(
        data_folder(settings, folder),
        **{name: settings[name] for name in WAV_SETTINGS if name in settings},
        steps=SignalSteps.from_settings(settings),
    )
    return load_stepped(reader, settings, tasks, split, seed=seed, stores=stores, window={"seconds": 1.0})


@SOURCES.register("recordings")
def load_folder(
    settings: Mapping[str, Any],
    tasks: TaskSettings,
    split: Mapping[str, Any],
    *,
    seed: int,
    folder: Path | None,
    stores: Path,
) -> DataSplits:
    """Loads a folder of recordings with tables; see `SourceLoader`, and docs/data.md for the settings.

    A task has the name of a column of one of the tables or of a track, or names it as `column`. Defaults:
    windows of 2 s side by side, intervals clustered by person where every recording has one.
    """
    check_settings("data", settings, (*COMMON_SETTINGS, *FOLDER_SETTINGS, *SIGNAL_SETTINGS))
    reader = RecordingsReader(
        data_folder(settings, folder),
        **{name: settings[name] for name in FOLDER_SETTINGS if name in settings},
        steps=SignalSteps.from_settings(settings),
    )
    return load_stepped(reader, settings, tasks, split, seed=seed, stores=stores, window={"seconds": 2.0})


@SOURCES.register("deap")
def load_deap(
    settings: Mapping[str, Any],
    tasks: TaskSettings,
    split: Mapping[str, Any],
    *,
    seed: int,
    folder: Path | None,
    stores: Path,
) -> DataSplits:
    """Loads DEAP; see `SourceLoader` for the arguments and docs/data.md for the settings.

    A task has the name of a rating, or names it as `column`; its kind decides whether the label is low or
    high (binary), low, medium or high (multiclass), or the rating itself (regression). Defaults: windows of 1
    s at stride 0.5 s as in thesis 002, intervals clustered by person.
    """
    check_settings("data", settings, (*COMMON_SETTINGS, *DEAP_SETTINGS, *SIGNAL_SETTINGS))
    reader = DeapReader(
        data_folder(settings, folder),
        **{name: settings[name] for name in DEAP_SETTINGS if name in settings},
        steps=SignalSteps.from_settings(settings),
    )
    usual = {"seconds": 1.0, "stride_seconds": 0.5}
    return load_stepped(
        reader, settings, rating_columns(tasks), split, seed=seed, stores=stores, window=usual
    )


def rating_columns(tasks: TaskSettings) -> TaskSettings:
    """Returns the tasks with the label of each rating as `column`, by the task's kind.

    Example:
        >>> rating_columns({"v": {"kind": "binary", "column": "valence"}, "liking": {"kind": "regression"}})
        {'v': {'kind': 'binary', 'column': 'valence_binary'},
         'liking': {'kind': 'regression', 'column': 'liking'}}
    """
    if isinstance(tasks, TaskSet):
        entries = [task.to_dict() for task in tasks.values()]
        tasks = {entry.pop("name"): entry for entry in entries}
    named = {}
    for name, entry in tasks.items():
        column = str(entry.get("column", name))
        if column in RATINGS and entry.get("kind") in _RATING_LABELS:
            column = _RATING_LABELS[entry["kind"]].format(column)
        named[name] = {**entry, "column": column}
    return named


def load_stepped(
    reader: SteppedReader,
    settings: Mapping[str, Any],
    tasks: TaskSettings,
    split: Mapping[str, Any],
    *,
    seed: int,
    stores: Path,
    window: Mapping[str, Any],
    group_by: str = "auto",
) -> DataSplits:
    """From a reader with steps to three datasets; the steps stand in `preprocessing["signals"]`.

    Args:
        reader: Gives the recordings, where the store has to be prepared.
        settings, tasks, split, seed, stores: See `SourceLoader`.
        window: Window settings where the study file gives none and recordings differ in length.
        group_by: What intervals are clustered by, where the study file does not say.
    """
    length = reader.steps.fixed_length(reader.native_rate_hz)
    splits = load_recordings(
        reader,
        settings,
        tasks,
        split,
        seed=seed,
        stores=stores,
        window=window if length is None else {"samples": length},
        clip=None,
        group_by=group_by,
    )
    splits.preprocessing["signals"] = {
        "native_rate_hz": reader.native_rate_hz,
        **reader.steps.to_dict(),
    }
    band_pass = reader.steps.band_pass
    if split.get("by") == "time" and band_pass is not None and not band_pass.causal:
        splits.about["notes"].append(
            "The band-pass looks at the future: near a cut in time the training part was filtered with "
            "samples of the next one; `band_pass.causal` avoids it, `split.gap` leaves the stretch out."
        )
    return splits
