"""Splits into train, validation and test that share nothing: drawn by group, cut in time, or as listed.

=================  ========================================================================================
`by`               what stays on one side
=================  ========================================================================================
`recording`        a recording (stores)
`person`           a person; likewise `session`, `trial`, any label of a store, any column of a table
`time`             samples: every recording is cut into train, then validation, then test, `gap` samples apart
`files`            recordings as listed by patterns
`column`           rows as a column says
`rows`             a row, for tables whose rows share nothing
`within_person`    a recording, drawn so that every person stands in all three parts
`blocks`           ten windows' length of a recording; windows across two parts are left out
=================  ========================================================================================

With `folds` and `fold` the test part is one fold of the groups. `by: person` with `column` takes the parts
from the column and refuses them where a person stands on two sides. Fractions are of groups, not of rows.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taskloom.data.equal_images import joined_units
from taskloom.data.grouping import GROUPINGS, group_names
from taskloom.data.shuffled_windows import (
    BLOCKS,
    SHUFFLED_TEST,
    SHUFFLED_WINDOWS,
    split_by_blocks,
    split_shuffled,
)
from taskloom.data.split_checks import (
    Parts,
    check_classes,
    check_not_empty,
    check_not_parts,
    verify_disjoint,
    verify_groups,
    verify_no_leak,
)
from taskloom.data.split_draw import (
    parts_from_names,
    split_by_group,
    split_by_values,
    split_fold,
    split_within,
)
from taskloom.data.split_rule import SplitRule
from taskloom.data.windows import WindowDataset
from taskloom.errors import ConfigError, DataError, did_you_mean
from taskloom.tasks import Binary, Multiclass

__all__ = [
    "Parts",
    "SplitRule",
    "check_classes",
    "check_not_empty",
    "split_by_files",
    "split_by_group",
    "split_by_time",
    "split_by_values",
    "split_fold",
    "split_rows",
    "split_windows",
    "split_within",
    "verify_disjoint",
    "verify_groups",
    "verify_no_leak",
]


RULES = (
    "person",
    "session",
    "trial",
    "recording",
    "group",
    "time",
    "files",
    "column",
    "rows",
    "within_person",
    BLOCKS,
)
"""What `by` may be for recordings, besides the labels of a store."""


def split_windows(
    windows: WindowDataset, rule: SplitRule, *, seed: int, named_rules: Sequence[str] = ()
) -> Parts:
    """Splits windows by a rule and verifies the result.

    Args:
        windows: The data set.
        rule: The rule.
        seed: Decides what is drawn, unless the rule has a seed of its own.
        named_rules: Rules that the reader knows by name, for messages.

    Returns:
        Row indices of the three parts. Windows that reach across a cut in time, or that lie in its gap,
        stand in none.

    Raises:
        DataError: An empty part, windows of two parts that share a sample, a group on two sides, a class in
            test that train never shows, a task that train has no label of.
        ConfigError: The rule is unknown or does not fit a store.
    """
    _check_duplicates(rule, None)
    known = [*RULES, *named_rules, *windows.store.label_names]
    if rule.by == SHUFFLED_WINDOWS and rule.by in named_rules:
        return _shuffled(windows, rule, seed if rule.seed is None else rule.seed)
    if rule.by not in known or rule.by in named_rules:
        raise ConfigError(
            f"split.by: `{rule.by}` is not a rule for these recordings.{did_you_mean(rule.by, known)} "
            f"Rules: {', '.join(known)}."
        )
    seed = seed if rule.seed is None else rule.seed
    if rule.by == "group" and "group" not in windows.store.label_names:
        rule = replace(rule, by=windows.group_by)
    strata = None if rule.stratify is None else _window_strata(windows, rule.stratify)
    recordings = windows.recording_index
    if rule.by == "time":
        parts = split_by_time(
            windows, test=rule.test_fraction, validation=rule.validation_fraction, gap_samples=rule.gap
        )
    elif rule.by == "files":
        assert rule.files is not None  # SplitRule checked it
        parts = split_by_files(windows, rule.files, validation=rule.validation_fraction, seed=seed)
    elif rule.by == "within_person":
        persons, names = windows.group_index("person")
        parts = split_within(
            recordings,
            persons,
            test=rule.test_fraction,
            validation=rule.validation_fraction,
            seed=seed,
            outer_names=names,
        )
    elif rule.by == BLOCKS:
        parts = split_by_blocks(
            windows, test=rule.test_fraction, validation=rule.validation_fraction, seed=seed
        )
    elif rule.by == "rows":
        parts = _drawn(np.arange(len(windows)), rule, seed, strata, "rows")
    elif rule.column is not None:
        values = np.array(group_names(windows.store, rule.column))[recordings]
        groups = recordings if rule.by == "column" else windows.group_index(rule.by)[0]
        parts = _from_column(values, rule, seed, groups)
    else:
        index, names = windows.group_index(rule.by)
        check_not_parts(rule.by, names)
        parts = _drawn(index, rule, seed, strata, rule.by)
    check_not_empty(parts, f"`by: {rule.by}`")
    verify_no_leak(windows, parts)
    if rule.by in GROUPINGS or rule.by in windows.store.label_names:
        index, names = windows.group_index(rule.by)
        verify_groups(index, names, parts, by=rule.by, rows="windows", column=rule.column)
    check_classes(windows.labels, windows.tasks, parts, stratify=rule.stratify)
    return parts


def _shuffled(windows: WindowDataset, rule: SplitRule, seed: int) -> Parts:
    """The one split that may leak, which its name says; everything else about it is checked."""
    test = rule.test_fraction if rule.test is not None else SHUFFLED_TEST
    parts = split_shuffled(windows, test=test, validation=rule.validation_fraction, seed=seed)
    check_not_empty(parts, f"`by: {rule.by}`")
    verify_disjoint(parts)
    check_classes(windows.labels, windows.tasks, parts)
    return parts


def split_rows(
    num_rows: int,
    columns: Mapping[str, ArrayLike],
    rule: SplitRule,
    *,
    seed: int,
    equal: NDArray[np.int64] | None = None,
) -> Parts:
    """Splits the rows of a table by a rule and verifies the result; call `check_classes` with the labels.

    Args:
        num_rows: Rows of the table, N.
        columns: Columns that the rule may name, each [N]; `by` any of them keeps equal values on one side.
        rule: The rule: `rows`, `column`, or the name of a column.
        seed: Decides what is drawn, unless the rule has a seed of its own.
        equal: Code of every row's input, [N]; rows of one code stay on one side where the rule says
            `duplicates: together`.

    Raises:
        DataError: An unknown or incomplete column, an empty part, a group on two sides.
        ConfigError: A rule that is for recordings, or for images where there are none.
    """
    _check_duplicates(rule, equal)
    seed = seed if rule.seed is None else rule.seed
    if rule.by in ("time", "files", "within_person", BLOCKS) and rule.by not in columns:
        raise ConfigError(f"split.by: `{rule.by}` is for recordings; a table has rows, a column or `column`.")
    strata = (
        None if rule.stratify is None else _codes(columns, rule.stratify, "split.stratify", missing=True)[0]
    )
    groups, names = (None, ()) if rule.by in ("rows", "column") else _codes(columns, rule.by, "split.by")
    if rule.column is not None:
        codes, values = _codes(columns, rule.column, "split.column")
        parts = _from_column(
            np.array(values)[codes], rule, seed, np.arange(num_rows) if groups is None else groups
        )
    else:
        check_not_parts(rule.by, names)
        units = np.arange(num_rows) if groups is None else groups
        if rule.duplicates == "together" and equal is not None:
            units = joined_units(units, equal)
        parts = _drawn(units, rule, seed, strata, rule.by)
    check_not_empty(parts, f"`by: {rule.by}`")
    verify_disjoint(parts)
    if groups is not None:
        verify_groups(groups, names, parts, by=rule.by, column=rule.column)
    return parts


def _check_duplicates(rule: SplitRule, equal: NDArray[np.int64] | None) -> None:
    if rule.duplicates is not None and equal is None:
        raise ConfigError("split.duplicates: is for images, whose pixels are compared; leave it out.")


def split_by_time(windows: WindowDataset, *, test: float, validation: float, gap_samples: int = 0) -> Parts:
    """Cuts every recording in time: train first, then validation, then test.

    Windows across a cut, or that begin less than `gap_samples` after it, stand in no part.

    Args:
        windows: The data set.
        test, validation: Fractions of every recording's samples.
        gap_samples: Samples left out after each cut.
    """
    lengths = np.array([recording.length for recording in windows.store.recordings])
    offsets = np.array([recording.start for recording in windows.store.recordings])
    recordings = windows.recording_index
    begin = windows.starts - offsets[recordings]
    end = begin + windows.window_samples
    first_cut = np.floor(lengths * (1 - test - validation) + 0.5).astype(np.int64)[recordings]
    second_cut = np.floor(lengths * (1 - test) + 0.5).astype(np.int64)[recordings]
    return Parts(
        np.flatnonzero(end <= first_cut),
        np.flatnonzero((begin >= first_cut + gap_samples) & (end <= second_cut)),
        np.flatnonzero(begin >= second_cut + gap_samples),
    )


def split_by_files(
    windows: WindowDataset, patterns: Mapping[str, Sequence[str]], *, validation: float, seed: int
) -> Parts:
    """Takes recordings whose names match shell patterns; see `SplitRule.files`.

    Recordings that no pattern names are left out where "train" has patterns.

    Raises:
        DataError: A pattern that matches nothing, or a recording that stands in two parts.
    """
    names = [recording.name for recording in windows.store.recordings]
    part_of: dict[str, str] = {}
    for part, wanted in patterns.items():
        for pattern in wanted:
            matched = fnmatch.filter(names, pattern)
            if not matched:
                raise DataError(
                    f"split.files.{part}: no recording matches `{pattern}`.{did_you_mean(pattern, names)} "
                    f"There are {len(names)}, such as {', '.join(names[:3])}."
                )
            for name in matched:
                if part_of.setdefault(name, part) != part:
                    raise DataError(f"split.files: recording {name} stands in {part_of[name]} and in {part}.")
    rest = "left out" if "train" in patterns else "train"
    parts = np.array([part_of.get(name, rest) for name in names])
    recordings = windows.recording_index
    return parts_from_names(parts[recordings], "validation" in patterns, validation, seed, recordings)


def _from_column(values: NDArray[Any], rule: SplitRule, seed: int, groups: NDArray[Any]) -> Parts:
    return split_by_values(
        values,
        test=rule.test if isinstance(rule.test, tuple) else ("test",),
        validation=rule.validation if rule.validation is not None else ("validation",),
        seed=seed,
        groups=groups,
        column=str(rule.column),
    )


def _drawn(
    groups: NDArray[Any], rule: SplitRule, seed: int, strata: NDArray[np.int64] | None, noun: str
) -> Parts:
    validation = rule.validation_fraction
    if rule.folds is not None and rule.fold is not None:
        return split_fold(
            groups,
            folds=rule.folds,
            fold=rule.fold,
            validation=validation,
            seed=seed,
            strata=strata,
            noun=noun,
        )
    return split_by_group(
        groups, test=rule.test_fraction, validation=validation, seed=seed, strata=strata, noun=noun
    )


def _codes(
    columns: Mapping[str, ArrayLike], name: str, setting: str, *, missing: bool = False
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Codes and texts of a column; an empty cell is refused, or is a value of its own with `missing`."""
    if name not in columns:
        rules = ["rows", "column", "group"] if setting == "split.by" else []
        listed = f"Rules: {', '.join(rules)}, or a column. " if rules else ""
        raise DataError(
            f"{setting}: the table has no column `{name}`.{did_you_mean(name, [*rules, *columns])} {listed}"
            f"Columns: {', '.join(list(columns)[:20])}."
        )
    cells = np.asarray(columns[name], dtype=object)
    empty = np.array([cell is None or cell != cell or cell == "" for cell in cells], dtype=bool)
    if empty.any() and not missing:
        raise DataError(
            f"{setting}: column `{name}` is empty in row {int(np.argmax(empty))} (counted from 0); the rule "
            "needs it in every row."
        )
    texts = np.array(["" if none else str(cell) for cell, none in zip(cells, empty, strict=True)])
    values, codes = np.unique(texts, return_inverse=True)
    return codes.astype(np.int64), tuple(str(value) for value in values)


def _window_strata(windows: WindowDataset, name: str) -> NDArray[np.int64]:
    """Class of every window by a task or a per-recording label; missing labels are a class of their own."""
    if name in windows.tasks:
        labels = windows.labels
        if not isinstance(windows.tasks[name], Binary | Multiclass) or labels.values[name].ndim != 1:
            raise ConfigError(f"split.stratify: one class per row expected, which `{name}` has not.")
        codes = np.where(labels.present[name].numpy(), labels.values[name].numpy(), -1)
        return np.asarray(codes, dtype=np.int64)
    return windows.group_index(name)[0]
