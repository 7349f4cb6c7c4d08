"""What kind of task a column is, from its values: classes, numbers, or levels in order."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from taskloom.data.label_columns import classes_in_column
from taskloom.data.label_doubts import numbers_apart
from taskloom.data.tables import Table
from taskloom.errors import DataError
from taskloom.study.draft.columns import FEW_CLASSES, Column
from taskloom.study.draft.roles import words_of
from taskloom.study.draft.yaml_text import shown
from taskloom.wording import counted

_LEVEL_WORDS = frozenset(
    {"grade", "stage", "level", "rating", "stars", "severity", "likert", "rank", "quality", "degree"}
)
_MOST_LEVELS = 11
_MOST_CLASSES = 1000
_RARE_SLIPS = 2
_UNEVEN = 0.2
"""Share of the rarer of two classes below which accuracy is high for a network that learned nothing."""
_STAND_IN = (-1.0, -9.0, -99.0, -999.0, -9999.0, 9.0, 99.0, 999.0, 9999.0)
"""What stands for "unknown" beside two classes."""
_NEGATIVE = frozenset(
    {
        "no",
        "nein",
        "non",
        "false",
        "negative",
        "neg",
        "absent",
        "control",
        "healthy",
        "normal",
        "none",
        "never",
    }
)
_NUMBER_WITH_UNIT = re.compile(r"[+-]?\d+(?:[.,]\d+)?\s*(\D+)")
_MOST_AMOUNTS = 10
"""Different texts such as `10 mg` up to which they are taken for classes."""
_DECIMALS = r"^([+-]?\d+)\.0*$"


@dataclass(frozen=True)
class TaskDraft:
    """A task as a study file gives it.

    Args:
        name: The task, which is its column.
        settings: `kind` and what goes with it.
        comment: Labels, holes, values, and what else the column might be.
        rarest: Rows of the rarest class; None where there are no classes.
    """

    name: str
    settings: Mapping[str, Any]
    comment: str
    rarest: int | None = None

    @property
    def kind(self) -> str:
        """Name of the kind."""
        return str(self.settings["kind"])


def draft_task(table: Table, column: Column, doubts: Mapping[str, str] = MappingProxyType({})) -> TaskDraft:
    """Chooses the kind of a task by the values of its column.

    Args:
        table: The table, with its marks of missing values.
        column: What `look` found.
        doubts: Numbers that might mean a missing label, and why, where the table does not read them so.

    Raises:
        DataError: The column cannot be a task: it is blank, constant, dates, or text of which hardly any
            value stands twice; or a cell is not a number among others that are.
    """
    _check(table, column)
    rarest = None
    if column.slip and (column.num_distinct > FEW_CLASSES or _is_rare_slip(table, column)):
        table.numbers(column.name)  # says which cell is no number
    if column.is_number:
        numbers = table.numbers(column.name)
        given = numbers[~np.isnan(numbers)]
        settings = _of_numbers(column.name, given)
        if doubts and column.num_distinct <= 3:
            settings = {"kind": "multiclass"}
    else:
        settings = {"kind": "binary" if column.num_distinct == 2 else "multiclass"}
    if settings["kind"] in ("binary", "multiclass"):
        settings["classes"] = _positive_last(classes_in_column(table, column.name, column.name))
        settings["kind"] = "binary" if len(settings["classes"]) == 2 else "multiclass"  # `1` and `01` are two
        rows = _rows_of_classes(table, column)
        rarest = min(rows.values())
        if settings["kind"] == "binary" and rarest < _UNEVEN * column.num_given:
            settings["metric"] = "auc"
        remark = _about_classes(column, settings, rows, ordered=not doubts)
    else:
        remark = _about_numbers(column, settings, given)
    # Of a regression the data source warns itself.
    for mark, why in doubts.items() if settings["kind"] != "regression" else ():
        remark += f'; if `{mark}` means missing ({why}), say `missing: ["{mark}"]` in `data`'
    labels = f"{column.num_given:,} labels, {100 * column.holes:.0f} % missing"
    return TaskDraft(column.name, settings, f"{labels}; {remark}", rarest)


def _is_rare_slip(table: Table, column: Column) -> bool:
    """Whether what is no number is too rare for a class of its own, as `3+` among counts would be."""
    texts = pd.Series(table.text(column.name), dtype=object)
    numbers = pd.to_numeric(texts[texts != ""], errors="coerce")
    return int(numbers.isna().sum()) <= max(_RARE_SLIPS, len(numbers) // 1000)


def stand_ins(table: Table, column: Column) -> dict[str, str]:
    """Numbers of a task's column that other tables write for a missing label, and what tells them.

    -1 beside 0 and 1 alone is left a class, as it may be one of three answers.
    """
    if not column.is_number:
        return {}
    numbers = table.numbers(column.name)
    given = numbers[~np.isnan(numbers)]
    values = np.unique(given).tolist()
    apart = [value for value in values if value in _STAND_IN]
    others = [value for value in values if value not in _STAND_IN]
    if len(apart) == 1 and others in ([0, 1], [1, 2]) and [*apart, *others] != [-1, 0, 1]:
        return {f"{apart[0]:g}": f"all others are {others[0]:g} or {others[1]:g}"}
    return {f"{number:g}": f"all others are {where}" for number, _, where in numbers_apart(given)}


def _check(table: Table, column: Column) -> None:
    begin = f"{table.path}: column `{shown(column.name)}` cannot be a task: "
    if not column.num_given:
        raise DataError(f"{begin}it is blank in all {column.num_rows:,} rows; choose another.")
    if column.num_distinct == 1:
        raise DataError(
            f"{begin}it holds `{shown(column.examples[0])}` wherever it is not blank, so there is nothing to "
            "learn; choose another."
        )
    if column.is_date:
        raise DataError(
            f"{begin}it holds dates, such as `{column.examples[0]}`; make a number of them, such as days "
            "since the first."
        )
    unit = _unit_of(table, column)
    if unit and column.num_distinct > _MOST_AMOUNTS:
        raise DataError(
            f"{begin}it holds numbers with `{shown(unit)}`, such as `{shown(column.examples[0])}`, each of "
            "which would be a class; leave the number alone in the cells."
        )
    many = column.num_distinct > max(FEW_CLASSES, column.num_given // 2)
    if not column.is_number and not column.slip and (many or column.num_distinct > _MOST_CLASSES):
        raise DataError(
            f"{begin}it is text of {column.num_distinct:,} different values in "
            f"{counted(column.num_given, 'row')}, such as `{shown(column.examples[0])}`: no classes, as "
            "hardly any stands twice; choose another."
        )


def _unit_of(table: Table, column: Column) -> str:
    """What stands behind every number of a column of text, "%" or "kg"; "" where there is no such thing."""
    if column.is_number:
        return ""
    found = {_NUMBER_WITH_UNIT.fullmatch(text) for text in set(table.text(column.name)) - {""}}
    units = {match[1] for match in found if match is not None}
    return units.pop() if len(units) == 1 and None not in found else ""


def _of_numbers(name: str, given: NDArray[np.float64]) -> dict[str, Any]:
    """Kind of a task whose labels are numbers."""
    values = np.unique(given)
    whole = bool((values == np.round(values)).all())
    if len(values) == 2:
        return {"kind": "binary"}
    steps = np.diff(values)
    even = len(values) <= _MOST_LEVELS and bool(np.allclose(steps, steps[0]))
    if even and _LEVEL_WORDS & set(words_of(name)):
        levels: dict[str, Any] = {"kind": "ordinal", "range": [_plain(values[0]), _plain(values[-1])]}
        return levels if steps[0] == 1 else {**levels, "step": _plain(steps[0])}
    codes = whole and values[0] in (-1, 0, 1) and values[-1] - values[0] == len(values) - 1
    if codes and len(values) <= 10 and len(given) >= 5 * len(values):
        return {"kind": "multiclass"}
    return {"kind": "regression"}


def _positive_last(classes: Sequence[str]) -> list[str]:
    """The classes as they are sorted, but that of two the one that says no comes first."""
    found = list(classes)
    if len(found) == 2 and found[1].lower() in _NEGATIVE and found[0].lower() not in _NEGATIVE:
        found.reverse()
    return found


def _rows_of_classes(table: Table, column: Column) -> dict[str, int]:
    texts = pd.Series(table.text(column.name), dtype=object).str.replace(_DECIMALS, r"\1", regex=True)
    return {str(name): int(count) for name, count in texts[texts != ""].value_counts().items()}


def _about_classes(
    column: Column, draft: Mapping[str, Any], rows: Mapping[str, int], *, ordered: bool
) -> str:
    classes = draft["classes"]
    if draft["kind"] == "binary":
        second = rows[classes[1]]
        return f"{second:,} are `{shown(classes[1])}`"
    rarest = min(classes, key=lambda name: rows[name])
    remark = f"{len(classes)} classes, the rarest `{shown(rarest)}` with {counted(rows[rarest], 'row')}"
    if not column.is_number or not ordered:
        return remark
    if classes == ["-1", "0", "1"]:
        return f'{remark}; if `-1` means missing: `missing: ["-1"]` in `data` and `kind: binary`'
    low, high = classes[0], classes[-1]
    return f"{remark}; levels in order: `{{kind: ordinal, range: [{low}, {high}]}}`"


def _about_numbers(column: Column, draft: Mapping[str, Any], given: NDArray[np.float64]) -> str:
    low, high = _plain(given.min()), _plain(given.max())
    if draft["kind"] == "ordinal":
        return "levels in order; without an order: `{kind: multiclass}`"
    remark = " to ".join(f"{end:,.0f}" if 1e4 <= abs(end) < 1e12 else f"{end:.4g}" for end in (low, high))
    if column.whole and column.num_distinct <= min(FEW_CLASSES, len(given) // 5):
        remark += "; codes, not amounts: `{kind: multiclass}`"
    return remark


def _plain(number: float) -> int | float:
    return int(number) if float(number).is_integer() else float(number)
