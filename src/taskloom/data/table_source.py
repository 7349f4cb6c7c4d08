"""The source "table": a CSV, TSV or Parquet file of features and label columns; blank = missing label."""

from __future__ import annotations

from collections.abc import Mapping
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
from taskloom.data.file_names import check_file_name
from taskloom.data.labelled_table import (
    LABEL_SETTINGS,
    LabelledTable,
    any_present,
    given_settings,
    label_table,
    listed,
    read_labelled_table,
)
from taskloom.data.sources import SOURCES, TaskSettings, check_settings, data_folder
from taskloom.data.table_dataset import TableDataset
from taskloom.data.telling_features import telling_features
from taskloom.errors import ConfigError
from taskloom.wording import counted

__all__ = [
    "LABEL_SETTINGS",
    "TABLE_SETTINGS",
    "LabelledTable",
    "any_present",
    "given_settings",
    "label_table",
    "load_labelled",
    "load_table",
    "read_labelled_table",
    "table",
]

TABLE_SETTINGS = (*LABEL_SETTINGS, "features", "categories", "exclude", "standardize", "impute")


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
    packed bits; fitted on train; never of categories); `categories` (columns or globs of which every value
    is a feature of 0 and 1, behind the numbers; a value that no training row has counts as blank, and a blank
    cell is 0 in all of them); `impute` (mean or zero, fitted on train); `separator`; `missing` (texts
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
        exclude=listed(settings.get("exclude", ())),
        categories=listed(settings.get("categories", ())),
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
    _keep_known_categories(features, parts.train)
    features, fitted = _standardized(features, parts.train, settings, impute)
    beside = feature_files(settings.get("features", "rest"), root)
    about = labelled.about(reader, labelled.labels, parts, notes, warnings, beside=beside, sources=sources)
    about["features"] = {"count": features.num_features, "standardized": fitted is not None}
    if not isinstance(settings.get("features", "rest"), Mapping):
        about["features"]["names"] = list(features.names)
    coded = dict(features.categories.values)
    if coded:
        about["features"]["categories"] = {name: len(values) for name, values in coded.items()}
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
    if coded:
        preprocessing["categories"] = {name: list(values) for name, values in coded.items()}
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
    check_file_name(path, "path")
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


def _keep_known_categories(features: FeatureRows, train: NDArray[np.int64]) -> None:
    """Empties the features of values that no training row has: their weights would be those of the start."""
    if not features.categories.values:
        return
    first = features.num_numbers
    present = np.asarray(features.array[train, first:].any(axis=0), dtype=np.bool_)
    features.array[:, first:][:, ~present] = 0
    features.categories = features.categories.seen(present)


def _imputation(value: Any) -> Imputation | None:
    for choice in get_args(Imputation):
        if value == choice:
            return choice  # type: ignore[no-any-return]
    if value is not None:
        raise ConfigError(f"data.impute: {' or '.join(get_args(Imputation))} expected, found {value!r}.")
    return None


def _given(**settings: Any) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}
