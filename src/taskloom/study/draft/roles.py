"""What a column is likely for: an identifier, the group that rows belong to, the split, or an input."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from taskloom.data.tables import Table
from taskloom.study.draft.columns import MOST_CATEGORIES, Column

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+|\d+")
_IDENTIFIERS = frozenset({"id", "ids", "uuid", "guid", "uid", "index", "idx"})
_OF_ONE_ROW = frozenset({"index", "idx"})
_NUMBERING = frozenset({"row", "nr", "no", "number", "key"})
_OF_A_NAME = frozenset({*_IDENTIFIERS, *_NUMBERING, "num", "code", "name", "label"})
_UNITS = frozenset(
    {
        *("person", "subject", "patient", "speaker", "participant", "individual", "people", "proband"),
        *("donor", "user", "client", "customer", "animal", "mouse", "child", "pupil", "student", "family"),
        *("household", "molecule", "smiles", "group", "cluster", "case", "sample", "specimen", "slide"),
        *("subj", "pat", "site", "batch", "hospital", "clinic", "plate"),
    }
)
_LEAST_GROUPS = 3
_LEAST_UNNAMED = 10
_MOST_ARMS = 10
_LEAST_AROUND = 10
_MAYBE_ARMS = frozenset({"group", "cluster", "batch", "site", "hospital", "clinic", "plate"})
"""Names of what rows belong to, but also of few arms or places, which are no sample of all there could be."""
_TIMES = frozenset({"date", "day", "datetime", "timestamp", "time"})
_ABOUT_A_TIME = frozenset(
    {*_TIMES, "of", "measurement", "measured", "recording", "recorded", "visit", "observation", "obs"}
)
_RULES = ("rows", "column", "files")
"""Names that mean a rule of `split.by`, and so cannot be a column there."""


def words_of(name: str) -> list[str]:
    """The words of a column's name in small letters.

    Example:
        >>> words_of("subject#"), words_of("patientID"), words_of("mol_id"), words_of("userid")
        (['subject'], ['patient', 'id'], ['mol', 'id'], ['user', 'id'])
    """
    return [part for word in _WORDS.findall(name) for part in _parted(word.lower())]


def _parted(word: str) -> tuple[str, ...]:
    """A word, or the two of which `subjectid` and `patientnr` are made."""
    ends = (end for end in _OF_A_NAME if word.endswith(end) and word.removesuffix(end) in _UNITS)
    end = next(ends, None)
    return (word,) if end is None else (word.removesuffix(end), end)


def is_unit_name(name: str) -> bool:
    """Whether a name says whom or what rows are of, `patient` or `subject_id`, and not something of theirs.

    Example:
        >>> is_unit_name("Patient ID"), is_unit_name("patient_age")
        (True, False)
    """
    words = [word for word in words_of(name) if word not in _OF_A_NAME]
    return len(words) == 1 and words[0] in _UNITS


def is_identifier_name(name: str) -> bool:
    """Whether a name says that the column identifies something.

    Example:
        >>> is_identifier_name("mol_id"), is_identifier_name("humidity")
        (True, False)
    """
    words = words_of(name)
    return bool(words) and (words[-1] in _IDENTIFIERS or words[0] in _IDENTIFIERS)


def why_identifier(column: Column) -> str:
    """Why a column of numbers identifies rows instead of describing them; "" where nothing says so."""
    if not column.is_number or not column.whole:
        return ""
    mostly_unique = 10 * column.num_distinct >= 9 * column.num_given
    words = words_of(column.name)
    if column.name.startswith("__index_level_"):
        return "the index of a data frame"
    if is_identifier_name(column.name) or (is_unit_name(column.name) and column.num_distinct > _MOST_ARMS):
        return "an identifier by its name"
    if len(words) == 1 and words[0] in _NUMBERING and mostly_unique:
        return "numbers the rows"
    if column.num_given < 3 or not column.is_unique:
        return ""
    if column.ascending:
        return "rises from row to row"
    if column.high - column.low == column.num_distinct - 1:
        return "numbers the rows"
    return ""


def may_group(column: Column) -> bool:
    """Whether every row has a value of the column, some rows the same, and there are enough values."""
    complete = column.num_given == column.num_rows and not column.slip
    return complete and _LEAST_GROUPS <= column.num_distinct < column.num_rows and column.name not in _RULES


def find_group(columns: Iterable[Column]) -> tuple[str, str] | None:
    """The column that says which rows belong together, and how that is told; None where none does.

    By its name (a person, a subject, a molecule; else a place or a batch); else an identifier that stands in
    several rows; else text that repeats, of too many values for classes; else the day of a measurement.
    """
    candidates = [column for column in columns if may_group(column)]
    units = [column for column in candidates if _is_unit(column)]
    for column in sorted(units, key=_may_be_arms):  # of a patient and a hospital, the patient
        return column.name, "by its name"
    for column in candidates:
        of_several = is_identifier_name(column.name) and not _OF_ONE_ROW & set(words_of(column.name))
        if of_several and column.repeats and (column.whole or not column.is_number):
            return column.name, "an identifier that stands in several rows"
    for column in candidates:
        # Text of more values than are made into features is no input: alike rows are better kept together.
        least = min(max(_LEAST_UNNAMED, np.sqrt(column.num_rows)), MOST_CATEGORIES + 1)
        if not column.is_number and not column.is_date and column.repeats and column.num_distinct >= least:
            return column.name, "text whose values repeat"
    for column in candidates:
        if _says_when(column) and column.repeats and column.num_distinct >= _LEAST_UNNAMED:
            return column.name, "rows of one day are alike"
    return None


def _says_when(column: Column) -> bool:
    """Whether dates say when a row was measured, and not when somebody was born."""
    words = words_of(column.name)
    return column.is_date and bool(_TIMES & set(words)) and set(words) <= _ABOUT_A_TIME


def _is_unit(column: Column) -> bool:
    few = _may_be_arms(column) and column.num_distinct < _LEAST_UNNAMED
    return is_unit_name(column.name) and not few


def _may_be_arms(column: Column) -> bool:
    return bool(_MAYBE_ARMS & set(words_of(column.name)))


def unit_around(table: Table, columns: Iterable[Column], inner: str) -> str | None:
    """The widest unit in which those of another column lie whole, as persons do in families; None where none.

    Of enough values to split by; rows of one family, say, are alike even where the persons differ.
    """
    own = table.text(inner)
    wider = [column for column in columns if column.name != inner and may_group(column) and _is_unit(column)]
    wider = [column for column in wider if not _may_be_arms(column)]
    num_own = len(set(own))
    for column in sorted(wider, key=lambda column: column.num_distinct):
        if _LEAST_AROUND <= column.num_distinct < num_own:
            pairs = set(zip(own, table.text(column.name), strict=True))
            if len(pairs) == num_own:
                return column.name
    return None


def of_one_row(columns: Iterable[Column]) -> Column | None:
    """A column that by its name says whom rows are of, another one in each; None where none does."""
    named = [column for column in columns if is_unit_name(column.name)]
    return next((column for column in named if column.is_unique and not column.holes), None)


def blank_group(columns: Iterable[Column]) -> Column | None:
    """A column that by its name says which rows belong together, but is blank in some; None where none is."""
    named = [column for column in columns if is_unit_name(column.name) and column.num_distinct > 1]
    return next((column for column in named if 0 < column.holes < 1 and column.repeats), None)
