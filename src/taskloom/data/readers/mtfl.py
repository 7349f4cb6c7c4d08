"""MTFL in its native layout: five landmarks, gender, smile, glasses and pose of faces in whole photographs.

`training.txt` and `testing.txt`, one line per face: the path with backslashes, x1..x5, y1..y5 (left eye,
right eye, nose, left and right corner of the mouth, in pixels), gender (1 male, 2 female), smile (1 yes, 2
no), glasses (1 yes, 2 no) and pose (1 left profile, 2 left, 3 frontal, 4 right, 5 right profile); Zhang et
al. 2014. Lines may begin with a space.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from taskloom.data.face_table import FILE_COLUMN, FaceTable, NamedSplit, face_table, point_columns
from taskloom.errors import DataError

FILES = {"train": "training.txt", "test": "testing.txt"}
POINTS = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
"""Landmarks, left as one looks at the picture."""
CLASSES = {
    "gender": ("male", "female"),
    "smile": ("no", "yes"),
    "glasses": ("no", "yes"),
    "pose": ("left profile", "left", "frontal", "right", "right profile"),
}
CODES = {
    "gender": ("male", "female"),
    "smile": ("yes", "no"),
    "glasses": ("yes", "no"),
    "pose": CLASSES["pose"],
}
"""Per label, what its codes 1, 2, ... mean."""
MARGIN = 0.6
"""Added on each side of the box around the landmarks, which reaches from the eyes to the mouth only."""
VALIDATION = 0.1

_NUM_FIELDS = 15


def read_mtfl(root: Path, *, images: str = "") -> FaceTable:
    """Reads the faces of both files.

    Args:
        root: Folder of the data.
        images: Folder that the paths are relative to, below `root`.

    Returns:
        Rows with `file`, the box around the landmarks, the landmarks, `gender`, `smile`, `glasses`, `pose`,
        and `part`, which the split `official` takes; a tenth of train is drawn for validation.

    Raises:
        DataError: A file is missing, or a line is not what it should be (file and line are named).

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> line = "lfw_5590\\\\Ann_0001.jpg 10 30 20 12 28 10 10 20 30 30 2 1 2 3\\n"
        >>> for name in FILES.values():
        ...     _ = (folder / name).write_text(" " + line)
        >>> rows = read_mtfl(folder)
        >>> rows.files[0], rows.text("smile")[0], rows.text("pose")[0], rows.boxes()[0]
        ('lfw_5590/Ann_0001.jpg', 'yes', 'frontal', (10.0, 10.0, 20.0, 20.0))
    """
    columns: dict[str, list[Any]] = {name: [] for name in (FILE_COLUMN, "part", *CODES)}
    points: list[list[float]] = []
    places: list[str] = []
    for part, name in FILES.items():
        path = root / name
        if not path.is_file():
            raise DataError(
                f"{path}: {' and '.join(FILES.values())} of MTFL expected, found no such file. Give the "
                f"folder of "
                "the data with --data or `data.folder`."
            )
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if not line.strip():
                continue
            place = f"{path}:{number}"
            fields = line.split()
            if len(fields) != _NUM_FIELDS:
                raise DataError(f"{place}: a path and 14 numbers expected, found {len(fields)} fields.")
            places.append(place)
            columns[FILE_COLUMN].append(fields[0].replace("\\", "/"))
            columns["part"].append(part)
            points.append(_coordinates(place, fields[1:11]))
            for label, code in zip(CODES, fields[11:], strict=True):
                columns[label].append(_class_of(place, label, code))
    coordinates = np.array(points).reshape(-1, 2, len(POINTS)).transpose(0, 2, 1)
    low, high = coordinates.min(axis=1), coordinates.max(axis=1)
    size = np.maximum(high - low, 1.0)
    landmarks = coordinates.reshape(-1, 2 * len(POINTS))
    data: dict[str, Any] = {
        **columns,
        **dict(zip("xywh", np.concatenate([low, size], axis=1).T, strict=True)),
        **dict(zip(point_columns(POINTS), landmarks.T, strict=True)),
    }
    return face_table(
        data,
        path=root,
        reader="mtfl",
        images=root / images,
        places=places,
        sources=tuple(root / name for name in FILES.values()),
        class_names=CLASSES,
        points=POINTS,
        named_splits={"official": NamedSplit("part", VALIDATION)},
    )


def _coordinates(place: str, fields: list[str]) -> list[float]:
    try:
        found = [float(field) for field in fields]
    except ValueError:
        found = [np.nan]
    if not np.isfinite(found).all():
        raise DataError(f"{place}: ten coordinates x1..x5, y1..y5 expected, found {' '.join(fields)}.")
    return found


def _class_of(place: str, label: str, code: str) -> str:
    names = CODES[label]
    if not code.isdecimal() or not 1 <= int(code) <= len(names):
        raise DataError(f"{place}: {label} is `{code}`; a code from 1 to {len(names)} expected.")
    return names[int(code) - 1]
