"""Features that give a label away, rows of separators alone, words of one class written in several ways."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import taskloom as tl
from taskloom.data.feature_rows import FeatureRows
from taskloom.data.inspect import inspect_splits
from taskloom.data.inspect_text import render
from taskloom.data.table_source import table
from taskloom.data.telling_features import telling_features
from taskloom.errors import ConfigError, DataError

TASKS: dict[str, Any] = {
    "severity": {"kind": "regression"},
    "relapse": {"kind": "binary"},
    "stage": {"kind": "multiclass"},
}


def measurements(num_rows: int = 300) -> pd.DataFrame:
    """Honest features, of which `x0` says much of every task but not all; holes in all labels."""
    rng = np.random.default_rng(3)
    rows = pd.DataFrame(rng.normal(size=(num_rows, 4)), columns=[f"x{i}" for i in range(4)])
    rows["severity"] = (20 + 4 * rows.x0 + 0.5 * rows.x1).round(2)
    rows["relapse"] = np.where(rows.x0 + 0.2 * rows.x2 > 0, "yes", "no")
    rows["stage"] = pd.cut(rows.x0 + 0.2 * rows.x3, [-9, -0.5, 0.5, 9], labels=["I", "II", "III"]).astype(str)
    for task in TASKS:
        rows.loc[rng.random(num_rows) < 0.4, task] = None
    return rows


def warnings_of(folder: Path, rows: pd.DataFrame, **settings: Any) -> list[str]:
    rows.to_csv(folder / "rows.csv", index=False)
    data = table(folder / "rows.csv", TASKS, **settings)
    return [text for text in data.about["warnings"] if "tells the labels" in text]


def test_features_that_say_much_are_no_leak(tmp_path: Path) -> None:
    assert warnings_of(tmp_path, measurements()) == []


@pytest.mark.parametrize(
    ("task", "made"),
    [
        ("severity", lambda rows: -np.exp(rows.severity / 10)),  # any function that keeps or turns the order
        ("severity", lambda rows: rows.severity * 2 + 1e-4 * rows.x1),
        ("relapse", lambda rows: rows.relapse.map({"yes": 1, "no": 0})),
        ("relapse", lambda rows: rows.relapse.map({"yes": -3.0, "no": 3.0}) + 0.1 * rows.x1),
        ("stage", lambda rows: rows.stage.map({"I": 2, "II": 0, "III": 1}) + 0.01 * rows.x1),
        (
            "stage",
            lambda rows: rows.stage.map({"I": 0, "II": 7, "III": 0}),
        ),  # a column per class, as dummies are
    ],
)
def test_a_column_made_of_a_label_is_told_with_the_setting_that_leaves_it_out(
    tmp_path: Path, task: str, made: Any
) -> None:
    rows = measurements()
    rows.insert(2, "made", made(rows))
    (text,) = warnings_of(tmp_path, rows, impute="mean")  # a made column is missing where the label is
    assert text.startswith(f"feature `made` tells the labels of task `{task}` alone: if it was made from")
    assert text.endswith("say `exclude: [made]` in `data`.")
    assert warnings_of(tmp_path, rows, exclude=["made"]) == []
    (text,) = warnings_of(tmp_path, rows, features=["x*", "made"], impute="mean")
    assert text.endswith("leave made out of `features`.")
    data = table(tmp_path / "rows.csv", TASKS, impute="mean")
    assert "feature `made` tells" in " ".join(render(inspect_splits(data)).split())


def test_one_label_that_differs_is_no_rule(tmp_path: Path) -> None:
    rows = measurements()
    rows["made"] = rows.relapse.map({"yes": 1, "no": 0})
    rows.loc[rows.relapse.first_valid_index(), "made"] = 1 - rows.made[rows.relapse.first_valid_index()]
    assert warnings_of(tmp_path, rows, impute="mean") == []


def test_the_threshold_for_classes_is_chance_by_counting() -> None:
    """Of 21 rows with k of one class, a feature of F sorts them so in F * 2 of C(21, k) orders."""
    for rare in range(1, 11):
        for num_features in (1, 40, 2000):
            values = np.random.default_rng(0).normal(size=(21, num_features)).astype(np.float32)
            values[:, 0] = np.arange(21)
            known = torch.arange(21) < rare
            labels = tl.Labels({"t": known.long()}, {"t": torch.ones(21, dtype=torch.bool)})
            found = telling_features(FeatureRows(values), labels, tl.TaskSet(tl.Binary("t")))
            assert any("`0`" in text for text in found) is (2 * num_features / math.comb(21, rare) < 1e-3)


def test_thousands_of_columns_are_named_shortly_and_none_is_forgotten() -> None:
    rng = np.random.default_rng(1)
    ages = rng.normal(size=4000)
    values = rng.normal(size=(4000, 1500)).astype(np.float32)
    values[:, 500:507] = ages[:, None] * np.arange(1, 8)
    labels = tl.Labels({"age": torch.from_numpy(ages)}, {"age": torch.ones(4000, dtype=torch.bool)})
    (text,) = telling_features(FeatureRows(values), labels, tl.TaskSet(tl.Regression("age")))
    assert text.startswith(
        "each of the features `500`, `501`, `502`, `503`, `504` and 2 more tells the labels"
    )


@pytest.mark.parametrize("group", [None, "person"])
def test_rows_of_separators_alone_are_refused_where_they_begin(tmp_path: Path, group: str | None) -> None:
    path = tmp_path / "rows.csv"
    lines = [f"p{i // 3};{i};{'yes' if i % 2 else 'no'}" for i in range(30)]
    path.write_text("\n".join(["person;x;relapse", *lines, ";;", " ; ;", ""]))
    with pytest.raises(DataError, match=r"rows\.csv:32: .* 2 rows are blank in every column"):
        table(path, {"relapse": {"kind": "binary"}}, group=group, impute="mean")


def test_an_array_beside_a_table_may_have_rows_without_any_label(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,b\n" + "\n".join(["1,0", "0,1", ",", "1,1", "0,0", ","] * 5) + "\n")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32))
    data = table(
        tmp_path / "rows.csv", {"a": {"kind": "binary"}, "b": {"kind": "binary"}}, features={"npy": "x.npy"}
    )
    assert len(data.train) + len(data.validation) + len(data.test) == 30


def test_two_classes_in_several_spellings_are_called_so(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    words = ["yes", "no", "Yes", "NO", "no"]
    path.write_text("x,relapse\n" + "".join(f"{i},{words[i % 5]}\n" for i in range(40)))
    with pytest.raises(
        ConfigError, match=r"`NO` and `no`; `Yes` and `yes` differ in capital .* write them alike"
    ):
        table(path, {"relapse": {"kind": "binary"}})
    path.write_text(path.read_text().replace("Yes", "maybe"))
    with pytest.raises(ConfigError, match="else use a multiclass task"):
        table(path, {"relapse": {"kind": "binary"}})


def test_a_number_made_into_bins_tells_it() -> None:
    draw = np.random.default_rng(0)
    charge = draw.gamma(2.0, 5000, 300).astype(np.float32)
    columns = {
        "expensive": charge > 12_000,
        "band": np.digitize(charge, [3000, 8000, 15_000]),
        "nearly": (charge > 12_000) ^ (np.arange(300) == 7),
        "year": draw.integers(0, 4, 300),
        "constant": np.ones(300),
    }
    rows = FeatureRows(np.stack(list(columns.values()), axis=1).astype(np.float32), list(columns))
    known = tl.Labels({"charge": torch.tensor(charge)}, {"charge": torch.ones(300, dtype=torch.bool)})
    (said,) = telling_features(rows, known, tl.TaskSet(tl.Regression("charge")))
    assert said.startswith("each of the features `expensive`, `band` tells the labels of task `charge` alone")
