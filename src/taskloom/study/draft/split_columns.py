"""The column of a table that says which rows train, validate and test, where there is one."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from taskloom.data.cell_texts import sorted_values, without_decimals
from taskloom.data.tables import Table
from taskloom.study.draft.columns import Column
from taskloom.study.draft.roles import words_of

_PARTS = {
    "train": ("train", "training", "trn", "learn"),
    "validation": ("validation", "valid", "val", "dev", "publictest", "eval"),
    "test": ("test", "testing", "tst", "privatetest", "holdout", "heldout"),
}
_SPLIT_NAMES = frozenset({"split", "splits", "partition", "subset", "fold", "folds"})
_FOLD_NAMES = frozenset({"fold", "folds"})
_LEAST_FOLDS, _MOST_FOLDS = 3, 20
_FOLD = re.compile(r"(?:fold|cv|f)?[ _-]?(\d+)(?:\.0*)?")
_FLAGS = {"1": "0", "true": "false", "yes": "no", "y": "n", "t": "f"}
"""What a column says of the rows that a flag is up for, and of the others."""
_ABOUT_A_FLAG = frozenset({"is", "in", "set", "split", "row", "rows", "data", "for", "flag"})


@dataclass(frozen=True)
class SplitColumn:
    """A column that says which rows are for what.

    Args:
        name: The column.
        test, validation: The values that mean these parts; no validation: it is drawn from train.
        remark: What a reader should know of it.
    """

    name: str
    test: str
    validation: str | None
    remark: str = "as the column says"


def find_split(table: Table, columns: Sequence[Column]) -> SplitColumn | None:
    """The column that names every row's part, where there is one.

    By its values (train, valid, test; Training, PublicTest, PrivateTest); by its name a flag (`is_test`,
    `train`), a partition of 0, 1, 2 (train, validation, test), or a fold.
    """
    whole = [column for column in columns if column.num_given == column.num_rows and column.num_distinct > 1]
    for column in whole:
        if not column.is_number and column.num_distinct <= 3:
            found = _by_words(column.name, _values(table, column))
            if found is not None:
                return found
    for column in whole:
        if column.num_distinct <= _MOST_FOLDS and (column.whole or not column.is_number):
            found = _by_name(column.name, _values(table, column))
            if found is not None:
                return found
    return None


def names_a_split(column: Column) -> bool:
    """Whether a column of few values says by its name that it is about the split, whatever they mean.

    Example:
        >>> names_a_split(Column("cv_fold", 9, 9, 4, ())), names_a_split(Column("folded", 9, 9, 4, ()))
        (True, False)
    """
    words = words_of(column.name)
    if column.num_distinct > _MOST_FOLDS or (column.is_number and not column.whole):
        return False
    return bool(words and words[-1] in _SPLIT_NAMES) or _flag_of(column.name) is not None


def _values(table: Table, column: Column) -> tuple[str, ...]:
    return sorted_values(set(map(str, table.text(column.name).tolist())))


def _by_words(name: str, values: Sequence[str]) -> SplitColumn | None:
    found: Mapping[str, list[str]] = {
        part: [value for value in values if "".join(words_of(value)) in names]
        for part, names in _PARTS.items()
    }
    named = sum(map(len, found.values()))
    if named != len(values) or len(found["train"]) != 1 or any(len(each) > 1 for each in found.values()):
        return None
    if found["test"]:
        return SplitColumn(name, found["test"][0], next(iter(found["validation"]), None))
    held_out = found["validation"][0]
    return SplitColumn(name, held_out, None, f"tests on `{held_out}`, as nothing else is held out")


def _by_name(name: str, values: Sequence[str]) -> SplitColumn | None:
    plain = tuple(without_decimals(value).lower() for value in values)
    words = words_of(name) or [""]
    folds = {int(number.group(1)): value for value in values if (number := _FOLD.fullmatch(value.lower()))}
    if words[-1] in _FOLD_NAMES and len(folds) == len(values) >= _LEAST_FOLDS and _is_a_count(folds):
        before, last = (folds[number] for number in sorted(folds)[-2:])
        return SplitColumn(name, last, before, f"tests on fold {last}, validates on fold {before}")
    if words[-1] in _SPLIT_NAMES - _FOLD_NAMES and plain in (("0", "1"), ("0", "1", "2")):
        if len(values) == 2:
            return SplitColumn(name, values[1], None, "taken to mean: 0 trains, 1 tests")
        return SplitColumn(name, values[2], values[1], "taken to mean: 0 trains, 1 validates, 2 tests")
    part = _flag_of(name)
    up = next((up for up, down in _FLAGS.items() if set(plain) == {up, down}), None)
    if part is None or up is None or len(values) != 2:
        return None
    test = values[plain.index(up)] if part == "test" else values[1 - plain.index(up)]
    return SplitColumn(name, test, None, f"tests where it is `{test}`")


def _is_a_count(numbers: Collection[int]) -> bool:
    """Whether numbers are 0, 1, 2, ... or 1, 2, 3, ...: a protein's folds have other codes, or names."""
    return sorted(numbers) == list(range(min(numbers), min(numbers) + len(numbers))) and min(numbers) <= 1


def _flag_of(name: str) -> str | None:
    """Whether a flag of this name, `is_test`, says that a row is of train or of test; else None.

    Not `test` alone, which may be an examination, nor `is_valid`, which may say that a row is sound.
    """
    words = [word for word in words_of(name) if word not in _ABOUT_A_FLAG]
    if len(words) != 1 or len(words_of(name)) == 1:
        return None
    return next((part for part in ("train", "test") if words[0] in _PARTS[part]), None)
