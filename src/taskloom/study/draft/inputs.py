"""What goes into the network: the `data` and `split` sections, and what is left out and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from taskloom.data.cell_texts import missing_with
from taskloom.data.label_doubts import may_stand_in, numbers_apart
from taskloom.errors import DataError
from taskloom.study.draft.arrays import arrays_beside, named_array
from taskloom.study.draft.columns import Column
from taskloom.study.draft.networks import Network, for_features
from taskloom.study.draft.roles import blank_group, of_one_row, why_identifier
from taskloom.study.draft.split_columns import names_a_split
from taskloom.study.draft.survey import Survey
from taskloom.study.draft.yaml_text import flow, shown
from taskloom.wording import counted

_MOST_NAMED = 6
_FRACTIONS = {"test": 0.2, "validation": 0.2}
_FEW_GROUPS = 10
_MOST_CODES, _WIDE_GAPS = 50, 4
"""Different whole numbers up to which they may be codes, and how far apart on average they are then."""


@dataclass(frozen=True)
class Inputs:
    """The inputs of a study.

    Args:
        data: The `data` section.
        comments: What stands beside its settings.
        remarks: What stands above it.
        split, split_comment: The `split` section.
        network: The encoder.
        notes: For whoever runs it, one sentence each.
    """

    data: dict[str, Any]
    comments: dict[str, str]
    remarks: tuple[str, ...]
    split: dict[str, Any]
    split_comment: str
    network: Network
    notes: tuple[str, ...] = ()


def choose_inputs(found: Survey, tasks: Sequence[str], features: str | None = None) -> Inputs:
    """Chooses features, group and split.

    Args:
        found: What was found.
        tasks: The columns that are predicted.
        features: An array beside the table that holds the features; the columns do where None.

    Raises:
        DataError: No feature is left, or no such array.
    """
    data, comments = dict(found.source.data), dict(found.source.comments)
    remarks: list[str] = []
    _say_how_read(found, data, comments)
    network, doubts = found.source.network, []
    if network is None:
        network = _features(found, tasks, data, comments, remarks, features)
        doubts = _doubtful_features(found, [*tasks, *data.get("exclude", [])])
    split, split_comment, notes = _split(found, data, comments)
    return Inputs(data, comments, (*remarks, *doubts), split, split_comment, network, (*notes, *doubts))


def _say_how_read(found: Survey, data: dict[str, Any], comments: dict[str, str]) -> None:
    if found.table.decimal == ",":
        data["decimal"] = ","
        comments["decimal"] = "numbers are written 3,14"
    if found.marks:
        data["missing"] = list(found.marks)
        where = [
            f"`{shown(mark)}` in {sum(counts.values()):,} cells of {_named(list(counts), 3)}"
            for mark, counts in found.marks.items()
        ]
        comments["missing"] = f"marks of a hole: {'; '.join(where)}"


def _features(
    found: Survey,
    tasks: Sequence[str],
    data: dict[str, Any],
    comments: dict[str, str],
    remarks: list[str],
    chosen: str | None,
) -> Network:
    """The features of a table: its numbers, but for those with a reason against them."""
    group = [found.group[0]] if found.group else []
    rest = {name: column for name, column in found.free.items() if name not in (*tasks, *group)}
    against = {name: reason for name in rest if (reason := _reason_against(found, name))}
    kept = {name: column for name, column in rest.items() if column.is_number and name not in against}
    coded = {name: column for name, column in rest.items() if column.is_category and name not in against}
    if chosen is not None or not (kept or coded):
        arrays = arrays_beside(found.table) if chosen is None else [named_array(found.table, chosen)]
        if len(arrays) != 1:
            raise _no_feature(found, tasks, against, arrays)
        settings, width = arrays[0]
        data["features"] = settings
        comments["features"] = f"{width:,} numbers per row, in the order of the table's rows"
        return for_features(len(found.table), width)
    data["features"] = "rest"
    numbers = f"{counted(len(kept), 'column')} of numbers" if kept else "no column of numbers"
    comments["features"] = f"{numbers} besides tasks, group and split"
    width = len(kept) + sum(column.num_distinct for column in coded.values())
    if coded:
        data["categories"] = list(coded)
        comments["categories"] = f"text: each of {width - len(kept):,} values is a feature of 0 and 1"
    if against:
        data["exclude"] = list(against)
        shown_reasons = [
            f"`{shown(name)}` ({reason})" for name, reason in list(against.items())[:_MOST_NAMED]
        ]
        more = f" and {len(against) - _MOST_NAMED:,} more" if len(against) > _MOST_NAMED else ""
        comments["exclude"] = f"left out: {', '.join(shown_reasons)}{more}"
    holes = sum(column.num_rows - column.num_given for column in kept.values())
    if holes:
        share = 100 * holes / (len(kept) * len(found.table))  # there is a hole, and so a column
        data["impute"] = "mean"
        comments["impute"] = f"of train, for {holes:,} missing feature values ({share:.1f} %)"
    used = {*kept, *coded, *against}
    remarks += _about_text([column for name, column in rest.items() if name not in used])
    remarks += _about_codes(kept.values())
    return for_features(len(found.table), width)


def _doubtful_features(found: Survey, others: Sequence[str]) -> list[str]:
    """A sentence for the first features in which -1, 999 and the like stand apart from all other values."""
    left = {*others, *(found.group or ())[:1]}
    sentences = []
    for name, column in found.free.items():
        if name in left or not column.is_number or not may_stand_in(column.low, column.high):
            continue
        numbers = found.table.numbers(name)
        for number, count, where in numbers_apart(numbers[~np.isnan(numbers)]):
            setting = missing_with(found.table.missing, [f"{number:g}"])
            sentences.append(
                f"Feature `{shown(name)}` is {number:g} in {counted(count, 'row')}, and all others are "
                f"{where}: if that means missing, say `{setting}` in `data`."
            )
    return sentences[:_MOST_NAMED]


def _about_text(columns: Sequence[Column]) -> list[str]:
    """What is said of columns that hold no numbers."""
    dates = [column.name for column in columns if column.is_date]
    others = [column.name for column in columns if not column.is_date]
    remarks = [f"{_named(dates)}: dates, and so no features; days since the first would be."] if dates else []
    said = "Text of too many values, or of one, for features: "
    return remarks + ([f"{said}{_named(others)}."] if others else [])


def _about_codes(columns: Iterable[Column]) -> list[str]:
    """What is said of whole numbers with gaps between them, which may be codes and not amounts."""
    codes = [
        column.name
        for column in columns
        if column.whole
        and 3 <= column.num_distinct <= _MOST_CODES
        and column.num_given >= 10 * column.num_distinct
        and column.high - column.low >= _WIDE_GAPS * column.num_distinct
    ]
    if not codes:
        return []
    listed = flow(codes[:_MOST_NAMED])
    return [
        f"Few whole numbers far apart: {_named(codes)}. Codes without an order are features of their own "
        f"with `categories: {listed}`."
    ]


def _reason_against(found: Survey, name: str) -> str:
    column = found.columns[name]
    if column.slip:
        return "a cell is no finite number"
    if names_a_split(column):
        return "about a split by its name"
    if column.is_number:
        return "one value only" if column.num_distinct == 1 else why_identifier(column)
    return ""


def _no_feature(
    found: Survey,
    tasks: Sequence[str],
    against: Mapping[str, str],
    arrays: Sequence[tuple[dict[str, Any], int]],
) -> DataError:
    if arrays:
        there = ", ".join(":".join(map(str, list(settings.values())[:2])) for settings, _ in arrays)
        return DataError(
            f"{found.table.path}: {len(arrays)} arrays beside it have as many rows ({there}); say which one "
            "holds the features with --features ARRAY."
        )
    out = [f"{shown(name)} ({reason})" for name, reason in list(against.items())[:_MOST_NAMED]]
    out += [f"{shown(name)} (text)" for name in found.free if name not in (*tasks, *against)][:_MOST_NAMED]
    listed = f" ({', '.join(out[:_MOST_NAMED])})" if out else ""
    return DataError(
        f"{found.table.path}: no input is left to predict the tasks from: no other column holds numbers that "
        f"describe a row{listed}; add such columns, name the images with --images DIR, or put one array of "
        "as many rows (.npy, .npz) beside the table."
    )


def _split(
    found: Survey, data: dict[str, Any], comments: dict[str, str]
) -> tuple[dict[str, Any], str, list[str]]:
    """The `split` section; `data.group` where a column says which rows belong together."""
    notes: list[str] = []
    recordings = found.source.kind == "recordings"
    if found.source.split is not None:
        return dict(found.source.split), found.source.split_comment, notes
    if found.group is not None:
        name, why = found.group
        groups = found.columns[name].num_distinct
        what = f"{groups:,} values ({why})"
        if found.split is None:
            what += "; rows of one value stay on one side of the split"
        if groups < _FEW_GROUPS:
            notes.append(
                f"`{shown(name)}` has {counted(groups, 'value')} only: a verdict rests on the few that test."
            )
        if recordings and name not in ("person", "session", "trial"):
            data["group_by"] = name
            comments["group_by"] = what
        elif not recordings and name != found.source.group:
            data["group"] = name
            comments["group"] = what
    if found.split is not None:
        return (*_by_column(found), notes)
    if found.group is not None:
        plain = not recordings and "group" not in found.table.columns and name != found.source.group
        return {"by": "group" if plain else name, **_FRACTIONS}, "", notes
    blank = blank_group(found.free.values())
    if blank is not None:
        rows = counted(blank.num_rows - blank.num_given, "row")
        notes.append(
            f"`{shown(blank.name)}` may say which rows belong together, but is blank in {rows}: fill it "
            "in and name it with --group, or results may look too good."
        )
    alone = of_one_row(found.columns.values())
    if alone is not None:
        comment = f"every row has a `{shown(alone.name)}` of its own"
        return {"by": "recording" if recordings else "rows", **_FRACTIONS}, comment, notes
    unit = "recordings" if recordings else "rows"
    advice = "say `by: COLUMN`" if recordings else "name the column as `data.group` and say `by: group`"
    comment = (
        f"no column says which {unit} belong together (of one person, one day): where some do, they stand in "
        f"train and test, and results look too good; {advice}"
    )
    return {"by": "recording" if recordings else "rows", **_FRACTIONS}, comment, notes


def _by_column(found: Survey) -> tuple[dict[str, Any], str]:
    """The split that a column names; where it parts no group, what is drawn from train is whole groups."""
    split = found.split
    assert split is not None
    settings: dict[str, Any] = {"by": "column", "column": split.name, "test": split.test}
    settings["validation"] = split.validation or _FRACTIONS["validation"]
    if found.group is None:
        return settings, split.remark
    name = found.group[0]
    groups = found.table.text(name).astype(str)
    pairs = set(zip(groups, found.table.text(split.name).astype(str), strict=True))
    if len(pairs) == len(set(groups)):
        plain = found.source.kind != "recordings" and "group" not in found.table.columns
        return {**settings, "by": "group" if plain else name}, split.remark
    if found.source.kind != "recordings":
        settings["shared_groups"] = "allowed"
    return settings, f"{split.remark}, though it parts values of `{shown(name)}`"


def _named(names: Sequence[str], most: int = _MOST_NAMED) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(shown, names[:most])) + more
