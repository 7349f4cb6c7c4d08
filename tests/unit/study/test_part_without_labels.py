"""A task whose few labels all fall on one side: what is wrong, and what gives every part some."""

from __future__ import annotations

from pathlib import Path

import pytest

from taskloom.data.inspect import inspect_splits
from taskloom.data.table_source import table
from taskloom.errors import DataError
from taskloom.study.prepare import check_labels


def test_a_part_without_labels_is_told_with_ways_out(tmp_path: Path) -> None:
    rows = [f"{row % 7},{row % 2},{'ab'[row % 2] if row < 2 else ''}" for row in range(60)]
    (tmp_path / "rows.csv").write_text("\n".join(["x,common,rare", *rows, ""]))
    data = table(tmp_path / "rows.csv", {"common": {"kind": "binary"}, "rare": {"kind": "binary"}}, seed=1)
    with pytest.raises(DataError) as told:
        check_labels(inspect_splits(data))
    assert str(told.value).startswith("tasks.rare: there is no label at all in ")
    assert "`split.seed`, larger fractions or `split.stratify: rare`, or leave the task out." in str(
        told.value
    )
    check_labels(inspect_splits(table(tmp_path / "rows.csv", {"common": {"kind": "binary"}}, seed=1)))
