"""Slips in tables and their settings: quotation marks, -1 for a hole, ids, blank settings, rare classes."""

from __future__ import annotations

import contextlib
import csv
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import taskloom as tl
from taskloom.data.feature_rows import FeatureRows, row_numbers
from taskloom.data.inspect import inspect_splits
from taskloom.data.inspect_text import render
from taskloom.data.label_doubts import stand_ins
from taskloom.data.table_source import load_table, table
from taskloom.data.tables import read_table
from taskloom.errors import ConfigError, DataError, TaskloomError

ROWS = [f"{i},{i % 2},ok" for i in range(100)]


def write(folder: Path, rows: list[str], *, header: str = "x,y,note", end: str = "\n") -> Path:
    path = folder / "notes.csv"
    path.write_bytes(end.join([header, *rows, ""]).encode())
    return path


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("row", "column", "last"),
    [
        ('5,1,"see below', "note", "99,1,ok"),  # open until the file ends
        ('5,1,"see below', "note", '99,1,"ok"'),  # open until the next mark, with text behind it
        ('5,"1,see below', "y", "99,1,ok"),
    ],
)
def test_a_mark_that_is_not_closed_is_refused_instead_of_swallowing_rows(
    tmp_path: Path, row: str, column: str, last: str, end: str
) -> None:
    path = write(tmp_path, [*ROWS[:5], row, *ROWS[6:99], last], end=end)
    with pytest.raises(DataError, match=rf"notes\.csv:7: column `{column}`: a quotation mark opens"):
        read_table(path)


def test_a_mark_in_the_header_that_is_not_closed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"notes\.csv:1: cell 2: a quotation mark opens"):
        read_table(write(tmp_path, ROWS, header='x,"y,note'))
    with pytest.raises(DataError, match=r"notes\.csv:1: cell 2: a quotation mark opens"):
        read_table(write(tmp_path, ROWS * 200, header='x,"y,note'))  # longer than csv's own limit of a cell


def test_cells_of_several_lines_and_marks_within_a_line_are_read_as_csv_reads_them(tmp_path: Path) -> None:
    rows = [*ROWS[:5], '5,1,"two\nlines, and ""more"""', '6,0,"Ada" Ltd', '7,1,5" pipe', "", *ROWS[8:]]
    path = write(tmp_path, rows)
    with path.open(newline="") as file:
        expected = [row for row in csv.reader(file) if row][1:]
    found = read_table(path)
    assert found.text("note").tolist() == [row[2] for row in expected]
    assert len(found) == 100


@pytest.mark.parametrize("long", ["before", "within"])
def test_long_cells_and_blanks_behind_a_mark_are_no_slips(tmp_path: Path, long: str) -> None:
    """Longer than the 131,072 characters that Python's reader takes by itself: a sequence, an image."""
    cell = "ACGT" * 40_000
    rows = [*ROWS[:5], '5,1,"two\nlines" ', *ROWS[6:]]
    if long == "before":
        rows[2] = f"2,0,{cell}"
    else:
        rows[2] = f'2,0,"{cell}\n{cell}"'
    found = read_table(write(tmp_path, rows))
    assert len(found) == 100
    assert found.numbers("x").tolist() == list(range(100))
    assert csv.field_size_limit() == 131_072  # as it was


@pytest.mark.parametrize(("decimal", "cell"), [(".", "-1.0"), (".", "-1."), (",", "-1,00"), (".", "-1")])
def test_a_mark_is_one_with_decimals_too(tmp_path: Path, decimal: str, cell: str) -> None:
    """What pandas writes for a column of numbers with holes; advice names the mark without decimals."""
    path = tmp_path / "t.tsv"
    path.write_text(f"x\ty\n1\ta\n{cell}\tb\n-10\tc\n", encoding="utf-8")
    found = read_table(path, missing=["-1"], decimal=decimal)
    assert found.text("x").tolist() == ["1", "", "-10"]


@pytest.mark.parametrize("unused", ["exclude", "features", "missing", "impute", "group", "folder", "decimal"])
def test_a_setting_that_is_left_blank_is_not_given(tmp_path: Path, unused: str) -> None:
    settings: dict[str, Any] = {"table": write(tmp_path, ROWS).name, "exclude": ["note"]}
    tasks, split = {"y": {"kind": "binary"}}, {"by": "rows", "test": 0.2, "validation": 0.2}
    plain = load_table(settings, tasks, split, seed=0, folder=tmp_path, stores=tmp_path)
    if unused == "exclude":
        settings["features"] = ["x"]
    blank = load_table({**settings, unused: None}, tasks, split, seed=0, folder=tmp_path, stores=tmp_path)
    assert torch.equal(blank.train.__getitems__([0, 1]).inputs, plain.train.__getitems__([0, 1]).inputs)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"exclude": {"a": "b"}}, "data.exclude: a column, or a list of columns expected"),
        ({"features": 5}, "data.features: rest, a list of columns, or"),
        ({"missing": {"a": 3}}, "data.missing: a list of texts expected"),
        ({"table": ["a.csv"]}, "data.table: text expected"),
        ({"exclude": [5]}, "no column `5`, which `exclude` needs"),
    ],
)
def test_a_setting_of_another_kind_is_refused_by_its_name(
    tmp_path: Path, setting: dict[str, Any], sentence: str
) -> None:
    settings = {"table": write(tmp_path, ROWS).name, **setting}
    with pytest.raises(TaskloomError, match=sentence):
        load_table(
            settings, {"y": {"kind": "binary"}}, {"by": "rows"}, seed=0, folder=tmp_path, stores=tmp_path
        )


