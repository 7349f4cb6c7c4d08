"""Columns of categories as features: of every value a column of 0 and 1 (`data.categories`)."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from taskloom.data.cell_texts import sorted_values, without_decimals
from taskloom.errors import DataError
from taskloom.wording import counted

if TYPE_CHECKING:
    from taskloom.data.tables import Table

MOST_VALUES = 1000
"""More values than this are names, not categories: each would be a feature that hardly any row has."""


@dataclass(frozen=True)
class Categories:
    """The columns of a table whose values are features, a column of 0 and 1 each.

    A cell that is blank, or holds a value that is not here, is 0 in all of its column's features.

    Args:
        values: Per column its values in order; None in the place of a value that no training row has, whose
            feature is 0 everywhere.
        found: Per column its values in order, which name the features.

    Example:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "people.csv"
        >>> _ = path.write_text("sex,floor\\nF,10\\n,9\\nM,9\\n")
        >>> from taskloom.data.tables import read_table
        >>> people = read_table(path)
        >>> chosen = categories_of(people, ["sex", "floor"])
        >>> chosen.names
        ('sex=F', 'sex=M', 'floor=9', 'floor=10')
        >>> chosen.encode(people).tolist()
        [[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0]]
    """

    values: Mapping[str, Sequence[str | None]]
    found: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Name of every feature, `column=value`."""
        return tuple(f"{column}={value}" for column, values in self.found.items() for value in values)

    @property
    def columns(self) -> tuple[str, ...]:
        """The column of every feature."""
        return tuple(column for column, values in self.values.items() for _ in values)

    def encode(self, table: Table) -> NDArray[np.float32]:
        """The features of every row of a table with these columns, [M, K]."""
        features = np.zeros((len(table), len(self.columns)), dtype=np.float32)
        start = 0
        for column, values in self.values.items():
            places = _places(values)
            codes = np.array(
                [places.get(text, -1) for text in _texts(table, column).tolist()], dtype=np.int64
            )
            rows = np.flatnonzero(codes >= 0)
            features[rows, start + codes[rows]] = 1
            start += len(values)
        return features

    def unknown(self, table: Table) -> list[str]:
        """A sentence for every column in which a table has values that no training row had."""
        sentences = []
        for column, values in self.values.items():
            counts = pd.Series(_texts(table, column), dtype=object).value_counts()
            places = _places(values)
            new = counts[[value not in places and value != "" for value in counts.index]]
            if len(new):
                shown = ", ".join(f"`{value}`" for value in new.index[:3]) + (", ..." if len(new) > 3 else "")
                rows = counted(int(new.sum()), "row")
                sentences.append(
                    f"column `{column}` holds {shown} in {rows}, which no training row has: such a cell is "
                    "read as a blank one."
                )
        return sentences

    def seen(self, present: NDArray[np.bool_]) -> Categories:
        """The same features, where those that are not present, [K], stay 0 for ever."""
        flags = iter(present.tolist())
        kept = {
            column: tuple(value if next(flags) else None for value in values)
            for column, values in self.values.items()
        }
        return Categories(kept, self.found)


def categories_of(table: Table, columns: Sequence[str]) -> Categories:
    """The values of columns, of numbers by size, of text by the alphabet.

    Raises:
        DataError: A column is blank, or holds more than 1,000 values.
    """
    found = {}
    for column in columns:
        values = sorted_values(set(_texts(table, column).tolist()) - {""})
        if not values:
            raise DataError(f"{table.path}: column `{column}` is blank; take it out of `categories`.")
        if len(values) > MOST_VALUES:
            raise DataError(
                f"{table.path}: column `{column}` holds {len(values):,} different values, too many for a "
                f"feature of each ({MOST_VALUES:,} at most); take it out of `categories`."
            )
        found[column] = values
    return Categories(found, found)


def category_columns(
    table: Table, wanted: Sequence[str], taken: Sequence[str], exclude: Sequence[str]
) -> tuple[str, ...]:
    """The columns that `data.categories` names, by names or globs; `exclude` and tasks are left out.

    Raises:
        DataError: A name or glob that no column fits, or a task, group or split that is named outright.
    """
    chosen: set[str] = set()
    for pattern in map(str, wanted):
        if pattern in taken:
            raise DataError(
                f"{table.path}: column `{pattern}` is a task, the group or the split, and so cannot be one "
                "of `categories`; take it out there."
            )
        if pattern in table.columns:
            chosen.add(pattern)
            continue
        found = [name for name in table.columns if fnmatch.fnmatchcase(name, pattern)]
        chosen |= {name for name in found if name not in taken} or {
            table.column_name(pattern, "`categories`")
        }
    unwanted = {
        name for pattern in map(str, exclude) for name in table.columns if fnmatch.fnmatchcase(name, pattern)
    }
    return tuple(
        name for name in table.columns if name in chosen and name not in unwanted and name not in exclude
    )


def _places(values: Sequence[str | None]) -> dict[str, int]:
    """Where a cell's value stands among a column's; of true and false also as Parquet and JSON give them."""
    places = {value: place for place, value in enumerate(values) if value is not None}
    if {value.lower() for value in places} <= {"true", "false"}:
        places |= {{"true": "1", "false": "0"}[value.lower()]: place for value, place in places.items()}
    return places


def _texts(table: Table, column: str) -> NDArray[np.object_]:
    """The cells of a column, in which `3.0` is the value `3`; "" where missing."""
    texts = table.text(column)
    kinds = {text: without_decimals(text) for text in set(texts.tolist())}
    return np.array([kinds[text] for text in texts.tolist()], dtype=object)
