"""A TaskSet in place of a study file's settings: its center and scale are no declaration, unless fixed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from taskloom.data.face_table import face_table, with_known_columns
from taskloom.data.signal_sources import rating_columns
from taskloom.data.sources import load, resolve_tasks
from taskloom.errors import DataError
from taskloom.tasks import Landmarks, Regression, Task, TaskSet

FITTED, FIXED = Regression("age", unit="years"), Regression("age", center=21.0, scale=40.0, fixed_scale=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    for name in ("one", "two"):
        rows = {"x": draw.normal(size=40), "age": draw.integers(20, 60, 40)}
        pd.DataFrame(rows).to_csv(tmp_path / f"{name}.csv", index=False)
    return tmp_path


def joined_age(folder: Path, tasks: Any, **of_set: Any) -> Task:
    """The task of two tables together; `of_set` are each table's own settings of it."""
    sets = {
        name: {"table": f"{name}.csv", "features": ["x"], "tasks": {"age": of_set.get(name)}}
        for name in ("one", "two")
    }
    split = {"by": "rows", "test": 0.2, "validation": 0.2}
    stores = folder / "stores"
    splits = load("combined", {"combined": sets}, tasks, split, seed=0, folder=folder, stores=stores)
    return splits.tasks["age"]


def test_combined_tables_take_a_task_set_as_they_take_settings(folder: Path) -> None:
    expected = joined_age(folder, {"age": {"kind": "regression", "unit": "years"}})
    assert joined_age(folder, TaskSet(FITTED)) == expected
    assert isinstance(expected, Regression)
    assert expected.scale > 5  # fitted
    assert joined_age(folder, TaskSet(FIXED)) == FIXED


def test_what_readers_know_of_a_task_set_is_no_scale_either() -> None:
    place = Path("faces")
    table = face_table(
        {"file": ["a.jpg"], "age": [31], "nose_x": [4], "nose_y": [5]},
        path=place,
        reader="mtfl",
        images=place,
        places=["a.jpg"],
        points=("nose",),
    )
    fixed = Regression("years", center=5.0, fixed_scale=True)
    tasks = TaskSet(FITTED, fixed, Landmarks("face", ("nose",)))
    for filled in (with_known_columns(table, tasks), rating_columns(tasks)):
        assert not isinstance(filled, TaskSet)
        entries = {
            name: {key: value for key, value in entry.items() if not key.startswith("column")}
            for name, entry in filled.items()
        }
        assert resolve_tasks(entries, {}) == tasks  # not refused, as settings with a scale of their own are


@pytest.mark.parametrize("other", [{"center": 21, "fixed_scale": True}, {}])
def test_two_scales_for_one_task_are_refused(folder: Path, other: dict[str, Any]) -> None:
    """The labels of one data set would be standardised by the scale of the other, without a word."""
    said = "age is not the same in two data sets: .*; declare the same settings in tasks.age, or make"
    with pytest.raises(DataError, match=said):
        joined_age(
            folder, {"age": {"kind": "regression"}}, one={"center": 30, "fixed_scale": True}, two=other
        )
