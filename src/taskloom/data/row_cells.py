"""What stands in a column of the data for every row of a dataset, whether or not it is a task."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom.data.grouping import GROUPINGS
from taskloom.data.relabelled import original
from taskloom.data.row_dataset import RowDataset
from taskloom.data.windows import WindowDataset
from taskloom.errors import DataError, did_you_mean


def row_cells(dataset: Any, column: str) -> NDArray[np.str_]:
    """The cells of a column of the table, or of a label of whole recordings, [N]; "" where missing.

    Args:
        dataset: A part of a prepared data set.
        column: Its name; `person`, `session`, `trial` and `recording` are known of recordings too.

    Raises:
        DataError: There is no such column, or the data set does not know its columns.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "people.csv"
        >>> _ = path.write_text("a,age,city\\n" + "".join(f"{i},{i},{'AB'[i % 2]}\\n" for i in range(10)))
        >>> data = tl.data.table(path, {"age": {"kind": "regression"}}, features=["a"])
        >>> row_cells(data.test, "city").shape == (len(data.test),)
        True
    """
    found = original(dataset)
    if isinstance(found, WindowDataset):
        return _of_recordings(found, column)
    table = getattr(found, "table", None)
    if not isinstance(found, RowDataset) or table is None:
        raise DataError(
            f"the column `{column}` cannot be looked up: the data are several sets, or an array without a "
            "table; name a task."
        )
    if column not in table.columns:
        raise DataError(
            f"{table.path}: no column `{column}`.{did_you_mean(column, table.columns)} "
            f"Columns: {', '.join(table.columns[:20])}."
        )
    rows = found.rows if found.table_rows is None else found.table_rows[found.rows]
    return np.asarray(table.text(column)[rows].astype(str))


def _of_recordings(windows: WindowDataset, column: str) -> NDArray[np.str_]:
    store = windows.store
    known = [*GROUPINGS, *store.label_names]
    if column not in known:
        raise DataError(
            f"{store.folder}: recordings have no `{column}`.{did_you_mean(column, known)} "
            f"Known: {', '.join(known)}."
        )
    values = []
    for recording in store.recordings:
        value: Any = recording.name if column == "recording" else recording.labels.get(column)
        if column in GROUPINGS and column != "recording":
            value = getattr(recording, column)
        values.append("" if value is None else str(value))
    return np.array(values, dtype=str)[windows.recording_index]
