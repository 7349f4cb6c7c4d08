"""Metric values against scikit-learn, torchmetrics and naive loops, with holes."""

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchmetrics.functional as tmf
from sklearn import metrics as sk

import taskloom as tl
from _metric_inputs import BINARY, CASES, GROUPS, MULTICLASS, MULTILABEL, REGRESSION, ROWS, TASKS, example
from taskloom.metrics import METRICS
from taskloom.tasks import HIGHER_IS_BETTER, KINDS


def value(task: tl.Task, metric: str, outputs, values, present) -> float:
    groups = np.zeros(len(values), dtype=np.int64)
    return METRICS[metric].evaluate(METRICS[metric].summarize(task, outputs, values, present, groups, 1))


def masked_numpy(outputs, values, present):
    return outputs[present].numpy(), values[present].numpy()


def test_names_and_directions_are_those_of_the_task_kinds() -> None:
    assert {name: METRICS[name].higher_is_better for name in METRICS} == HIGHER_IS_BETTER
    assert all(METRICS[name].name == name for name in METRICS)
    assert {m for kind in KINDS.values() for m in kind.known_metrics} == set(METRICS)


SKLEARN: dict[tuple[str, str], Callable[..., float]] = {
    ("binary", "accuracy"): lambda o, y: sk.accuracy_score(y, o[:, 0] > 0),
    ("binary", "balanced_accuracy"): lambda o, y: sk.balanced_accuracy_score(y, o[:, 0] > 0),
    ("binary", "f1"): lambda o, y: sk.f1_score(y, o[:, 0] > 0),
    ("binary", "auc"): lambda o, y: sk.roc_auc_score(y, o[:, 0]),
    ("multiclass", "accuracy"): lambda o, y: sk.accuracy_score(y, o.argmax(1)),
    ("multiclass", "balanced_accuracy"): lambda o, y: sk.balanced_accuracy_score(y, o.argmax(1)),
    ("multiclass", "f1_macro"): lambda o, y: sk.f1_score(y, o.argmax(1), average="macro"),
    ("multiclass", "f1_weighted"): lambda o, y: sk.f1_score(y, o.argmax(1), average="weighted"),
    ("multiclass", "f1_micro"): lambda o, y: sk.f1_score(y, o.argmax(1), average="micro"),
    ("regression", "mae"): lambda o, y: sk.mean_absolute_error(y, o[:, 0] * 8 + 30),
    ("regression", "mse"): lambda o, y: sk.mean_squared_error(y, o[:, 0] * 8 + 30),
    ("regression", "rmse"): lambda o, y: sk.root_mean_squared_error(y, o[:, 0] * 8 + 30),
    ("regression", "r2"): lambda o, y: sk.r2_score(y, o[:, 0] * 8 + 30),
    ("vector", "mae"): lambda o, y: sk.mean_absolute_error(y, o * 8 + 30),
    ("vector", "mse"): lambda o, y: sk.mean_squared_error(y, o * 8 + 30),
    ("vector", "rmse"): lambda o, y: sk.root_mean_squared_error(y, o * 8 + 30),
    ("vector", "r2"): lambda o, y: sk.r2_score(y, o * 8 + 30),
}


@pytest.mark.parametrize("case", SKLEARN, ids="-".join)
@pytest.mark.parametrize("seed", range(3))
def test_equals_scikit_learn_on_the_present_rows(case: tuple[str, str], seed: int) -> None:
    name, metric = case
    outputs, values, present, _ = example(TASKS[name], seed)
    expected = SKLEARN[case](*masked_numpy(outputs.double(), values, present))
    assert value(TASKS[name], metric, outputs, values, present) == pytest.approx(expected, rel=1e-6)


def test_multilabel_equals_scikit_learn_label_by_label() -> None:
    outputs, values, present, _ = example(MULTILABEL)
    columns = [masked_numpy(outputs[:, k], values[:, k], present[:, k]) for k in range(4)]
    expected = {
        "balanced_accuracy": np.mean([sk.balanced_accuracy_score(y, o > 0) for o, y in columns]),
        "f1_macro": np.mean([sk.f1_score(y, o > 0) for o, y in columns]),
        "auc": np.mean([sk.roc_auc_score(y, o) for o, y in columns]),
    }
    pooled = masked_numpy(outputs, values, present)
    expected["accuracy"] = sk.accuracy_score(pooled[1], pooled[0] > 0)
    shares = [sk.accuracy_score(y, o > 0) for o, y in columns]
    expected["afa"] = (expected["f1_macro"] + np.mean(shares)) / 2
    expected["f1_micro"] = sk.f1_score(pooled[1], pooled[0] > 0)
    assert set(expected) == set(MULTILABEL.metrics)
    for metric, number in expected.items():
        assert value(MULTILABEL, metric, outputs, values, present) == pytest.approx(number), metric


