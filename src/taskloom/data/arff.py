"""ARFF, the tables of Weka and Mulan: attributes by name and kind, then rows; all is read as text."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from taskloom.errors import DataError

ARFF_SUFFIX = ".arff"

_CELL = re.compile(r"""\s*('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^,]*?)\s*(,|$)""")
_ATTRIBUTE = re.compile(r"""@attribute\s+('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\S+)\s+(.+)""", re.IGNORECASE)


def read_arff(path: Path) -> tuple[list[str], pa.Table]:
    """Reads the names of the attributes and the rows, all as text; `?` is a missing value, "".

    Raises:
        DataError: No attributes or no `@data`, a row of another length, relations within rows, rows that name
            their values only where these are not 0 (sparse ARFF), or text that is not UTF-8.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "flowers.arff"
        >>> _ = path.write_text("@relation f\\n@attribute 'leaf area' numeric\\n@attribute kind {a,b}\\n"
        ...                     "@data\\n% a comment\\n1.5, a\\n?, 'b'\\n")
        >>> names, rows = read_arff(path)
        >>> names, rows.to_pydict()
        (['leaf area', 'kind'], {'leaf area': ['1.5', ''], 'kind': ['a', 'b']})
    """
    names: list[str] = []
    cells: list[list[str]] = []
    begun = False
    for number, line in _lines(path):
        if begun:
            for column, cell in zip(cells, _cells(path, number, line, len(names)), strict=True):
                column.append(cell)
        elif line.lower().startswith("@attribute"):
            names.append(_name(path, number, line))
            cells.append([])
        elif line.lower().startswith("@data"):
            begun = True
    if not begun or not names:
        missing = "`@data`" if names else "`@attribute`"
        raise DataError(f"{path}: an ARFF file with attributes and rows expected, found no {missing}.")
    return names, pa.Table.from_arrays([pa.array(column, pa.string()) for column in cells], names=names)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that hold anything but a comment, with their number."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if (text := line.strip()) and not text.startswith("%"):
                    yield number, text
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: text in UTF-8 expected, found other bytes; save it as UTF-8.") from error


def _name(path: Path, number: int, line: str) -> str:
    found = _ATTRIBUTE.fullmatch(line)
    if found is None:
        raise DataError(f"{path}:{number}: `@attribute NAME KIND` expected, found `{line[:60]}`.")
    if found.group(2).lower().startswith("relational"):
        raise DataError(f"{path}:{number}: an attribute that is a relation is not read; take it out.")
    return _unquoted(found.group(1))


def _unquoted(text: str) -> str:
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if quoted else text


def _with_both_quotes(line: str) -> list[str]:
    """The cells of a row in which some are quoted this way and some that, which `csv` does not read."""
    cells, place, more = [], 0, ","
    while more and (found := _CELL.match(line, place)):
        cells.append(_unquoted(found.group(1)))
        place, more = found.end(), found.group(2)
    return cells


def _cells(path: Path, number: int, line: str, expected: int) -> list[str]:
    if line.startswith("{"):
        raise DataError(
            f"{path}:{number}: sparse ARFF (`{{index value, ...}}`) is not read; write whole rows "
            "(Weka: the filter SparseToNonSparse)."
        )
    if '"' in line and "'" in line:
        row = _with_both_quotes(line)
    else:
        quote = '"' if '"' in line else "'"
        row = next(csv.reader([line], quotechar=quote, escapechar="\\", skipinitialspace=True))
    if len(row) != expected:
        raise DataError(f"{path}:{number}: {expected} values, one per attribute, expected, found {len(row)}.")
    return ["" if cell.strip() == "?" else cell.strip() for cell in row]
