"""Data sets as they are downloaded, told by their files: faces, birds, clothes, OPPORTUNITY, DEAP."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from taskloom.data.face_source import FaceSource
from taskloom.data.face_table import FaceTable
from taskloom.data.image_source import FILE_COLUMNS
from taskloom.data.readers.affectnet import COLUMNS as AFFECTNET
from taskloom.data.readers.deap import NUM_TRIALS, RATINGS, DeapReader
from taskloom.data.readers.opportunity_codes import TRACKS
from taskloom.data.sources import find_source as find_reader
from taskloom.data.tables import Table
from taskloom.errors import DataError
from taskloom.study.draft.networks import for_images, for_windows
from taskloom.study.draft.sources import Source

_SIDE = 64
_FACES_IN_NAMES = re.compile(r"\d+_[01]_[0-4]_\d+.*\.jpe?g", re.IGNORECASE)
_OPPORTUNITY_FILE = re.compile(r"S\d+-(ADL\d|Drill)\.dat")
_DEAP_FILE = re.compile(r"s\d\d\.(dat|mat)")
_OF_UTKFACE = {"utk_train.csv", "utk_test.csv"}
_LOOKED_AT = 400
_FEW_FOLDERS = 3
"""Folders up to which the data may be in one of them, as CUB's archive has it."""


def downloaded_layout(folder: Path) -> Source | None:
    """The source of a data set whose reader knows its files; None where the folder holds no such data set.

    Raises:
        DataError: The files are those of a data set, and not whole.
    """
    tables = {path.name for path in folder.glob("*.csv")} - _OF_UTKFACE
    below = sorted(path for path in folder.iterdir() if path.is_dir())
    if _has_own_table(folder):
        return None
    for place in [folder, *(below if len(below) <= _FEW_FOLDERS else [])]:
        for name, is_there in _MARKS.items():
            if name == "utkface" and tables:  # a table of one's own says more than names of files do
                continue
            if is_there(place):
                return _faces(name, place)
    names = _names(folder)
    if any(_OPPORTUNITY_FILE.fullmatch(name) for name in names):
        return _opportunity(folder, [name for name in names if _OPPORTUNITY_FILE.fullmatch(name)])
    if any(_DEAP_FILE.fullmatch(name) for name in names):
        return _deap(folder, [name for name in names if _DEAP_FILE.fullmatch(name)])
    return None


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _has(*files: str) -> Callable[[Path], bool]:
    """Whether all files stand in a folder, or all in one of the folders in which the archive has them."""
    places = ("", "Anno", "EmoLabel", "basic/EmoLabel")
    return lambda folder: any(all((folder / place / file).is_file() for file in files) for place in places)


def _has_utkface(folder: Path) -> bool:
    place = folder / "UTKFace" if (folder / "UTKFace").is_dir() else folder
    names = [name for name in _names(place)[:_LOOKED_AT] if name.lower().endswith((".jpg", ".jpeg"))]
    return bool(names) and 2 * sum(map(bool, map(_FACES_IN_NAMES.fullmatch, names))) > len(names)


def _has_affectnet(folder: Path) -> bool:
    path = folder / "training.csv"
    if not path.is_file() or not (folder / "validation.csv").is_file():
        return False
    first = _first_cells(path)
    return first[0] == AFFECTNET[0] or (len(first) == len(AFFECTNET) and "/" in first[0])


def _has_emotionet(folder: Path) -> bool:
    tables = sorted(folder.glob("*.csv"))
    if len(tables) != 1:
        return False
    return sum(re.fullmatch(r"AU ?\d+", name) is not None for name in _first_cells(tables[0])) >= 3


def _first_cells(path: Path, separators: str = ",") -> list[str]:
    """The cells of a table's first line."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return [cell.strip().strip("\"'").strip() for cell in re.split(f"[{separators}]", file.readline())]


def _has_own_table(folder: Path) -> bool:
    """Whether a table names files in a column called as in a table of one's own."""
    tables = [path for path in folder.glob("*.[ct]sv") if path.name not in _OF_UTKFACE]
    return any(set(FILE_COLUMNS) & set(_first_cells(path, ",;\t")) for path in sorted(tables)[:_LOOKED_AT])


