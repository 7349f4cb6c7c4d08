"""Quotation marks of text tables: one that is never closed takes the lines after it into its cell."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from taskloom.errors import DataError

_LONGEST_CELL = 2**31 - 1


def check_quotes(path: Path, separator: str, data: pa.Table) -> None:
    """Refuses a cell that opens with a quotation mark and swallows lines because the mark is not closed.

    Readers of CSV take such lines into the cell without a word: of a table with one stray mark in a column of
    notes, most rows would be gone. Cells of several lines that are quoted as they should be are fine.

    Args:
        path: The file.
        separator: Its separator.
        data: What was read, with a column of texts each.

    Raises:
        DataError: Naming the line on which the cell begins, and its column.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "notes.csv"
        >>> _ = path.write_text('x,note\\n1,"see below\\n2,fine\\n')
        >>> check_quotes(path, ",", pa.table({"x": ["1"], "note": ["see below\\n2,fine\\n"]}))
        Traceback (most recent call last):
        ...
        taskloom.errors.DataError: ...notes.csv:2: column `note`: ...
    """
    if not any(_has_line_break(column) for column in data.columns):
        return  # every row is a line: no mark can have swallowed one
    error = unclosed_quote(path, separator)
    if error is not None:
        raise error


def unclosed_quote(path: Path, separator: str) -> DataError | None:
    """Returns what is wrong with the first cell that swallows lines, or None."""
    limit = csv.field_size_limit(_LONGEST_CELL)  # of Python's reader; Arrow's, which reads tables, has none
    try:
        return _unclosed_quote(path, separator)
    finally:
        csv.field_size_limit(limit)


def _unclosed_quote(path: Path, separator: str) -> DataError | None:
    blanks = " " if separator == "\t" else " \t"
    after_a_mark = re.compile(rf'"[{blanks}]+(?=[{re.escape(separator)}\r\n]|$)')
    lines: list[str] = []
    start = 1
    with path.open(encoding="utf-8-sig", newline="") as file:
        records = csv.reader(_remembered(file, lines), delimiter=separator)
        while next(records, None) is not None:
            if len(lines) > 1:
                plain = [after_a_mark.sub('"', line) for line in lines]  # readers forgive blanks there
                try:
                    list(csv.reader(plain, delimiter=separator, strict=True))
                except csv.Error:
                    return _error(path, start, lines, separator)
            start += len(lines)
            lines.clear()
    return None


def _error(path: Path, start: int, lines: list[str], separator: str) -> DataError:
    # the first line alone ends within the cell that the mark opens
    column = len(next(csv.reader(lines[:1], delimiter=separator)))
    with path.open(encoding="utf-8-sig", newline="") as file:
        names = next(csv.reader(file, delimiter=separator)) if start > 1 else []
    name = f"column `{names[column - 1].strip()}`" if column <= len(names) else f"cell {column}"
    return DataError(
        f"{path}:{start}: {name}: a quotation mark opens the cell and is not closed where the cell ends, so "
        f"that {len(lines) - 1:,} more lines stand in it; close the mark or remove it (within quotation "
        "marks, one that belongs to the text is written twice)."
    )


def _remembered(file: Iterable[str], lines: list[str]) -> Iterator[str]:
    for line in file:
        lines.append(line)
        yield line


def _has_line_break(column: pa.ChunkedArray) -> bool:
    return any(pc.any(pc.match_substring(column, mark)).as_py() or False for mark in ("\n", "\r"))
