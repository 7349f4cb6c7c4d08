"""Labels removed on purpose: which ones, that the rest stays, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from taskloom.data.batch import DataSplits
from taskloom.data.inspect import inspect_splits
from taskloom.data.label_removal import remove_labels
from taskloom.data.simulate.digits import SEGMENTS, simulate_digits
from taskloom.data.sources import load
from taskloom.errors import ConfigError, DataError
from taskloom.study.config import digest

TASKS: dict[str, Any] = {
    "age": {"kind": "regression"},
    "sex": {"kind": "binary"},
    "hair": {"kind": "multiclass"},
    "wears": {"kind": "multilabel", "labels": ["hat", "scarf"]},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    table = pd.DataFrame(draw.normal(size=(400, 3)), columns=list("abc"))
    table["age"] = np.where(draw.random(400) < 0.25, np.nan, draw.normal(40, 9, 400))
    table["sex"] = draw.choice(["F", "M"], 400)
    table["hair"] = draw.choice(["red", "brown", "black"], 400)
    table["hat"], table["scarf"] = draw.integers(0, 2, 400), draw.integers(0, 2, 400)
    table["part"] = ["train"] * 240 + ["validation"] * 80 + ["test"] * 80
    table.to_csv(tmp_path / "people.csv", index=False)
    return tmp_path


def read(folder: Path, removal: Any = None, seed: int = 0) -> DataSplits:
    settings: dict[str, Any] = {"table": "people.csv", "features": ["a", "b", "c"]}
    settings |= {} if removal is None else {"remove_labels": removal}
    split = {"by": "column", "column": "part"}
    return load("table", settings, TASKS, split, seed=seed, folder=folder, stores=folder)


def test_share_is_of_the_labels_that_are_there_and_of_training_alone(folder: Path) -> None:
    whole, less = read(folder), read(folder, {"share": 0.8, "tasks": ["age", "wears"]})
    before, after = whole.train.labels.counts(), less.train.labels.counts()
    assert after == {
        **before,
        "age": before["age"] - round(0.8 * before["age"]),
        "wears": 480 - 384,  # elements, not rows
    }
    for name, present in less.train.labels.present.items():
        assert not (present & ~whole.train.labels.present[name]).any()
    for part in ("validation", "test"):
        assert getattr(less, part).labels.counts() == getattr(whole, part).labels.counts()
    batch = less.train.__getitems__([7, 3])
    assert torch.equal(batch.inputs, whole.train.__getitems__([7, 3]).inputs)
    assert torch.equal(batch.labels.present["age"], less.train.labels.present["age"][[7, 3]])


def test_regressions_are_standardised_on_what_is_left(folder: Path) -> None:
    less = read(folder, {"share": 0.9, "tasks": ["age"]})
    left = less.train.labels.values["age"][less.train.labels.present["age"]]
    assert less.tasks["age"].center == pytest.approx(float(left.mean()), rel=1e-5)
    assert less.test.tasks["age"] == less.tasks["age"]


def test_same_seed_same_labels_and_more_is_more_of_the_same(folder: Path) -> None:
    half = read(folder, {"share": 0.5}).train.labels.present
    again = read(folder, {"share": 0.5}).train.labels.present
    other = read(folder, {"share": 0.5, "seed": 1}).train.labels.present
    fewer = read(folder, {"share": 0.7}).train.labels.present
    assert all(torch.equal(half[name], again[name]) for name in TASKS)
    assert not torch.equal(half["sex"], other["sex"])
    assert all(not (fewer[name] & ~half[name]).any() for name in TASKS)
    assert torch.equal(
        read(folder, {"share": 0.5, "seed": 3}, seed=9).train.labels.present["sex"],
        read(folder, {"share": 0.5, "seed": 3}, seed=8).train.labels.present["sex"],
    )


def test_disjoint_leaves_one_group_of_tasks_per_row(folder: Path) -> None:
    labels = read(folder, {"disjoint": [["sex"], ["hair", "wears"]], "shares": [0.25, 0.75]}).train.labels
    sex, hair, wears = (labels.present[name] for name in ("sex", "hair", "wears"))
    assert int(sex.sum()) == 60
    assert int(hair.sum()) == 180
    assert torch.equal(hair, wears.all(dim=1))
    assert torch.equal(hair, wears.any(dim=1))
    assert not (sex & hair).any()
    whole = read(folder).train.labels
    assert torch.equal(labels.present["age"], whole.present["age"])  # in no group


def test_report_and_identity_know_of_it(folder: Path) -> None:
    less = read(folder, [{"share": 0.5, "tasks": ["sex"]}, {"share": 0.5, "tasks": ["sex"]}])
    assert less.about["removed_labels"] == {"sex": {"removed": 180, "of": 240}}
    assert less.about["notes"][-1] == ("Labels were removed from training rows on purpose: sex 180 of 240.")
    found = inspect_splits(less)
    assert found.tasks[1].parts["train"].present == 60
    assert not found.unchecked  # groups and inputs are looked at as before
    assert digest({"remove_labels": {"share": 0.5}}) != digest({"remove_labels": {"share": 0.6}})


@pytest.mark.parametrize(
    ("removal", "message"),
    [
        (0.5, "data.remove_labels: settings by name expected (share, tasks, disjoint, shares, seed), found"),
        (
            {"shares": [0.5, 0.5]},
            "either `share` (of the labels) or `disjoint` (groups of tasks) expected, found neither",
        ),
        ({"share": 0.5, "disjoint": [["age"], ["sex"]]}, "found both"),
        ({"share": 1.0}, "data.remove_labels.share: a number from 0 to below 1 expected, found 1.0"),
        ({"share": "half"}, "data.remove_labels.share: a number expected, found 'half'"),
        ({"share": 0.5, "task": "age"}, "data.remove_labels.task is not a setting. Did you mean `tasks`"),
        ({"share": 0.5, "tasks": ["aeg"]}, "`aeg` is not a task. Did you mean `age`"),
        ({"share": 0.5, "seed": -1}, "data.remove_labels.seed: a whole number from 0 expected, found -1"),
        ({"disjoint": [["age"]]}, "two groups of tasks or more expected, found one"),
        ({"disjoint": [["age"], ["sex"]], "tasks": ["hair"]}, "goes with `share`"),
        ({"disjoint": [["age"], ["sex"]], "shares": [0.5, 0.6]}, "positive shares with the sum 1"),
        ({"disjoint": [["age"], ["sex"]], "shares": [1]}, "one per group of `disjoint` (2) expected"),
        (
            {"shares": {"age": 0.3}},
            "a list of numbers, one per group of `disjoint`, expected, found {'age': 0.3}; a",
        ),
        ({"disjoint": "age"}, "lists of tasks expected, found 'age'"),
    ],
)
def test_refused_settings(folder: Path, removal: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(folder, removal)
    assert message in str(caught.value)


def test_last_labels_are_not_taken(folder: Path) -> None:
    with pytest.raises(DataError, match=r"no training label of class `.*` of task hair would be left"):
        read(folder, {"share": 0.995, "tasks": ["hair"]})
    with pytest.raises(DataError, match="no training label of task age would be left"):
        read(folder, {"share": 0.999, "tasks": ["age"]})


def test_digits_have_the_segments_of_a_display(tmp_path: Path) -> None:
    folder = simulate_digits(tmp_path / "digits")
    table = pd.read_csv(folder / "digits.csv")
    assert table.shape == (1797, 64 + 1 + 7)
    lit = table[list(SEGMENTS)].groupby(table["digit"]).sum()
    count = table["digit"].value_counts().sort_index()
    # A display lights 6 segments for 0, 2 for 1, ...: known numbers, no second copy of the table.
    assert (lit.sum(axis=1) / count).tolist() == [6, 2, 5, 5, 4, 5, 6, 3, 7, 6]
    assert simulate_digits(tmp_path / "digits", if_missing=True) == folder
    with pytest.raises(DataError):
        simulate_digits(tmp_path / "digits")


def test_of_any_source(folder: Path) -> None:
    whole = read(folder)
    assert remove_labels(whole, {"share": 0.0}, seed=0).train.labels.counts() == whole.train.labels.counts()
