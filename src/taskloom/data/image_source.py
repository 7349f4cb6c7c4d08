"""The source "images": a folder of images and one table with a file name and label columns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taskloom.data.batch import DataSplits
from taskloom.data.face_source import read_size
from taskloom.data.face_table import BOX_COLUMNS, read_boxes
from taskloom.data.image_splits import read_standardize, split_images
from taskloom.data.image_store import prepare_images
from taskloom.data.sources import SOURCES, TaskSettings, check_settings, data_folder, store_folder
from taskloom.data.table_source import LABEL_SETTINGS, read_labelled_table
from taskloom.data.tables import Table
from taskloom.errors import ConfigError, DataError

IMAGE_SETTINGS = (*LABEL_SETTINGS, "images", "size", "file", "box", "standardize")
FILE_COLUMNS = ("file_name", "file")
"""Columns that are looked for where `file` does not name one."""


@SOURCES.register("images")
def load_images(
    settings: Mapping[str, Any],
    tasks: TaskSettings,
    split: Mapping[str, Any],
    *,
    seed: int,
    folder: Path | None,
    stores: Path,
) -> DataSplits:
    """Loads images with a table of labels; see `taskloom.data.sources.SourceLoader` for the arguments.

    Settings: `table` (file), `images` (folder), `size` (pixels, default 64), `file` (column; `file_name` or
    `file` where it is not given), `box` (four columns x, y, width, height in pixels; `x`, `y`, `w`, `h` where
    the table has them, false for whole images), `standardize` (per channel on train; false gives 0..1, for
    encoders that prepare images themselves), `group`, `separator`, `missing`, `columns`, `folder`.

    Rows whose image is missing or not readable are left out and listed in `about`. Landmarks are given in
    pixels of the upright source image and come out in pixels of the stored one.
    """
    check_settings("data", settings, IMAGE_SETTINGS)
    if "images" not in settings:
        raise ConfigError("data.images is missing: the folder of images expected.")
    size, standardize = read_size(settings), read_standardize(settings)
    root = data_folder(settings, folder)
    labelled = read_labelled_table(settings, tasks, split, root)
    table = labelled.table
    file_column, box_columns = _file_column(table, settings), _box_columns(table, settings)
    image_folder = root / str(settings["images"])
    parameters = {"table": str(settings["table"]), "file": file_column, "box": box_columns, "size": size}
    store = prepare_images(
        _files(table, file_column),
        image_folder,
        store_folder(stores, "images", image_folder, parameters),
        size,
        read_boxes(table, box_columns) if box_columns else None,
    )
    return split_images(
        labelled,
        store,
        reader="images",
        folder=str(settings["images"]),
        seed=seed,
        standardize=standardize,
    )


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
        **settings: Further settings of the source: `file`, `box`, `standardize`, `missing`, `separator`,
            `columns`.

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


def _file_column(table: Table, settings: Mapping[str, Any]) -> str:
    if "file" in settings:
        return table.column_name(str(settings["file"]), "data.file")
    for name in FILE_COLUMNS:
        if name in table.columns:
            return name
    raise DataError(
        f"{table.path}: a column `file_name` or `file` that names the images expected, or name it with "
        f"`file`. Columns: {', '.join(table.columns[:20])}."
    )


def _files(table: Table, column: str) -> list[str]:
    files: list[str] = table.text(column).tolist()
    if "" in files:
        raise DataError(f"{table.where(files.index(''), column)}: the cell is blank; a file name expected.")
    return files


def _box_columns(table: Table, settings: Mapping[str, Any]) -> tuple[str, ...] | None:
    given = settings.get("box", True)
    if given is False:
        return None
    if given is True:
        return BOX_COLUMNS if all(name in table.columns for name in BOX_COLUMNS) else None
    if not isinstance(given, list | tuple) or len(given) != 4:
        raise ConfigError(
            f"data.box: four columns (x, y, width, height), true or false expected, found {given!r}."
        )
    return tuple(table.column_name(str(name), "data.box") for name in given)
