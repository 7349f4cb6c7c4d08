"""The sources of faces: a reader of native files gives rows, everything after is common.

`utkface` stands here; every one is registered under its reader's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskloom.data.batch import DataSplits
from taskloom.data.face_table import FaceTable, with_known_columns
from taskloom.data.image_splits import read_standardize, split_images
from taskloom.data.image_store import ImageStore, prepare_images
from taskloom.data.readers.utkface import read_utkface
from taskloom.data.sources import (
    SOURCES,
    TaskSettings,
    check_settings,
    checksums,
    data_folder,
    store_folder,
)
from taskloom.data.table_source import label_table
from taskloom.errors import ConfigError

FACE_SETTINGS = ("folder", "size", "standardize", "group", "columns")
"""Settings of every source of faces."""


@dataclass(frozen=True)
class FaceSource:
    """A `SourceLoader` over a reader of face rows.

    Args:
        read: Reads the rows of a folder; takes its settings by name.
        settings: Names of the reader's settings, besides `FACE_SETTINGS`.
    """

    read: Callable[..., FaceTable]
    settings: tuple[str, ...]

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
        """Loads faces; see `SourceLoader` for the arguments and docs/data.md for the settings."""
        check_settings("data", settings, (*FACE_SETTINGS, *self.settings))
        size = read_size(settings)
        root = data_folder(settings, folder)
        own = {name: settings[name] for name in self.settings if name in settings}
        table = self.read(root, **own)
        place = store_folder(stores, table.reader, table.images, {"size": size, **own})
        store = prepare_images(table.files, table.images, place, size, table.boxes())
        return split_faces(table, store, settings, tasks, split, seed=seed)


def split_faces(
    table: FaceTable,
    store: ImageStore,
    settings: Mapping[str, Any],
    tasks: TaskSettings,
    split: Mapping[str, Any],
    *,
    seed: int,
) -> DataSplits:
    """Labels, split and datasets of rows whose images are in a store."""
    if table.group is not None:
        settings = {"group": table.group, **settings}
    labelled = label_table(table, settings, with_known_columns(table, tasks), resolve_split(table, split))
    sources = {"images": store.about["content"], **checksums(table.sources, table.path.parent)}
    return split_images(
        labelled,
        store,
        reader=table.reader,
        folder=str(table.images),
        seed=seed,
        notes=table.notes,
        sources=sources,
        standardize=read_standardize(settings),
    )


def resolve_split(table: FaceTable, split: Mapping[str, Any]) -> Mapping[str, Any]:
    """The split settings with a split that comes with the data set written as its column.

    Raises:
        ConfigError: `by` names such a split and `test` or `column` is given beside it.
    """
    named = (table.named_splits or {}).get(str(split.get("by")))
    if named is None:
        return split
    for key in ("test", "column", "folds", "stratify"):
        if key in split:
            raise ConfigError(
                f"split.{key}: does not go with `by: {split['by']}`, which names the test part."
            )
    chosen = {"by": "column", "column": named.column, "test": "test"}
    if named.validation is not None:
        chosen["validation"] = named.validation  # type: ignore[assignment]
    return {**chosen, **{key: value for key, value in split.items() if key != "by"}}


def read_size(settings: Mapping[str, Any]) -> int:
    """The `size` setting, 64 where it is not given.

    Raises:
        ConfigError: It is not a whole number above 0.
    """
    size = settings.get("size", 64)
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ConfigError(f"data.size: a whole number of pixels above 0 expected, found {size!r}.")
    return size


load_utkface = SOURCES.register("utkface")(FaceSource(read_utkface, ("images", "coral")))
"""UTKFace: labels `age`, `gender`, `race` from the file names; `coral` names the files of the CORAL split."""
