"""Which rows `taskloom init` keeps together, and which columns identify instead of describing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from _drafts import ROWS, loaded, people
from taskloom.cli import app
from taskloom.errors import ConfigError, DataError, TaskloomError
from taskloom.study.draft import draft_study


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("patient", [f"P{row // 4}" for row in range(ROWS)]),
        ("subject#", [row // 4 for row in range(ROWS)]),
        ("SubjectID", [row // 4 for row in range(ROWS)]),
        ("case_id", [row // 4 for row in range(ROWS)]),
        ("who", [f"Mr {row // 4}" for row in range(ROWS)]),
    ],
)
def test_a_group_is_found_and_kept_whole(here: Path, name: str, values: list[Any]) -> None:
    people().assign(**{name: values, "age": np.arange(ROWS) % 40}).to_csv("people.csv", index=False)
    draft = draft_study("people.csv", ["ill", "score"])
    assert (draft.settings["data"]["group"], draft.settings["split"]["by"]) == (name, "group")
    splits = loaded(draft.text)
    parts = [{values[row] for row in part.rows} for part in (splits.train, splits.validation, splits.test)]
    assert sum(map(len, parts)) == len(set(values))
    assert draft_study("people.csv", ["ill", "score"], group="none").settings["split"]["by"] == "rows"


def test_a_patient_of_its_own_in_every_row(here: Path) -> None:
    number = np.random.default_rng(0).permutation(ROWS) * 17
    for patient in ([f"P{row}" for row in range(ROWS)], number):
        people().assign(patient=patient).to_csv("people.csv", index=False)
        draft = draft_study("people.csv", ["ill", "score"])
        assert draft.settings["split"]["by"] == "rows"
        assert loaded(draft.text).about["features"]["names"] == ["a", "b", "c"]
    assert "# every row has a `patient` of its own" in draft.text
    assert "belong together" not in draft.text


def test_ages_and_treatments_are_no_groups(here: Path) -> None:
    frame = people().assign(age=np.arange(ROWS) % 40, arm=np.resize(["placebo", "drug"], ROWS))
    frame["patient_age"], frame["group"] = frame.age, np.resize(["control", "drug A", "drug B"], ROWS)
    frame.to_csv("people.csv", index=False)
    assert draft_study("people.csv", ["ill", "score"]).settings["split"]["by"] == "rows"


def test_a_group_with_blank_cells_is_spoken_of(here: Path) -> None:
    who = [f"p{row // 4}" if row else "" for row in range(ROWS)]
    people().assign(patient=who).to_csv("people.csv", index=False)
    draft = draft_study("people.csv", ["ill", "score"])
    assert draft.settings["split"]["by"] == "rows"
    assert draft.notes[0].startswith("`patient` may say which rows belong together, but is blank in 1 row: ")


def test_a_group_must_be_there_in_every_row(here: Path) -> None:
    people().assign(who=[f"p{row // 4}" if row else "" for row in range(ROWS)]).to_csv(
        "people.csv", index=False
    )
    with pytest.raises(DataError, match="column `who` is blank in 1 of 200 rows; a group needs a value"):
        draft_study("people.csv", ["ill", "score"], group="who")
    with pytest.raises(ConfigError, match="--group: `ill` is a task"):
        draft_study("people.csv", ["ill", "score"], group="ill")


def test_a_group_of_which_no_split_can_be_made(here: Path) -> None:
    people().assign(site=np.resize(list("uvw"), ROWS), land=np.resize(list("UVW"), ROWS)).to_csv(
        "people.csv", index=False
    )
    with pytest.raises(TaskloomError) as error:
        draft_study("people.csv", ["land", "score"], group="site")
    assert "Rows are kept together by `site`; --group names another column, or `none`." in str(error.value)


@pytest.mark.parametrize("name", ["subjectid", "userid", "patientnr", "casenumber"])
def test_words_run_together_are_read_as_two(here: Path, name: str) -> None:
    """An identifier that is overlooked is a feature, and its rows stand on both sides of the split."""
    people().assign(**{name: np.arange(ROWS) // 4}).to_csv("people.csv", index=False)
    draft = draft_study("people.csv", ["ill", "score"])
    assert (draft.settings["data"]["group"], draft.settings["split"]["by"]) == (name, "group")
    assert loaded(draft.text).about["features"]["names"] == ["a", "b", "c"]


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("order", [("person", "family"), ("family", "person")])
def test_rows_are_kept_together_by_the_wider_unit(here: Path, order: tuple[str, str], text: bool) -> None:
    """Persons lie in families: a split by persons leaves sisters on both sides."""
    numbers = {"person": np.arange(ROWS) // 2, "family": np.arange(ROWS) // 8}
    units = {name: [f"n{number}" for number in numbers[name]] if text else numbers[name] for name in order}
    people().assign(**units).to_csv("people.csv", index=False)
    draft = draft_study("people.csv", ["ill", "score"])
    assert draft.settings["data"]["group"] == "family"
    assert "25 values (by its name" in draft.text
    splits = loaded(draft.text)
    parts = [set(numbers["family"][part.rows]) for part in (splits.train, splits.validation, splits.test)]
    assert sum(map(len, parts)) == 25
    assert splits.about["features"]["names"] == ["a", "b", "c"]


def test_a_split_column_with_blank_cells_is_none(here: Path) -> None:
    side = np.where(np.arange(ROWS) % 5 == 0, "test", "train").astype(object)
    side[7] = None
    people().assign(split=side).to_csv("people.csv", index=False)
    draft = draft_study("people.csv", ["ill", "score"])
    assert draft.settings["split"]["by"] == "rows"
    assert sum(len(part) for part in (loaded(draft.text).train, loaded(draft.text).test)) == 160


def test_units_that_cross_or_are_few_are_not_wider(here: Path) -> None:
    person = np.arange(ROWS) // 2
    crossed = np.arange(ROWS) % 25
    few = np.arange(ROWS) // 25
    for client in (crossed, few):
        people().assign(person=person, client=client).to_csv("people.csv", index=False)
        assert draft_study("people.csv", ["ill", "score"]).settings["data"]["group"] == "person"


def test_a_mark_beside_two_classes_makes_no_levels(here: Path) -> None:
    draw = np.random.default_rng(0)
    frame = people().assign(smokes=draw.choice([0, 1, 9], ROWS), day=np.arange(ROWS) % 31)
    frame.to_csv("people.csv", index=False)
    draft = draft_study("people.csv", ["smokes", "score"])
    assert draft.settings["tasks"]["smokes"] == {"kind": "multiclass", "classes": ["0", "1", "9"]}
    assert "levels in order" not in draft.text


def test_numbers_with_their_unit_are_no_classes(here: Path) -> None:
    """89 classes from 0 % to 99 % would be trained without a word."""
    draw = np.random.default_rng(0)
    for unit, shown in (("%", "%"), (" kg", "kg")):
        cells = [f"{number}{unit}" if row else "" for row, number in enumerate(draw.integers(0, 99, ROWS))]
        people().assign(fat=cells).to_csv("people.csv", index=False)
        with pytest.raises(
            DataError, match=f"column `fat` cannot be a task: it holds numbers with `{shown}`"
        ):
            draft_study("people.csv", ["fat", "score"])
    people().assign(dose=draw.choice(["10 mg", "20 mg", "50 mg"], ROWS)).to_csv("people.csv", index=False)
    assert draft_study("people.csv", ["dose", "score"]).tasks["dose"] == "multiclass"
    people().assign(day=[f"{day}{'th' if day % 2 else 'st'}" for day in range(15)] * 13 + ["0st"] * 5).to_csv(
        "people.csv", index=False
    )
    assert draft_study("people.csv", ["day", "score"]).tasks["day"] == "multiclass"


def test_the_list_of_columns_knows_the_group(here: Path) -> None:
    people().assign(site=np.arange(ROWS) // 50, patient=np.arange(ROWS) // 4).to_csv(
        "people.csv", index=False
    )
    shown = CliRunner().invoke(app, ["init", "people.csv", "--group", "site"], catch_exceptions=False).output
    assert "group: as --group says" in next(line for line in shown.splitlines() if line.startswith("site"))
    assert shown.rstrip().endswith("--group site")
