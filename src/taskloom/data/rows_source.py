"""Readers of one's own for rows of features: a function gives a data frame, the rest is that of tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from taskloom.data.batch import DataSplits
from taskloom.data.labelled_table import given_settings, label_table
from taskloom.data.sources import TaskSettings, check_settings, checksums, data_folder
from taskloom.data.table_source import load_labelled
from taskloom.data.tables import Table
from taskloom.errors import ConfigError, DataError

ROWS_SETTINGS = (
    "folder",
    "missing",
    "columns",
    "group",
    "features",
    "categories",
    "exclude",
    "standardize",
    "impute",
)
"""Settings of every source of rows, besides those of its reader; see `taskloom.data.table_source`."""


@dataclass(frozen=True)
class RowsSource:
    """A `SourceLoader` over a function that reads rows: features, labels, groups, a column each.

    Args:
        read: `(folder, **settings) -> (rows, files)`: a data frame with names for columns and an empty cell
            (NaN, None) where a label is missing, and the files that it was read from, whose checksums tell
            one state of the data from another.
        settings: Names of its settings in the `data` section of a study file.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> def read(folder, *, file):
        ...     rows = pd.DataFrame(np.load(folder / file)["rows"], columns=["a", "b", "age"])
        ...     return rows, [folder / file]
        >>> folder = Path(tempfile.mkdtemp())
        >>> np.savez(folder / "study.npz", rows=np.arange(60.0).reshape(20, 3))
        >>> tasks, split = {"age": {"kind": "regression"}}, {"by": "rows", "test": 0.2, "validation": 0.2}
        >>> source = RowsSource(read, ("file",))
        >>> data = source({"file": "study.npz"}, tasks, split, seed=0, folder=folder, stores=folder)
        >>> data.train.input_shape, len(data.train), list(data.about["sources"])
        ((2,), 12, ['study.npz'])
    """

    read: Callable[..., tuple[pd.DataFrame, Sequence[Path]]]
    settings: tuple[str, ...] = ()

    def __call__(
        self,
        settings: Mapping[str, Any],
        tasks: TaskSettings,
        split: Mapping[str, Any],
        *,
        seed: int,
        folder: Path | None,
        stores: Path,  # noqa: ARG002  # rows are read as they are; every source takes it
    ) -> DataSplits:
        """Loads rows; see `SourceLoader` for the arguments.

        Raises:
            DataError: The reader says so; rows, a column, a cell or the split are not what they should be.
            ConfigError: A setting is unknown or does not fit.
        """
        check_settings("data", settings, (*ROWS_SETTINGS, *self.settings))
        own = {name: settings[name] for name in self.settings if name in settings}
        common = given_settings({name: value for name, value in settings.items() if name not in own})
        root = data_folder(settings, folder)
        name = getattr(self.read, "__name__", "rows")
        found: object = self.read(root, **own)
        if not isinstance(found, tuple) or len(found) != 2:
            raise ConfigError(
                f"data.reader: {name} gave {type(found).__name__}; a reader of rows returns two things: "
                "a data frame, and the files that it was read from."
            )
        rows, files = found
        table = table_of(rows, files[0] if files else root, missing=common.get("missing", ()))
        labelled = label_table(table, common, tasks, split)
        sources = checksums(files, root)
        return load_labelled(labelled, common, root, seed=seed, reader=name, sources=sources)


def table_of(rows: pd.DataFrame, path: Path, missing: Any = ()) -> Table:
    """Rows of a data frame as a table, as if they stood in a Parquet file.

    Args:
        rows: The rows; their index is left out.
        path: What messages call the table.
        missing: Cells with these texts are missing, as empty ones are.

    Raises:
        DataError: No rows, a column that stands twice, or cells of one column that are of several kinds.
    """
    if not isinstance(rows, pd.DataFrame) or rows.empty:
        raise DataError(f"{path}: the reader gave no rows; a data frame with a row per input expected.")
    names = tuple(map(str, rows.columns))
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise DataError(f"{path}: the reader gave the column `{twice[0]}` twice; rename one.")
    try:
        data = pa.Table.from_pandas(rows.set_axis(list(names), axis=1), preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        reason = (str(error).splitlines() or [""])[0].rstrip(".")
        raise DataError(f"{path}: the reader gave a column of cells of several kinds ({reason}).") from error
    marks = missing if isinstance(missing, list | tuple) else (missing,)
    return Table(path, names, None, tuple("" if mark is None else str(mark).strip() for mark in marks), data)
