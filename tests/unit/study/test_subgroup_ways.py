"""Subgroups by bands of a number and by columns that are no task, against naive loops with pandas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import _small_study
import taskloom as tl
from _recording_stores import write_store
from taskloom.data.row_cells import row_cells
from taskloom.data.windows import WindowDataset
from taskloom.errors import ConfigError, DataError
from taskloom.report import render_report
from taskloom.study.decisions import load_numbers
from taskloom.study.paired import decided_by
from taskloom.study.results import ResultsStore, RunRecord, run_folder
from taskloom.study.subgroup_ways import band_names, ways_to_look
from taskloom.study.test_rows import TestRows

ASKED = "report={gallery: false, subgroups: {age: [35, 45], lamp: classes, lux: [100, 200, 300]}}"
FEATURES = "data.features=[a, b, c, d]"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = _small_study.write_table(tmp_path_factory.mktemp("ways"))
    table = pd.read_csv(place / "people.csv")
    draws = np.random.default_rng(7)
    table["lamp"] = draws.choice(["day", "neon", "dusk"], len(table))
    table.loc[draws.random(len(table)) < 0.2, "lamp"] = None
    table["lux"] = np.where(
        draws.random(len(table)) < 0.1, np.nan, draws.uniform(0, 400, len(table)).round(1)
    )
    table.to_csv(place / "people.csv", index=False)
    _small_study.run(place, ASKED, FEATURES, "split.seed=3")
    return place


def summary_of(place: Path) -> dict[str, Any]:
    return json.loads((place / "out" / "summary.json").read_text())  # type: ignore[no-any-return]


def alone(place: Path, task: str) -> list[RunRecord]:
    with ResultsStore(place / "out" / "results.sqlite", read_only=True) as store:
        return [run for run in store.records() if run.cell == "single_task" and task in run.tasks]


def frame_of(place: Path, run: RunRecord) -> pd.DataFrame:
    """The test rows with their columns, found in the table by their labels' order and groups."""
    decided = decided_by(place / "out", tl.Regression("age"), run)
    said = load_numbers(run_folder(place / "out", run.id), "age")
    assert decided is not None
    assert said is not None
    rows = decided.rows
    frame = pd.DataFrame({"said": said.numpy().reshape(-1), "lamp": rows.columns["lamp"]})
    frame["lux"] = pd.to_numeric(pd.Series(rows.columns["lux"]), errors="coerce")
    frame["age"] = np.where(rows.labels.present["age"], rows.labels.values["age"], np.nan)
    return frame


def test_columns_stand_beside_the_rows_they_belong_to(place: Path) -> None:
    table = pd.read_csv(place / "people.csv")
    for run in alone(place, "age"):
        frame = frame_of(place, run)
        for _, row in frame[frame.age.notna()].iterrows():
            (own,) = np.flatnonzero(np.isclose(table.age, row.age, rtol=1e-6))
            assert (table.lamp[own] if isinstance(table.lamp[own], str) else "") == row.lamp
            assert table.lux[own] == row.lux or (np.isnan(table.lux[own]) and np.isnan(row.lux))


@pytest.mark.parametrize(
    ("by", "column", "edges"),
    [("age in bands", "age", [35, 45]), ("lux in bands", "lux", [100, 200, 300]), ("lamp", "lamp", None)],
)
def test_values_by_subgroup_are_those_of_pandas(
    place: Path, by: str, column: str, edges: list[float] | None
) -> None:
    tables = {(row["task"], row["by"]): row for row in summary_of(place)["subgroups"]}
    found = tables["age", by]
    assert not found["own"]
    means, counts = [], []
    for run in alone(place, "age"):
        frame = frame_of(place, run)
        frame["error"] = (frame.said - frame.age).abs()
        groups = frame[column]
        if edges is not None:
            bounds = [-np.inf, *edges, np.inf]
            groups = pd.cut(frame[column], bounds, right=False, labels=list(band_names(edges)))
        frame = frame[frame.age.notna() & (groups != "")]
        means.append(frame.groupby(groups, observed=True).error.mean())
        counts.append(frame.groupby(groups, observed=True).size())
    for subgroup in found["subgroups"]:
        expected = float(np.mean([mean[subgroup["name"]] for mean in means]))
        np.testing.assert_allclose(subgroup["alone"]["value"], expected, rtol=1e-5)
        assert subgroup["labels"] == counts[0][subgroup["name"]]
    assert {entry["name"] for entry in found["subgroups"]} == set(counts[0].index)


