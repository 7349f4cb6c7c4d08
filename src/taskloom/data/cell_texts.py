"""What a table's cell may have been meant to be: a missing value, a number with a decimal comma."""

from __future__ import annotations

import re
from collections.abc import Iterable

MISSING_MARKS = frozenset(
    {"na", "n/a", "n.a.", "#n/a", "#na", "nan", "null", "nil", "missing", "?", "-", "."}
)
"""Texts, in small letters, that other programs write where there is nothing. None of them is taken for
missing unless `missing` says so: "na" may be Namibia."""

_WHOLE_AS_DECIMAL = re.compile(r"([+-]?\d+)\.0*")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")

_DECIMAL_POINT = re.compile(r"[+-]?\d*\.\d+([eE][+-]?\d+)?")


def looks_missing(text: str) -> bool:
    """Whether a cell reads like a mark of a missing value.

    Example:
        >>> looks_missing("N/A"), looks_missing("0")
        (True, False)
    """
    return text.strip().lower() in MISSING_MARKS


def has_decimal_comma(text: str) -> bool:
    """Whether a cell reads like a number with a decimal comma.

    Example:
        >>> has_decimal_comma("3,14"), has_decimal_comma("3.14"), has_decimal_comma("1,2,3")
        (True, False, False)
    """
    return _DECIMAL_COMMA.fullmatch(text.strip()) is not None


def way_out(text: str, otherwise: str, missing: Iterable[str] = (), decimal: str = ".") -> str:
    """What to do about a cell that is no number, as the end of a message.

    Args:
        text: The cell.
        otherwise: The advice where nothing better is known.
        missing: The marks of missing values that are set already.
        decimal: What stands before the decimals of the table's numbers.

    Example:
        >>> way_out("3,14", "mend the cell")
        'numbers with a decimal comma are read with `decimal: ","` in `data`'
        >>> way_out("three", "mend the cell")
        'mend the cell'
    """
    if decimal != "," and has_decimal_comma(text):
        return 'numbers with a decimal comma are read with `decimal: ","` in `data`'
    if decimal == "," and _DECIMAL_POINT.fullmatch(text.strip()):
        return 'the table is read with `decimal: ","`, and a point may group thousands: write `12,5`'
    if looks_missing(text):
        setting = missing_with(missing, [text])
        return f"where it means a missing value, say `{setting}` in `data`, or leave the cell blank"
    return otherwise


def missing_with(given: Iterable[str], marks: Iterable[str]) -> str:
    """The setting `missing` with further marks, ready to be copied.

    Example:
        >>> missing_with(["?"], ["n/a", "?"])
        'missing: ["?", "n/a"]'
    """
    return "missing: [" + ", ".join(f'"{mark}"' for mark in dict.fromkeys([*given, *marks])) + "]"


def alike_but_for_case(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Names that differ in capital letters and inner blanks only, those that belong together in one tuple.

    Example:
        >>> alike_but_for_case(["yes", "no", "Yes"])
        [('Yes', 'yes')]
    """
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(" ".join(name.casefold().split()), []).append(name)
    return [tuple(sorted(group)) for group in found.values() if len(group) > 1]


def without_decimals(text: str) -> str:
    """A whole number as it is written without decimals, `3` for `3.0`; any other text as it is.

    Example:
        >>> without_decimals("3.0"), without_decimals("3.5")
        ('3', '3.5')
    """
    whole = _WHOLE_AS_DECIMAL.fullmatch(text)
    return whole.group(1) if whole else text


def sorted_values(values: set[str]) -> tuple[str, ...]:
    """Values by number where all are numbers (then by text, for `1` and `01`), else by text.

    Example:
        >>> sorted_values({"10", "9"}), sorted_values({"10", "9", "b"})
        (('9', '10'), ('10', '9', 'b'))
    """
    try:
        numbers = {value: float(value) for value in values}
    except ValueError:
        return tuple(sorted(values))
    return tuple(sorted(values, key=lambda value: (numbers[value], value)))
