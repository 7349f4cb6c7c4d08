"""Accuracy by class and subgroup, confusion matrices, the gallery: against naive loops and closed forms."""

from __future__ import annotations

import base64
import dataclasses
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import confusion_matrix, mean_absolute_error, recall_score

import _small_study
import taskloom as tl
from taskloom.data.simulate.utkface import simulate_utkface
from taskloom.report import render_report, subgroups
from taskloom.report.load import load
from taskloom.study.decisions import load_confidence, load_decisions, load_numbers
from taskloom.study.paired import Sample, decided_by, judged_sides, surrogate
from taskloom.study.results import ResultsStore, RunRecord, run_folder
from taskloom.study.subgroups import gaps, shown_metric, subgroup_tables
from taskloom.study.test_rows import load_test_rows, save_test_rows
from taskloom.study.worst_mistakes import FILE
from taskloom.tasks import TaskSet


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = _small_study.write_table(tmp_path_factory.mktemp("subgroups"))
    _small_study.run(place)
    return place / "out"


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def records_of(folder: Path) -> tuple[list[RunRecord], dict[str, Any]]:
    with ResultsStore(folder / "results.sqlite", read_only=True) as store:
        return store.records(), store.facts()


def runs_of(folder: Path, task: str, cell: str) -> list[RunRecord]:
    return [run for run in records_of(folder)[0] if run.cell == cell and task in run.tasks]


def test_values_by_subgroup_are_those_of_a_naive_loop(folder: Path) -> None:
    tables = {(row["task"], row["by"]): row for row in summary_of(folder)["subgroups"]}
    assert set(tables) == {("age", "sex"), ("sex", "sex")}
    table = tables["age", "sex"]
    for number, subgroup in enumerate(table["subgroups"]):
        for side, cell in (("alone", "single_task"), ("shared", table["cell"])):
            errors = []
            for run in runs_of(folder, "age", cell):
                rows = load_test_rows(folder, run.details["test_rows"])
                said = load_numbers(run_folder(folder, run.id), "age")
                assert rows is not None
                assert said is not None
                wanted = rows.labels.present["age"] & (rows.labels.values["sex"] == number)
                truth = rows.labels.values["age"][wanted]
                errors.append(mean_absolute_error(truth.numpy(), said[wanted].numpy()))
                assert subgroup["labels"] == int(wanted.sum())
            np.testing.assert_allclose(subgroup[side]["value"], np.mean(errors), rtol=1e-5)
        gain = subgroup["alone"]["value"] - subgroup["shared"]["value"]
        np.testing.assert_allclose(subgroup["gain"]["value"], gain, rtol=1e-9)
        assert subgroup["alone"]["low"] < subgroup["alone"]["value"] < subgroup["alone"]["high"]
    of_run = {m.metric: m.value for m in runs_of(folder, "age", "single_task")[0].metrics if m.part == "test"}
    whole = decided_by(folder, tl.Regression("age"), runs_of(folder, "age", "single_task")[0])
    assert whole is not None
    present = whole.rows.labels.present["age"]
    found = (whole.outputs[:, 0] - whole.rows.labels.values["age"])[present].abs().mean()
    np.testing.assert_allclose(float(found), of_run["mae"], rtol=1e-5)


def test_only_judged_tasks_of_the_kinds_asked_for_have_sides(folder: Path) -> None:
    """An auxiliary task keeps its decisions, too, but has nothing alone to be compared with."""
    done = {
        (cell, task): runs_of(folder, task, cell)
        for task in ("age", "sex")
        for cell in {run.cell for run in records_of(folder)[0]}
    }
    assert done["single_task", "sex"]
    chosen = {task["name"]: task["chosen_cell"] for task in summary_of(folder)["tasks"]}
    both = tl.TaskSet(tl.Regression("age"), tl.Binary("sex"))
    beside = tl.TaskSet(tl.Regression("age"), tl.Binary("sex", role="auxiliary"))

    def found(tasks: TaskSet, *kinds: type[tl.tasks.Task]) -> list[str]:
        given = {"kinds": kinds} if kinds else {}
        return [task.name for task, _, _ in judged_sides(folder, tasks, done, chosen, **given)]

    assert found(both) == ["age", "sex"]
    assert found(beside) == ["age"]
    assert found(both, tl.Binary) == ["sex"]
    assert found(beside, tl.Binary) == []


