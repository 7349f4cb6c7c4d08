"""Class weights are repeated rows, also where labels are smoothed and beside soft labels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import taskloom as tl
from taskloom.losses import SumCount, per_task
from taskloom.tasks import StageOutput
from taskloom.training.augment_config import AugmentConfig
from taskloom.training.augmentation import Augmentation, Augmented
from taskloom.training.teaching import SoftLabels, Teaching

REPEATS = (3, 1, 2)
WEIGHED = tl.TaskSet(tl.Multiclass("a", 3, class_weights=tuple(float(times) for times in REPEATS)))
PLAIN = tl.TaskSet(tl.Multiclass("a", 3))


class Shape:
    """What `Augmentation` asks of rows of a table."""

    input_shape = (3,)

    def __init__(self, tasks: tl.TaskSet) -> None:
        self.tasks = tasks


def drawn(samples: tuple[int, ...] = ()) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(3)
    codes = torch.randint(3, (20, *samples), generator=draw)
    return torch.randn(20, 3, *samples, generator=draw), codes, torch.rand(20, *samples, generator=draw) < 0.6


def loss_of(tasks: tl.TaskSet, outputs: Tensor, labels: tl.Labels, **augment: Any) -> SumCount:
    augmentation = Augmentation(AugmentConfig(**augment), Shape(tasks), seed=0)  # type: ignore[arg-type]
    return augmentation.losses({"a": outputs}, Augmented(outputs, labels), labels, tasks)["a"]


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_smoothed_labels_count_as_often_as_their_class(smoothing: float) -> None:
    outputs, codes, there = drawn()
    labels = tl.Labels({"a": codes}, {"a": there})
    rows = torch.arange(20).repeat_interleave(torch.tensor(REPEATS)[codes])
    found = loss_of(WEIGHED, outputs, labels, label_smoothing=smoothing).mean
    expected = loss_of(PLAIN, outputs[rows], labels[rows], label_smoothing=smoothing).mean
    torch.testing.assert_close(found, expected, rtol=2e-6, atol=0)
    repeated = rows[there[rows]]
    of_torch = F.cross_entropy(outputs[repeated], codes[repeated], label_smoothing=smoothing)
    torch.testing.assert_close(found, of_torch, rtol=2e-6, atol=0)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("samples", [(), (4,)])
def test_a_soft_label_weighs_as_the_classes_that_it_names(
    samples: tuple[int, ...], temperature: float
) -> None:
    """A soft label of one class, without temperature, is a true one; mixed ones count by their shares."""
    outputs, codes, there = drawn(samples)
    shares = torch.rand(20, 3, *samples, generator=torch.Generator().manual_seed(4)).softmax(dim=1)
    soft = SoftLabels({"a": shares}, {"a": ~there}, teaching=Teaching(0.7, temperature))
    labels, index = tl.Labels({"a": codes}, {"a": there}), torch.arange(20)
    found = soft.added(per_task({"a": outputs}, labels, WEIGHED), {"a": outputs}, index, WEIGHED)["a"].mean

    weights = torch.tensor(REPEATS, dtype=torch.float64)
    log = outputs.double().movedim(1, -1).log_softmax(dim=-1)
    cool = (outputs.double() / temperature).movedim(1, -1).log_softmax(dim=-1)
    weighed = shares.double().movedim(1, -1) * weights
    true = -(F.one_hot(codes, 3) * weights * log).sum(dim=-1)[there].sum()
    taught = -(temperature**2) * (weighed * cool).sum(dim=-1)[~there].sum()
    total = weights[codes][there].sum() + weighed.sum(dim=-1)[~there].sum()
    expected = (true + 0.7 * taught) / total
    torch.testing.assert_close(found.double(), expected, rtol=5e-6, atol=0)


def test_soft_labels_that_are_the_true_ones_change_nothing() -> None:
    outputs, codes, there = drawn()
    index, whole = torch.arange(20), tl.Labels({"a": codes}, {"a": torch.ones(20).bool()})
    soft = SoftLabels({"a": F.one_hot(codes, 3).float()}, {"a": ~there})
    partly = per_task({"a": outputs}, tl.Labels({"a": codes}, {"a": there}), WEIGHED)
    found, expected = (
        soft.added(partly, {"a": outputs}, index, WEIGHED)["a"],
        per_task({"a": outputs}, whole, WEIGHED)["a"],
    )
    torch.testing.assert_close(found.mean, expected.mean, rtol=2e-6, atol=0)
    assert found.count == expected.count


def test_smoothing_reaches_the_heads_of_lower_stages() -> None:
    """Deep supervision: the loss is linear in the heads, each with its weight."""
    outputs, codes, there = drawn()
    lower, labels = outputs.flip(0), tl.Labels({"a": codes}, {"a": there})
    augmentation = Augmentation(AugmentConfig(label_smoothing=0.3), Shape(PLAIN), seed=0)  # type: ignore[arg-type]
    both = {"a": outputs, StageOutput.of("a", "dense_0", 0.5): lower}
    found = augmentation.losses(both, Augmented(outputs, labels), labels, PLAIN)["a"].mean
    parts = [loss_of(PLAIN, one, labels, label_smoothing=0.3).mean for one in (outputs, lower)]
    torch.testing.assert_close(found, parts[0] + 0.5 * parts[1])
