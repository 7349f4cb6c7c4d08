"""EmotioNet in its native layout: a CSV file with one column per action unit, 999 where not annotated.

The first column is the address of the image (Benitez-Quiroz, Srinivasan and Martinez 2016); the pictures lie
in a folder under the last part of their address. Columns of action units are called `AU 1`, `AU1` or `AU01`,
with or without quotes; they are read as `AU1`.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from taskloom.data.face_table import FILE_COLUMN, FaceTable, face_table
from taskloom.data.readers.native_files import image_folder
from taskloom.data.tables import Table, read_table
from taskloom.errors import DataError, did_you_mean

MISSING = 999
IMAGES_FOLDER = "images"

_UNIT = re.compile(r"['\"]?\s*AU[\s_]*0*(\d+)\s*['\"]?", re.IGNORECASE)


def read_emotionet(
    root: Path, *, table: str | None = None, images: str | None = None, image_column: str | None = None
) -> FaceTable:
    """Reads the action units of every image.

    Args:
        root: Folder of the data.
        table: The CSV file, below `root`; the only one there where None.
        images: Folder of the images, below `root`; `images`, or `root` itself, where None.
        image_column: The column of the images; the first where None.

    Returns:
        Rows with `file` and the action units `AU1`, ... as 0 and 1, blank where 999. A multilabel task
        `action_units` takes all that are annotated anywhere.

    Raises:
        DataError: No table, no column of an action unit, or a cell that is not 0, 1 or 999 (file, line and
            column are named).

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> text = "URL,AU 1,AU 2,AU 3\\nhttp://example.org/a/1.jpg,1,999,999\\nhttp://example.org/a/2.jpg,0,1,999\\n"
        >>> _ = (folder / "units.csv").write_text(text)
        >>> rows = read_emotionet(folder)
        >>> rows.files, rows.text("AU2").tolist(), rows.label_groups
        (['1.jpg', '2.jpg'], ['', '1'], {'action_units': ('AU1', 'AU2')})
    """
    path = _table_file(root, table)
    found = read_table(path)
    column = (
        found.columns[0] if image_column is None else found.column_name(image_column, "data.image_column")
    )
    units = _unit_columns(found)
    folder = image_folder(root, images, [IMAGES_FOLDER, ""])
    labels = {name: _labels(found, original) for name, original in units.items()}
    annotated = tuple(name for name, values in labels.items() if not np.isnan(values).all())
    data: dict[str, Any] = {FILE_COLUMN: [_file_of(text) for text in found.text(column)]}
    data |= labels
    never = [name for name in labels if name not in annotated]
    notes = (
        (f"{len(never)} action units are annotated nowhere ({', '.join(never[:5])}, ...).",) if never else ()
    )
    first_line = 2  # no cell of the set spans lines
    return face_table(
        data,
        path=path,
        reader="emotionet",
        images=folder,
        places=[f"{path}:{row + first_line}" for row in range(len(found))],
        sources=(path,),
        class_names=dict.fromkeys(labels, ("0", "1")),
        label_groups={"action_units": annotated},
        notes=notes,
    )


def _table_file(root: Path, given: str | None) -> Path:
    if given is not None:
        return root / given
    found = sorted(root.glob("*.csv"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise DataError(
            f"{root}: one CSV file of action units expected, found {names}; name it with `data.table`."
        )
    return found[0]


def _unit_columns(table: Table) -> dict[str, str]:
    """Columns of the table by the name of their action unit."""
    units: dict[str, str] = {}
    for column in table.columns:
        match = _UNIT.fullmatch(column)
        if match is None:
            continue
        name = f"AU{int(match.group(1))}"
        if name in units:
            raise DataError(
                f"{table.path}:1: columns `{units[name]}` and `{column}` are both {name}; keep one."
            )
        units[name] = column
    if not units:
        raise DataError(
            f"{table.path}:1: columns of action units (`AU 1`, `AU1`) expected, found "
            f"{', '.join(table.columns[:10])}.{did_you_mean('AU1', table.columns)}"
        )
    return units


def _labels(table: Table, column: str) -> NDArray[np.float64]:
    """0, 1 and NaN where the unit is not annotated."""
    values = table.numbers(column)
    values = np.where(values == MISSING, np.nan, values)
    strange = np.flatnonzero(~(np.isnan(values) | (values == 0) | (values == 1)))
    if len(strange):
        row = int(strange[0])
        raise DataError(
            f"{table.where(row, column)}: 0, 1 or {MISSING} (not annotated) expected, found "
            f"`{table.text(column)[row]}`."
        )
    return values


def _file_of(text: str) -> str:
    """The file of an image: the last part of an address, and any other text as it is."""
    address = urlsplit(text)
    if address.scheme in ("http", "https"):
        return unquote(PurePosixPath(address.path).name)
    return text.replace("\\", "/")
