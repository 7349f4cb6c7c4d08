"""Predictions of a bundle of tables: a row for every row."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from taskloom.data.feature_rows import FeatureRows, Standardization, check_values, read_features
from taskloom.data.tables import PARQUET_SUFFIXES, Table, read_table, sniff_separator
from taskloom.deploy import Bundle
from taskloom.errors import DataError
from taskloom.predict.faces import device_of
from taskloom.predict.outputs import TableFile
from taskloom.predict.readings import Column, Readings

_BLOCK_ROWS = 1024


def predict_table(bundle: Bundle, source: Path, table: Path, *, device: str = "auto") -> tuple[int, str]:
    """Predicts every row of a table of features.

    Args:
        bundle: A bundle of a table whose features are columns.
        source: CSV, TSV or Parquet with those columns; others are ignored.
        table: A .csv, .parquet or .jsonl file: `row` (0, 1, ... in the source's order), then the tasks.
        device: auto, cpu or cuda.

    Returns:
        How many rows, and the device.

    Raises:
        DataError: Not such a bundle, a column that is missing, or a cell that cannot be used.

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
    data = bundle.about.get("data", {})  # cells are read as those of the table that trained the network
    found = read_table(source, missing=data.get("missing", ()), decimal=_decimal(source, data))
    features = _features(bundle, found)
    where = device_of(device)
    model = bundle.model.to(where).eval()
    readings = Readings(bundle.tasks, ["row"])
    about = {"bundle": bundle.versions, "device": str(where), "source": str(source)}
    out = TableFile(table, (Column("row", "int"), *readings.columns), about)
    try:
        for start in range(0, len(found), _BLOCK_ROWS):
            rows = np.arange(start, min(start + _BLOCK_ROWS, len(found)))
            with torch.inference_mode():
                outputs = model(torch.from_numpy(features.gather(rows)).to(where))
            states = readings.states({name: output.float().cpu() for name, output in outputs.items()})
            for row, state in zip(rows.tolist(), states, strict=True):
                out.write([row, *readings.cells(state)])
        out.finish()
    except BaseException:
        out.discard()
        raise
    return len(found), str(where)


def _decimal(source: Path, data: Mapping[str, Any]) -> str:
    """A comma where training's table had it and this one cannot mean it as its separator."""
    written = str(data.get("decimal", "."))
    is_text = source.is_file() and source.suffix.lower() not in PARQUET_SUFFIXES
    return "." if written == "," and is_text and sniff_separator(source) == "," else written


def _features(bundle: Bundle, table: Table) -> FeatureRows:
    """The columns that the network was trained on, in its order, as it was trained on them."""
    known = bundle.preprocessing
    if known.get("reader") != "table":
        reader = known.get("reader")
        raise DataError(
            f"{table.path}: a table goes with a bundle of tables, and this bundle was trained by the reader "
            f"`{reader}`; `predict` takes images, folders, videos and cameras for bundles of images, tables "
            "for bundles of tables, recordings for bundles of recordings."
        )
    names = tuple(str(name) for name in known["features"])
    missing = [name for name in names if name not in table.columns]
    if known["packed_bits"] is not None or len(missing) == len(names):
        raise DataError(
            f"{table.path}: the {len(names)} features of this bundle are expected as columns "
            f"({names[0]}, ...), and none is there; bundles whose features were an array beside the table "
            "are not supported."
        )
    if missing:
        raise DataError(
            f"{table.path}: column `{missing[0]}`, a feature of this bundle, is missing"
            f"{f' and {len(missing) - 1} more are' if len(missing) > 1 else ''}."
        )
    chosen = read_features(table, list(names), folder=table.path.parent, taken=())
    order = [chosen.names.index(name) for name in names]
    features = FeatureRows(np.ascontiguousarray(chosen.array[:, order]), names)
    fitted = known["standardization"]
    imputes = fitted is not None and fitted["fill"] is not None
    advice = "this bundle was trained without missing features: fill in the cell, or train with `impute`"
    check_values(features, table, np.arange(len(table)), impute=imputes, advice=advice)
    if fitted is None:
        return features
    arrays = [None if fitted[key] is None else np.array(fitted[key]) for key in ("center", "scale", "fill")]
    assert arrays[0] is not None
    assert arrays[1] is not None
    return features.standardized(Standardization(arrays[0], arrays[1], arrays[2]))
