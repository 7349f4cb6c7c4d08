"""Sources: from files to `DataSplits`, by the name that a study file gives as `data.reader`.

A source reads files, prepares what is worth preparing, splits, fits the normaliser and the tasks on the
training part, and says in `DataSplits.about` what it did. What several sources need stands here too: sums,
tasks whose classes come from the data, and where a prepared store lives.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from taskloom.data.batch import DataSplits
from taskloom.data.label_removal import SETTING, remove_labels
from taskloom.errors import ConfigError, DataError, did_you_mean
from taskloom.registry import Registry
from taskloom.tasks import TaskSet, task_from_dict

TaskSettings = TaskSet | Mapping[str, Mapping[str, Any]]
"""A TaskSet, or the study file's `tasks` section: name -> settings (`kind`, `classes`, ...)."""


class SourceLoader(Protocol):
    """What `SOURCES` holds: turns files into three datasets over one TaskSet.

    Args:
        settings: The study file's `data` section without `reader`.
        tasks: The tasks as declared; classes that are not given come from the data.
        split: The study file's `split` section.
        seed: Decides a drawn split and nothing else.
        folder: Where relative files are looked for (`--data`); None means the working directory.
        stores: Folder in which prepared stores are kept and found again.

    Raises:
        DataError: Files, tables, labels or the split are not what they should be.
        ConfigError: A setting is unknown or out of range.
    """

    def __call__(
        self,
        settings: Mapping[str, Any],
        tasks: TaskSettings,
        split: Mapping[str, Any],
        *,
        seed: int,
        folder: Path | None,
        stores: Path,
    ) -> DataSplits: ...


SOURCES: Registry[SourceLoader] = Registry("data reader")
"""Loaders by reader name; fill it with `@SOURCES.register("name")`."""

_BUILT_IN = (
    "taskloom.data.recording_source",
    "taskloom.data.signal_sources",
    "taskloom.data.table_source",
    "taskloom.data.image_source",
    "taskloom.data.face_source",
    "taskloom.data.combined",
    "taskloom.data.face_store",
)


def find_source(name: str) -> SourceLoader:
    """Returns the loader of that name; the built-in ones are imported on the first call.

    Raises:
        ConfigError: No such reader; the message lists those there are.
    """
    for module in _BUILT_IN:
        importlib.import_module(module)
    return SOURCES[name]


def load(
    name: str,
    settings: Mapping[str, Any],
    tasks: TaskSettings,
    split: Mapping[str, Any],
    *,
    seed: int = 0,
    folder: Path | None = None,
    stores: Path,
) -> DataSplits:
    """Loads data by reader name; see `SourceLoader` for the arguments.

    Beside a source's own settings, `remove_labels` empties training labels on purpose, whatever the source;
    see `taskloom.data.label_removal`.

    Example:
        >>> load("tabel", {}, {}, {}, stores=Path("stores"))
        Traceback (most recent call last):
            ...
        taskloom.errors.ConfigError: `tabel` is not a known data reader. Did you mean `table`? ...
    """
    source = find_source(name)
    removal = settings.get(SETTING)
    own = {key: value for key, value in settings.items() if key != SETTING}
    splits: object = source(own, tasks, split, seed=seed, folder=folder, stores=stores)
    if not isinstance(splits, DataSplits):
        raise ConfigError(
            f"data.reader: {name} gave {type(splits).__name__}; a reader returns taskloom.data.DataSplits."
        )
    if removal is None:
        return splits
    return remove_labels(splits, removal, seed=seed, class_weights=declared_class_weights(tasks))


def resolve_tasks(tasks: TaskSettings, known_classes: Mapping[str, Sequence[str]]) -> TaskSet:
    """Builds the TaskSet, with classes from the data where the declaration gives none.

    Args:
        tasks: A TaskSet or settings by task name.
        known_classes: Per task, its class names in code order, as the data know them.

    Raises:
        ConfigError: A setting does not fit; or a `center` or `scale` without `fixed_scale: true`, which the
            training labels would replace.

    Example:
        >>> resolve_tasks({"sex": {"kind": "binary"}}, {"sex": ("F", "M")})["sex"].class_names
        ('F', 'M')
    """
    if not isinstance(tasks, TaskSet):
        for name, settings in tasks.items():
            _check_scale_is_kept(name, settings)
        tasks = TaskSet(*(task_from_dict({**settings, "name": name}) for name, settings in tasks.items()))
    return tasks.with_classes(known_classes)


