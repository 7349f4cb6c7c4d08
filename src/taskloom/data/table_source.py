"""The source "table": a CSV, TSV or Parquet file of features and label columns; blank = missing label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from taskloom.data.batch import DataSplits
from taskloom.data.blank_rows import refuse_blank_rows
from taskloom.data.feature_rows import (
    FeatureRows,
    FeatureSettings,
    Imputation,
    check_values,
    feature_files,
    read_features,
    row_numbers,
)
from taskloom.data.label_columns import LabelColumns, encode_labels, resolve_label_columns
from taskloom.data.label_doubts import alike_classes, stand_ins
from taskloom.data.setting_kinds import check_kinds
from taskloom.data.sources import SOURCES, TaskSettings, check_settings, checksums, data_folder
from taskloom.data.split_checks import count_shared_groups
from taskloom.data.splits import Parts, SplitRule, check_classes, split_rows, verify_groups
from taskloom.data.tables import Table, TableDataset, read_table
from taskloom.data.telling_features import telling_features
from taskloom.errors import ConfigError, DataError
from taskloom.tasks import Labels, TaskSet
from taskloom.wording import counted

LABEL_SETTINGS = ("folder", "table", "separator", "missing", "decimal", "columns", "group")
"""Settings of every source that takes its labels from a table."""

TABLE_SETTINGS = (*LABEL_SETTINGS, "features", "exclude", "standardize", "impute")


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
        names |= {name for name in (self.group_column, self.rule.by, self.rule.column) if name is not None}
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
            verify_groups(groups, names.tolist(), parts, by=column, column=self.rule.column, declared=True)
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
        if name in (self._labelled.rule.by, self._labelled.rule.column):
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
        missing=_listed(settings.get("missing", ())),
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
    group_column = settings.get("group") or (rule.by if rule.by in table.columns else None)
    groups = None
    if group_column is not None:
        group_column = table.column_name(str(group_column), "data.group")
        _check_complete(table, group_column, "data.group")
        groups = table.text(group_column)
    labels = encode_labels(table, task_set, columns)
    return LabelledTable(table, task_set, columns, labels, groups, group_column, rule)


@SOURCES.register("table")
def load_table(
    settings: Mapping[str, Any],
    tasks: TaskSettings,
    split: Mapping[str, Any],
    *,
    seed: int,
    folder: Path | None,
    stores: Path,  # noqa: ARG001  # tables are read as they are; every source takes it
) -> DataSplits:
    """Loads a table of feature rows; see `taskloom.data.sources.SourceLoader` for the arguments.

    Settings: `table` (file); `features`: column names or globs, "rest" (default: every numeric column that
    is neither task nor group), `{npz, array, packed_bits}` or `{npy}`; `exclude`; `group` (column: clusters
    of the intervals; the split's own column where it is not given); `standardize` (default true, false for
    packed bits; fitted on train); `impute` (mean or zero, fitted on train); `separator`; `missing` (texts
    that mean missing besides blank); `decimal` ("," for numbers with a decimal comma); `columns` (per task,
    where its own settings cannot say it); `folder`.
    """
    check_settings("data", settings, TABLE_SETTINGS)
    settings = given_settings(settings)
    root = data_folder(settings, folder)
    return load_labelled(read_labelled_table(settings, tasks, split, root), settings, root, seed=seed)


def load_labelled(
    labelled: LabelledTable,
    settings: Mapping[str, Any],
    root: Path,
    *,
    seed: int,
    reader: str = "table",
    sources: Mapping[str, str] | None = None,
) -> DataSplits:
    """Features, split and datasets of a table whose labels are known; the second half of `load_table`.

    Args:
        labelled: The table.
        settings: The `data` section: those of `load_table` that are about features.
        root: Where files of features are looked for.
        seed: Decides a drawn split.
        reader: Who read the table, for reports.
        sources: Checksums of the files that it was read from, where it is not one.
    """
    table = labelled.table
    if not isinstance(settings.get("features"), Mapping):  # beside an array, a row may be without any label
        refuse_blank_rows(table)
    features = read_features(
        table,
        settings.get("features", "rest"),
        folder=root,
        taken=labelled.taken_columns,
        exclude=_listed(settings.get("exclude", ())),
    )
    impute = _imputation(settings.get("impute"))
    rows = np.arange(len(table))
    num_missing = check_values(features, table, rows, impute=impute is not None)
    parts, notes, warnings = labelled.split(rows, labelled.labels, seed=seed)
    if num_missing:
        filled = counted(num_missing, "missing feature value was", "missing feature values were")
        notes.append(f"{filled} filled in ({impute}, fitted on train).")
    advice = "leave {names} out of `features`"
    if settings.get("features", "rest") == "rest":
        warnings += row_numbers(features)
        advice = "say `exclude: [{names}]` in `data`"
    warnings += telling_features(features, labelled.labels, labelled.tasks, advice=advice)
    if features.left_out:
        notes.append(f"Not used as features: {', '.join(features.left_out)} (text or blank).")
    features, fitted = _standardized(features, parts.train, settings, impute)
    beside = feature_files(settings.get("features", "rest"), root)
    about = labelled.about(reader, labelled.labels, parts, notes, warnings, beside=beside, sources=sources)
    about["features"] = {"count": features.num_features, "standardized": fitted is not None}
    if not isinstance(settings.get("features", "rest"), Mapping):
        about["features"]["names"] = list(features.names)
    task_set = labelled.tasks.fit(labelled.labels[torch.from_numpy(parts.train)])
    datasets = {
        name: TableDataset(features, part, task_set, labelled.labels, labelled.groups)
        for name, part in parts.items()
    }
    for dataset in datasets.values():
        dataset.table = table
    preprocessing = {
        "reader": "table",
        "features": list(features.names),
        "packed_bits": features.packed_bits,
        "standardization": fitted,
    }
    return DataSplits(**datasets, about=about, preprocessing=preprocessing)


def table(
    path: Path | str,
    tasks: TaskSettings,
    *,
    features: FeatureSettings = "rest",
    split_by: str | None = None,
    group: str | None = None,
    test: float = 0.2,
    validation: float = 0.1,
    shared_groups: str = "refused",
    seed: int = 0,
    **settings: Any,
) -> DataSplits:
    """Loads a table of feature rows with label columns; a blank cell is a label that is not there.

    Args:
        path: CSV, TSV or Parquet file.
        tasks: A TaskSet, or settings by task name; classes that settings do not name come from the table.
        features: Column names or globs; "rest" for every numeric column that is neither task nor group; or
            `{"npz": file, "array": name, "packed_bits": F}` or `{"npy": file}` beside the table.
        split_by: Column whose equal values stay on one side; `group` where None, and rows where that is None.
        group: Column that says which rows belong together; intervals are clustered by it.
        test, validation: Fractions of the groups (of the rows where there are none).
        shared_groups: "refused", or "allowed" where `split_by` may part a group, with a warning in `about`.
        seed: Decides the split.
        **settings: Further settings of the source: `exclude`, `standardize`, `impute`, `missing`,
            `decimal`, `separator`, `columns`.

    Raises:
        DataError: The table, a column, a cell or the split is not what it should be.
        ConfigError: A setting is unknown or does not fit.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "people.csv"
        >>> rows = [f"{i},{i % 7},{20 + i},{'FM'[i % 2] if i % 3 else ''}" for i in range(40)]
        >>> _ = path.write_text("\\n".join(["a,b,age,sex", *rows]))
        >>> data = table(path, {"age": {"kind": "regression"}, "sex": {"kind": "binary"}})
        >>> data.train.input_shape, data.tasks["sex"].class_names
        ((2,), ('F', 'M'))
        >>> len(data.train), len(data.validation), len(data.test)
        (28, 4, 8)
    """
    path = Path(path)
    return load_table(
        {"table": path.name, "features": features, **_given(group=group), **settings},
        tasks,
        {
            "by": split_by or group or "rows",
            "test": test,
            "validation": validation,
            "shared_groups": shared_groups,
        },
        seed=seed,
        folder=path.parent,
        stores=path.parent,
    )


def any_present(labels: Labels) -> NDArray[np.bool_]:
    """Whether each row has a label of any task, [N]."""
    found = np.zeros(len(labels), dtype=np.bool_)
    for present in labels.present.values():
        found |= present.numpy().reshape(len(labels), -1).any(axis=1)
    return found


def _standardized(
    features: FeatureRows, train: NDArray[np.int64], settings: Mapping[str, Any], impute: Imputation | None
) -> tuple[FeatureRows, dict[str, Any] | None]:
    """The features as the network gets them, and what was fitted (None where they are left as they are)."""
    standardize = settings.get("standardize", features.packed_bits is None)
    if not isinstance(standardize, bool):
        raise ConfigError(f"data.standardize: true or false expected, found {standardize!r}.")
    if not standardize and impute is None:
        return features, None
    fitted = features.fit(train, standardize=standardize, impute=impute)
    return features.standardized(fitted), fitted.to_dict()


def _imputation(value: Any) -> Imputation | None:
    for choice in get_args(Imputation):
        if value == choice:
            return choice  # type: ignore[no-any-return]
    if value is not None:
        raise ConfigError(f"data.impute: {' or '.join(get_args(Imputation))} expected, found {value!r}.")
    return None


def _check_complete(table: Table, column: str, purpose: str) -> None:
    blank = np.flatnonzero(table.text(column) == "")
    if len(blank):
        refuse_blank_rows(table)
        raise DataError(
            f"{table.where(int(blank[0]), column)}: the cell is blank ({len(blank)} in all); {purpose} "
            "needs a value in every row."
        )


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else (value,)


def _given(**settings: Any) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}
