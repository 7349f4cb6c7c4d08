"""A weighted sum's gradients against closed forms, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from _training import TASKS, TinyNetwork, rows_with_holes
from taskloom.balancing import BALANCERS, WeightedSum
from taskloom.errors import ConfigError
from taskloom.losses import SumCount, per_task


def gradients(model: TinyNetwork) -> list[torch.Tensor]:
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]


def test_gradient_is_that_of_the_weighted_means_and_the_penalty() -> None:
    model, rows = TinyNetwork(dropout=0.0, weight=0.5), rows_with_holes(20, seed=1)
    weights = {"age": 2.0, "mood": 0.25}
    losses = per_task(model(rows.inputs), rows.labels, TASKS)
    WeightedSum(weights).backward(losses, model)
    found = gradients(model)

    model.zero_grad()
    predictions = model(rows.inputs)
    present = rows.labels.present
    age = (predictions["age"][:, 0] - (rows.labels.values["age"] - 1.0) / 2.0)[present["age"]].square().mean()
    logit, sign = predictions["gender"][:, 0], 2.0 * rows.labels.values["gender"] - 1.0
    gender = (1 + (-sign * logit).exp()).log()[present["gender"]].mean()
    log_probability = predictions["mood"].log_softmax(1)
    chosen = log_probability[torch.arange(20), rows.labels.values["mood"]]
    mood = -chosen[present["mood"]].mean()
    penalty = 0.5 * model.shared.weight.square().sum()
    (2.0 * age + gender + 0.25 * mood + penalty).backward()
    for ours, expected in zip(found, gradients(model), strict=True):
        torch.testing.assert_close(ours, expected)


def test_pinned_total() -> None:
    model = TinyNetwork(weight=0.0)
    scale = model.shared.bias[0]
    losses = {
        "age": SumCount(6.0 * scale / scale.detach(), torch.tensor(4)),
        "gender": SumCount(0.0 * scale, torch.tensor(0)),
        "mood": SumCount(3.0 * scale / scale.detach(), torch.tensor(1)),
    }
    balancer = WeightedSum({"age": 2.0, "gender": 10.0})
    balancer.backward(losses, model)
    assert balancer.total is not None
    assert balancer.total.item() == pytest.approx(2.0 * 1.5 + 3.0)
    assert not balancer.total.requires_grad
    assert model.shared.bias.grad is not None
    assert model.shared.bias.grad[0].item() == pytest.approx((2.0 * 1.5 + 3.0) / scale.item())


def test_absent_task_leaves_its_head_alone() -> None:
    model, rows = TinyNetwork(weight=0.0), rows_with_holes(8, seed=2)
    rows.labels.present["mood"][:] = False
    WeightedSum().backward(per_task(model(rows.inputs), rows.labels, TASKS), model)
    for parameter in model.task_parameters("mood"):
        assert parameter.grad is not None
        assert not parameter.grad.any()
    assert model.shared.weight.grad is not None
    assert model.shared.weight.grad.isfinite().all()


def test_backpropagate_is_called_in_place_of_backward() -> None:
    model, rows = TinyNetwork(), rows_with_holes(8, seed=2)
    balancer, seen = WeightedSum(), []
    balancer.backpropagate = seen.append
    balancer.backward(per_task(model(rows.inputs), rows.labels, TASKS), model)
    assert len(seen) == 1
    assert balancer.total is not None
    assert seen[0].item() == balancer.total.item()
    assert model.shared.weight.grad is None


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf"), "2", True, None])
def test_refuses_a_weight_that_is_none(weight: object) -> None:
    with pytest.raises(ConfigError, match=r"weighted_sum\.weights\.age: a number of 0 or more expected"):
        WeightedSum({"age": weight})  # type: ignore[dict-item]


def test_refuses_an_unknown_task() -> None:
    model, rows = TinyNetwork(), rows_with_holes(8, seed=2)
    balancer = WeightedSum({"gendre": 1.0})
    with pytest.raises(ConfigError, match=r"gendre: there is no such task. Did you mean `gender`\?"):
        balancer.check_tasks(TASKS)
    with pytest.raises(ConfigError, match="gendre"):
        balancer.backward(per_task(model(rows.inputs), rows.labels, TASKS), model)


def test_registry_and_state() -> None:
    balancer = BALANCERS["weighted_sum"](weights={"age": 3})
    assert balancer.weight("age") == 3.0
    assert balancer.state_dict() == {}
    balancer.load_state_dict({})
    with pytest.raises(ConfigError, match=r"balancing\.weighted_sum keeps no state"):
        balancer.load_state_dict({"lambda": 1})