def test_a_third_class_of_a_binary_task_is_named_with_the_way_to_a_hole(
    tmp_path: Path,
) -> None:
    path = write(tmp_path, ["1,0,a", "2,1,a", "3,-1,b", "4,-1,b", "5,0,?"])
    sentence = r"tasks\.y\.classes: .*`-1` \(2 rows\), `0` \(2 rows\), `1` \(1 row\); if `-1` means"
    with pytest.raises(ConfigError, match=sentence) as found:
        table(path, {"y": {"kind": "binary"}}, missing=["?"])
    assert 'say `missing: ["?", "-1"]` in `data`' in str(found.value)


def test_marks_of_missing_labels_are_told_together(tmp_path: Path) -> None:
    path = write(tmp_path, ["1,yes,a", "2,no,a", "3,n/a,b", "4,?,b", "5,NA,b"])
    with pytest.raises(DataError, match=r'say `missing: \["NA", "\?", "n/a"\]` in `data`'):
        table(path, {"y": {"kind": "binary"}}, missing=["NA"])


def labels(values: list[float]) -> tl.Labels:
    return tl.Labels({"age": torch.tensor(values)}, {"age": torch.ones(len(values), dtype=torch.bool)})


TENS = [float(10 * i) for i in range(12)]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([*TENS, -1, -1, -1], '3 labels are -1, and all others are 0 or more; .* `missing: \\["-1"\\]`'),
        ([*TENS, 999, 999, 999, 999], '4 labels are 999, and all others are 110 or less; .*"999"'),
        ([*TENS, -1, -1], None),  # twice may be chance
        ([*TENS, -5, -1, -1, -1], None),  # others are below 0
        ([*TENS, 400, 999, 999, 999], None),  # not far from the others
        ([-1, -1, -1, 0, 1, 0, 1, 2, 0, 1], None),  # a scale of a few steps
    ],
)
def test_numbers_that_stand_for_a_missing_label_are_told(values: list[float], said: str | None) -> None:
    found = stand_ins(labels(values), tl.TaskSet(tl.Regression("age")))
    if said is None:
        assert found == []
    else:
        assert len(found) == 1
        assert re.search(said, found[0])


def test_the_study_hears_of_numbers_that_stand_for_missing_labels(tmp_path: Path) -> None:
    path = write(tmp_path, [f"{i},{-1 if i % 5 == 0 else i % 37},ok" for i in range(100)])
    data = table(path, {"y": {"kind": "regression"}}, exclude=["note"])
    assert any("20 labels are -1" in warning for warning in data.about["warnings"])
    data = table(path, {"y": {"kind": "regression"}}, exclude=["note"], missing=["-1"])
    assert not any("labels are -1" in warning for warning in data.about["warnings"])


def test_an_id_is_told_though_some_rows_stand_twice() -> None:
    numbers = torch.arange(60, 0, -1.0).tolist()
    for repeated, told in ((6, True), (12, False)):
        values = torch.tensor([*numbers, *numbers[:repeated]])[:, None].numpy()
        found = row_numbers(FeatureRows(values, ["ID"]))
        assert bool(found) is told
    assert (
        "in 60 of 66 rows"
        in row_numbers(FeatureRows(torch.tensor([*numbers, *numbers[:6]])[:, None].numpy(), ["ID"]))[0]
    )


def read(path: Path, kind: str, split: dict[str, Any]) -> None:
    settings = {"table": path.name, "features": ["x"]}
    load_table(settings, {"y": {"kind": kind}}, split, seed=0, folder=path.parent, stores=path.parent)


def test_a_rare_class_that_is_a_slip_and_a_split_that_is_stratified_already(tmp_path: Path) -> None:
    rows = [f"{i},{'sick' if i % 2 else 'well'},{'train' if i < 60 else 'test'}" for i in range(99)]
    path = write(tmp_path, [*rows, "99,Sick,test"])
    by_column = {"by": "column", "column": "note", "validation": 0.2, "seed": 1}
    with pytest.raises(DataError, match=r"which train never shows \(1 label in all\)\. If it is `sick`"):
        read(path, "multiclass", by_column)
    groups = [f"{i},{'ab'[i // 98] if i % 3 else ''},p{i // 33}" for i in range(99)]
    split = {"by": "note", "test": 0.33, "validation": 0.33, "stratify": "y"}
    path = write(tmp_path, groups)
    said = []
    for seed in range(20):  # whichever group is drawn for training, at times the one without the `b`
        with contextlib.suppress(DataError):
            read(path, "binary", {**split, "seed": seed})
            continue
        with pytest.raises(DataError) as found:
            read(path, "binary", {**split, "seed": seed})
        said.append(str(found.value))
    assert said
    assert all("`split.stratify: y` could not spread so few: set another" in text for text in said)


def test_the_inspection_says_which_of_two_words_is_positive(tmp_path: Path) -> None:
    path = write(tmp_path, [f"{i},{'ja' if i % 2 else 'nein'},{i % 3 % 2}" for i in range(90)])
    data = table(path, {"y": {"kind": "binary"}, "note": {"kind": "binary"}})
    lines = render(inspect_splits(data)).splitlines()
    assert sum("nein (positive)" in line for line in lines) == 1
    assert sum("(positive)" in line for line in lines) == 1  # of 0 and 1 it is plain


def test_amounts_under_a_binary_task_and_spreadsheets_are_told_plainly(tmp_path: Path) -> None:
    path = write(tmp_path, [f"{i},{i / 7:.3f},a" for i in range(50)])
    with pytest.raises(ConfigError, match=r"column `y` holds 50; use a multiclass task, or for amounts"):
        table(path, {"y": {"kind": "binary"}})
    with pytest.raises(DataError, match=r"book\.xlsx: a spreadsheet is not read; save its sheet as CSV"):
        read_table(path.rename(tmp_path / "book.xlsx"))
