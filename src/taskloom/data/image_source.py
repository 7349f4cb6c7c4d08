"""The source "images": a folder of images and one table with a file name and label columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from taskloom.data.batch import DataSplits
from taskloom.data.face_source import FaceSource
from taskloom.data.face_table import BOX_COLUMNS, FaceTable, point_columns
from taskloom.data.sources import SOURCES, TaskSettings
from taskloom.data.tables import Table, read_table
from taskloom.errors import ConfigError, DataError

FILE_COLUMNS = ("file_name", "file")
"""Columns that are looked for where `file` does not name one."""
_TABLE_FIELDS = ("path", "columns", "separator", "missing", "_data", "decimal")
IMAGE_SETTINGS = ("table", "images", "file", "box", "landmarks", "separator", "missing", "decimal")


def read_image_table(
    root: Path,
    *,
    table: str | None = None,
    images: str | None = None,
    file: str | None = None,
    box: bool | Sequence[str] = True,
    landmarks: Sequence[str] = (),
    separator: str | None = None,
    missing: Any = (),
    decimal: str = ".",
) -> FaceTable:
    """Reads a table that names images.

    Args:
        root: Folder of the data.
        table: CSV, TSV or Parquet file, relative to `root`.
        images: Folder of the images, relative to `root`.
        file: Column of the file names; `file_name` or `file` where None.
        box: Four columns x, y, width, height in pixels; where true `x`, `y`, `w`, `h` if the table has them,
            where false whole images.
        landmarks: Names of points in pixels of the upright image, from columns `<name>_x` and `<name>_y`.
        separator, missing, decimal: See `read_table`.

    Raises:
        DataError: The table, or a column, is not there.
        ConfigError: A setting is missing or does not fit.
    """
    if table is None:
        raise ConfigError("data.table is missing: the CSV, TSV or Parquet file expected.")
    if images is None:
        raise ConfigError("data.images is missing: the folder of images expected.")
    marks = missing if isinstance(missing, list | tuple) else (missing,)
    found = read_table(root / str(table), separator=separator, missing=marks, decimal=decimal)
    if isinstance(landmarks, str) or not all(isinstance(name, str) for name in landmarks):
        raise ConfigError(f"data.landmarks: a list of names of points expected, found {landmarks!r}.")
    for column in point_columns(landmarks):
        found.column_name(column, "data.landmarks")
    return FaceTable(
        **{name: getattr(found, name) for name in _TABLE_FIELDS},
        reader="images",
        images=root / str(images),
        sources=(found.path,),
        points=tuple(landmarks),
        file_column=_file_column(found, file),
        box_columns=_box_columns(found, box),
    )


load_images = SOURCES.register("images")(FaceSource(read_image_table, IMAGE_SETTINGS))
"""Loads images with a table of labels; see `taskloom.data.sources.SourceLoader` for the arguments.

Settings: those of `read_image_table`, those that say how faces are cut
(`taskloom.data.face_crop.CropSettings`: `size`, `detector`, `detector_model`, `choose`, `margin`, `align`),
`standardize` (per channel on train; false gives 0..1, for encoders that prepare images themselves), `group`,
`columns` and `folder`.

Rows whose image is missing, not readable or without a face are left out and listed in `about`. Landmarks are
given in pixels of the upright source image and come out in pixels of the stored one."""


def images(
    table: Path | str,
    folder: Path | str,
    tasks: TaskSettings,
    *,
    size: int = 64,
    split_by: str | None = None,
    group: str | None = None,
    test: float = 0.2,
    validation: float = 0.1,
    shared_groups: str = "refused",
    seed: int = 0,
    stores: Path | str = "stores",
    **settings: Any,
) -> DataSplits:
    """Loads a folder of images with a table of labels; a blank cell is a label that is not there.

    Args:
        table: CSV, TSV or Parquet file with `file_name` (or `file`), label columns, and, to crop images,
            `x`, `y`, `w`, `h` in pixels.
        folder: Folder of the images.
        tasks: A TaskSet, or settings by task name; classes that settings do not name come from the table.
        size: Height and width of the prepared images, in pixels.
        split_by: Column whose equal values stay on one side; `group` where None, and rows where that is None.
        group: Column that says which rows belong together; intervals are clustered by it.
        test, validation: Fractions of the groups (of the rows where there are none).
        shared_groups: "refused", or "allowed" where `split_by` may part a group, with a warning in `about`.
        seed: Decides the split.
        stores: Folder in which the prepared images are kept and found again.
        **settings: Further settings of the source: `file`, `box`, `landmarks`, `missing`, `decimal`,
            `separator`, `columns`, and how faces are cut (`detector`, `choose`, `margin`, `align`).

    Returns:
        Datasets whose inputs are [B, 3, size, size] float32, standardised per channel on train
        (0..1 with `standardize=False`).

    Raises:
        DataError: The table, a column, a cell, the folder or the split is not what it should be.
        ConfigError: A setting is unknown or does not fit.

    Example:
        >>> import cv2, tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for number in range(10):
        ...     _ = cv2.imwrite(str(folder / f"{number}.png"), np.full((20, 30, 3), 25 * number, np.uint8))
        >>> rows = [f"{number}.png,{number}" for number in range(10)]
        >>> _ = (folder / "labels.csv").write_text("\\n".join(["file_name,brightness", *rows]))
        >>> tasks = {"brightness": {"kind": "regression"}}
        >>> data = images(folder / "labels.csv", folder, tasks, size=8, stores=folder / "stores")
        >>> data.train.__getitems__([0, 1]).inputs.shape
        torch.Size([2, 3, 8, 8])
    """
    table = Path(table).absolute()
    if group is not None:
        settings["group"] = group
    return load_images(
        {"table": table.name, "images": str(Path(folder).absolute()), "size": size, **settings},
        tasks,
        {
            "by": split_by or group or "rows",
            "test": test,
            "validation": validation,
            "shared_groups": shared_groups,
        },
        seed=seed,
        folder=table.parent,
        stores=Path(stores),
    )


def _file_column(table: Table, given: str | None) -> str:
    if given is not None:
        return table.column_name(str(given), "data.file")
    for name in FILE_COLUMNS:
        if name in table.columns:
            return name
    raise DataError(
        f"{table.path}: a column `file_name` or `file` that names the images expected, or name it with "
        f"`file`. Columns: {', '.join(table.columns[:20])}."
    )


def _box_columns(table: Table, given: bool | Sequence[str]) -> tuple[str, ...] | None:
    if given is False:
        return None
    if given is True:
        return BOX_COLUMNS if all(name in table.columns for name in BOX_COLUMNS) else None
    if not isinstance(given, list | tuple) or len(given) != 4:
        raise ConfigError(
            f"data.box: four columns (x, y, width, height), true or false expected, found {given!r}."
        )
    return tuple(table.column_name(str(name), "data.box") for name in given)