def test_the_page_names_the_bands(place: Path) -> None:
    page = render_report(place / "out").read_text()
    for text in ("age by age in bands", "sex by lamp", "35 to below 45", "45 and above", "below 100"):
        assert text in page
    assert "The course of training" not in page


def test_other_ways_need_no_training(place: Path) -> None:
    watcher = _small_study.Watcher()
    asked = "report={gallery: false, subgroups: {lamp: classes}}"
    _small_study.run(place, asked, FEATURES, "split.seed=3", progress=watcher)
    assert watcher.begun == []
    assert {row["by"] for row in summary_of(place)["subgroups"]} == {"sex", "lamp"}
    _small_study.run(place, ASKED, FEATURES, "split.seed=3", progress=watcher)
    assert watcher.begun == []
    assert "lux in bands" in {row["by"] for row in summary_of(place)["subgroups"]}


def test_an_edge_belongs_to_the_band_above_it_and_holes_to_none() -> None:
    labels = tl.Labels(
        {"age": torch.tensor([12.9, 13.0, 19.0, 20.0, 50.0])},
        {"age": torch.tensor([True, True, True, True, False])},
    )
    cells = np.array(["", "0.5", "-1", "7", "7"])
    rows = TestRows(labels, np.arange(5), {"lux": cells})
    tasks = tl.TaskSet(tl.Regression("age"))
    age, lux = ways_to_look(tasks, {"age": [13, 20], "lux": [0, 7]}, [rows])
    assert age.codes(rows).tolist() == [0, 1, 1, 2, -1]
    assert lux.codes(rows).tolist() == [-1, 1, 0, 2, 2]
    assert age.names == ("below 13", "13 to below 20", "20 and above")
    assert ways_to_look(tasks, {"lamp": "classes"}, [rows]) == []  # runs of before have no such column


def test_labels_of_recordings_are_those_of_their_windows(tmp_path: Path) -> None:
    extra = [{"person": "p1", "labels": {"age": 30}}, {"person": "p2"}]
    store = write_store(tmp_path / "store", [30, 20], per_recording=extra)
    tasks = tl.TaskSet(tl.Multiclass("gait", store.class_names("gait")))
    windows = WindowDataset(store, tasks, window_samples=10, stride_samples=10)
    assert row_cells(windows, "age").tolist() == ["30"] * 3 + [""] * 2
    assert row_cells(windows, "person").tolist() == ["p1"] * 3 + ["p2"] * 2
    with pytest.raises(DataError, match=r"recordings have no `ag`\. Did you mean `age`"):
        row_cells(windows, "ag")


@pytest.mark.parametrize(
    ("asked", "kind", "message"),
    [
        (
            "{age: [45, 35]}",
            ConfigError,
            "edges of bands in ascending order expected",
        ),
        ("{age: classes}", ConfigError, "report.subgroups.age: `classes` goes with classes"),
        ("{sex: [1, 2]}", ConfigError, "report.subgroups.sex: bands go with a number"),
        (
            "{lam: classes}",
            DataError,
            "report.subgroups.lam: neither a task.*Did you mean `lamp`",
        ),
        ("{lamp: [1, 2]}", DataError, "report.subgroups.lamp: bands go with numbers, and the column holds"),
        ("{lux: classes}", DataError, r"report.subgroups.lux: \d+ values, at most 24 expected"),
    ],
)
def test_what_cannot_be_looked_by_is_refused_with_its_line(
    place: Path, asked: str, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        _small_study.run(place, f"report={{subgroups: {asked}}}", FEATURES, out="refused")
    assert not (place / "refused").exists()
