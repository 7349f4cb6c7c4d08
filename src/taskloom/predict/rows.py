"""Predictions of a bundle of tables: a row for every row of a table, or of an array of features."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from taskloom.data.category_columns import Categories
from taskloom.data.feature_arrays import load_array
from taskloom.data.feature_rows import (
    FeatureRows,
    Standardization,
    array_rows,
    check_values,
)
from taskloom.data.tables import PARQUET_SUFFIXES, Table, read_table, sniff_separator
from taskloom.deploy import Bundle
from taskloom.errors import DataError
from taskloom.predict.faces import device_of
from taskloom.predict.outputs import HeldRows, row_sink
from taskloom.predict.readings import Column, Readings

ARRAY_SUFFIXES = (".npy", ".npz")
_BLOCK_ROWS = 1024


def predict_table(
    bundle: Bundle,
    source: Path,
    table: Path | HeldRows,
    *,
    device: str = "auto",
    tell: Callable[[str], None] | None = None,
) -> tuple[int, str]:
    """Predicts every row of a table of features, or of an array of them.

    Args:
        bundle: A bundle of a table.
        source: CSV, TSV or Parquet with the columns that were its features; others are ignored. Where they
            were an array beside the table: .npy or .npz with such an array (packed bits where those were).
        table: A .csv, .parquet or .jsonl file, or what holds rows in memory: `row` (0, 1, ... in the
            source's order), then the tasks.
        device: auto, cpu or cuda.
        tell: Called with a sentence for every column that holds categories which no training row had.

    Returns:
        How many rows, and the device.

    Raises:
        DataError: Not such a bundle, a column that is missing, an array of another shape or type, or a cell
            that cannot be used.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "new.csv").write_text("a,b\\n1,2\\n3,4\\n")
        >>> tasks = tl.TaskSet(tl.Regression("age"))
        >>> model = tl.sharing.build("single_task", tl.encoders.mlp((2,), hidden=[3]), tasks)
        >>> how = {"reader": "table", "features": ["a", "b"], "packed_bits": None, "standardization": None}
        >>> bundle = Bundle(model.eval(), tasks, how, {}, {"input_shape": [2]}, {})
        >>> predict_table(bundle, folder / "new.csv", folder / "out.csv", device="cpu")
        (2, 'cpu')
    """
    _check_bundle(bundle, source)
    if source.suffix.lower() in ARRAY_SUFFIXES:
        features = _array_features(bundle, source)
    else:
        data = bundle.about.get("data", {})  # cells are read as those of the table that trained the network
        found = read_table(source, missing=data.get("missing", ()), decimal=_decimal(source, data))
        features = table_features(bundle, found)
        if tell is not None:
            for note in categories_of_bundle(bundle).unknown(found):
                tell(note)
    where = device_of(device)
    model = bundle.model.to(where).eval()
    readings = Readings(bundle.tasks, ["row"])
    about = {"bundle": bundle.versions, "device": str(where), "source": str(source)}
    out = row_sink(table, (Column("row", "int"), *readings.columns), about)
    try:
        for start in range(0, len(features), _BLOCK_ROWS):
            rows = np.arange(start, min(start + _BLOCK_ROWS, len(features)))
            with torch.inference_mode():
                outputs = model(torch.from_numpy(features.gather(rows)).to(where))
            states = readings.states({name: output.float().cpu() for name, output in outputs.items()})
            for row, state in zip(rows.tolist(), states, strict=True):
                out.write([row, *readings.cells(state)], state)
        out.finish()
    except BaseException:
        out.discard()
        raise
    return len(features), str(where)


def _decimal(source: Path, data: Mapping[str, Any]) -> str:
    """A comma where training's table had it and this one cannot mean it as its separator."""
    written = str(data.get("decimal", "."))
    is_text = source.is_file() and source.suffix.lower() not in PARQUET_SUFFIXES
    return "." if written == "," and is_text and sniff_separator(source) == "," else written


def _check_bundle(bundle: Bundle, source: Path) -> None:
    reader = bundle.preprocessing.get("reader")
    if reader != "table":
        raise DataError(
            f"{source}: a table goes with a bundle of tables, and this bundle was trained by the reader "
            f"`{reader}`; `predict` takes images, folders, videos and cameras for bundles of images, tables "
            "for bundles of tables, recordings for bundles of recordings."
        )


def trained_on_array(bundle: Bundle) -> bool:
    """Whether the features stood in an array beside the training's table."""
    known, about = bundle.preprocessing, bundle.about.get("data", {}).get("features")
    if known["packed_bits"] is not None:
        return True
    if about is not None:
        return "names" not in about
    return list(known["features"]) == [str(index) for index in range(len(known["features"]))]