def test_equals_torchmetrics() -> None:
    outputs, values, present, _ = example(MULTICLASS)
    o, y = outputs[present], values[present]
    assert value(MULTICLASS, "accuracy", outputs, values, present) == pytest.approx(
        tmf.accuracy(o, y, task="multiclass", num_classes=5, average="micro").item()
    )
    assert value(MULTICLASS, "balanced_accuracy", outputs, values, present) == pytest.approx(
        tmf.accuracy(o, y, task="multiclass", num_classes=5, average="macro").item()
    )
    for average in ("macro", "weighted", "micro"):
        assert value(MULTICLASS, f"f1_{average}", outputs, values, present) == pytest.approx(
            tmf.f1_score(o, y, task="multiclass", num_classes=5, average=average).item()
        )
    outputs, values, present, _ = example(BINARY)
    assert value(BINARY, "auc", outputs, values, present) == pytest.approx(
        tmf.auroc(outputs[present, 0], values[present], task="binary").item()
    )
    outputs, values, present, _ = example(REGRESSION)
    predicted = REGRESSION.decode(outputs)[present]
    assert value(REGRESSION, "r2", outputs, values, present) == pytest.approx(
        tmf.r2_score(predicted, values[present]).item(), rel=1e-5
    )


def test_f1_macro_averages_over_classes_in_labels_or_predictions() -> None:
    # Class 0 in both, 1 in predictions alone, 2 in labels alone, 3 and 4 nowhere.
    outputs = torch.nn.functional.one_hot(torch.tensor([0, 0, 1, 0]), 5).float()
    labels = torch.tensor([0, 0, 2, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = sk.f1_score(labels, outputs.argmax(1), average="macro")
    assert expected == pytest.approx(1 / 3)
    assert value(MULTICLASS, "f1_macro", outputs, labels, torch.ones(4).bool()) == pytest.approx(expected)
    # Balanced accuracy: classes 0 and 2 have labels, their recalls are 1 and 0.
    assert value(MULTICLASS, "balanced_accuracy", outputs, labels, torch.ones(4).bool()) == 0.5


@pytest.mark.parametrize("ties", [True, False])
def test_auc_counts_wins_and_half_of_ties_over_all_pairs(ties: bool) -> None:
    outputs, values, present, _ = example(BINARY)
    if not ties:
        outputs = outputs + torch.linspace(0, 0.2, ROWS)[:, None]
    scores, y = masked_numpy(outputs[:, 0], values, present)
    pairs = [(p, n) for p in scores[y == 1] for n in scores[y == 0]]
    assert any(p == n for p, n in pairs) == ties
    expected = sum((p > n) + 0.5 * (p == n) for p, n in pairs) / len(pairs)
    assert value(BINARY, "auc", outputs, values, present) == pytest.approx(expected)


def test_auc_of_a_multilabel_task_skips_labels_with_one_class_only() -> None:
    task = tl.Multilabel("t", 2)
    outputs = torch.tensor([[1.0, 5.0], [2.0, 6.0], [0.0, 7.0]])
    values = torch.tensor([[1, 1], [0, 1], [0, 1]])
    present = torch.ones(3, 2).bool()
    assert value(task, "auc", outputs, values, present) == 0.5


@pytest.mark.parametrize(
    "reference",
    ["box", "sqrt_area", "box_width", "inter_ocular", (0, 2), 25.0],
    ids=lambda value: f"by_{value}",
)
def test_landmarks_equal_a_loop(reference: object) -> None:
    names = ("left_eye", "nose", "right_eye", "mouth")
    task = tl.Landmarks("t", names, center=30.0, scale=10.0, reference=reference, threshold=0.2)
    outputs, values, present, _ = example(task)
    present[0] = False
    present[1] = torch.tensor([True, False, False, False])
    values[2] = values[2, :1]  # all points at one place: neither box nor distance
    errors = []
    for row in range(ROWS):
        shown = [k for k in range(4) if present[row, k]]
        points = [(float(values[row, k, 0]), float(values[row, k, 1])) for k in range(4)]
        found = [
            (float(outputs[row, 2 * k]) * 10 + 30, float(outputs[row, 2 * k + 1]) * 10 + 30) for k in range(4)
        ]
        if not shown:
            continue
        xs, ys = [points[k][0] for k in shown], [points[k][1] for k in shown]
        if reference == "box_width":
            length = max(xs) - min(xs)
        elif reference in ("box", "sqrt_area"):
            length = math.sqrt((max(xs) - min(xs)) * (max(ys) - min(ys)))
        elif reference in ("inter_ocular", (0, 2)):
            length = math.dist(points[0], points[2]) if present[row, 0] and present[row, 2] else 0.0
        else:
            length = reference
        if length > 0:
            errors.append(np.mean([math.dist(points[k], found[k]) for k in shown]) / length)
    assert 0 < len(errors) < ROWS
    summary = METRICS["landmark_error"].summarize(task, outputs, values, present, np.arange(ROWS), ROWS)
    assert METRICS["landmark_error"].label_counts(summary).sum() == len(errors)
    assert METRICS["landmark_error"].evaluate(summary) == pytest.approx(np.mean(errors), rel=1e-6)
    failures = value(task, "failure_rate", outputs, values, present)
    assert failures == pytest.approx(np.mean(np.array(errors) > 0.2))
    for percent in (5, 10):
        rate = value(task, f"failure_rate_{percent}", outputs, values, present)
        assert rate == pytest.approx(np.mean(np.array(errors) > percent / 100))
    assert 0 < failures < 1


def test_regression_is_judged_in_its_unit_and_range() -> None:
    task = tl.Regression("t", unit="years", center=50.0, scale=10.0, range=(0.0, 60.0))
    outputs = torch.tensor([[0.5], [3.0], [-9.0]])  # 55, 80 clipped to 60, -40 clipped to 0
    ages, present = torch.tensor([50.0, 58.0, 4.0]), torch.ones(3).bool()
    assert value(task, "mae", outputs, ages, present) == pytest.approx((5 + 2 + 4) / 3)
    assert value(task, "mse", outputs, ages, present) == pytest.approx((25 + 4 + 16) / 3)
    assert [METRICS[m].unit(task) for m in ("mae", "mse", "rmse", "r2")] == ["years", "years²", "years", ""]
    assert METRICS["accuracy"].unit(BINARY) == ""


def test_r2_keeps_its_digits_far_from_zero() -> None:
    task = tl.Regression("t", center=1e6, scale=1.0)
    generator = np.random.default_rng(0)
    standard = generator.normal(size=50).round(3)
    labels = torch.tensor(1e6 + standard, dtype=torch.float64)
    outputs = torch.tensor(standard + 0.1 * generator.normal(size=50))[:, None]
    expected = sk.r2_score(standard, outputs[:, 0])
    found = value(task, "r2", outputs, labels, torch.ones(50).bool())
    assert found == pytest.approx(expected, rel=1e-6)


def test_undefined_is_nan() -> None:
    four = torch.ones(4).bool()
    ones, zeros = torch.ones(4).long(), torch.zeros(4).long()
    low, high = torch.full((4, 1), -1.0), torch.full((4, 1), 1.0)
    assert math.isnan(value(BINARY, "auc", high, ones, four))
    assert math.isnan(value(BINARY, "auc", high, zeros, four))
    assert math.isnan(value(BINARY, "f1", low, zeros, four))
    assert value(BINARY, "f1", low, ones, four) == 0.0
    assert value(BINARY, "f1", high, zeros, four) == 0.0
    assert value(BINARY, "balanced_accuracy", low, zeros, four) == 1.0
    constant = torch.full((4,), 12.345)
    assert math.isnan(value(REGRESSION, "r2", torch.randn(4, 1), constant, four))
    assert math.isnan(
        value(REGRESSION, "r2", torch.randn(4, 1), constant, torch.tensor([True, False, False, False]))
    )


@pytest.mark.parametrize(("name", "metric"), CASES)
def test_without_labels_every_metric_is_nan(name: str, metric: str) -> None:
    task = TASKS[name]
    outputs, values, present, groups = example(task)
    summary = METRICS[metric].summarize(task, outputs, values, torch.zeros_like(present), groups, GROUPS)
    assert math.isnan(METRICS[metric].evaluate(summary))
    assert np.isnan(METRICS[metric].evaluate(summary, np.ones((3, GROUPS)))).all()
    assert METRICS[metric].label_counts(summary).tolist() == [0] * GROUPS


def test_pinned_values() -> None:
    outputs = torch.tensor([[2.0], [1.0], [-1.0], [-2.0], [0.0]])
    labels, present = torch.tensor([1, 0, 1, 0, 1]), torch.ones(5).bool()
    found = {metric: value(BINARY, metric, outputs, labels, present) for metric in BINARY.metrics}
    # Predicted yes: rows 0 and 1 (a logit of 0 is no). Hits: rows 0 and 3.
    expected = {"accuracy": 2 / 5, "balanced_accuracy": (1 / 3 + 1 / 2) / 2, "f1": 2 / 5, "auc": 4 / 6}
    expected["afa"] = 2 / 5  # F1 and accuracy are the same here
    assert found == pytest.approx(expected)
