"""Stores of faces that stand by themselves: prepared once by a command, then all that a study needs.

Such a store holds, besides the images, `faces.parquet`: every row with its labels, box and landmarks as the
reader gave them, and what the reader knows of them, so that neither the native files nor their reader are
needed again.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from taskloom.data.batch import DataSplits
from taskloom.data.face_crop import CropSettings
from taskloom.data.face_framing import Framing
from taskloom.data.face_source import FaceSource, cut_faces, label_faces, split_faces
from taskloom.data.face_table import FaceTable, NamedSplit
from taskloom.data.image_store import ImageStore
from taskloom.data.image_writer import Progress
from taskloom.data.sources import SOURCES, TaskSettings, check_settings, checksums, find_source
from taskloom.errors import ConfigError, DataError, did_you_mean

ROWS_FILE = "faces.parquet"
STORE_SETTINGS = ("store", "size", "standardize", "group", "columns")
_ABOUT = b"taskloom-faces"


def prepare_faces(
    reader: str,
    folder: Path,
    store: Path,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    framing: Framing | None = None,
) -> tuple[FaceTable, ImageStore]:
    """Prepares the faces of a data set in native layout as a store that stands by itself.

    Args:
        reader: Name of the reader: utkface, celeba, mtfl, images.
        folder: Folder of the data.
        store: Where the store will be; one of the same files and settings is found again.
        settings: Settings of the reader, and how faces are cut; see docs/data.md.
        progress: Told how many rows of how many are done.
        framing: Of other images; what a detector finds is cut like these, see `face_framing`.

    Returns:
        The rows and the store of their faces.

    Raises:
        ConfigError: No such reader, or a setting that does not fit.
        DataError: The files are not what they should be, or the store's place holds something else.

    Example:
        >>> import cv2, tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "faces").mkdir()
        >>> for age in (20, 30):
        ...     grey = np.full((9, 9, 3), age, np.uint8)
        ...     _ = cv2.imwrite(str(folder / "faces" / f"{age}_0_1_2017.jpg"), grey)
        >>> rows, store = prepare_faces("utkface", folder / "faces", folder / "store", {"size": 4})
        >>> store.images.shape, read_rows(folder / "store").numbers("age")
        ((2, 4, 4, 3), array([20., 30.]))
    """
    source = face_reader(reader)
    table, crop = source.rows(settings or {}, folder)
    return table, prepare_rows(table, replace(crop, framing=framing), store, progress)


def prepare_rows(
    table: FaceTable, crop: CropSettings, store: Path, progress: Progress | None = None
) -> ImageStore:
    """Prepares the faces of rows that have been read; see `prepare_faces`."""
    table.check_faces()
    found = cut_faces(table, crop, store, progress)
    _write_rows(store, table)
    return found


def face_reader(name: str) -> FaceSource:
    """Returns a reader of faces by name.

    Raises:
        ConfigError: There is none of that name.
    """
    readers = face_readers()
    if name not in readers:
        raise ConfigError(
            f"`{name}` is not a reader of faces.{did_you_mean(name, readers)} Readers: {', '.join(readers)}."
        )
    return readers[name]


def face_readers() -> dict[str, FaceSource]:
    """Every reader of faces by name."""
    find_source("images")  # fills the registry
    found = {name: SOURCES[name] for name in SOURCES}
    return {name: source for name, source in found.items() if isinstance(source, FaceSource)}


def read_rows(store: Path) -> FaceTable:
    """Reads the rows of a store as its reader gave them.

    Raises:
        DataError: The store has none, or another program wrote them.
    """
    path = store / ROWS_FILE
    if not path.is_file():
        raise DataError(
            f"{store}: no store of faces that stands by itself ({ROWS_FILE} is missing); make one with "
            "`taskloom prepare READER DIR STORE`."
        )
    try:
        data = pyarrow.parquet.read_table(path)
        about = json.loads(data.schema.metadata[_ABOUT])
    except (pa.ArrowInvalid, OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not the rows of a store of faces; prepare it again.") from error
    box_columns = about["box_columns"]
    return FaceTable(
        path,
        tuple(data.column_names),
        None,
        tuple(about["missing"]),
        data,
        places=tuple(about["places"]),
        reader=about["reader"],
        images=Path(about["images"]),
        class_names={name: tuple(names) for name, names in about["class_names"].items()},
        label_groups={name: tuple(names) for name, names in about.get("label_groups", {}).items()},
        points=tuple(about["points"]),
        notes=tuple(about["notes"]),
        named_splits={name: NamedSplit(**entry) for name, entry in about["named_splits"].items()},
        group=about["group"],
        file_column=about["file_column"],
        box_columns=None if box_columns is None else tuple(box_columns),
    )


@SOURCES.register("store")
def load_store(
    settings: Mapping[str, Any],
    tasks: TaskSettings,
    split: Mapping[str, Any],
    *,
    seed: int,
    folder: Path | None,
    stores: Path,  # noqa: ARG001  # it is one; every source takes it
) -> DataSplits:
    """Loads a store that `prepare_faces` made; see `SourceLoader` for the arguments.

    Settings: `store` (folder, below `--data` if it is relative), `group`, `columns`, and `size`, which the
    store must have.
    """
    check_settings("data", settings, STORE_SETTINGS)
    if "store" not in settings:
        raise ConfigError("data.store is missing: the folder of a prepared store expected.")
    place = (folder or Path()) / str(settings["store"])
    store = ImageStore.open(place)
    table = read_rows(place)
    size = settings.get("size", store.size)
    if size != store.size:
        raise ConfigError(
            f"data.size: {place} holds images of {store.size} pixels, {size!r} wanted; prepare another store."
        )
    several = len(set(store.rows.tolist())) < len(store.rows)
    labelled = label_faces(table, settings, tasks, split, several=several)
    sources = {"images": store.about["content"], "crop": json.dumps(store.about["crop"], sort_keys=True)}
    sources |= checksums([table.path], place)
    return split_faces(table, labelled, store, settings, seed=seed, sources=sources)


def _write_rows(store: Path, table: FaceTable) -> None:
    """Puts the rows beside the images, whole or not at all."""
    about = {
        "reader": table.reader,
        "missing": table.missing,
        "images": str(table.images.resolve()),
        "sources": checksums(table.sources, table.path.parent),
        "class_names": dict(table.class_names or {}),
        "label_groups": dict(table.label_groups or {}),
        "points": table.points,
        "notes": table.notes,
        "places": table.places,
        "named_splits": {name: asdict(entry) for name, entry in (table.named_splits or {}).items()},
        "group": table.group,
        "file_column": table.file_column,
        "box_columns": table.box_columns,
    }
    partial = store / f".{secrets.token_hex(6)}.partial"
    try:
        pyarrow.parquet.write_table(
            table.data.replace_schema_metadata({_ABOUT: json.dumps(about).encode()}), partial
        )
        partial.replace(store / ROWS_FILE)
    except OSError as error:
        raise DataError(f"{store}: the rows could not be written ({error.strerror or error}).") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
