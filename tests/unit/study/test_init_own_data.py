"""Files that `taskloom init` writes for data as people have them: categories, given splits, strange marks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests._drafts import ROWS, loaded, people

from taskloom.errors import DataError
from taskloom.study.draft import draft_study

TASKS = ["ill", "score"]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def drafted(**columns: Any) -> Any:
    people().assign(**columns).to_csv("people.csv", index=False)
    return draft_study("people.csv", TASKS)


def test_text_of_few_values_becomes_features() -> None:
    draw = np.random.default_rng(1)
    draft = drafted(
        job=draw.choice(["nurse", "smith", "cook"], ROWS),
        name=[f"n{row}" for row in range(ROWS)],
        land="here",
    )
    assert draft.settings["data"]["categories"] == ["job"]
    names = loaded(draft.text).about["features"]["names"]
    assert names == ["a", "b", "c", "job=cook", "job=nurse", "job=smith"]


def test_a_table_of_text_alone_is_enough() -> None:
    draw = np.random.default_rng(1)
    frame = people().drop(columns=list("abc")).assign(job=draw.choice(["nurse", "cook"], ROWS))
    frame.to_csv("people.csv", index=False)
    text = draft_study("people.csv", TASKS).text
    assert "no column of numbers" in text
    assert loaded(text).train.input_shape == (2,)


@pytest.mark.parametrize(
    ("name", "values", "test", "validation"),
    [
        ("is_test", [0, 0, 0, 1], "1", None),
        ("in_train", ["true", "true", "false", "true"], "false", None),
        ("fold", [1, 2, 3, 4], "4", "3"),
        ("cv_fold", [f"fold{number}" for number in range(1, 12)], "fold11", "fold10"),
        ("partition", [0, 0, 1, 2], "2", "1"),
        ("Usage", ["Training", "Training", "PublicTest", "PrivateTest"], "PrivateTest", "PublicTest"),
        ("subset", ["train", "train", "train", "val"], "val", None),
    ],
)
def test_a_column_about_the_split_is_the_split(
    name: str, values: list[Any], test: str, validation: str | None
) -> None:
    column = np.resize(np.array(values, dtype=object), ROWS)
    draft = drafted(**{name: column})
    assert draft.settings["split"]["column"] == name
    assert draft.settings["split"]["test"] == test
    assert draft.settings["split"]["validation"] == (validation or 0.2)
    data = loaded(draft.text)
    assert name not in data.about["features"]["names"]
    assert sorted(data.test.rows) == np.flatnonzero(column.astype(str) == test).tolist()


def test_a_column_about_a_split_that_nobody_understands_is_no_feature() -> None:
    draft = drafted(cv_split=np.arange(ROWS) % 7)
    assert draft.settings["data"]["exclude"] == ["cv_split"]
    assert draft.settings["split"]["by"] == "rows"


@pytest.mark.parametrize("folds", [["alpha", "beta", "barrel"], [3, 7, 9, 12]])
def test_folds_of_proteins_are_no_folds_of_a_split(folds: list[Any]) -> None:
    draft = drafted(fold=np.resize(np.array(folds, dtype=object), ROWS))
    assert draft.settings["split"]["by"] == "rows"
    assert draft.settings["data"]["exclude"] == ["fold"]  # and named: nobody knows


def test_an_examination_called_test_stays_a_feature() -> None:
    draft = drafted(test=np.arange(ROWS) % 2, is_valid=np.arange(ROWS) % 3 % 2)
    assert draft.settings["split"]["by"] == "rows"
    assert loaded(draft.text).about["features"]["names"] == ["a", "b", "c", "test", "is_valid"]


@pytest.mark.parametrize(
    "name", ["sample", "slide_id", "patient_no", "subj", "specimen", "site", "batch", "hospital"]
)
def test_units_are_groups(name: str) -> None:
    draft = drafted(**{name: np.arange(ROWS) // 5})
    assert draft.settings["data"]["group"] == name


def test_of_a_patient_and_a_hospital_the_patient_is_the_group() -> None:
    draft = drafted(hospital=np.arange(ROWS) // 20, patient=np.arange(ROWS) // 4)
    assert draft.settings["data"]["group"] == "patient"
    assert drafted(batch=np.arange(ROWS) % 4).settings["split"]["by"] == "rows"


def test_rows_of_one_day_stay_together_but_not_those_of_one_birthday() -> None:
    days = pd.Timestamp("2024-03-01") + pd.to_timedelta(np.arange(ROWS) // 8, "D")
    dates = days.strftime("%d/%m/%Y")
    assert drafted(Date=dates).settings["data"]["group"] == "Date"
    assert "group" not in drafted(date_of_birth=dates).settings["data"]


def test_a_number_far_below_all_others_is_a_hole_in_tasks_and_features() -> None:
    draw = np.random.default_rng(2)
    level = draw.uniform(-3, 40, ROWS)
    level[::9] = -200
    ozone = draw.uniform(600, 2000, ROWS)
    ozone[::7] = -200
    people().assign(level=level, ozone=ozone).to_csv("people.csv", index=False)
    draft = draft_study("people.csv", ["level", "score"])
    data = draft.settings["data"]
    assert (data["missing"], data["impute"]) == (["-200"], "mean")
    found = loaded(draft.text)
    assert sum(found.about["labels"]["level"].values()) == (level != -200).sum()
    cold = np.maximum(np.linspace(-30, 40, ROWS).round(), -25)  # many are the lowest, and not far below
    assert "missing" not in drafted_task(cold).settings["data"]


def drafted_task(values: Any) -> Any:
    people().assign(cold=values).to_csv("people.csv", index=False)
    return draft_study("people.csv", ["cold", "score"])


def test_one_slip_among_few_numbers_is_no_class_of_its_own() -> None:
    grade = (np.arange(ROWS) % 9).astype(object)
    grade[5] = '6"'
    people().assign(mark=grade).to_csv("people.csv", index=False)
    with pytest.raises(DataError, match=r"column `mark`: a number expected, found `6"):
        draft_study("people.csv", ["mark", "score"])
    children = np.array(["0", "1", "2", "3+"], dtype=object)[np.arange(ROWS) % 4]
    people().assign(mark=children).to_csv("people.csv", index=False)
    assert draft_study("people.csv", ["mark", "score"]).tasks["mark"] == "multiclass"


def test_of_several_arrays_one_is_named() -> None:
    draw = np.random.default_rng(3)
    people()[["ill", "score"]].to_csv("people.csv", index=False)
    np.savez(
        "x.npz", first=draw.normal(size=(ROWS, 4)), second=draw.normal(size=(ROWS, 7)), few=np.ones((3, 3))
    )
    np.save("raw.npy", draw.normal(size=(ROWS, 5)))
    with pytest.raises(DataError, match=r"3 arrays .*raw.npy, x.npz:first, x.npz:second.*--features"):
        draft_study("people.csv", TASKS)
    for name in ("second", "x.npz:second"):
        draft = draft_study("people.csv", TASKS, features=name)
        assert draft.settings["data"]["features"] == {"npz": "x.npz", "array": "second"}
    assert loaded(draft.text).train.input_shape == (7,)
    with pytest.raises(DataError, match=r"--features x.npz: one array of 200 rows .* found 2"):
        draft_study("people.csv", TASKS, features="x.npz")
    people().to_csv("people.csv", index=False)
    draft = draft_study("people.csv", TASKS, features="raw.npy")
    assert loaded(draft.text).train.input_shape == (5,)
    with pytest.raises(DataError, match="found a file of arrays; write the labels as CSV beside it"):
        draft_study("x.npz", TASKS)


def test_text_of_too_many_values_for_features_keeps_rows_together() -> None:
    rows = 4000
    draw = np.random.default_rng(4)
    frame = people(rows).assign(land=[f"land {row % 55}" for row in range(rows)])
    frame.assign(score=draw.normal(size=rows) * 1e5).to_csv("people.csv", index=False)
    draft = draft_study("people.csv", TASKS)
    assert draft.settings["data"]["group"] == "land"
    assert "e+0" not in draft.text
    frame.assign(land=[f"land {row % 40}" for row in range(rows)]).to_csv("people.csv", index=False)
    assert draft_study("people.csv", TASKS).settings["data"]["categories"] == ["land"]
