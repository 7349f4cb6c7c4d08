"""Outputs against the plain forward pass, losses and intervals against naive loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, mean_absolute_error, roc_auc_score

from _training import TASKS, TinyNetwork, rows_with_holes
from taskloom.errors import DataError
from taskloom.training import evaluate, resample_groups


def test_outputs_losses_and_metrics() -> None:
    model, rows = TinyNetwork(), rows_with_holes(50, seed=3)
    found = evaluate(model, rows, batch=7)
    model.eval()
    with torch.no_grad():
        expected = model(rows.inputs)
    for task in TASKS:
        torch.testing.assert_close(found.outputs[task], expected[task])
    there, values = rows.labels.present, rows.labels.values
    errors = (expected["age"][:, 0] - (values["age"] - 1.0) / 2.0)[there["age"]].square()
    assert found.losses["age"] == pytest.approx(errors.mean().item(), rel=1e-5)
    decoded = {name: task.decode(expected[name])[there[name]] for name, task in TASKS.items()}
    labels = {name: values[name][there[name]] for name in TASKS}
    assert found.value("age") == pytest.approx(mean_absolute_error(labels["age"], decoded["age"]), rel=1e-5)
    assert found.value("gender") == accuracy_score(labels["gender"], decoded["gender"] > 0.5)
    assert found.value("gender", "auc") == pytest.approx(roc_auc_score(labels["gender"], decoded["gender"]))
    assert found.value("mood") == accuracy_score(labels["mood"], decoded["mood"].argmax(1))
    assert found.count("mood") == len(labels["mood"])
    assert found.values()["mood"]["accuracy"] == found.value("mood")
    assert found.counts()["age"]["mae"] == found.count("age")


def test_interval_is_the_naive_cluster_bootstrap() -> None:
    model, rows = TinyNetwork(), rows_with_holes(40, seed=4, holes=0.6)
    found = evaluate(model, rows)
    present = rows.labels.present["age"].numpy()
    error = (TASKS["age"].decode(found.outputs["age"]) - rows.labels.values["age"]).abs().numpy()
    groups = [np.flatnonzero((rows.groups == g) & present) for g in range(rows.groups.max() + 1)]
    assert any(len(group) == 0 for group in groups)
    groups = [group for group in groups if len(group)]
    draw, means = np.random.default_rng(11), []
    for counts in draw.multinomial(len(groups), np.full(len(groups), 1 / len(groups)), size=200):
        chosen = np.concatenate([np.tile(group, k) for group, k in zip(groups, counts, strict=True)])
        means.append(error[chosen].mean())
    expected = np.quantile(means, [0.05, 0.95])
    assert found.interval("age", level=0.9, num_resamples=200, seed=11) == pytest.approx(expected, rel=1e-5)


def test_groups_without_a_label_are_never_drawn() -> None:
    weights = resample_groups(np.array([2, 0, 5, 1]), 500, seed=0)
    assert weights is not None
    assert not weights[:, 1].any()
    assert (weights.sum(axis=1) == 3).all()
    assert weights.mean(axis=0) == pytest.approx([1, 0, 1, 1], abs=0.15)
    assert resample_groups(np.array([4, 0]), 10, seed=0) is None


def test_a_task_without_labels_shows_a_dash() -> None:
    rows = rows_with_holes(12, seed=5)
    rows.labels.present["mood"][:] = False
    del rows.labels.values["gender"], rows.labels.present["gender"]
    found = evaluate(TinyNetwork(), rows)
    assert found.losses["mood"] is None
    assert math.isnan(found.value("mood"))
    assert math.isnan(found.interval("mood")[0])
    assert found.outputs["gender"].shape == (12, 1)
    for task, metric in (("mood", "accuracy"), ("gender", "auc")):
        line = next(line for line in str(found).splitlines() if f"{task} " in line and f"{metric} " in line)
        assert [cell.strip() for cell in line.split("│")[3:6]] == ["–", "–", "0"]
    assert "[" in next(line for line in str(found).splitlines() if "mae" in line)


def test_modes_come_back_and_gradients_still_work() -> None:
    model, rows = TinyNetwork(), rows_with_holes(10, seed=6)
    model.train()
    model.heads["age"].eval()  # as a frozen part would be
    found = evaluate(model, rows)
    assert model.training
    assert model.dropout.training
    assert not model.heads["age"].training
    (found.outputs["age"] * torch.ones(1, requires_grad=True)).sum().backward()
    model(rows.inputs)["age"].sum().backward()


def test_nan_in_inputs_names_the_row() -> None:
    rows = rows_with_holes(30, seed=7)
    rows.inputs[17, 2] = math.nan
    with pytest.raises(DataError, match=r"found NaN or infinity in row 17 \(rows count from 0\)"):
        evaluate(TinyNetwork(), rows, batch=8)
    rows.inputs[16, 1], rows.inputs[18, 1] = -math.inf, math.inf
    with pytest.raises(DataError, match="in row 16 and 2 more"):
        evaluate(TinyNetwork(), rows, batch=8)


def test_large_finite_inputs_are_no_error() -> None:
    rows = rows_with_holes(4, seed=7)
    rows.inputs[:] = 3e38
    assert evaluate(TinyNetwork(), rows).outputs["age"].isfinite().all()


def test_no_rows_and_unknown_names() -> None:
    model, rows = TinyNetwork(), rows_with_holes(6, seed=8)
    found = evaluate(model, rows)
    with pytest.raises(KeyError, match="`auc` is not a metric of task age; it has mae, mse, rmse, r2"):
        found.value("age", "auc")
    rows.inputs = rows.inputs[:0]
    with pytest.raises(DataError, match="no rows"):
        evaluate(model, rows)
