"""A column that has the name of a split rule is a column like others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from taskloom.data.table_source import load_table

TASKS = {"y": {"kind": "binary"}}


@pytest.mark.parametrize("name", ["rows", "column"])
def test_a_column_named_as_a_rule_is_a_feature(tmp_path: Path, name: str) -> None:
    draw = np.random.default_rng(0)
    frame = pd.DataFrame({"a": draw.normal(size=60), name: draw.integers(0, 5, 60), "y": np.arange(60) % 2})
    frame["part"] = np.resize(["train", "train", "validation", "test"], 60)
    split = {"by": "rows", "test": 0.2} if name == "rows" else {"by": "column", "column": "part"}
    frame.to_csv(tmp_path / "a.csv", index=False)
    plain = frame.rename(columns={name: "b"})
    plain.to_csv(tmp_path / "b.csv", index=False)
    found, expected = (
        load_table({"table": file}, TASKS, split, seed=0, folder=tmp_path, stores=tmp_path)
        for file in ("a.csv", "b.csv")
    )
    assert found.about["features"]["names"] == ["a", name]
    assert found.about["group"] is None
    for part, other in zip(
        (found.train, found.validation, found.test),
        (expected.train, expected.validation, expected.test),
        strict=True,
    ):
        assert part.rows.tolist() == other.rows.tolist()


def test_a_task_named_rows_is_spread_over_rows(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    frame = pd.DataFrame({"a": draw.normal(size=60), "rows": np.resize(["u", "v", ""], 60)})
    frame.to_csv(tmp_path / "a.csv", index=False)
    split = {"by": "rows", "test": 0.5, "stratify": "rows"}
    data = load_table(
        {"table": "a.csv"}, {"rows": {"kind": "binary"}}, split, seed=0, folder=tmp_path, stores=tmp_path
    )
    assert data.about["labels"]["rows"]["test"] == 20