def test_classes_and_confusion_matrices_are_sklearns(folder: Path) -> None:
    summary = summary_of(folder)
    (confusion,) = summary["confusions"]
    own = next(row for row in summary["subgroups"] if row["task"] == row["by"] == "sex")
    assert own["own"]
    matrices, recalls = [], []
    for run in runs_of(folder, "sex", "single_task"):
        decided = (load_decisions(run_folder(folder, run.id), TaskSet(tl.Binary("sex"))) or {})["sex"]
        rows = load_test_rows(folder, run.details["test_rows"])
        assert rows is not None
        truth, said = rows.labels.values["sex"].numpy(), (decided[:, 0] > 0).long().numpy()
        matrices.append(confusion_matrix(truth, said, labels=[0, 1]))
        recalls.append(recall_score(truth, said, average=None, labels=[0, 1]))
    np.testing.assert_allclose(confusion["alone"], np.mean(matrices, axis=0))
    found = [entry["alone"]["value"] for entry in own["subgroups"]]
    np.testing.assert_allclose(found, np.mean(recalls, axis=0))
    gap = own["gaps"]["alone"]
    if gap is not None:
        np.testing.assert_allclose(gap["value"], max(found) - min(found))
        assert gap["best"] == own["subgroups"][int(np.argmax(found))]["name"]


def test_the_page_shows_them(folder: Path) -> None:
    page = render_report(folder).read_text()
    for text in ("By class and subgroup", "age by sex", "sex by its own classes", "Confusion matrices"):
        assert text in page
    assert "The worst mistakes" not in page  # no images


def test_many_tables_by_other_columns_are_folded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    views = {of.task: of for of in subgroups.subgroup_views(load(folder))}
    assert [view.title for view in views["age"].open] == ["age by sex"]
    assert not views["age"].folded
    monkeypatch.setattr(subgroups, "_MOST_OPEN", 1)
    folded = {of.task: of for of in subgroups.subgroup_views(load(folder))}
    assert folded["age"].folded == views["age"].open
    assert [view.title for view in folded["sex"].open] == ["sex by its own classes"]
    assert "<details><summary>age by 1 other column</summary>" in render_report(folder).read_text()


def test_runs_of_before_have_no_subgroups(folder: Path) -> None:
    records, facts = records_of(folder)
    old = [dataclasses.replace(run, details={}) for run in records]
    done = {(run.cell, task): [run] for run in old for task in run.tasks}
    assert subgroup_tables(folder, TaskSet.from_dicts(facts["tasks"]), facts, done, {}) == []


# -- intervals in closed form


def test_interval_of_one_repeat_is_that_of_a_mean() -> None:
    draws = np.random.default_rng(0)
    errors = draws.gamma(2.0, size=400)
    weights = draws.multinomial(400, np.full(400, 1 / 400), size=4000)
    sample = Sample(np.array([errors.mean()]), weights @ errors / 400, 400)
    found = sample.estimate(None)
    half = stats.t.ppf(0.975, 399) * errors.std(ddof=1) / 20
    np.testing.assert_allclose(found["high"] - found["value"], half, rtol=0.04)
    np.testing.assert_allclose(found["value"] - found["low"], half, rtol=0.04)


def test_redrawn_splits_have_the_interval_of_nadeau_and_bengio() -> None:
    values = np.array([3.0, 4.0, 6.0])
    found = Sample(values, None, 50).estimate(0.25)
    half = stats.t.ppf(0.975, 2) * values.std(ddof=1) * np.sqrt(1 / 3 + 0.25)
    np.testing.assert_allclose([found["low"], found["high"]], [values.mean() - half, values.mean() + half])


