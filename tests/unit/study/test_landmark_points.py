"""Errors and failure rates of single landmarks, against naive loops and against the runs' own metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import taskloom as tl
from _small_study import Watcher
from taskloom.data.simulate.mtfl import simulate_mtfl
from taskloom.metrics.base import checked_rows
from taskloom.metrics.landmarks import point_errors, row_errors
from taskloom.report import render_report
from taskloom.study.config import load_study
from taskloom.study.decisions import load_numbers
from taskloom.study.landmark_points import MEASURES, OVERALL
from taskloom.study.results import ResultsStore, RunRecord, run_folder
from taskloom.study.runner import run_study
from taskloom.study.test_rows import load_test_rows

STUDY = """\
data: {reader: mtfl, size: 40}
tasks:
  landmarks: {kind: landmarks, reference: 40, threshold: 0.05}
  smile:     {kind: binary, role: auxiliary, weight: 0.1}
split: {by: official}
encoder: {name: mtfl_cnn, filters: [4, 4, 4, 4], dense: 8}
training: {epochs: 2, batch: 32, device: cpu, optimizer: {adam: {lr: 1e-2}}}
repeats: 2
report: {gallery: false}
cells:
  - hard_sharing: {stages: 3}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("landmarks")
    data = simulate_mtfl(place / "faces", images=90)
    (place / "mtfl.yaml").write_text(STUDY)
    run_study(load_study(place / "mtfl.yaml"), place / "out", Watcher(), data=data)
    return place / "out"


def table_of(folder: Path) -> dict[str, Any]:
    (found,) = json.loads((folder / "summary.json").read_text())["landmarks"]
    return found  # type: ignore[no-any-return]


def runs_of(folder: Path, cell: str) -> list[RunRecord]:
    with ResultsStore(folder / "results.sqlite", read_only=True) as store:
        return [run for run in store.records() if run.cell == cell and "landmarks" in run.tasks]


def naive_errors(folder: Path, run: RunRecord, position: int) -> list[float]:
    rows = load_test_rows(folder, run.details["test_rows"])
    said = load_numbers(run_folder(folder, run.id), "landmarks")
    assert rows is not None
    assert said is not None
    errors = []
    for row in range(len(said)):
        if rows.labels.present["landmarks"][row, position]:
            truth = rows.labels.values["landmarks"][row, position]
            errors.append(float((said[row, position] - truth).norm()) / 40)
    return errors


def test_every_landmark_is_judged_as_a_naive_loop_does(folder: Path) -> None:
    table = table_of(folder)
    assert table["reference"] == "40 pixels of the stored image"
    names = [point["name"] for point in table["points"]]
    assert names == ["left_eye", "right_eye", "nose", "left_mouth", "right_mouth", OVERALL]
    for side, cell in (("alone", "single_task"), ("shared", table["cell"])):
        for position, point in enumerate(table["points"][:-1]):
            runs = [np.array(naive_errors(folder, run, position)) for run in runs_of(folder, cell)]
            assert point["labels"] == len(runs[0])
            expected = {
                "landmark_error": np.mean([errors.mean() for errors in runs]),
                "failure_rate_5": np.mean([(errors > 0.05).mean() for errors in runs]),
                "failure_rate_10": np.mean([(errors > 0.1).mean() for errors in runs]),
            }
            for measure in MEASURES:
                shown = point["measures"][measure][side]["value"]
                np.testing.assert_allclose(shown, expected[measure], rtol=1e-5)


def test_all_landmarks_together_are_the_metrics_of_the_runs(folder: Path) -> None:
    table = table_of(folder)
    overall = table["points"][-1]
    for measure in MEASURES:
        means = {}
        for side, cell in (("alone", "single_task"), ("shared", table["cell"])):
            values = [
                m.value
                for run in runs_of(folder, cell)
                for m in run.metrics
                if (m.task, m.part, m.metric) == ("landmarks", "test", measure)
            ]
            assert len(values) == 2
            means[side] = float(np.mean(values))
            np.testing.assert_allclose(overall["measures"][measure][side]["value"], means[side], rtol=1e-5)
        gain = overall["measures"][measure]["gain"]["value"]
        np.testing.assert_allclose(gain, means["alone"] - means["shared"], rtol=1e-4, atol=1e-9)


def test_the_page_shows_them(folder: Path) -> None:
    page = render_report(folder).read_text()
    table = table_of(folder)
    assert "Landmark by landmark" in page
    assert "errors in percent of 40 pixels of the stored image" in page
    nose = table["points"][2]["measures"]["landmark_error"]["alone"]
    assert f"{100 * nose['value']:.2f} [{100 * nose['low']:.2f}, {100 * nose['high']:.2f}]" in page


def test_the_error_of_a_row_is_the_mean_of_its_points() -> None:
    task = tl.Landmarks("face", 4, reference="box_width")
    torch.manual_seed(0)
    values, outputs = 9 * torch.rand(7, 4, 2), 9 * torch.randn(7, 8)
    present = torch.rand(7, 4) < 0.7
    present[3] = False
    rows = checked_rows(task, outputs, values, present, np.zeros(7, np.int64), 1)
    points = point_errors(task, rows)
    assert np.array_equal(np.isnan(points), ~present.numpy() | np.isnan(row_errors(task, rows))[:, None])
    for row in range(7):
        if present[row].sum() > 1:
            shown = values[row][present[row]]
            width = float(shown[:, 0].max() - shown[:, 0].min())
            distances = (outputs[row].reshape(4, 2) - values[row])[present[row]].norm(dim=1)
            expected = float(distances.mean()) / width
            np.testing.assert_allclose(np.nanmean(points[row]), expected, rtol=1e-5)
            np.testing.assert_allclose(row_errors(task, rows)[row], expected, rtol=1e-5)