def _has_aff_wild2(folder: Path) -> bool:
    return any(path.is_dir() for path in [*folder.glob("Train_Set"), *folder.glob("*/Train_Set")]) or any(
        path.is_dir() for path in folder.glob("*/*/Train_Set")
    )


_MARKS: Mapping[str, Callable[[Path], bool]] = {
    "celeba": _has("list_attr_celeba.txt"),
    "mtfl": _has("training.txt", "testing.txt"),
    "cub": _has("images.txt", "image_class_labels.txt"),
    "raf_db": _has("list_patition_label.txt"),
    "affectnet": _has_affectnet,
    "emotionet": _has_emotionet,
    "aff_wild2": _has_aff_wild2,
    "clothing_attributes": lambda folder: any((folder / "labels").glob("*_GT.mat")),
    "utkface": _has_utkface,
}
"""By which files a data set of pictures is told, by its reader."""


def _faces(name: str, folder: Path) -> Source:
    source = find_reader(name)
    assert isinstance(source, FaceSource)
    table, _ = source.rows({"folder": str(folder)}, None)
    reserved = {table.file_column: "names the images"}
    reserved |= dict.fromkeys(table.box_columns or (), "is the box around what is cut out")
    reserved |= {f"{point}_{axis}": "is a landmark's place" for point in table.points for axis in "xy"}
    named = dict(table.named_splits or {})
    reserved |= {split.column: "says which rows test" for split in named.values()}
    return Source(
        "images",
        table,
        {"reader": name, "folder": str(folder), "size": _SIDE},
        {"reader": "told by its files"},
        reserved,
        for_images(_SIDE),
        len(table),
        label_table=False,
        beside=_groups_of_columns(table),
        split={"by": "official"} if "official" in named else None,
        group=table.group,
    )


def _groups_of_columns(table: FaceTable) -> dict[str, tuple[Mapping[str, Any], str]]:
    """Tasks that take several columns of a table of pictures at once."""
    found: dict[str, tuple[Mapping[str, Any], str]] = {
        name: ({"kind": "multilabel"}, f"{len(columns)} columns at once")
        for name, columns in (table.label_groups or {}).items()
    }
    if table.points:
        found["landmarks"] = ({"kind": "landmarks"}, f"{len(table.points)} points")
    return found


def _opportunity(folder: Path, names: list[str]) -> Source:
    recordings = [name.removesuffix(".dat") for name in names]
    columns = {"file_name": recordings, "person": [name.partition("-")[0] for name in recordings]}
    tasks = {
        track: ({"kind": "multiclass", "metric": "f1_macro"}, f"{len(codes)} classes and NULL, per sample")
        for track, codes in TRACKS.items()
    }
    runs = {name.partition("-")[2] for name in recordings}
    thesis = {"Drill", *(f"ADL{number}" for number in range(1, 6))} <= runs
    split = {"by": "thesis"} if thesis else {"by": "recording", "test": 0.2, "validation": 0.2}
    return Source(
        "recordings",
        _table(folder, columns),
        {"reader": "opportunity", "folder": str(folder)},
        {"reader": "told by its files"},
        dict.fromkeys(columns, "says what a recording is of"),
        for_windows(64),
        20_000,
        label_table=False,
        beside=tasks,
        split=split,
        split_comment="further runs of the same people, as in the thesis; `person` asks about new people",
    )


def _deap(folder: Path, names: list[str]) -> Source:
    people = sorted({name.partition(".")[0] for name in names})
    tasks = {rating: ({"kind": "binary"}, "low or high; `regression` is the rating") for rating in RATINGS}
    held = len(list(DeapReader(folder).read_unlabelled(folder / names[0])))
    return Source(
        "recordings",
        _table(folder, {"person": people}),
        {"reader": "deap", "folder": str(folder)} | ({} if held == NUM_TRIALS else {"trials": held}),
        {"reader": "told by its files"},
        {"person": "says whom a recording is of"},
        for_windows(128),
        40 * 60 * len(people),
        label_table=False,
        beside=tasks,
        split={"by": "person", "test": 0.2, "validation": 0.2},
        split_comment="new people",
    )


def _table(folder: Path, columns: Mapping[str, list[str]]) -> Table:
    cells = {name: pa.array(values, pa.string()) for name, values in columns.items()}
    if not next(iter(columns.values())):
        raise DataError(f"{folder}: recordings expected, found none.")
    return Table(folder, tuple(columns), None, (), pa.table(cells))
