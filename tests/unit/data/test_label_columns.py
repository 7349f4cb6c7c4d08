"""Label columns: classes and codes against pandas, blank cells are holes, bad cells are located."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from taskloom.data.label_columns import classes_in_column, encode_labels, resolve_label_columns
from taskloom.data.tables import Table, read_table
from taskloom.errors import ConfigError, DataError
from taskloom.tasks import Binary, Labels, Landmarks, Multilabel, Regression, TaskSet

SHARED = Path(__file__).parents[4] / "shared" / "data"
Reader = Callable[[str], Table]


@pytest.fixture
def table(tmp_path: Path) -> Reader:
    def read(text: str) -> Table:
        path = tmp_path / "labels.csv"
        path.write_text(text)
        return read_table(path)

    return read


def labels_of(found: Table, settings: Any, columns: Any = None) -> tuple[TaskSet, Labels]:
    tasks, where = resolve_label_columns(found, settings, columns)
    return tasks, encode_labels(found, tasks, where)


def test_classes_come_from_the_whole_column_numbers_in_their_order(table: Reader) -> None:
    found = table("a,b,c\n10,x,2.0\n9,,1.5\n,y,\n100,x,2\n")
    assert classes_in_column(found, "a", "a") == ("9", "10", "100")
    assert classes_in_column(found, "b", "b") == ("x", "y")
    assert classes_in_column(found, "c", "c") == ("1.5", "2")


def test_codes_equal_those_of_pandas_and_blanks_are_absent(table: Reader) -> None:
    cells = ["cat", "", "dog", "ant", "cat", "", "dog"]
    tasks, labels = labels_of(
        table("animal\n" + "\n".join(cell or '""' for cell in cells)), {"animal": {"kind": "multiclass"}}
    )
    series = pd.Series([cell or None for cell in cells])
    codes = pd.Categorical(series)
    present = labels.present["animal"]
    assert tasks["animal"].class_names == tuple(codes.categories)
    np.testing.assert_array_equal(present.numpy(), series.notna())
    np.testing.assert_array_equal(labels.values["animal"][present].numpy(), codes.codes[series.notna()])
    assert labels.values["animal"].dtype == torch.int64


def test_declared_classes_set_the_codes_and_whole_decimals_match_them(table: Reader) -> None:
    found = table("sex\nM\nF\nM\n")
    _, labels = labels_of(found, {"sex": {"kind": "binary", "classes": ["M", "F"]}})
    assert labels.values["sex"].tolist() == [0, 1, 0]
    found = table("id,toxic\n1,1.0\n2,0.0\n3,\n")
    _, labels = labels_of(found, TaskSet(Binary("toxic")))
    assert labels.values["toxic"][:2].tolist() == [1, 0]
    assert labels.present["toxic"].tolist() == [True, True, False]


def test_a_task_may_read_another_column_than_its_name(table: Reader) -> None:
    found = table("Age (years),g\n30,F\n,M\n")
    tasks, labels = labels_of(
        found,
        {
            "age": {"kind": "regression", "column": "Age (years)", "unit": "years"},
            "sex": {"kind": "binary", "column": "g"},
        },
    )
    assert tasks.names == ("age", "sex")
    assert labels.counts() == {"age": 1, "sex": 2}
    _, again = labels_of(found, TaskSet(Regression("age")), {"age": "Age (years)"})
    assert again.values["age"].tolist() == labels.values["age"].tolist()


def test_multilabel_presence_is_per_cell(table: Reader) -> None:
    found = table("a,b,c\n1,,0\n0,1,\n,,\n")
    tasks, labels = labels_of(found, {"tags": {"kind": "multilabel", "columns": ["c", "a", "b"]}})
    assert tasks["tags"].class_names == ("c", "a", "b")
    assert labels.present["tags"].int().tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 0]]
    assert (labels.values["tags"] * labels.present["tags"]).tolist() == [[0, 1, 0], [0, 0, 1], [0, 0, 0]]
    _, by_names = labels_of(found, TaskSet(Multilabel("tags", ("c", "a", "b"))))
    assert torch.equal(by_names.present["tags"], labels.present["tags"])


def test_landmarks_are_pairs_of_columns_each_point_present_by_itself(table: Reader) -> None:
    found = table("x1,y1,x2,y2\n1,2,3,4\n,,5,6\n")
    tasks, labels = labels_of(found, {"face": {"kind": "landmarks", "columns": ["x1", "y1", "x2", "y2"]}})
    assert tasks["face"].width == 4
    assert labels.values["face"].tolist() == [[[1, 2], [3, 4]], [[0, 0], [5, 6]]]
    assert labels.present["face"].tolist() == [[True, True], [False, True]]


def test_a_vector_is_present_as_a_whole(table: Reader) -> None:
    found = table("u,v\n1,2\n,\n3,4.5\n")
    tasks, labels = labels_of(found, {"pose": {"kind": "regression", "columns": ["u", "v"]}})
    assert tasks["pose"].width == 2
    assert labels.present["pose"].tolist() == [True, False, True]
    assert labels.values["pose"][labels.present["pose"]].tolist() == [[1, 2], [3, 4.5]]


@pytest.mark.parametrize(
    ("text", "settings", "words"),
    [
        ("age\n1\n", {"aeg": {"kind": "regression"}}, ["no column `aeg`", "task `aeg`", "mean `age`?"]),
        ("sex\nF\n", {"gender": {"kind": "binary"}}, ["no column `gender`", "task `gender`"]),
        ("i,age\n1,30\n2,old\n", {"age": {"kind": "regression"}}, ["labels.csv:3", "`age`", "`old`"]),
        (
            "sex\nF\nM\nfemale\n",
            {"sex": {"kind": "binary", "classes": ["female", "M"]}},
            ["labels.csv:2", "`sex`", "`F` is not a class", "female, M"],
        ),
        ("sex\nF\nM\nX\n", {"sex": {"kind": "binary"}}, ["sex", "two classes", "holds 3"]),
        ("i,sex\n1,\n2,\n", {"sex": {"kind": "binary"}}, ["`sex` has no label at all", "2 rows"]),
        ("i,age\n1,\n2,\n", {"age": {"kind": "regression"}}, ["`age` has no label at all"]),
        ("i,sex\n1,F\n2,\n", {"sex": {"kind": "binary"}}, ["`sex` has one class only", "`F`"]),
        (
            "sex\nF\nF\n",
            {"sex": {"kind": "binary", "classes": ["F", "M"]}},
            ["`sex` has one class only", "`F`"],
        ),
        ("a,b\n1,0\n2,0\n", {"t": {"kind": "multilabel", "columns": ["a", "b"]}}, ["csv:3", "`a`", "`2`"]),
        ("a,b\n1,0\n", {"t": {"kind": "multilabel", "columns": ["a", "c"]}}, ["no column `c`", "task `t`"]),
        ("x,y\n1,2\n1,\n", {"p": {"kind": "landmarks", "columns": ["x", "y"]}}, ["csv:3", "`y`", "a point"]),
        (
            "x,y\n1,2\n,2\n",
            {"p": {"kind": "regression", "columns": ["x", "y"]}},
            ["csv:3", "`x`", "a vector"],
        ),
        ("age\n30\n130\n", {"age": {"kind": "regression", "range": [0, 116]}}, ["csv:3", "130", "[0, 116]"]),
    ],
)
def test_a_bad_column_or_cell_is_named(table: Reader, text: str, settings: Any, words: list[str]) -> None:
    with pytest.raises((DataError, ConfigError)) as caught:
        labels_of(table(text), settings)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"t": {"kind": "binary", "column": "a", "columns": ["a"]}}, "exclude each other"),
        ({"t": {"kind": "binary", "columns": ["a", "b"]}}, "one column of classes expected, found 2"),
        ({"t": {"kind": "landmarks", "points": 2, "columns": ["a", "b"]}}, "4 for this landmarks task"),
        ({"t": {"kind": "landmarks", "points": 2}}, "needs `columns`"),
        ({"t": {"kind": "regression", "columns": ["a", "b"], "size": 3}}, "3 for this regression task"),
        ({"a": {"kind": "regression", "colum": "b"}}, "tasks.a.colum"),
    ],
)
def test_settings_that_do_not_fit_are_refused(table: Reader, settings: Any, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        labels_of(table("a,b\n1,2\n3,4\n"), settings)
    assert words in str(caught.value)


def test_columns_of_an_unknown_task_are_refused(table: Reader) -> None:
    with pytest.raises(ConfigError, match=r"`agee` is not a task\. Did you mean `age`"):
        resolve_label_columns(table("a\n1\n"), TaskSet(Regression("age")), {"agee": "a"})


def test_too_many_classes_ask_whether_it_is_a_regression(table: Reader) -> None:
    found = table("a\n" + "\n".join(f"v{i}" for i in range(1001)))
    with pytest.raises(DataError, match=r"1001 distinct values.*is it a regression"):
        classes_in_column(found, "a", "a")


def test_pairs_of_landmark_columns_follow_the_points(table: Reader) -> None:
    found = table("x,y\n1,2\n3,4\n")
    _, labels = labels_of(found, TaskSet(Landmarks("p", ("nose",))), {"p": ["y", "x"]})
    assert labels.values["p"].tolist() == [[[2, 1]], [[4, 3]]]


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is absent")
def test_tox21_has_the_holes_that_pandas_sees() -> None:
    path = SHARED / "tox21" / "tox21.csv"
    frame = pd.read_csv(path)
    assays = [name for name in frame.columns if name not in ("mol_id", "smiles")]
    assert len(assays) == 12
    assert len(frame) == 7587
    assert frame["smiles"].nunique() == 7302
    tasks, labels = labels_of(read_table(path), {name: {"kind": "binary"} for name in assays})
    for name in assays:
        present = frame[name].notna().to_numpy()
        assert 0.07 < 1 - present.mean() < 0.27
        assert tasks[name].class_names == ("0", "1")
        np.testing.assert_array_equal(labels.present[name].numpy(), present)
        np.testing.assert_array_equal(labels.values[name].numpy()[present], frame[name].to_numpy()[present])