def categories_of_bundle(bundle: Bundle) -> Categories:
    """The columns whose values are the last of a bundle's features; none where all are numbers."""
    return Categories(bundle.preprocessing.get("categories", {}))


def _array_features(bundle: Bundle, source: Path) -> FeatureRows:
    """Rows of an array like the one that the network was trained on."""
    known = bundle.preprocessing
    names = list(known["features"])
    if not trained_on_array(bundle):
        raise DataError(
            f"{source}: a table with the {len(names)} features of this bundle as columns ({names[0]}, ...) "
            "expected, as it was trained on one; an array has no names."
        )
    if not source.is_file():
        raise DataError(f"{source}: an array of features expected, found no such file.")
    trained = bundle.about.get("run", {}).get("data", {}).get("features")
    key = str(trained.get("array", "")) if isinstance(trained, Mapping) else ""
    array, name = _loaded(source, key)
    features = array_rows(array, name, known["packed_bits"])
    if features.num_features != len(names):
        raise DataError(
            f"{name}: {len(names)} features a row expected, as in the training, found "
            f"{features.num_features}."
        )
    fitted = known["standardization"]
    _check_array(features, name, imputes=fitted is not None and fitted["fill"] is not None)
    return _standardized(features, fitted)


def _loaded(source: Path, key: str) -> tuple[NDArray[Any], str]:
    """The array of a file; of an archive the one that was trained on, or the only one."""
    if source.suffix.lower() == ".npy":
        return load_array(source, "", mapped=True)
    advice = "leave one array in the file" + (f", or call it `{key}` as in the training" if key else "")
    try:
        return load_array(source, key, mapped=False, advice=advice)
    except DataError as error:
        with contextlib.suppress(DataError):
            return load_array(source, "", mapped=False)
        raise error from None


def _check_array(features: FeatureRows, name: str, *, imputes: bool) -> None:
    """Refuses values that cannot be used, by row and feature."""
    if features.packed_bits is not None:
        return
    for start in range(0, len(features), _BLOCK_ROWS):
        values = features.raw(np.arange(start, min(start + _BLOCK_ROWS, len(features))))
        bad = np.argwhere(np.isinf(values) | (np.isnan(values) & (not imputes)))
        if len(bad):
            row, column = (int(index) for index in bad[0])
            value = values[row, column]
            raise DataError(
                f"{name}: feature {column} of row {start + row} (both from 0) is {value}; a finite number "
                f"expected{' (or NaN where it is missing)' if imputes else ''}."
            )


def table_features(bundle: Bundle, table: Table) -> FeatureRows:
    """The columns that the network was trained on, in its order, as it was trained on them.

    Raises:
        DataError: A column is missing, holds what is no number, or the features were an array.
    """
    known = bundle.preprocessing
    names = tuple(str(name) for name in known["features"])
    categories = categories_of_bundle(bundle)
    numbers = names[: len(names) - len(categories.columns)]
    missing = [name for name in (*numbers, *categories.values) if name not in table.columns]
    if known["packed_bits"] is not None or (trained_on_array(bundle) and missing):
        kind = f"{len(names)} packed bits" if known["packed_bits"] is not None else f"{len(names)} numbers"
        raise DataError(
            f"{table.path}: the features of this bundle were an array beside the table, {kind} a row; give "
            "an array like it, .npy or .npz."
        )
    if missing:
        raise DataError(
            f"{table.path}: column `{missing[0]}`, a feature of this bundle, is missing"
            f"{f' and {len(missing) - 1} more are' if len(missing) > 1 else ''}."
        )
    array = np.empty((len(table), len(names)), dtype=np.float32)
    for position, name in enumerate(numbers):
        array[:, position] = table.numbers(name)
    array[:, len(numbers) :] = categories.encode(table)
    features = FeatureRows(array, names)
    fitted = known["standardization"]
    imputes = fitted is not None and fitted["fill"] is not None
    advice = "this bundle was trained without missing features: fill in the cell, or train with `impute`"
    check_values(features, table, np.arange(len(table)), impute=imputes, advice=advice)
    return _standardized(features, fitted)


def _standardized(features: FeatureRows, fitted: Mapping[str, Any] | None) -> FeatureRows:
    if fitted is None:
        return features
    arrays = [None if fitted[key] is None else np.array(fitted[key]) for key in ("center", "scale", "fill")]
    assert arrays[0] is not None
    assert arrays[1] is not None
    return features.standardized(Standardization(arrays[0], arrays[1], arrays[2]))
