"""A table with its labels, its groups and its split: what all sources do whose labels stand in a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from taskloom.data.blank_rows import refuse_blank_rows
from taskloom.data.label_columns import LabelColumns, encode_labels, resolve_label_columns
from taskloom.data.label_doubts import alike_classes, stand_ins
from taskloom.data.setting_kinds import check_kinds
from taskloom.data.sources import TaskSettings, checksums
from taskloom.data.split_checks import count_shared_groups
from taskloom.data.splits import Parts, SplitRule, check_classes, split_rows, verify_groups
from taskloom.data.tables import Table, read_table
from taskloom.errors import ConfigError, DataError
from taskloom.tasks import Labels, TaskSet

RULES_OF_ROWS = ("rows", "column")
"""What `split.by` means for tables before it means a column."""

LABEL_SETTINGS = ("folder", "table", "separator", "missing", "decimal", "columns", "group")
"""Settings of every source that takes its labels from a table."""


@dataclass(frozen=True)
class LabelledTable:
    """A table with its labels, its groups and the rule that splits it; `read_labelled_table` makes it.

    Args:
        table: The table, M rows.
        tasks: The tasks, not yet standardised.
        columns: Per task, its columns.
        labels: Labels of all M rows.
        groups: Name of every row's group, [M]; None where rows stand for themselves.
        group_column: The column that `groups` comes from.
        rule: How rows are split.
    """

    table: Table
    tasks: TaskSet
    columns: LabelColumns
    labels: Labels
    groups: NDArray[np.object_] | None
    group_column: str | None
    rule: SplitRule

    @property
    def taken_columns(self) -> tuple[str, ...]:
        """Columns of tasks, groups and the split: none of them is a feature."""
        names = {column for columns in self.columns.values() for column in columns}
        by = None if self.rule.by in RULES_OF_ROWS else self.rule.by
        names |= {name for name in (self.group_column, by, self.rule.column) if name is not None}
        return tuple(name for name in self.table.columns if name in names)

    def split(
        self,
        rows: NDArray[np.int64],
        labels: Labels,
        *,
        seed: int,
        equal: NDArray[np.int64] | None = None,
    ) -> tuple[Parts, list[str], list[str]]:
        """Splits rows of the table and verifies the split.

        Args:
            rows: The rows of the table that are used, [N].
            labels: Their labels.
            seed: Decides what is drawn.
            equal: Code of every row's input, for `duplicates: together`; see `split_rows`.

        Returns:
            Positions in `rows` per part, notes on what a reader of the results should know, and warnings.

        Raises:
            DataError: A class in test that train never shows; a group on two sides, unless the rule allows
                shared groups.
        """
        parts = split_rows(len(rows), _Columns(self, rows), self.rule, seed=seed, equal=equal)
        warnings = [
            *self._check_groups(rows, parts),
            *alike_classes(self.tasks),
            *stand_ins(labels, self.tasks, self.table.missing),
        ]
        check_classes(labels, self.tasks, parts, stratify=self.rule.stratify)
        without = int((~any_present(labels)).sum())
        notes = [f"{without} of {len(rows)} rows have no label of any task."] if without else []
        return parts, notes, warnings

    def _check_groups(self, rows: NDArray[np.int64], parts: Parts) -> list[str]:
        if self.groups is None:
            return []
        names, groups = np.unique(self.groups[rows].astype(str), return_inverse=True)
        column = str(self.group_column)
        if self.rule.shared_groups != "allowed":
            # Where validation is drawn, the column did not part these rows.
            by_column = None if isinstance(self.rule.validation, float) else self.rule.column
            verify_groups(groups, names.tolist(), parts, by=column, column=by_column, declared=True)
        shared = count_shared_groups(groups, parts)
        if not shared:
            return []
        return [
            f"{shared} of {len(names)} values of the group column `{column}` stand on more than one side of "
            "the split (`shared_groups: allowed`): results on the test part may be too good."
        ]

    def about(
        self,
        reader: str,
        labels: Labels,
        parts: Parts,
        notes: Sequence[str],
        warnings: Sequence[str],
        *,
        beside: Sequence[Path] = (),
        sources: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Plain values for `DataSplits.about`.

        Args:
            reader, labels, parts, notes, warnings: What it is made of.
            beside: The other files that were read, besides the table.
            sources: Checksums of the sources, where the table is not a file.
        """
        path = self.table.path
        counts = {part: labels[torch.from_numpy(rows)].counts() for part, rows in parts.items()}
        return {
            "reader": reader,
            "sources": checksums([path, *beside], path.parent) if sources is None else dict(sources),
            "separator": self.table.separator,
            "missing": list(self.table.missing),
            "decimal": self.table.decimal,
            "rows": {"table": len(self.table), **parts.counts()},
            "labels": {name: {part: counts[part][name] for part in counts} for name in self.tasks},
            "split": self.rule.to_dict(),
            "group": self.group_column,
            "notes": list(notes),
            "warnings": list(warnings),
        }


