"""Tables as people have them: marks of missing values, decimal commas, ids, classes written in two ways."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from taskloom.data.feature_rows import FeatureRows, read_features, row_numbers
from taskloom.data.inspect import inspect_splits
from taskloom.data.inspect_text import render
from taskloom.data.label_columns import classes_in_column
from taskloom.data.table_source import table
from taskloom.data.tables import read_table
from taskloom.errors import ConfigError, DataError


def german(folder: Path, **columns: list[object]) -> Path:
    """A table as a German spreadsheet writes it: semicolons, decimal commas."""
    path = folder / "german.csv"
    pd.DataFrame(columns).to_csv(path, sep=";", decimal=",", index=False)
    return path


def test_decimal_commas_are_read_as_pandas_reads_them(tmp_path: Path) -> None:
    path = german(tmp_path, x=[1.5, -0.25, 3.0, None], n=[1, 2, 3, 4])
    expected = pd.read_csv(path, sep=";", decimal=",")
    found = read_table(path, decimal=",")
    for name in ("x", "n"):
        np.testing.assert_array_equal(found.numbers(name), expected[name].to_numpy(np.float64))


def test_a_point_among_decimal_commas_is_refused_not_read_as_decimals(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x;y\n1.234;1\n2,5;2\n")
    with pytest.raises(DataError, match=r"a\.csv:2: column `x`: a number expected, found `1\.234`"):
        read_table(tmp_path / "a.csv", decimal=",").numbers("x")


@pytest.mark.parametrize("decimal", [";", "", 1, None])
def test_another_decimal_mark_is_refused(tmp_path: Path, decimal: object) -> None:
    with pytest.raises(ConfigError, match=r'data\.decimal: "\." or "," expected'):
        read_table(german(tmp_path, x=[1]), decimal=decimal)  # type: ignore[arg-type]


def test_parquet_has_numbers_and_needs_no_decimal_mark(tmp_path: Path) -> None:
    pd.DataFrame({"x": [1.5, 2.25]}).to_parquet(tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet", decimal=",").numbers("x").tolist() == [1.5, 2.25]


def test_rest_does_not_leave_out_columns_of_decimal_commas(tmp_path: Path) -> None:
    path = german(tmp_path, n=[1, 5, 2], x=[1.5, 2.5, 3.5], word=["a", "b", "c"])
    with pytest.raises(
        DataError, match='found `1,5`; numbers with a decimal comma are read with `decimal: ","`'
    ):
        read_features(read_table(path), "rest", folder=tmp_path, taken=())
    features = read_features(read_table(path, decimal=","), "rest", folder=tmp_path, taken=())
    assert features.names == ("n", "x")
    assert features.left_out == ("word",)


def test_rest_does_not_leave_out_a_column_that_is_mostly_marks_of_missing_values(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y,empty\n1,N/A,-\n2,N/A,-\n3,7,-\n4,n/a,-\n")
    with pytest.raises(
        DataError, match=r'found `N/A`; where it means a missing value, say `missing: \["N/A"\]`'
    ):
        read_features(read_table(tmp_path / "a.csv"), "rest", folder=tmp_path, taken=())
    features = read_features(
        read_table(tmp_path / "a.csv", missing=["N/A", "n/a"]), "rest", folder=tmp_path, taken=()
    )
    assert features.names == ("x", "y")
    assert features.left_out == ("empty",)
    assert np.isnan(features.array[:, 1]).tolist() == [True, True, False, True]


def test_a_mark_of_missing_labels_is_no_class_unless_somebody_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,mood\n1,good\n2,N/A\n3,bad\n4,N/A\n")
    with pytest.raises(
        DataError, match=r"a\.csv:3: column `mood`: `N/A` reads like a missing label \(2 in all\)"
    ):
        classes_in_column(read_table(tmp_path / "a.csv"), "mood", "mood")
    assert classes_in_column(read_table(tmp_path / "a.csv", missing=["N/A"]), "mood", "mood") == (
        "bad",
        "good",
    )
    rows = "\n".join(f"{i},{'N/A' if i % 2 else 'good'}" for i in range(40))
    (tmp_path / "b.csv").write_text("x,mood\n" + rows)
    declared = {"mood": {"kind": "binary", "classes": ["N/A", "good"]}}
    assert table(tmp_path / "b.csv", declared).tasks["mood"].class_names == ("N/A", "good")


@pytest.mark.parametrize(
    ("name", "values", "warned"),
    [
        ("id", [4, 2, 9, 1], True),
        ("subject_id", [4, 2, 9, 1], True),
        ("height", [4, 2, 9, 1], False),
        ("height", [1, 2, 4, 9], True),
        ("height", [1, 2, 4.5, 9], False),
        ("id", [1, 1, 2, 2], False),
        ("id", [1, np.nan, 2, 3], False),
    ],
)
def test_features_that_number_the_rows_are_told(name: str, values: list[float], warned: bool) -> None:
    features = FeatureRows(np.array(values, dtype=np.float32)[:, None], [name])
    assert bool(row_numbers(features)) is warned


def test_the_inspection_says_features_warnings_and_notes(tmp_path: Path) -> None:
    answers = ["yes", "no", "Yes", ""]
    rows = [f"{i},{(7 * i) % 11},word,{answers[i % 4]},{i if i == 3 else ''}" for i in range(60)]
    (tmp_path / "a.csv").write_text("\n".join(["id,x,text,sick,rare", *rows]))
    data = table(tmp_path / "a.csv", {"sick": {"kind": "multiclass"}, "rare": {"kind": "regression"}})
    text = " ".join(render(inspect_splits(data)).split())
    assert "Features: 2 (id, x)" in text
    assert "leave it out with `exclude: [id]`" in text
    assert "classes `Yes` and `yes` of task `sick` differ in capital letters" in text
    assert "task rare has no label in" in text
    assert "Not used as features: text" in text
    named = table(tmp_path / "a.csv", {"sick": {"kind": "multiclass"}}, features=["id", "x"])
    assert not any("exclude" in warning for warning in named.about["warnings"])  # asked for by name


def test_a_long_warning_stays_indented(tmp_path: Path) -> None:
    rows = [f"{i},{(7 * i) % 11},{i % 2}" for i in range(60)]
    (tmp_path / "a.csv").write_text("\n".join(["id,x,sick", *rows]))
    lines = render(
        inspect_splits(table(tmp_path / "a.csv", {"sick": {"kind": "binary"}})), width=60
    ).splitlines()
    start = lines.index("Warnings") + 1
    block = lines[start : lines.index("", start)]
    assert len(block) > 1
    assert all(line.startswith("  ") for line in block)
