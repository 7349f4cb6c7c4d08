"""A bundle on rows of another table: features found by name, filled in and scaled as its own were."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from taskloom.data.batch import DataSplits
from taskloom.data.row_dataset import spread_labels
from taskloom.data.table_dataset import TableDataset
from taskloom.deploy import Bundle
from taskloom.errors import DataError
from taskloom.predict.rows import categories_of_bundle, table_features, trained_on_array


def feature_columns(bundle: Bundle) -> list[str]:
    """The columns that a bundle of a table finds its features in; none of any other bundle."""
    known = bundle.preprocessing
    if known.get("reader") != "table" or trained_on_array(bundle):
        return []
    categories = categories_of_bundle(bundle)
    numbers = known["features"][: len(known["features"]) - len(categories.columns)]
    return [*map(str, numbers), *categories.values]


def rows_as_trained(
    bundle: Bundle, rows: TableDataset, splits: DataSplits, place: Path, columns: Mapping[str, str]
) -> tuple[TableDataset, list[str]]:
    """The same rows with the bundle's features, and what is to be noted.

    Args:
        bundle: The bundle.
        rows: A part of the other data.
        splits: The other data; what was fitted to them is not used.
        place: The study file, for messages.
        columns: Our feature -> their column, where it is called otherwise.

    Raises:
        DataError: A bundle of something else or of an array, the bundle's own table under another split, a
            feature that is not there, or a cell that cannot be used.
    """
    if json.loads(json.dumps(splits.preprocessing)) == bundle.preprocessing and not columns:
        return rows, []
    if not feature_columns(bundle) or rows.table is None:
        reader = bundle.preprocessing.get("reader")
        what = "on features without names" if reader == "table" else f"by the reader `{reader}`"
        raise DataError(
            f"{place}: holds rows of a table, but the bundle was trained {what}; evaluate it with the study "
            "file and data of its training."
        )
    own = set(bundle.about.get("data", {}).get("sources", {}).values())
    shared = next((name for name, digits in splits.about.get("sources", {}).items() if digits in own), None)
    if shared is not None:
        raise DataError(
            f"{place}: {shared} is a file of the bundle's own data, whose split or preparation is another "
            "here, so that rows of its training would be tested; evaluate it with the study file of its "
            "training, or on another table."
        )
    table = rows.table.renamed(columns)
    features = table_features(bundle, table)
    positions = torch.from_numpy(rows.rows)
    groups = np.full(len(table), "", dtype=object)
    groups[rows.rows] = np.asarray(rows.group_names, dtype=object)[rows.groups]
    other = TableDataset(
        features, rows.rows, rows.tasks, spread_labels(rows.labels, positions, len(table)), groups
    )
    other.table = table
    return other, categories_of_bundle(bundle).unknown(table)
