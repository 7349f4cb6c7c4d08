"""Tables of plain rows: CSV, TSV, Parquet and ARFF with every mistake located.

Cells are kept as the text that stands in the file until a column is asked for as numbers or as classes, so
that a class code `007` stays what it is and a message can quote the cell it is about.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from taskloom.data.arff import ARFF_SUFFIX, read_arff
from taskloom.data.cell_texts import has_decimal_comma, looks_missing, way_out
from taskloom.data.quotes import check_quotes, unclosed_quote
from taskloom.data.table_dataset import TableDataset
from taskloom.errors import ConfigError, DataError, did_you_mean

__all__ = [
    "PARQUET_SUFFIXES",
    "SEPARATORS",
    "SPREADSHEETS",
    "Table",
    "TableDataset",
    "read_table",
    "sniff_separator",
]

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}
"""The separators that are looked for in the header line, with their names for reports."""

PARQUET_SUFFIXES = (".parquet", ".pq")
SPREADSHEETS = (".xlsx", ".xlsm", ".xls", ".ods")


@dataclass(frozen=True)
class Table:
    """A table as it stands in a file; `read_table` makes it.

    Args:
        path: The file, for messages.
        columns: Column names in file order.
        separator: The separator of a text file; None for Parquet and ARFF.
        missing: Cell texts that mean "missing" besides blank ones.
        decimal: "." or ",", what stands before the decimals of a text file's numbers.
    """

    path: Path
    columns: tuple[str, ...]
    separator: str | None
    missing: tuple[str, ...]
    _data: Any = field(repr=False)
    decimal: str = "."

    def __len__(self) -> int:
        return int(self._data.num_rows)

    def column_name(self, name: str, purpose: str) -> str:
        """Returns `name` if the table has that column.

        Args:
            name: The column wanted.
            purpose: What wants it, for the message, for example "task `age`".

        Raises:
            DataError: There is no such column; the nearest name is suggested.
        """
        if name not in self.columns:
            raise DataError(
                f"{self.path}: no column `{name}`, which {purpose} needs.{did_you_mean(name, self.columns)} "
                f"Columns: {_shortened(self.columns)}."
            )
        return name

    def renamed(self, names: Mapping[str, str]) -> Table:
        """The same table with other names of columns.

        Args:
            names: New name -> the column's name here. A column that has a new name already loses it.

        Raises:
            DataError: There is no such column.
        """
        new = {self.column_name(old, f"`{ours}`"): ours for ours, old in names.items()}
        columns = tuple(new.get(name, f"{name} (here)" if name in names else name) for name in self.columns)
        return replace(self, columns=columns, _data=self._data.rename_columns(list(columns)))

    def text(self, name: str) -> NDArray[np.object_]:
        """Returns the cells of a column, [N], without surrounding blanks; "" where missing.

        Whole numbers, also those that a Parquet file holds as floats because some are missing, read "3", and
        Booleans read "0" and "1".
        """
        return np.asarray(self._trimmed(name).to_numpy(zero_copy_only=False), dtype=object)

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Returns a column as numbers, [N], NaN where missing.

        Raises:
            DataError: A cell is not a finite number; file, line and column are named.
        """
        values, given, _ = self._parsed(name)
        self._check_finite(name, values, given, "leave the cell blank where it is missing")
        return values

    def numbers_or_none(self, name: str) -> NDArray[np.float64] | None:
        """Returns a column as `numbers` does, or None where at most half of the cells given are numbers.

        Raises:
            DataError: More than half of the cells are numbers, but one is not: a slip, not a column of text.
        """
        values, given, is_number = self._parsed(name)
        if 2 * is_number.sum() <= given.sum() and 2 * self._meant_as_numbers(name, is_number) <= given.sum():
            return None
        self._check_finite(name, values, given, "mend the cell, or leave the column out with `exclude`")
        return values

    def _meant_as_numbers(self, name: str, is_number: NDArray[np.bool_]) -> int:
        """How many cells are numbers, or would be if the table were read with the settings it needs.

        Marks of missing values count in a column that has numbers besides: a column of such marks alone holds
        nothing, and a column of decimal commas must not be left out as if it were text.
        """
        texts = self.text(name)[~is_number]
        commas = sum(map(has_decimal_comma, texts)) if self.decimal == "." else 0
        marks = sum(map(looks_missing, texts)) if commas or is_number.any() else 0
        return int(is_number.sum()) + commas + marks

    def is_numeric(self, name: str) -> bool:
        """Whether every cell of a column that is not missing is a number, and at least one is there.

        A cell that reads "inf" or "nan" is a number here, so that `numbers` is asked for the column and
        refuses the cell by its place; a column would else be left out in silence.
        """
        _, given, is_number = self._parsed(name)
        return bool(given.any() and is_number.sum() == given.sum())

    def _parsed(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
        """Values (NaN where there is no number), which cells are given, and which of them are numbers."""
        stored = self._stored_numbers(name)
        if stored is not None:
            given = ~np.isnan(stored)
            return stored, given, given
        cells = self._trimmed(name)
        if self.decimal == ",":  # a point groups thousands there: "1.234" is not read as 1.234
            cells = pc.replace_substring(pc.replace_substring(cells, ".", "?"), ",", ".")
        blank = pc.equal(cells, "")
        given = ~np.asarray(blank.to_numpy(zero_copy_only=False))
        try:
            cast = pc.cast(pc.if_else(blank, pa.scalar(None, pa.string()), cells), pa.float64())
            return np.asarray(cast.to_numpy(zero_copy_only=False), dtype=np.float64), given, given
        except pa.ArrowInvalid:
            texts = pd.Series(np.asarray(cells.to_numpy(zero_copy_only=False), dtype=object))
            values = pd.to_numeric(texts, errors="coerce").to_numpy(np.float64, copy=True)
            return values, given, ~np.isnan(values)

    def _stored_numbers(self, name: str) -> NDArray[np.float64] | None:
        """A Parquet column's numbers without the way through text, where that gives the same ones.

        Not of marks for missing values, which are texts, nor of narrower floats: 0.1 stays 0.1 by its text.
        """
        cells = self._data.column(name)
        if self.missing or not (pa.types.is_float64(cells.type) or pa.types.is_integer(cells.type)):
            return None
        return np.array(cells.to_numpy(), dtype=np.float64)

    def _check_finite(
        self, name: str, values: NDArray[np.float64], given: NDArray[np.bool_], otherwise: str
    ) -> None:
        bad = np.flatnonzero(given & ~np.isfinite(values))
        if bad.size:
            row = int(bad[0])
            text = str(self.text(name)[row])
            advice = way_out(text, otherwise, self.missing, self.decimal)
            raise DataError(f"{self.where(row, name)}: a number expected, found `{text}`; {advice}.")

    def where(self, row: int, column: str) -> str:
        """Says where a cell stands: file, line (1-based, the header is line 1) and column."""
        if self.separator is None:
            return f"{self.path}: row {row + 1}, column `{column}`"
        return f"{self.path}:{self.line(row)}: column `{column}`"

    def line(self, row: int) -> int:
        """Line of the file on which a row begins; counted anew, as only messages ask for it."""
        assert self.separator is not None  # Parquet has no lines
        for position, (line, _) in enumerate(_records(self.path, self.separator)):
            if position == row + 1:
                return line
        raise AssertionError(f"row {row} of {self.path} not found again")

    def _trimmed(self, name: str) -> Any:
        """The column as a pyarrow string array without nulls."""
        cells = self._data.column(name).combine_chunks()
        if pa.types.is_nested(cells.type) or pa.types.is_binary(cells.type):
            # Parquet may hold them in any column; none is a number, a class or a name.
            cells = pc.if_else(pc.is_valid(cells), f"<{cells.type}>", "")
        if pa.types.is_boolean(cells.type):
            cells = pc.cast(cells, pa.int8())
        if pa.types.is_floating(cells.type):
            cells = _whole_numbers(cells)
        if pa.types.is_dictionary(cells.type):
            cells = pc.cast(cells, cells.type.value_type)
        cells = pc.fill_null(pc.utf8_trim_whitespace(pc.cast(cells, pa.string())), "")
        if self.missing:
            marks = pa.array(self.missing, pa.string())
            # What wrote the file may have put decimals to a whole number: -1.0 is the mark -1 as well.
            whole = pc.replace_substring_regex(cells, rf"^([+-]?\d+)[{self.decimal}]0*$", r"\1")
            marked = pc.or_(pc.is_in(cells, value_set=marks), pc.is_in(whole, value_set=marks))
            cells = pc.if_else(marked, "", cells)
        return cells


def read_table(
    path: Path | str,
    *,
    separator: str | None = None,
    missing: Sequence[Any] = (),
    decimal: str = ".",
) -> Table:
    """Reads a CSV, TSV, Parquet or ARFF table.

    A first column without a name that only numbers the rows, as pandas writes its index, is left out.

    Args:
        path: A `.parquet` or `.pq` file is Parquet, `.arff` is ARFF; everything else is text in UTF-8 with a
            header line.
        separator: Separator of a text file; looked for among comma, semicolon and tab where None.
        missing: Cells with these texts are missing, as blank ones always are.
        decimal: "." or ",": what stands before the decimals of numbers in a text file.

    Raises:
        DataError: No such file, no rows, a column that stands twice, a row that is too long or too short, or
            text that is not UTF-8, or a quotation mark that is never closed.
        ConfigError: `decimal` is something else.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "people.csv"
        >>> _ = path.write_text("name;age\\nAda;36\\nAlan;\\n")
        >>> table = read_table(path)
        >>> table.columns, table.separator
        (('name', 'age'), ';')
        >>> table.numbers("age")
        array([36., nan])
    """
    path = Path(path)
    if decimal not in (".", ","):
        raise ConfigError(f'data.decimal: "." or "," expected, found {decimal!r}.')
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        bare = not path.exists() and path.parent == Path()
        advice = "; where it is in another folder, name that too (`--data DIR` of a study)" if bare else ""
        raise DataError(f"{path}: a table (CSV, TSV or Parquet) expected, found {found}{advice}.")
    if path.suffix.lower() in SPREADSHEETS:
        raise DataError(f"{path}: a spreadsheet is not read; save its sheet as CSV in UTF-8, or as Parquet.")
    marks = tuple("" if mark is None else str(mark).strip() for mark in missing)
    if path.suffix.lower() in PARQUET_SUFFIXES:
        try:
            data = pyarrow.parquet.read_table(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(
                f"{path}: not a readable Parquet file ({_first_line(error)}); copy or write it again, and "
                "name it .csv if it is text."
            ) from error
        table = Table(path, _checked_header(path, data.column_names), None, marks, data)
    elif path.suffix.lower() == ARFF_SUFFIX:
        names, data = read_arff(path)
        columns = _checked_header(path, names)
        table = Table(path, columns, None, marks, data.rename_columns(list(columns)))
    else:
        table = replace(_read_text(path, separator, marks), decimal=decimal)
    if len(table) == 0:
        raise DataError(f"{path}: the table is empty; a header and at least one row expected.")
    return table


def sniff_separator(path: Path) -> str:
    """Returns the separator (comma, semicolon or tab) that cuts the header line into the most columns."""
    counts: dict[str, int] = {}
    too_long: csv.Error | None = None
    for separator in SEPARATORS:
        try:
            counts[separator] = len(_header(path, separator))
        except csv.Error as error:  # a cell of thousands of names, where another separator parts them
            too_long = error
    if too_long is not None and max(counts.values(), default=0) < 2:
        raise too_long
    return max(counts, key=lambda separator: counts[separator])


def _read_text(path: Path, separator: str | None, missing: tuple[str, ...]) -> Table:
    if separator is not None and len(separator) != 1:
        raise DataError(f"{path}: a separator of one character expected, found {separator!r}.")
    try:
        separator = separator or sniff_separator(path)
        header = _header(path, separator)
        numbered = len(header) > 1 and not header[0].strip() and _numbers_the_rows(path, separator)
        columns = _checked_header(path, header[1:] if numbered else header)
        data = pyarrow.csv.read_csv(
            path,
            parse_options=pyarrow.csv.ParseOptions(delimiter=separator, newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={name: pa.string() for name in header}, strings_can_be_null=False
            ),
        )
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: text in UTF-8 expected, found other bytes; save the table as UTF-8 (if it is "
            "latin-1: `iconv -f latin1 -t utf-8 FILE > NEW`)."
        ) from error
    except csv.Error as error:  # the header's cell is longer than any name: its mark is not closed
        raise unclosed_quote(path, separator or ",") or DataError(f"{path}: no header ({error}).") from error
    except pa.ArrowInvalid as error:
        raise _text_error(path, separator or ",", error) from error
    check_quotes(path, separator, data)
    if numbered:
        data = data.remove_column(0)
    return Table(path, columns, separator, missing, data.rename_columns(list(columns)))


def _text_error(path: Path, separator: str, error: Exception) -> DataError:
    """Finds a mark of quotation that is not closed, or the first row of another length than the header."""
    try:
        unclosed = unclosed_quote(path, separator)
        if unclosed is not None:
            return unclosed
        expected = len(_header(path, separator))
        for line, record in _records(path, separator):
            if len(record) != expected:
                return DataError(
                    f"{path}:{line}: {expected} columns expected, found {len(record)} (separator: "
                    f"{SEPARATORS.get(separator, separator)})."
                )
    except UnicodeDecodeError:
        return DataError(f"{path}: text in UTF-8 expected, found other bytes; save the table as UTF-8.")
    return DataError(f"{path}: not a readable table ({_first_line(error)}).")


def _records(path: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """The header and the rows as lists of cells, each with the line it begins on; no blank lines."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=separator)
        line = 1
        for record in reader:
            if record:
                yield line, record
            line = reader.line_num + 1


def _header(path: Path, separator: str) -> list[str]:
    try:
        return next(_records(path, separator))[1]
    except StopIteration:
        raise DataError(f"{path}: the table is empty; a header and at least one row expected.") from None


def _numbers_the_rows(path: Path, separator: str) -> bool:
    """Whether the first column holds another whole number in every row, as the index of a data frame does."""
    cells = [record[0] for _, record in itertools.islice(_records(path, separator), 1, None)]
    return len(cells) > 1 and all(cell.isdecimal() for cell in cells) and len(set(cells)) == len(cells)


def _checked_header(path: Path, header: Sequence[str]) -> tuple[str, ...]:
    """Column names without surrounding blanks; refuses names that stand twice and columns without a name."""
    columns = tuple(name.strip() for name in header)
    places: dict[str, int] = {}
    for position, name in enumerate(columns):
        if not name:
            raise DataError(
                f"{path}:1: column {position + 1} of {len(columns)} has no name; name it or remove it."
            )
        first = places.setdefault(name, position)
        if first != position:
            if 2 * sum(map(_is_number, columns)) > len(columns):
                raise DataError(
                    f"{path}:1: the names of the columns expected, found what looks like a row of data "
                    f"(`{name}` stands twice); put a line with a name for each column above it."
                )
            raise DataError(
                f"{path}:1: column `{name}` stands twice ({first + 1} and {position + 1}); rename one."
            )
    return columns


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text == "?"
    return True


def _whole_numbers(cells: Any) -> Any:
    """Floats as integers where all are whole; NaN counts as missing."""
    cells = pc.if_else(pc.is_nan(cells), pa.scalar(None, cells.type), cells)
    try:
        return pc.cast(cells, pa.int64())  # a safe cast: refuses fractions
    except pa.ArrowInvalid:
        return cells


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _shortened(names: Sequence[str], most: int = 20) -> str:
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")
