"""Balanced class weights are those of the labels trained on: after a removal, and of joined data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.utils.class_weight import compute_class_weight

from taskloom.data.batch import DataSplits
from taskloom.data.sources import load
from taskloom.errors import DataError

PLACE: dict[str, Any] = {
    "kind": "multiclass",
    "classes": ["hill", "lake", "town"],
    "class_weights": "balanced",
}
SHARES = {"one": (0.7, 0.2, 0.1), "two": (0.3, 0.3, 0.4)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    for name, shares in SHARES.items():
        table = pd.DataFrame(draw.normal(size=(120, 3)).round(3), columns=list("xyz"))
        table["place"] = draw.choice(PLACE["classes"], 120, p=shares)
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    return tmp_path


def read(folder: Path, reader: str, settings: dict[str, Any], **place: Any) -> DataSplits:
    tasks = {"place": {**PLACE, **place}}
    return load(reader, settings, tasks, {"by": "rows"}, seed=0, folder=folder, stores=folder / "stores")


def check(splits: DataSplits) -> None:
    labels = splits.train.labels
    codes = labels.values["place"][labels.present["place"]].numpy()
    expected = compute_class_weight("balanced", classes=np.arange(3), y=codes)
    for part in (splits.train, splits.validation, splits.test):
        assert part.tasks["place"].to_dict()["class_weights"] == pytest.approx(tuple(expected))


def test_of_the_labels_that_are_left(folder: Path) -> None:
    check(read(folder, "table", {"table": "one.csv"}))
    check(read(folder, "table", {"table": "one.csv", "remove_labels": {"share": 0.7}}))


def test_of_two_data_sets_together(folder: Path) -> None:
    sets = {name: {"table": f"{name}.csv"} for name in SHARES}
    check(read(folder, "combined", {"combined": sets}))
    sets["two"]["remove_labels"] = {"share": 0.5}  # type: ignore[assignment]
    check(read(folder, "combined", {"combined": sets}))


def test_numbers_stay_numbers(folder: Path) -> None:
    settings = {"table": "one.csv", "remove_labels": {"share": 0.7}}
    splits = read(folder, "table", settings, class_weights={"hill": 0.1})
    assert splits.tasks["place"].to_dict()["class_weights"] == (0.1, 1.0, 1.0)
    other = {"table": "two.csv", "tasks": {"place": {"classes": ["town", "lake", "hill"]}}}
    with pytest.raises(DataError, match="task place is not the same in two data sets"):
        read(folder, "combined", {"combined": {"one": {"table": "one.csv"}, "two": other}})
