"""AffectNet in its native layout: expressions, valence and arousal of faces with box and 68 landmarks.

`training.csv` and `validation.csv` with the columns `subDirectory_filePath`, `face_x`, `face_y`,
`face_width`, `face_height`, `facial_landmarks` (68 points as `x;y;x;y;...`), `expression` (0 to 7; 8 none,
9 uncertain and 10 no face are no basic one), `valence` and `arousal` (-1 to 1; -2 none); Mollahosseini,
Hasani and Mahoor 2017. A file may lack its header line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from taskloom.data.face_table import (
    BOX_COLUMNS,
    FILE_COLUMN,
    FaceTable,
    NamedSplit,
    face_table,
    point_columns,
)
from taskloom.data.readers.native_files import annotation_file, image_folder
from taskloom.data.tables import Table, read_table
from taskloom.errors import ConfigError, DataError

EXPRESSIONS = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt")
"""Codes 0 to 7, under the names that the shipped relatedness has."""
FILES = {"train": "training.csv", "test": "validation.csv"}
"""The labels of the test set are not public: the validation list is what results are reported on."""
COLUMNS = (
    "subDirectory_filePath",
    "face_x",
    "face_y",
    "face_width",
    "face_height",
    "facial_landmarks",
    "expression",
    "valence",
    "arousal",
)
FIVE_POINTS = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
NUM_POINTS = 68
LAST_CODE = 10
NO_VALUE = -2
VALIDATION = 0.1

_LISTS = ("", "Manually_Annotated_file_lists/")
_IMAGES = ("Manually_Annotated_Images", "Manually_Annotated/Manually_Annotated_Images", "images", "")
_FIVE_OF_68 = (slice(36, 42), slice(42, 48), slice(30, 31), slice(48, 49), slice(54, 55))
"""Eyes are the means of their six outline points; tip of the nose and corners of the mouth are points."""


def read_affectnet(
    root: Path, *, images: str | None = None, expressions: int = 8, landmarks: int = 5
) -> FaceTable:
    """Reads both lists.

    Args:
        root: Folder of the data.
        images: Folder of the images, below `root`; `Manually_Annotated_Images` or `images` where None.
        expressions: 8, or 7 for those without contempt, which is then missing.
        landmarks: 68, or 5 for the centres of the eyes, the nose and the corners of the mouth, by which faces
            can be aligned.

    Returns:
        Rows with `file`, the box, the landmarks, `expression`, `valence`, `arousal`, and `part`, which the
        split `official` takes (training.csv, of which a tenth is drawn for validation, and validation.csv to
        test on).

    Raises:
        DataError: A list is missing, or a cell is out of range (file and line are named).
        ConfigError: `expressions` or `landmarks` is another number.
    """
    for setting, value, allowed in (("expressions", expressions, (7, 8)), ("landmarks", landmarks, (5, 68))):
        if value not in allowed:
            raise ConfigError(f"data.{setting}: {' or '.join(map(str, allowed))} expected, found {value!r}.")
    names = EXPRESSIONS[:expressions]
    points = FIVE_POINTS if landmarks == len(FIVE_POINTS) else _POINT_NAMES
    paths = {
        part: annotation_file(root, [start + name for start in _LISTS], "AffectNet")
        for part, name in FILES.items()
    }
    columns: dict[str, list[Any]] = {}
    places: list[str] = []
    for part, path in paths.items():
        read, where = _read_list(path, names, points)
        for name, values in {**read, "part": [part] * len(where)}.items():
            columns.setdefault(name, []).extend(values)
        places += where
    unlabelled = columns["expression"].count(None)
    return face_table(
        columns,
        path=paths["train"].parent,
        reader="affectnet",
        images=image_folder(root, images, _IMAGES),
        places=places,
        sources=tuple(paths.values()),
        class_names={"expression": names},
        points=points,
        notes=(
            f"{unlabelled} of {len(places)} faces show no basic expression: their expression is missing.",
        ),
        named_splits={"official": NamedSplit("part", VALIDATION)},
    )


_POINT_NAMES = tuple(f"point_{number}" for number in range(1, NUM_POINTS + 1))


def _read_list(
    path: Path, names: tuple[str, ...], points: tuple[str, ...]
) -> tuple[dict[str, list[Any]], list[str]]:
    """Columns of one list, and where its rows stand."""
    table, first_line = _table(path)
    for name in COLUMNS:
        table.column_name(name, "AffectNet")
    places = [f"{path}:{row + first_line}" for row in range(len(table))]
    columns: dict[str, list[Any]] = {
        FILE_COLUMN: [str(text).replace("\\", "/") for text in table.text(COLUMNS[0])]
    }
    for name, column in zip(BOX_COLUMNS, COLUMNS[1:5], strict=True):
        columns[name] = table.numbers(column).tolist()
    found = _points(table, places)
    if len(points) == len(FIVE_POINTS):
        found = np.stack([found[:, part].mean(axis=1) for part in _FIVE_OF_68], axis=1)
    columns |= zip(point_columns(points), found.reshape(len(table), -1).T.tolist(), strict=True)
    codes = table.numbers("expression")
    _refuse(codes, ~np.isnan(codes) & ~np.isin(codes, range(LAST_CODE + 1)), places, "expression", "0 to 10")
    columns["expression"] = [names[int(code)] if code < len(names) else None for code in codes]
    for name in ("valence", "arousal"):
        values = table.numbers(name)
        values = np.where(values == NO_VALUE, np.nan, values)
        _refuse(values, np.abs(values) > 1, places, name, "a number from -1 to 1, or -2 for none,")
        columns[name] = values.tolist()
    return columns, places


def _refuse(
    values: NDArray[np.float64], strange: NDArray[np.bool_], places: list[str], name: str, expected: str
) -> None:
    if strange.any():
        row = int(np.flatnonzero(strange)[0])
        raise DataError(f"{places[row]}: {name} is {values[row]:g}; {expected} expected.")


def _table(path: Path) -> tuple[Table, int]:
    """A list, and the line of its first row."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        first = file.readline().split(",")[0].strip().strip('"')
    if first == COLUMNS[0]:
        return read_table(path, separator=","), 2
    try:
        data = pyarrow.csv.read_csv(
            path,
            read_options=pyarrow.csv.ReadOptions(column_names=list(COLUMNS)),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(COLUMNS, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{path}: a list of AffectNet expected, found no header line and not {len(COLUMNS)} columns "
            f"({str(error).splitlines()[0]})."
        ) from error
    return Table(path, COLUMNS, None, (), data), 1


def _points(table: Table, places: list[str]) -> NDArray[np.float64]:
    """Landmarks, [N, 68, 2], NaN where a cell is blank."""
    found = np.full((len(table), 2 * NUM_POINTS), np.nan)
    for row, text in enumerate(table.text("facial_landmarks")):
        if not text:
            continue
        try:
            numbers = [float(number) for number in str(text).rstrip(";").split(";")]
        except ValueError:
            numbers = []
        if len(numbers) != 2 * NUM_POINTS or not np.isfinite(numbers).all():
            raise DataError(
                f"{places[row]}: facial_landmarks: {NUM_POINTS} points as x;y;x;y;... expected, found "
                f"`{str(text)[:40]}`."
            )
        found[row] = numbers
    return found.reshape(-1, NUM_POINTS, 2)
