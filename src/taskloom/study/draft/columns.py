"""What a column of a table looks like: numbers, classes, text or dates, how many values, how many holes."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from taskloom.data.tables import Table
from taskloom.errors import DataError
from taskloom.study.draft.yaml_text import shown

_DATE = re.compile(r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}([T ].*)?|\d{1,2}[-/.]\d{1,2}[-/.]\d{4}([T ].*)?")
_EXAMPLES = 8
FEW_CLASSES = 20
"""Up to so many distinct values that repeat, a column is said to hold classes."""
MOST_CATEGORIES = 50
"""Up to so many values, a column of text is made into features."""
_LEAST_OF_EACH = 3
"""Rows per value, on average, of a column of text that is made into features."""


@dataclass(frozen=True)
class Column:
    """A column as a reader of the table would describe it.

    Args:
        name: Its name.
        num_rows, num_given, num_distinct: Rows, cells that are not missing, and distinct values.
        examples: The first of its values: of numbers the smallest, of text the most frequent.
        is_number: Whether every cell that is given is a finite number.
        low, high: Of numbers, the ends.
        whole, ascending: Of numbers, whether all are whole, and whether they rise from row to row.
        is_date: Whether its text reads like dates.
        slip: Why a column of numbers cannot be read as one; "" where it can.
    """

    name: str
    num_rows: int
    num_given: int
    num_distinct: int
    examples: tuple[str, ...]
    is_number: bool = False
    low: float = np.nan
    high: float = np.nan
    whole: bool = False
    ascending: bool = False
    is_date: bool = False
    slip: str = ""

    @property
    def holes(self) -> float:
        """Share of the rows without a value."""
        return 1 - self.num_given / max(self.num_rows, 1)

    @property
    def is_unique(self) -> bool:
        """Whether no value stands twice."""
        return self.num_distinct == self.num_given > 1

    @property
    def repeats(self) -> bool:
        """Whether values stand twice on average, as those of classes do."""
        return 2 * self.num_distinct <= self.num_given

    @property
    def is_classes(self) -> bool:
        """Whether its values look like classes: few, and each of them again and again."""
        few = self.num_distinct <= (10 if self.is_number else FEW_CLASSES)
        return self.num_distinct >= 2 and few and self.repeats and (self.whole or not self.is_number)

    @property
    def is_category(self) -> bool:
        """Whether it is text of so few values, each so often, that a feature of each can be learned from."""
        few = (
            2 <= self.num_distinct <= MOST_CATEGORIES and self.num_given >= _LEAST_OF_EACH * self.num_distinct
        )
        return few and not (self.is_number or self.is_date or self.slip)

    def describe(self) -> str:
        """Kind and values in a few words.

        Example:
            >>> Column("sex", 9, 8, 2, ("F", "M")).describe()
            '2 values: F, M'
        """
        if not self.num_given:
            return "blank"
        if self.slip:
            return "numbers with slips"
        if self.num_distinct == 1:
            return f"one value: {shown(self.examples[0])}"
        if self.is_date:
            return f"dates, such as {shown(self.examples[0])}"
        if self.is_classes:
            more = ", ..." if self.num_distinct > len(self.examples) else ""
            return f"{self.num_distinct} values: {', '.join(map(shown, self.examples))}{more}"
        if self.is_number:
            return f"{'whole numbers' if self.whole else 'numbers'}, {self.low:g} to {self.high:g}"
        return f"text, {self.num_distinct:,} values, such as {shown(self.examples[0])}"


def look(table: Table, name: str) -> Column:
    """Looks at one column.

    Args:
        table: Read with the marks of missing values and the decimal sign that hold for it.
        name: The column.

    Example:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "people.csv"
        >>> _ = path.write_text("age,sex\\n31,F\\n,M\\n47,F\\n52,M\\n")
        >>> from taskloom.data.tables import read_table
        >>> people = read_table(path)
        >>> look(people, "age").describe(), look(people, "age").holes, look(people, "sex").describe()
        ('whole numbers, 31 to 52', 0.25, '2 values: F, M')
    """
    try:
        numbers = table.numbers_or_none(name)
    except DataError as error:
        texts = _counted(table, name)
        return _text_column(name, len(table), texts, slip=str(error))
    if numbers is None:
        return _text_column(name, len(table), _counted(table, name))
    return _number_column(name, numbers)


def _number_column(name: str, numbers: NDArray[np.float64]) -> Column:
    given = numbers[~np.isnan(numbers)]
    values = np.unique(given)
    if not len(values):
        return Column(name, len(numbers), 0, 0, ())
    return Column(
        name,
        len(numbers),
        len(given),
        len(values),
        tuple(f"{value:.6g}" for value in values[:_EXAMPLES]),
        is_number=True,
        low=float(values[0]),
        high=float(values[-1]),
        whole=bool((values == np.round(values)).all()),
        ascending=bool(len(given) > 2 and (np.diff(given) > 0).all()),
    )


def _text_column(name: str, num_rows: int, texts: pd.Series[int], slip: str = "") -> Column:
    examples = tuple(str(text) for text in texts.index[:_EXAMPLES])
    dates = bool(examples) and all(_DATE.fullmatch(text) for text in examples)
    if len(texts) <= _EXAMPLES:
        examples = tuple(sorted(examples))
    return Column(name, num_rows, int(texts.sum()), len(texts), examples, is_date=dates, slip=slip)


def _counted(table: Table, name: str) -> pd.Series[int]:
    """How often every text stands in a column, the most frequent first; blank cells do not count."""
    cells = pd.Series(table.text(name), dtype=object)
    return cells[cells != ""].value_counts()
