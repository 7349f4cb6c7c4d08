"""Ordinal tasks: CORAL and DEX against hand computation, naive loops and the order they promise."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

import taskloom as tl
from taskloom.errors import ConfigError, DataError
from taskloom.losses import per_task
from taskloom.metrics import METRICS
from taskloom.sharing.heads import HeadSpec, SharedSlope
from taskloom.tasks import Labels, Ordinal, TaskSet, task_from_dict

CORAL = Ordinal("age", unit="years", range=(21, 25))
DEX = Ordinal("age", unit="years", range=(21, 25), loss="dex")


def labels_of(values: list[float], present: list[bool]) -> Labels:
    return Labels({"age": torch.tensor(values)}, {"age": torch.tensor(present)})


def test_widths_levels_and_the_way_through_json() -> None:
    assert (CORAL.width, DEX.width, CORAL.num_levels) == (4, 5, 5)
    assert Ordinal("grade", range=(1, 2), step=0.25).num_levels == 5
    for task in (CORAL, DEX, Ordinal("grade", range=(1, 2), step=0.25, role="auxiliary")):
        assert task_from_dict(json.loads(json.dumps(task.to_dict()))) == task
    assert (CORAL.value_shape, CORAL.value_dtype, CORAL.primary_metric) == ((), torch.float32, "mae")
    assert CORAL.fit(torch.tensor([30.0])) is CORAL


def test_coral_targets_by_hand() -> None:
    found = CORAL.targets(torch.tensor([21.0, 23.0, 25.0, 22.4, 22.5]))
    expected = [[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]]
    assert found.tolist() == expected


def test_coral_loss_is_equation_4_with_the_mean_over_the_questions_and_skips_holes() -> None:
    torch.manual_seed(0)
    outputs = torch.randn(6, 4, dtype=torch.float64)
    values, present = [21.0, 24.0, math.nan, 25.0, 1e30, 23.0], [True, True, False, True, False, True]
    outputs[2] = math.nan  # whatever stands at an absent label reaches nothing
    outputs.requires_grad_()
    found = per_task({"age": outputs}, labels_of(values, present), TaskSet(CORAL))["age"]
    total = 0.0
    for row in range(6):
        if not present[row]:
            continue
        for k in range(4):
            logit = outputs[row, k].item()
            target = 1.0 if values[row] > 21 + k else 0.0
            log_p = -math.log1p(math.exp(-logit))
            total -= (log_p * target + (log_p - logit) * (1 - target)) / 4
    assert found.sum.item() == pytest.approx(total, rel=1e-12)
    assert found.count.item() == 4
    found.sum.backward()
    assert outputs.grad is not None
    assert torch.equal(outputs.grad[[2, 4]], torch.zeros(2, 4, dtype=torch.float64))


def test_no_label_at_all_is_no_loss() -> None:
    outputs = torch.randn(3, 4, requires_grad=True)
    found = per_task({"age": outputs}, labels_of([0.0] * 3, [False] * 3), TaskSet(CORAL))["age"]
    found.mean.backward()
    assert (found.mean.item(), found.count.item()) == (0.0, 0)
    assert outputs.grad is not None
    assert outputs.grad.count_nonzero() == 0


def test_coral_predicts_by_counting_probabilities_above_one_half() -> None:
    torch.manual_seed(1)
    logits = torch.randn(50, 4)
    expected = [21 + sum(1 / (1 + math.exp(-x)) > 0.5 for x in row) for row in logits.tolist()]
    assert CORAL.decode(logits).tolist() == expected
    half = Ordinal("grade", range=(1, 2), step=0.25)
    assert half.decode(torch.tensor([[3.0, 2.0, -1.0, -2.0]])).tolist() == [1.5]


def test_dex_predicts_the_expected_value_and_learns_by_cross_entropy() -> None:
    torch.manual_seed(2)
    logits = torch.randn(7, 5, dtype=torch.float64)
    probabilities = np.exp(logits.numpy())
    probabilities /= probabilities.sum(1, keepdims=True)
    np.testing.assert_allclose(DEX.decode(logits).numpy(), probabilities @ np.arange(21, 26), rtol=1e-12)
    values = [21.0, 25.0, 23.0, 22.0, 24.0, 21.0, 0.0]
    found = per_task({"age": logits}, labels_of(values, [True] * 6 + [False]), TaskSet(DEX))["age"]
    expected = -sum(math.log(probabilities[row, int(values[row]) - 21]) for row in range(6))
    assert found.sum.item() == pytest.approx(expected, rel=1e-6)


def test_mae_is_in_years() -> None:
    logits = torch.tensor([[1.0, 1.0, -1.0, -1.0], [-1.0] * 4, [1.0] * 4])  # 23, 21, 25
    values = torch.tensor([25.0, 21.0, 22.0])
    metric = METRICS["mae"]
    summary = metric.summarize(CORAL, logits, values, torch.ones(3, dtype=torch.bool), np.zeros(3, int), 1)
    assert metric.evaluate(summary) == pytest.approx((2 + 0 + 3) / 3)
    assert metric.unit(CORAL) == "years"


def test_one_weight_vector_and_falling_biases_give_falling_probabilities_for_every_row() -> None:
    torch.manual_seed(3)
    head = HeadSpec(hidden=(6,)).build_for(CORAL, (3,))
    layer = head[-1]
    assert isinstance(layer, SharedSlope)
    assert sum(parameter.numel() for parameter in layer.parameters()) == 6 + 4
    features = 100 * torch.randn(200, 3)
    probabilities = CORAL.probabilities(head(features).double())
    assert bool((probabilities.diff(dim=1) <= 0).all())
    inputs = torch.randn(5, 6)
    expected = torch.stack([inputs @ layer.slope.weight[0] + bias for bias in layer.bias], dim=1)
    torch.testing.assert_close(layer(inputs), expected)


def test_order_of_the_biases_holds_after_training_on_drawn_ages() -> None:
    torch.manual_seed(4)
    inputs = torch.randn(400, 2)
    ages = (23 + inputs[:, 0] + 0.3 * torch.randn(400)).clamp(21, 25)
    head = HeadSpec().build_for(CORAL, (2,))
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    labels = Labels({"age": ages}, {"age": torch.ones(400, dtype=torch.bool)})
    for _ in range(150):
        optimizer.zero_grad()
        per_task({"age": head(inputs)}, labels, TaskSet(CORAL))["age"].mean.backward()
        optimizer.step()
    layer = head[-1]
    assert isinstance(layer, SharedSlope)
    assert bool((layer.bias.diff() < 0).all())  # theorem 1 of the paper, at the optimum
    error = (CORAL.decode(head(inputs)) - ages.round()).abs().mean().item()
    assert error < 0.5 < (ages.round() - 23).abs().mean().item()


@pytest.mark.parametrize("sharing", ["hard_sharing", "cross_stitch", "mmoe"])
def test_every_kind_of_network_has_the_head(sharing: str) -> None:
    tasks = TaskSet(CORAL, tl.Binary("gender"))
    settings = {"hard_sharing": {"stages": 1}, "mmoe": {"experts": 2}}.get(sharing, {})
    network = tl.sharing.build(sharing, tl.encoders.mlp((4,), hidden=[5, 3]), tasks, **settings)
    assert any(isinstance(module, SharedSlope) for module in network.modules())
    assert network(torch.randn(2, 4))["age"].shape == (2, 4)


def test_a_table_is_read_as_numbers_and_ages_out_of_range_are_refused(tmp_path: Any) -> None:
    rows = ["a,b,age", *(f"{row},{row % 3},{21 + row % 5}" for row in range(40))]
    table = tmp_path / "ages.csv"
    table.write_text("\n".join(rows))
    data = tl.data.table(table, TaskSet(CORAL), features=["a", "b"])
    assert data.tasks["age"] == CORAL
    assert set(data.train.labels.values["age"].tolist()) <= {21.0, 22.0, 23.0, 24.0, 25.0}
    table.write_text("\n".join([*rows, "1,1,26"]))
    with pytest.raises(DataError, match=r"26 is outside the range \[21, 25\] of task `age`"):
        tl.data.table(table, TaskSet(CORAL), features=["a", "b"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"tasks\.age\.range: an ordinal task needs \[low, high\]"),
        ({"range": (0, 10), "step": 3}, r"a whole number of steps .* from 0 to 10 expected, found 3\.33"),
        ({"range": (0, 10), "step": 0}, "step: a number above 0 expected, found 0"),
        ({"range": (0, 10), "step": True}, "step: a number above 0 expected, found True"),
        ({"range": (0, 1e6)}, "1 to 9,999"),
        ({"range": (0, 10), "size": 2}, "one value per row"),
        ({"range": (0, 10), "loss": "mse"}, "`mse` does not fit an ordinal task"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Ordinal("age", **settings)


def test_per_sample_heads_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"head\.per_sample: an ordinal task has one output per row"):
        HeadSpec(per_sample=True).build_for(CORAL, (3, 8))
