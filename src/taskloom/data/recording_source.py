"""The data reader `opportunity`, and what all readers of recordings share.

Native files -> store -> windows -> split -> normalised parts.

The store is prepared once. It is used again while the source files' checksums, the reader's parameters and
taskloom's version are those that made it; else it is prepared again, and a note in `about` says why.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from taskloom.data.batch import DataSplits
from taskloom.data.normalize import Normalizer
from taskloom.data.readers import RecordingReader
from taskloom.data.readers.opportunity import OpportunityReader
from taskloom.data.recordings import RecordingStore, RecordingWriter
from taskloom.data.setting_kinds import check_kinds
from taskloom.data.shuffled_windows import SHUFFLED_WARNING, SHUFFLED_WINDOWS
from taskloom.data.sources import (
    SOURCES,
    TaskSettings,
    check_settings,
    checksums,
    data_folder,
    resolve_tasks,
    store_folder,
)
from taskloom.data.splits import Parts, SplitRule, split_windows
from taskloom.data.window_settings import WindowSettings
from taskloom.data.windows import WindowDataset
from taskloom.errors import ConfigError, DataError
from taskloom.tasks import TaskSet
from taskloom.version import __version__
from taskloom.wording import counted

THESIS_SPLIT: dict[str, Any] = {
    "by": "files",
    "files": {
        "train": ["S*-Drill", "S*-ADL1", "S*-ADL2"],
        "validation": ["S*-ADL3"],
        "test": ["S*-ADL4", "S*-ADL5"],
    },
}
"""What `split: {by: thesis}` means for OPPORTUNITY: thesis 002 with ADL3 taken from its training runs for
validation, which the thesis itself did not hold out."""

COMMON_SETTINGS = ("folder", "window", "normalize", "group_by")
OPPORTUNITY_SETTINGS = ("channels", "all_nan", "carry_forward_seconds")

_NOTES = "notes"
_log = logging.getLogger(__name__)


@SOURCES.register("opportunity")
def load_opportunity(
    settings: Mapping[str, Any],
    tasks: TaskSettings,
    split: Mapping[str, Any],
    *,
    seed: int,
    folder: Path | None,
    stores: Path,
) -> DataSplits:
    """Loads OPPORTUNITY; see `SourceLoader` for the arguments and docs/data.md for the settings.

    A task has the name of its track, or names it as `column`. Defaults: windows of 64 samples at stride 32,
    majority label, NULL a class of its own, channels clipped to mean +- 10 standard deviations of train,
    intervals clustered by run.
    """
    check_settings("data", settings, (*COMMON_SETTINGS, *OPPORTUNITY_SETTINGS))
    check_kinds("data", settings)
    reader = OpportunityReader(data_folder(settings, folder), **_only(settings, OPPORTUNITY_SETTINGS))
    if split.get("by") == "thesis":
        split = _thesis_split(split)
    usual = {"samples": 64, "stride": 32, "null": "own_class"}
    splits = load_recordings(
        reader,
        settings,
        tasks,
        split,
        seed=seed,
        stores=stores,
        window=usual,
        clip=10.0,
        group_by="recording",
        named_rules=("thesis",),
    )
    if reader.carry_forward_seconds is not None:
        splits.preprocessing["signals"] = {
            "native_rate_hz": reader.rate_hz,
            "carry_forward_seconds": reader.carry_forward_seconds,
        }
    return splits


def _thesis_split(split: Mapping[str, Any]) -> Mapping[str, Any]:
    """`THESIS_SPLIT`; refuses anything beside `by`, as nothing is drawn."""
    others = [key for key in split if key != "by"]
    if others:
        fractions = "fractions" if others[0] in ("test", "validation") else f"`{others[0]}`"
        raise ConfigError(
            f"split.{others[0]}: `by: thesis` takes no {fractions}, as it lists the runs of every part; "
            f"leave `{others[0]}` out, or list runs of your own with `by: files`."
        )
    return THESIS_SPLIT


def load_recordings(
    reader: RecordingReader,
    settings: Mapping[str, Any],
    tasks: TaskSettings,
    split: Mapping[str, Any],
    *,
    seed: int,
    stores: Path,
    window: Mapping[str, Any],
    clip: float | None,
    group_by: str,
    named_rules: Sequence[str] = (),
) -> DataSplits:
    """From a reader to three datasets.

    Args:
        reader: Gives the recordings, where the store has to be prepared.
        settings: The study file's `data` section: `window`, `normalize` and `group_by` are read here.
        tasks, split, seed, stores: See `SourceLoader`.
        window: Window settings where the study file gives none.
        clip: Clipping of normalised channels, in standard deviations, where the study file gives none.
        group_by: What intervals are clustered by, where the study file does not say.
        named_rules: Split rules that this source has besides those of all recordings.

    Raises:
        DataError, ConfigError: See `SourceLoader`.
    """
    rule = SplitRule.from_settings(split)
    windowing = WindowSettings.from_settings(settings.get("window") or {}, window)
    normalize = _normalize_settings(settings, clip)
    store, notes = prepare(reader, stores)
    leaks = rule.by == SHUFFLED_WINDOWS
    declared, columns = _without_columns(tasks)
    task_set = resolve_tasks(declared, _known_classes(reader, store, declared, columns, windowing))
    windows = windowing.build(store, task_set, columns, str(settings.get("group_by", group_by)))
    if windows.skipped:
        short = counted(len(windows.skipped), "recording is", "recordings are")
        notes.append(f"{short} shorter than a window and left out.")
    parts = split_windows(windows, rule, seed=seed, named_rules=named_rules)
    train = windows.subset(parts.train)
    normalizer = None if normalize is None else Normalizer.fit(train, **normalize)
    if normalizer is not None and normalizer.constant_channels:
        constant = normalizer.constant_channels
        still = counted(len(constant), "channel does", "channels do")
        notes.append(f"{still} not vary in train: {', '.join(constant[:5])}.")
    fitted = task_set.fit(train.labels)
    datasets = {
        part: windows.subset(rows).with_tasks(fitted).with_normalizer(normalizer)
        for part, rows in parts.items()
    }
    for dataset in datasets.values():
        dataset.check_persons()
    return DataSplits(
        **datasets,
        about=_about(reader, store, windows, parts, rule, notes)
        | ({"warnings": [SHUFFLED_WARNING]} if leaks else {}),
        preprocessing={
            "reader": reader.name,
            "channels": list(store.channels),
            "rate_hz": store.rate_hz,
            "window": windowing.to_dict(store.rate_hz),
            "normalizer": None if normalizer is None else normalizer.to_dict(),
        },
    )


def prepare(reader: RecordingReader, stores: Path) -> tuple[RecordingStore, list[str]]:
    """Opens the reader's store, after preparing it where there is none that still holds.

    Args:
        reader: Says which files and parameters make the store, and reads them if need be.
        stores: Folder of all stores.

    Returns:
        The store, and notes for a report: what the reader noticed and why a store was prepared again.

    Raises:
        DataError: A source file is not what it should be, or the store cannot be written. A store that was
            there before stays.
    """
    parameters = json.loads(json.dumps({**reader.parameters, "prepared_by": f"taskloom {__version__}"}))
    place = store_folder(stores, reader.name, reader.root, parameters)
    sums = checksums(reader.files, reader.root)
    store, reason = _existing(place, sums, parameters)
    if store is None:
        _log.info("preparing %s%s", place, f" again: {reason}" if reason else "")
        _write(reader, place, sums, parameters)
        store = RecordingStore.open(place)
    notes = [str(note) for note in store.parameters.get(_NOTES, [])]
    return store, [*notes, *([f"The store was prepared again: {reason}."] if reason else [])]


def _existing(
    place: Path, sums: Mapping[str, str], parameters: Mapping[str, Any]
) -> tuple[RecordingStore | None, str]:
    """The store if it still holds, else why not ("" where there is none)."""
    if not place.exists():
        return None, ""
    try:
        store = RecordingStore.open(place)
    except DataError as error:
        return None, str(error).rstrip(".")
    if store.sources != dict(sums):
        changed = [name for name in {**store.sources, **sums} if store.sources.get(name) != sums.get(name)]
        more = f" and {counted(len(changed) - 1, 'other')}" if len(changed) > 1 else ""
        became = (
            "is gone"
            if changed[0] not in sums
            else "is new"
            if changed[0] not in store.sources
            else "changed"
        )
        what = f"source file {changed[0]} {became}"
        return None, f"{what},{more} changed too" if more else what
    found = {key: value for key, value in store.parameters.items() if key != _NOTES}
    if found != dict(parameters):
        return None, "its parameters differ"
    return store, ""


def _write(
    reader: RecordingReader, place: Path, sums: Mapping[str, str], parameters: Mapping[str, Any]
) -> None:
    with RecordingWriter(
        place, channels=reader.channels, rate_hz=reader.rate_hz, tracks=reader.tracks
    ) as writer:
        for recording in reader.recordings():
            writer.add(
                recording.name,
                recording.samples,
                tracks=recording.tracks,
                labels=recording.labels,
                person=recording.person,
                session=recording.session,
                trial=recording.trial,
                gaps=recording.gaps,
            )
        writer.close(sources=sums, reader=reader.name, parameters={**parameters, _NOTES: reader.notes})


# -- settings


def _only(settings: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: settings[name] for name in names if name in settings}


def _normalize_settings(settings: Mapping[str, Any], clip: float | None) -> dict[str, Any] | None:
    """Arguments of `Normalizer.fit`; None where `normalize: false` leaves the channels as they are."""
    given = settings.get("normalize", {})
    if given is None or given is False or given == "none":
        return None
    if given is True:
        given = {}
    elif isinstance(given, str):
        given = {"per": given}
    check_settings("data.normalize", given, ("per", "clip"))
    check_kinds("data.normalize", given)
    return {"clip": clip, **given}


def _without_columns(tasks: TaskSettings) -> tuple[TaskSettings, dict[str, str]]:
    """Takes `column` out of the tasks' settings: the track or label, where its name is not the task's."""
    if isinstance(tasks, TaskSet):
        return tasks, {}
    columns = {name: str(entry["column"]) for name, entry in tasks.items() if "column" in entry}
    return {
        name: {key: value for key, value in entry.items() if key != "column"} for name, entry in tasks.items()
    }, columns


def _known_classes(
    reader: RecordingReader,
    store: RecordingStore,
    tasks: TaskSettings,
    columns: Mapping[str, str],
    windowing: WindowSettings,
) -> dict[str, tuple[str, ...]]:
    """Class names of every task whose track or label is known; NULL first where it is a class."""
    known = {}
    for name in tasks:
        column = columns.get(name, name)
        if column in store.track_tables:
            with_null = windowing.null_of(name) == "own_class"
            known[name] = store.class_names(column, with_null=with_null)
        elif column in reader.label_classes:
            known[name] = tuple(reader.label_classes[column])
    return known


def _about(
    reader: RecordingReader,
    store: RecordingStore,
    windows: WindowDataset,
    parts: Parts,
    rule: SplitRule,
    notes: list[str],
) -> dict[str, Any]:
    """Plain values for the report and the run record."""
    counts = {part: windows.subset(rows).labels.counts() for part, rows in parts.items()}
    return {
        "reader": reader.name,
        "sources": dict(store.sources),
        "store": {key: value for key, value in store.describe().items() if key != "sources"},
        "rows": parts.counts(),
        "labels": {name: {part: counts[part][name] for part in counts} for name in windows.tasks},
        "split": rule.to_dict(),
        "group": windows.group_by,
        "windows": windows.describe(),
        "notes": notes,
    }