def as_settings(tasks: TaskSettings) -> dict[str, dict[str, Any]]:
    """Settings by task name, of their own; without center and scale where the training labels decide them.

    Example:
        >>> from taskloom.tasks import Regression
        >>> [name for name in as_settings(TaskSet(Regression("age", unit="years")))["age"] if name != "unit"]
        ['kind', 'metric', 'loss', 'role', 'size', 'range']
    """
    if not isinstance(tasks, TaskSet):
        return {name: dict(settings) for name, settings in tasks.items()}
    entries = {name: task.to_dict() for name, task in tasks.items()}
    for entry in entries.values():
        del entry["name"]
        if not entry.get("fixed_scale"):
            entry.pop("center", None)
            entry.pop("scale", None)
    return entries


def declared_class_weights(tasks: TaskSettings) -> dict[str, Any]:
    """Per task that weighs its classes, how, as it is declared; the training labels make numbers of it.

    Example:
        >>> declared_class_weights({"gait": {"kind": "multiclass", "class_weights": "balanced"}})
        {'gait': 'balanced'}
    """
    return {
        name: settings["class_weights"]
        for name, settings in as_settings(tasks).items()
        if settings.get("class_weights")
    }


def _check_scale_is_kept(task: str, settings: Mapping[str, Any]) -> None:
    given = [key for key in ("center", "scale") if key in settings]
    if given and settings.get("kind") in ("regression", "landmarks") and not settings.get("fixed_scale"):
        raise ConfigError(
            f"tasks.{task}.{given[0]}: center and scale are fitted on the training labels, which would "
            f"replace this {settings[given[0]]!r}; set `fixed_scale: true` to keep it, or leave it out."
        )


def checksums(paths: Iterable[Path], root: Path) -> dict[str, str]:
    """Returns the SHA-256 of every file, by its path relative to `root`, in the order given.

    Raises:
        DataError: A file cannot be read.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "a.txt").write_text("a")
        >>> checksums([folder / "a.txt"], folder)["a.txt"][:8]
        'ca978112'
    """
    sums = {}
    for path in paths:
        name = Path(os.path.relpath(path, root)).as_posix()
        try:
            with path.open("rb") as file:
                sums[name] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from error
    return sums


def store_folder(stores: Path, reader: str, root: Path, parameters: Mapping[str, Any]) -> Path:
    """Returns where the store of these files read with these parameters lives: one place per question.

    The name does not depend on the files' contents, so that a store of older contents is found, noticed and
    replaced.
    """
    question = json.dumps([reader, os.fspath(root.resolve()), parameters], sort_keys=True, default=str)
    return stores / f"{reader}-{hashlib.sha256(question.encode()).hexdigest()[:12]}"


def data_folder(settings: Mapping[str, Any], folder: Path | None) -> Path:
    """Returns the folder that holds the source files: `settings["folder"]`, below `folder` if it is relative.

    Raises:
        DataError: It does not exist or is not a folder.
    """
    root = (folder or Path()) / str(settings.get("folder", ""))
    if not root.exists():
        raise DataError(f"{root}: no such folder. Give the folder of the data with --data or `data.folder`.")
    if not root.is_dir():
        raise DataError(f"{root}: a folder expected, found a file.")
    return root


def check_settings(section: str, settings: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuses keys that are not in `known`.

    Raises:
        ConfigError: Names the key, the nearest right one and all right ones.
    """
    for key in settings:
        if key not in known:
            raise ConfigError(
                f"{section}.{key} is not a setting.{did_you_mean(str(key), known)} "
                f"Settings of {section}: {', '.join(known)}."
            )