def test_a_picked_difference_has_a_wider_interval_by_bonferroni() -> None:
    sample = Sample(np.array([1.0, 2.0, 4.0]), None, 10)
    one, of_ten = (sample.estimate(0.5, alpha) for alpha in (0.05, 0.005))
    ratio = (of_ten["high"] - of_ten["value"]) / (one["high"] - one["value"])
    np.testing.assert_allclose(ratio, stats.t.ppf(1 - 0.0025, 2) / stats.t.ppf(0.975, 2))


def test_differences_are_paired_and_unseen_chance_has_no_interval() -> None:
    draws = np.random.default_rng(1).normal(size=500)
    one, other = Sample(np.array([2.0]), draws + 2, 30), Sample(np.array([1.0]), draws + 1, 20)
    found = (one - other).estimate(None)
    assert found["value"] == 1.0
    assert np.isnan(found["low"])
    bounded = Sample(np.array([0.99]), 0.99 + 0.1 * draws, 30).estimate(None, within=(0.0, 1.0))
    assert bounded["high"] == 1.0


def test_no_bound_of_a_difference_is_beyond_what_is_possible(folder: Path) -> None:
    """Of two repeats and nine people: t intervals of two degrees of freedom reach 500 points."""
    tables = {(row["task"], row["by"]): row for row in summary_of(folder)["subgroups"]}
    own = tables["sex", "sex"]
    runs = {
        side: runs_of(folder, "sex", cell)
        for side, cell in (("alone", "single_task"), ("shared", own["cell"]))
    }
    recalls = {}
    for side, each in runs.items():
        decided = [decided_by(folder, tl.Binary("sex"), run) for run in each]
        recalls[side] = np.array(
            [
                recall_score(
                    one.rows.labels.values["sex"].numpy(), (one.outputs[:, 0] > 0).long(), average=None
                )
                for one in decided
                if one is not None
            ]
        )
    gains = (recalls["shared"] - recalls["alone"]).mean(axis=0)
    cut = 0
    for gain, subgroup in zip(gains, own["subgroups"], strict=True):
        found = subgroup["gain"]
        np.testing.assert_allclose(found["value"], gain)
        assert -1 <= found["low"] <= found["value"] <= found["high"] <= 1
        cut += found["low"] == -1 or found["high"] == 1
    assert cut
    errors = tables["age", "sex"]["subgroups"]
    assert any(abs(one["gain"]["low"]) > 1 for one in errors)  # an error in years has no such bound


def test_gaps_and_their_change_are_cut_at_all_of_the_range() -> None:
    best, worst = Sample(np.array([1.0, 0.6]), None, 9), Sample(np.array([0.1, 0.5]), None, 9)
    mirrored = Sample(np.array([0.0, 0.7]), None, 9), Sample(np.array([0.9, 0.4]), None, 9)
    samples = {"alone": [best, worst], "shared": list(mirrored)}
    free = (best - worst).estimate(0.5)
    assert free["low"] < -1
    assert free["high"] > 1
    cut = gaps(samples, ["F", "M"], [0, 1], "accuracy", 0.5)
    assert [cut["alone"][key] for key in ("value", "low", "high")] == [0.5, -1.0, 1.0]
    assert cut["change"]["value"] == pytest.approx(-0.8)
    assert (cut["change"]["low"], cut["change"]["high"]) == (-2.0, 2.0)
    errors = gaps(samples, ["F", "M"], [0, 1], "mae", 0.5)
    assert errors["alone"]["high"] > 1
    assert errors["change"]["high"] > 2


def test_the_shown_metric_does_not_hang_on_how_common_a_class_is() -> None:
    assert shown_metric(tl.Binary("a", metric="auc")) == "accuracy"
    assert shown_metric(tl.Regression("a", metric="r2")) == "mae"
    assert shown_metric(tl.Regression("a", metric="rmse")) == "rmse"
    ordinal = surrogate(tl.Ordinal("age", unit="years", range=(0, 10)))
    assert ordinal.decode(torch.tensor([[7.5]])).tolist() == [7.5]


