"""CelebA in its native layout: 40 attributes, identity, five landmarks, the official partition.

`list_attr_celeba.txt` (a line with the count, one with 40 names, then name and +1 or -1),
`list_eval_partition.txt` (0 train, 1 validation, 2 test), `identity_CelebA.txt` and
`list_landmarks_align_celeba.txt`, and the images `img_align_celeba/000001.jpg` of 178 x 218 pixels (Liu et
al. 2015). The files may stand in the folders `Anno`, `Eval` and `Img` of the archive, or side by side;
identities and landmarks may be left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from taskloom.data.face_table import FILE_COLUMN, FaceTable, NamedSplit, face_table, point_columns
from taskloom.errors import DataError

ATTRIBUTES_FILE = "list_attr_celeba.txt"
PARTITION_FILE = "list_eval_partition.txt"
IDENTITY_FILE = "identity_CelebA.txt"
LANDMARKS_FILE = "list_landmarks_align_celeba.txt"
IMAGES_FOLDER = "img_align_celeba"
POINTS = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
"""Landmarks, left as one looks at the picture."""
PARTS = ("train", "validation", "test")

_FOLDERS = ("", "Anno", "Eval", "Img")


def read_celeba(root: Path, *, images: str | None = None) -> FaceTable:
    """Reads attributes, partition, and, where they are there, identities and landmarks.

    Args:
        root: Folder of the data.
        images: Folder of the images, below `root`; `img_align_celeba` or `Img/img_align_celeba` where None.

    Returns:
        Rows with `file`, the attributes by their names (0 or 1), `partition`, `identity` and landmarks. The
        split `official` takes the partition; identities are the groups. A multilabel task `attributes` takes
        all attributes together.

    Raises:
        DataError: A file is missing, cut off, or says what it cannot.
    """
    path = _found(root, ATTRIBUTES_FILE)
    names, attributes, columns = _table(path, counted=True)
    _check_values(path, attributes, (-1, 1), columns)
    data: dict[str, Any] = {FILE_COLUMN: names}
    data |= {name: (attributes[:, position] > 0).astype(np.int8) for position, name in enumerate(columns)}
    classes: dict[str, tuple[str, ...]] = dict.fromkeys(columns, ("0", "1"))
    sources = [path]
    partition_path = _found(root, PARTITION_FILE)
    partition = _aligned(partition_path, names, path)
    _check_values(partition_path, partition, (0, 1, 2), ["the partition"], first_line=1)
    data["partition"] = [PARTS[int(code)] for code in partition[:, 0]]
    sources.append(partition_path)
    identity_path = _find(root, IDENTITY_FILE)
    if identity_path is not None:
        data["identity"] = _aligned(identity_path, names, path)[:, 0].astype(np.int64)
        # Named here because there are 10,177: more than are taken for classes unasked.
        classes["identity"] = tuple(str(number) for number in np.unique(data["identity"]))
        sources.append(identity_path)
    landmarks_path = _find(root, LANDMARKS_FILE)
    if landmarks_path is not None:
        points = _aligned(landmarks_path, names, path, counted=True)
        if points.shape[1] != 2 * len(POINTS):
            raise DataError(f"{landmarks_path}:3: 10 coordinates expected, found {points.shape[1]}.")
        data |= zip(point_columns(POINTS), points.T, strict=True)
        sources.append(landmarks_path)
    return face_table(
        data,
        path=path,
        reader="celeba",
        images=_images(root, images),
        places=[f"{path}:{line}" for line in range(3, len(names) + 3)],
        sources=tuple(sources),
        class_names=classes,
        label_groups={"attributes": tuple(columns)},
        points=POINTS if landmarks_path is not None else (),
        named_splits={"official": NamedSplit("partition")},
        group="identity" if identity_path is not None else None,
    )


def _find(root: Path, name: str) -> Path | None:
    return next((root / folder / name for folder in _FOLDERS if (root / folder / name).is_file()), None)


def _found(root: Path, name: str) -> Path:
    path = _find(root, name)
    if path is None:
        raise DataError(
            f"{root}: {name} of CelebA expected there or in Anno or Eval; found neither. Give the folder "
            f"of the "
            "data with --data or `data.folder`."
        )
    return path


def _images(root: Path, given: str | None) -> Path:
    if given is not None:
        return root / given
    for folder in (root / IMAGES_FOLDER, root / "Img" / IMAGES_FOLDER):
        if folder.is_dir():
            return folder
    raise DataError(
        f"{root}: no folder {IMAGES_FOLDER} there; name the folder of the images with `data.images`."
    )


def _table(path: Path, *, counted: bool) -> tuple[list[str], NDArray[np.float64], list[str]]:
    """File names, numbers [N, C], and the column names of a file that has a count and a header line."""
    header = 2 if counted else 0
    columns: list[str] = []
    expected = None
    if counted:
        with path.open(encoding="utf-8") as file:
            count, names = file.readline().split(), file.readline()
        columns = names.split()
        if len(count) != 1 or not count[0].isdecimal() or not columns:
            raise DataError(
                f"{path}:1: a line with the number of images and one with the names of the columns expected."
            )
        expected = int(count[0])
    try:
        found = pd.read_csv(path, sep=r"\s+", header=None, skiprows=header, dtype={0: str})
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a table of CelebA ({str(error).splitlines()[0]}).") from error
    if columns and found.shape[1] != len(columns) + 1:
        raise DataError(
            f"{path}:{header + 1}: a file name and {len(columns)} numbers expected, found "
            f"{found.shape[1]} columns."
        )
    numbers = found.iloc[:, 1:].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    broken = np.flatnonzero(np.isnan(numbers).any(axis=1) | found[0].isna().to_numpy())
    if len(broken):
        raise DataError(
            f"{path}:{int(broken[0]) + header + 1}: a file name and {numbers.shape[1]} numbers expected; the "
            "line is cut off or holds a word."
        )
    if expected is not None and expected != len(found):
        raise DataError(f"{path}: {expected} images expected from its first line, found {len(found)}.")
    return found[0].tolist(), numbers, columns


def _aligned(path: Path, names: list[str], first: Path, *, counted: bool = False) -> NDArray[np.float64]:
    """The numbers of a second file in the order of the first."""
    found, numbers, _ = _table(path, counted=counted)
    if found == names:
        return numbers
    row_of = {name: row for row, name in enumerate(found)}
    missing = [name for name in names if name not in row_of]
    if missing:
        raise DataError(f"{path}: {missing[0]} is missing ({len(missing)} in all), which {first} lists.")
    return numbers[[row_of[name] for name in names]]


def _check_values(
    path: Path, values: NDArray[np.float64], allowed: tuple[int, ...], columns: list[str], first_line: int = 3
) -> None:
    strange = np.argwhere(~np.isin(values, allowed))
    if len(strange):
        row, column = strange[0]
        raise DataError(
            f"{path}:{row + first_line}: {columns[column]} is {values[row, column]:g}; "
            f"{' or '.join(str(value) for value in allowed)} expected."
        )
