"""The metrics of paper 003: AFA, mean F1 over action units, average accuracy, concordance."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics as sk
import torch

import taskloom as tl
from taskloom.metrics import METRICS
from taskloom.tasks import Task

UNITS = tl.Multilabel("units", ("au1", "au2", "au4"))


def value(task: Task, metric: str, outputs, labels, present=None, weights=None):  # type: ignore[no-untyped-def]
    present = torch.ones(labels.shape, dtype=torch.bool) if present is None else present
    num_rows = len(labels)
    groups = np.arange(num_rows) // 2
    one = METRICS[metric]
    summary = one.summarize(task, outputs, labels, present, groups, num_rows // 2)
    return one.evaluate(summary, weights)


def units(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    labels = (torch.rand(80, 3, generator=draw) < torch.tensor([0.1, 0.3, 0.6])).long()
    present = torch.rand(80, 3, generator=draw) > torch.tensor([0.0, 0.3, 0.8])
    return torch.randn(80, 3, generator=draw) + labels, labels, present


def test_afa_by_scikit_learn_label_by_label() -> None:
    outputs, labels, present = units()
    per_label = [
        (labels[present[:, k], k].numpy(), (outputs[present[:, k], k] > 0).numpy()) for k in range(3)
    ]
    f1 = np.mean([sk.f1_score(true, found) for true, found in per_label])
    shares = np.mean([sk.accuracy_score(true, found) for true, found in per_label])
    assert value(UNITS, "afa", outputs, labels, present) == pytest.approx((f1 + shares) / 2)
    assert value(UNITS, "f1_macro", outputs, labels, present) == pytest.approx(f1)  # mean F1 over units
    # Accuracy over all elements is another number where labels are present unequally often.
    assert value(UNITS, "accuracy", outputs, labels, present) != pytest.approx(shares, abs=1e-3)


def test_afa_of_binary_tasks_averages_to_that_of_their_multilabel_task() -> None:
    outputs, labels, present = units(1)
    single = [
        value(tl.Binary(name), "afa", outputs[:, [k]], labels[:, k], present[:, k])
        for k, name in enumerate(UNITS.class_names)
    ]
    assert np.mean(single) == pytest.approx(value(UNITS, "afa", outputs, labels, present))


def test_afa_by_hand() -> None:
    # Right, right, missed, wrongly found: F1 = 2 / (2 + 1 + 1), accuracy 1/2.
    outputs, labels = torch.tensor([[1.0], [-1.0], [-1.0], [1.0]]), torch.tensor([1, 0, 1, 0])
    assert value(tl.Binary("au1"), "afa", outputs, labels) == pytest.approx((0.5 + 0.5) / 2)
    assert np.isnan(value(tl.Binary("au1"), "afa", outputs, labels, torch.zeros(4).bool()))


def test_average_accuracy_is_the_mean_class_recall() -> None:
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (60,), generator=draw)
    outputs = torch.randn(60, 4, generator=draw)
    expected = sk.recall_score(labels, outputs.argmax(1), average="macro")
    assert value(tl.Multiclass("face", 4), "balanced_accuracy", outputs, labels) == pytest.approx(expected)


def concordance(true: np.ndarray, found: np.ndarray) -> float:
    """Lin's formula, written out over the rows."""
    covariance = np.mean((true - true.mean()) * (found - found.mean()))
    return float(2 * covariance / (true.var() + found.var() + (true.mean() - found.mean()) ** 2))


@pytest.mark.parametrize("center", [0.0, 5.0, 1e5])
def test_concordance_by_the_formula(center: float) -> None:
    draw = torch.Generator().manual_seed(0)
    valence = tl.Regression("valence", center=center, scale=2.0)
    labels = center + 2 * torch.randn(70, generator=draw, dtype=torch.float64)
    outputs = 0.6 * (labels[:, None] - center) / 2 + 0.3 + 0.4 * torch.randn(70, 1, generator=draw)
    found = (outputs[:, 0] * 2 + center).numpy()
    assert value(valence, "ccc", outputs, labels) == pytest.approx(
        concordance(labels.numpy(), found), rel=1e-6
    )


def test_concordance_punishes_what_a_correlation_forgives() -> None:
    labels = torch.linspace(-1, 1, 20)
    task = tl.Regression("arousal")
    assert value(task, "ccc", labels[:, None], labels) == pytest.approx(1.0)
    assert value(task, "ccc", -labels[:, None], labels) == pytest.approx(-1.0)
    shifted = value(task, "ccc", labels[:, None] + 1, labels)
    assert shifted == pytest.approx(concordance(labels.numpy(), labels.numpy() + 1), rel=1e-5)
    assert shifted < 0.5
    assert value(task, "ccc", torch.zeros(20, 1), labels) == pytest.approx(0.0)
    assert np.isnan(value(task, "ccc", torch.ones(20, 1), torch.ones(20)))


@pytest.mark.parametrize("metric", ["afa", "ccc"])
def test_resampled_groups_count_as_copies_of_their_rows(metric: str) -> None:
    outputs, labels, present = units(2)
    task: Task = UNITS
    if metric == "ccc":
        task, outputs = tl.Regression("valence"), outputs[:, :1]
        labels, present = outputs[:, 0] + labels[:, 1], present[:, 1]
    draw = np.random.default_rng(0)
    weights = np.stack([np.bincount(draw.integers(0, 40, 40), minlength=40) for _ in range(3)]).astype(float)
    for line, found in zip(weights, value(task, metric, outputs, labels, present, weights), strict=True):
        rows = torch.from_numpy(np.repeat(np.arange(80), np.repeat(line.astype(int), 2)))
        copied = value(task, metric, outputs[rows], labels[rows], present[rows])
        assert found == pytest.approx(copied, rel=1e-5)
