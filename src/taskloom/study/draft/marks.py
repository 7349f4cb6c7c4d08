"""How a table is to be read: its decimal sign, and what it writes where nothing is known."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pandas as pd

from taskloom.data.cell_texts import has_decimal_comma, looks_missing
from taskloom.data.tables import Table
from taskloom.errors import DataError

_WORDS = frozenset({"unknown", "none", "not available", "n/d", "n.d.", "nd", "--", "---", "#value!"})
"""Further texts that stand for nothing where all other cells of a column are numbers."""
_MOST_MARKS = 4


def with_decimal(table: Table, others: Iterable[str]) -> Table:
    """The table with the decimal sign by which more of its columns are numbers.

    Args:
        table: The table, read with points.
        others: Its columns that are no numbers then.

    Example:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "people.csv"
        >>> _ = path.write_text("a;b\\n3,5;1\\n2,25;2\\n")
        >>> from taskloom.data.tables import read_table
        >>> with_decimal(read_table(path), ['a']).decimal
        ','
    """
    if table.separator is None:  # Parquet holds numbers as numbers
        return table
    comma = replace(table, decimal=",")
    votes = 0
    for name in others:
        texts = pd.unique(pd.Series(table.text(name), dtype=object))
        commas = sum(map(has_decimal_comma, texts))
        if 2 * commas > len(texts) or (commas and comma.is_numeric(name)):
            votes += 1
    if not votes:
        return table
    lost = sum(table.is_numeric(name) and not comma.is_numeric(name) for name in table.columns)
    return comma if votes > lost else table


def marks_in(table: Table, name: str) -> dict[str, int]:
    """Texts of a column that stand for a missing value, and how often: all other cells are numbers.

    Example:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "people.csv"
        >>> _ = path.write_text("age,city\\n31,Bonn\\nunknown,?\\n47,Rome\\n")
        >>> from taskloom.data.tables import read_table
        >>> people = read_table(path)
        >>> marks_in(people, "age"), marks_in(people, "city")
        ({'unknown': 1}, {})
    """
    with suppress(DataError):  # raised of a cell that is no number among others that are
        if table.numbers_or_none(name) is not None:
            return {}
    counts = pd.Series(table.text(name), dtype=object).value_counts()
    counts = counts[counts.index != ""]
    texts = pd.Series(counts.index, dtype=object)
    points = texts.str.replace(".", "?").str.replace(",", ".") if table.decimal == "," else texts
    numbers = pd.to_numeric(points, errors="coerce").to_numpy(np.float64)
    marks = [str(text) for text in texts[np.isnan(numbers)]]
    known = all(looks_missing(mark) or mark.lower() in _WORDS for mark in marks)
    if not marks or not known or len(marks) > _MOST_MARKS or not (~np.isnan(numbers)).any():
        return {}
    return {mark: int(counts[mark]) for mark in marks}