# -- faces


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("faces")
    simulate_utkface(place / "utk", images=60, size=48, lacking=2)
    study = _small_study.read(text=_small_study.FACES)
    _small_study.run_study(study, place / "out", _small_study.Watcher(), data=place / "utk")
    return place


def test_the_gallery_holds_the_worst_of_the_test_images(faces: Path) -> None:
    out = faces / "out"
    gallery = [row for row in summary_of(out)["gallery"] if row["task"] == "age"]
    (run,) = runs_of(out, "age", gallery[0]["cell"])
    rows, said = load_test_rows(out, run.details["test_rows"]), load_numbers(run_folder(out, run.id), "age")
    assert rows is not None
    assert said is not None
    truth = rows.labels.values["age"]
    worst = (truth - said).abs().argsort(descending=True, stable=True)[:12].tolist()
    assert [row["truth"] for row in gallery] == [f"{float(truth[row]):.4g} years" for row in worst]
    request = _small_study.read(text=_small_study.FACES)
    from taskloom.study.runs import data_request

    test = data_request(request, 0, faces / "utk", faces / "stores").load().test
    for row, place in zip(gallery, worst, strict=True):
        shown = cv2.imdecode(np.frombuffer(base64.b64decode(row["picture"]), np.uint8), cv2.IMREAD_COLOR)
        stored = test.store.images[test.rows[place]]  # type: ignore[attr-defined]
        assert shown.shape == (32, 32, 3)
        assert np.abs(shown[..., ::-1].astype(int) - stored.astype(int)).mean() < 12
    wrong = [row for row in summary_of(out)["gallery"] if row["task"] == "gender"]
    assert all(row["truth"] != row["said"] for row in wrong)
    assert render_report(out).read_text().count("data:image/jpeg") == len(gallery) + len(wrong)


def test_confidence_is_the_probability_of_the_decided_class(faces: Path) -> None:
    out = faces / "out"
    (run,) = runs_of(out, "gender", "single_task")
    confidence = load_confidence(run_folder(out, run.id), "gender")
    assert confidence is not None
    assert bool(((confidence >= 0.5) & (confidence <= 1)).all())


def test_a_gallery_that_is_not_wanted_leaves_no_picture(faces: Path) -> None:
    out = faces / "out"
    assert (out / FILE).is_file()
    study = _small_study.read("report.gallery=false", text=_small_study.FACES)
    watcher = _small_study.Watcher()
    _small_study.run_study(study, out, watcher, data=faces / "utk")
    assert watcher.ended == []  # no run depends on it
    assert not (out / FILE).exists()
    assert summary_of(out)["gallery"] == []
    assert "data:image/jpeg" not in render_report(out).read_text()
    assert summary_of(out)["course"] is None
    few = _small_study.read("report.gallery=3", text=_small_study.FACES)
    _small_study.run_study(few, out, _small_study.Watcher(), data=faces / "utk")
    assert len([row for row in summary_of(out)["gallery"] if row["task"] == "age"]) == 3


def test_test_rows_of_one_split_are_kept_once(tmp_path: Path) -> None:
    labels = tl.Labels(
        {"a": torch.tensor([1.0, 2.0]), "b": torch.zeros(2, 4, dtype=torch.int64)},
        {"a": torch.tensor([True, False]), "b": torch.ones(2, 4, dtype=torch.bool)},
    )

    class Rows:
        tasks = tl.TaskSet(tl.Regression("a"), tl.Binary("b"))
        groups = np.array([1, 0])

    Rows.labels = labels  # type: ignore[attr-defined]
    keys = {save_test_rows(tmp_path, Rows()) for _ in range(2)}  # type: ignore[arg-type]
    assert len(keys) == 1
    found = load_test_rows(tmp_path, keys.pop())
    assert found is not None
    assert list(found.labels.values) == ["a"]  # labels per sample are left out
    assert torch.equal(found.labels.present["a"], labels.present["a"])
    assert load_test_rows(tmp_path, "nothing") is None
