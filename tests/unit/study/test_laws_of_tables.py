"""Laws of studies over tables: the same rows and labels, told in another way, give the same runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from _random_studies import FEATURES, TASKS, RandomStudy, Silent, courses, measured, random_study, run
from taskloom.errors import DataError
from taskloom.study.config import load_study
from taskloom.study.runner import run_study
from taskloom.study.runs import data_request

SEED = 4


def small(seed: int = SEED) -> RandomStudy:
    return random_study(seed, num_cells=2, epochs=2)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(small(), tmp_path_factory.mktemp("plain")).folder


def assert_same(found: Path, expected: Path) -> None:
    np.testing.assert_equal(measured(found), measured(expected))
    np.testing.assert_equal(courses(found), courses(expected))


def floats(study: RandomStudy) -> None:
    study.table["sex"] = study.table["sex"].map({"man": 0.0, "woman": 1.0})
    study.table["grade"] = [None if grade is None else float(grade) for grade in study.table["grade"]]
    study.settings["tasks"]["sex"]["classes"] = ["0", "1"]


def integers(study: RandomStudy) -> None:
    study.table["sex"] = study.table["sex"].map({"man": 0, "woman": 1}).astype("Int64")
    study.settings["tasks"]["sex"]["classes"] = [0, 1]


def by_person(study: RandomStudy) -> None:
    study.settings["split"] = {"by": "person", "column": "part"}


def filled_in(study: RandomStudy) -> None:
    study.settings["data"]["impute"] = "mean"  # of a table whose features have no hole


@pytest.mark.parametrize(("change", "suffix"), [(floats, ".parquet"), (integers, ".csv")])
def test_classes_that_are_numbers(
    plain: Path, tmp_path: Path, change: Callable[[RandomStudy], None], suffix: str
) -> None:
    assert_same(run(small().changed(change), tmp_path, suffix=suffix).folder, plain)


@pytest.mark.parametrize("change", [by_person, filled_in])
def test_settings_that_change_nothing_here(
    plain: Path, tmp_path: Path, change: Callable[[RandomStudy], None]
) -> None:
    assert_same(run(small().changed(change), tmp_path).folder, plain)


def test_features_in_a_file_of_their_own(plain: Path, tmp_path: Path) -> None:
    study = small()
    np.save(tmp_path / "features.npy", study.table[list(FEATURES)].to_numpy(np.float32))
    study.settings["data"] |= {"features": {"npy": "features.npy"}, "standardize": True}
    assert_same(run(study, tmp_path).folder, plain)


def test_a_label_removed_on_purpose_is_a_blank_cell(tmp_path: Path) -> None:
    """Whatever follows from the labels that are there: scale, class weights, rows that count, teachers."""
    study = small()
    study.settings["tasks"]["place"]["class_weights"] = "balanced"
    study.settings["data"]["remove_labels"] = [
        {"share": 0.3},
        {"disjoint": [["age", "sex"], ["place", "grade"]]},
    ]
    removed = run(study, tmp_path / "removed").folder
    settings = {**study.settings, "data": {"table": "table.csv", **study.settings["data"]}}
    splits = data_request(load_study(settings), 0, tmp_path / "removed", tmp_path).load()
    rows = np.flatnonzero(study.table["part"] == "train")
    for task in TASKS:
        study.table.loc[rows[~splits.train.labels.present[task].numpy()], task] = None
    del study.settings["data"]["remove_labels"]
    assert_same(run(study, tmp_path / "blank").folder, removed)


def test_two_halves_of_a_table_are_the_table(tmp_path: Path) -> None:
    study = small()
    study.settings["data"]["standardize"] = False  # each half would be by its own means
    study.settings["tasks"]["place"]["class_weights"] = "balanced"
    whole = run(study, tmp_path / "whole").folder
    half = len(study.table) // 2
    for name, part in (("first", study.table[:half]), ("second", study.table[half:])):
        part.to_csv(tmp_path / f"{name}.csv", index=False)
    own = study.settings["data"]
    sets = {name: {"table": f"{name}.csv", **own} for name in ("first", "second")}
    settings = {**study.settings, "data": {"reader": "combined", "combined": sets}}
    halves = run_study(load_study(settings), tmp_path / "out", Silent(), data=tmp_path).folder
    assert_same(halves, whole)


def test_the_weight_of_an_auxiliary_task_is_a_weight_of_its_loss(tmp_path: Path) -> None:
    study = small()
    study.settings["training"] |= {"epochs": 1}  # the best epoch is chosen by main tasks alone
    study.settings["cells"] = [{"hard_sharing": {"stages": 1}, "name": "x"}]
    weights = {task: 0.25 if task == "sex" else 1.0 for task in TASKS}

    def balanced(other: RandomStudy) -> None:
        other.settings["cells"][0]["balancing"] = {"weighted_sum": {"weights": weights}}

    def auxiliary(other: RandomStudy) -> None:
        other.settings["tasks"]["sex"] |= {"role": "auxiliary", "weight": 0.25}
        other.settings["baseline"] = {"auxiliary": True}

    found, expected = (
        measured(run(study.changed(change), tmp_path / change.__name__).folder)
        for change in (auxiliary, balanced)
    )
    assert found == pytest.approx(expected, rel=1e-5)


def test_people_parted_by_a_drawn_validation_are_not_blamed_on_the_column(tmp_path: Path) -> None:
    study = small()
    study.table["part"] = study.table["part"].replace("validation", "train")
    study.settings["split"] = {"by": "column", "column": "part", "validation": 0.2}
    with pytest.raises(DataError, match=r"stands in train .* and validation .*`by: person` keeps") as told:
        run(study, tmp_path)
    assert "values of `part`" not in str(told.value)
    study.settings["split"]["by"] = "person"  # as the sentence says
    run(study, tmp_path)
