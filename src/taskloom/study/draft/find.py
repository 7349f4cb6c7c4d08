"""What stands at a place: a table, images, recordings."""

from __future__ import annotations

from pathlib import Path

from taskloom.data.arff import ARFF_SUFFIX
from taskloom.data.image_source import FILE_COLUMNS
from taskloom.data.readers.recordings_files import SUFFIXES
from taskloom.data.tables import PARQUET_SUFFIXES, Table, read_table
from taskloom.errors import DataError
from taskloom.study.draft.image_files import image_source
from taskloom.study.draft.layouts import downloaded_layout
from taskloom.study.draft.recording_files import known_layout, recordings_source
from taskloom.study.draft.sources import Source
from taskloom.wording import counted

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_ARRAYS = (".npy", ".npz", ".mat", ".h5", ".hdf5", ".pt", ".pkl")
_TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ARFF_SUFFIX, *PARQUET_SUFFIXES)


def find_source(place: Path, *, images: Path | None = None, rate_hz: float | None = None) -> Source:
    """Finds out what stands at a place.

    Args:
        place: A table, or a folder with a table of files beside those files.
        images: Folder of the images that the table names, where it is not the table's or one below it.
        rate_hz: Samples per second of recordings whose files do not say it.

    Raises:
        DataError: There is nothing of that kind; what was found, and what to do, is said.
    """
    if not place.exists():
        raise DataError(
            f"{place}: a table (CSV, TSV or Parquet), or a folder of images or recordings with one, "
            "expected; found no such file."
        )
    if place.is_dir():
        layout = known_layout(place) or downloaded_layout(place)
        if layout is not None:
            return layout
        path = _table_in(place)
        folder = place
    else:
        path, folder = place, place.parent
    if path.suffix.lower() in _ARRAYS:
        raise DataError(
            f"{path}: a table with a column for each task expected, found a file of arrays; write the labels "
            'as CSV beside it, a row per row of the array (`pandas.DataFrame({...}).to_csv("labels.csv", '
            "index=False)`), and name that file: the array of as many rows is found."
        )
    table = read_table(path)
    column = _file_column(table)
    if images is not None or (column is not None and _names_images(table, column)):
        named = column if column not in FILE_COLUMNS else None
        found = image_source(table, folder, images, named, required=place.is_dir() or images is not None)
        if found is not None:
            return found
    elif column is not None:
        recordings = recordings_source(table, column, folder, rate_hz)
        if recordings is not None:
            return recordings
    if place.is_dir():
        first = str(table.text(str(column))[0])
        if (place / first).is_file():
            raise DataError(
                f"{path}: it names files such as {first}, which are not read; images "
                f"({', '.join(IMAGE_SUFFIXES)}) or recordings ({', '.join(SUFFIXES)}) expected: write them "
                "as .npy, for example."
            )
        raise DataError(
            f"{path}: it names files such as {table.text(str(column))[0]}, and none of them is in {place}; "
            "name the folder in which they are."
        )
    return Source("table", table, {"table": str(path)}, num_inputs=len(table))


def _file_column(table: Table) -> str | None:
    """The column that names files: `file_name` or `file`, else one of names of images."""
    for name in FILE_COLUMNS:
        if name in table.columns:
            return name
    return next((name for name in table.columns if _names_images(table, name)), None)


def _names_images(table: Table, column: str) -> bool:
    return any(str(name).lower().endswith(IMAGE_SUFFIXES) for name in table.text(column)[:20].tolist())


def _table_in(folder: Path) -> Path:
    """The one table of a folder that names files."""
    candidates = sorted(path for path in folder.iterdir() if path.suffix.lower() in _TABLE_SUFFIXES)
    found, reasons = [], []
    for path in candidates[:50]:  # recordings may be CSV files themselves
        try:
            table = read_table(path)
        except DataError as error:
            reasons += [] if path.suffix.lower() == ".txt" else [str(error)]  # mostly a README
            continue
        if _file_column(table) is not None:
            found.append(path)
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(path.name for path in found[:5])
        raise DataError(f"{folder}: {len(found)} tables with a column of files ({names}); name one of them.")
    others = [path for path in candidates if path.suffix.lower() != ".txt"]
    names = ", ".join(str(path) for path in others[:3])
    what = f"found {counted(len(others), 'table')} without one ({names})" if others else "found no table"
    because = f"; {reasons[0].rstrip('.')}" if reasons else ""
    raise DataError(
        f"{folder}: a table with a column `file_name` that names the images or recordings beside it "
        f"expected, {what}{because}; for a table of numbers name the file itself; data sets "
        "as they are downloaded have readers of their own (docs/data.md)."
    )
