"""Rows without any value, as spreadsheets write them below a table."""

from __future__ import annotations

import numpy as np

from taskloom.data.tables import Table
from taskloom.errors import DataError
from taskloom.wording import counted


def refuse_blank_rows(table: Table) -> None:
    """Refuses a row of separators alone: filled in by `impute` it would count as an input.

    Raises:
        DataError: A row is blank in every column.

    Example:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "people.csv"
        >>> _ = path.write_text("name,age\\nAda,36\\n,\\n,\\n")
        >>> from taskloom.data.tables import read_table
        >>> refuse_blank_rows(read_table(path))
        Traceback (most recent call last):
        taskloom.errors.DataError: ...people.csv:3: column `name`: 2 rows are blank in every column, ...
    """
    blank = np.ones(len(table), dtype=np.bool_)
    for column in table.columns:
        blank &= table.text(column) == ""
        if not blank.any():
            return
    rows = np.flatnonzero(blank)
    raise DataError(
        f"{table.where(int(rows[0]), table.columns[0])}: {counted(len(rows), 'row is', 'rows are')} blank in "
        "every column, as spreadsheets write them below a table; remove them."
    )