class _Columns(Mapping[str, NDArray[Any]]):
    """The table's columns and its tasks' by name, restricted to some rows, read when a rule asks for them."""

    def __init__(self, labelled: LabelledTable, rows: NDArray[np.int64]) -> None:
        self._labelled, self._rows = labelled, rows
        single = {task: names[0] for task, names in labelled.columns.items() if len(names) == 1}
        self._names = {**single, **{name: name for name in labelled.table.columns}}

    def __getitem__(self, name: str) -> NDArray[Any]:
        cells = self._labelled.table.text(self._names[name])[self._rows]
        rule = self._labelled.rule
        if name == rule.column or (name == rule.by and name not in RULES_OF_ROWS):
            _check_complete(self._labelled.table, self._names[name], "the split")
        return cells.astype(str)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def read_labelled_table(
    settings: Mapping[str, Any], tasks: TaskSettings, split: Mapping[str, Any], root: Path
) -> LabelledTable:
    """Reads a table with its labels, groups and split rule.

    Args:
        settings: `LABEL_SETTINGS` of a source.
        tasks: The tasks as declared.
        split: The study file's `split` section.
        root: Where the table is looked for.

    Raises:
        DataError: The table, a column or a cell is not what it should be.
        ConfigError: A setting is missing or does not fit.
    """
    settings = given_settings(settings)
    if "table" not in settings:
        raise ConfigError("data.table is missing: the CSV, TSV or Parquet file expected.")
    SplitRule.from_settings(split)  # its mistakes are found before a large table is read
    table = read_table(
        root / str(settings["table"]),
        separator=settings.get("separator"),
        missing=listed(settings.get("missing", ())),
        decimal=settings.get("decimal", "."),
    )
    return label_table(table, settings, tasks, split)


def given_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a table without those that were left blank, each of the kind that is expected.

    Raises:
        ConfigError: A setting is something else.
    """
    check_kinds("data", settings)
    return {name: value for name, value in settings.items() if value is not None}


def label_table(
    table: Table, settings: Mapping[str, Any], tasks: TaskSettings, split: Mapping[str, Any]
) -> LabelledTable:
    """Finds labels, groups and split rule of a table that has been read; see `read_labelled_table`."""
    rule = SplitRule.from_settings(split)
    task_set, columns = resolve_label_columns(table, tasks, settings.get("columns"))
    if rule.by == "group" and "group" not in table.columns:
        if not settings.get("group"):
            raise ConfigError("split.by: `group` means the column that data.group names; name one there.")
        rule = replace(rule, by=str(settings["group"]))
    named = rule.by in table.columns and rule.by not in RULES_OF_ROWS  # a column may be called `rows` too
    group_column = settings.get("group") or (rule.by if named else None)
    groups = None
    if group_column is not None:
        group_column = table.column_name(str(group_column), "data.group")
        _check_complete(table, group_column, "data.group")
        groups = table.text(group_column)
    labels = encode_labels(table, task_set, columns)
    return LabelledTable(table, task_set, columns, labels, groups, group_column, rule)


def any_present(labels: Labels) -> NDArray[np.bool_]:
    """Whether each row has a label of any task, [N]."""
    found = np.zeros(len(labels), dtype=np.bool_)
    for present in labels.present.values():
        found |= present.numpy().reshape(len(labels), -1).any(axis=1)
    return found


def listed(value: Any) -> Sequence[Any]:
    """A setting that may be one thing or a list of them, as a list."""
    return value if isinstance(value, list | tuple) else (value,)


def _check_complete(table: Table, column: str, purpose: str) -> None:
    blank = np.flatnonzero(table.text(column) == "")
    if len(blank):
        refuse_blank_rows(table)
        raise DataError(
            f"{table.where(int(blank[0]), column)}: the cell is blank ({len(blank)} in all); {purpose} "
            "needs a value in every row."
        )
