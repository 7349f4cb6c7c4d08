"""Optimisers over parameter groups, and schedules against their formulas."""

from __future__ import annotations

import math

import pytest
import torch

from _training import Group, TinyNetwork
from taskloom.balancing import WeightedSum
from taskloom.training import TrainingConfig
from taskloom.training.optimizers import Plateau, learning_rates, make_optimizer, make_schedule

OPTIMIZERS = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_those_of_torch_with_a_multiple_of_the_rate(name: str) -> None:
    ours, theirs = TinyNetwork(), TinyNetwork()
    settings = {"lr": 0.01, "weight_decay": 0.1}
    optimizer = make_optimizer(ours, TrainingConfig(optimizer={name: settings}), WeightedSum())
    references = [
        OPTIMIZERS[name](theirs.shared.parameters(), **settings),
        OPTIMIZERS[name](theirs.heads.parameters(), **{**settings, "lr": 0.02}),
    ]
    for step in range(3):
        for model in (ours, theirs):
            model.zero_grad()
            sum(((i + step) * p.square().sum()) for i, p in enumerate(model.parameters())).backward()
        optimizer.step()
        for reference in references:
            reference.step()
    for found, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def test_the_registered_optimizers_are_those_of_the_settings() -> None:
    assert set(OPTIMIZERS) == set(type(TrainingConfig().optimizer).model_fields)


def test_what_a_balancer_learns_has_a_rate_of_its_own() -> None:
    class Learned(WeightedSum):
        def parameters(self) -> list[torch.nn.Parameter]:
            return [torch.nn.Parameter(torch.zeros(3))]

    def names(config: TrainingConfig) -> list[list[str]]:
        return [group["names"] for group in make_optimizer(TinyNetwork(), config, Learned()).param_groups]

    assert names(TrainingConfig(lr_multipliers={"balancer": 3.0})) == [["shared"], ["heads"], ["balancer"]]
    assert names(TrainingConfig()) == [["shared", "balancer"], ["heads"]]


def test_groups_of_one_rate_are_one_update() -> None:
    network = TinyNetwork()
    network.parameter_groups = lambda: [  # type: ignore[method-assign]
        *(Group(name, list(head.parameters())) for name, head in network.heads.items()),
        Group("shared", list(network.shared.parameters()), lr_multiplier=10.0),
    ]
    optimizer = make_optimizer(network, TrainingConfig(), WeightedSum())
    assert [group["names"] for group in optimizer.param_groups] == [["age", "gender", "mood"], ["shared"]]
    assert learning_rates(optimizer) == pytest.approx(
        {"age": 1e-3, "gender": 1e-3, "mood": 1e-3, "shared": 1e-2}
    )
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(network.parameters()))


def rates(schedule: object, epochs: int) -> list[tuple[float, float]]:
    config = TrainingConfig(epochs=epochs, optimizer={"sgd": {"lr": 0.5}}, schedule=schedule)
    optimizer = make_optimizer(TinyNetwork(), config, WeightedSum())
    made = make_schedule(optimizer, config)
    assert made is not None
    found = []
    for epoch in range(1, epochs + 1):
        found.append(tuple(group["lr"] for group in optimizer.param_groups))
        made.step(epoch, math.nan)
    return found


def test_cosine_agrees_with_torch() -> None:
    found = rates({"cosine": {"final": 0.1}}, epochs=7)
    reference = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(reference, T_max=7, eta_min=0.05)
    for shared, heads in found:
        assert shared == pytest.approx(reference.param_groups[0]["lr"])
        assert heads == pytest.approx(2 * shared)
        reference.step()
        scheduler.step()


def test_pinned_warmup() -> None:
    found = [shared for shared, _ in rates({"cosine": {"warmup": 3}}, epochs=7)]
    expected = [0.125, 0.25, 0.375, 0.5, 0.25 * (1 + math.sqrt(0.5)), 0.25, 0.25 * (1 - math.sqrt(0.5))]
    assert found == pytest.approx(expected)


def test_plateau_in_both_directions_and_after_a_resume() -> None:
    for monitor, sign in (("loss", 1.0), ("metric", -1.0)):
        config = TrainingConfig(monitor=monitor, schedule={"plateau": {"factor": 0.5, "patience": 1}})
        straight, first, second = (make_optimizer(TinyNetwork(), config, WeightedSum()) for _ in range(3))
        values = [sign * value for value in (3.0, 2.0, 2.0, 2.0, 1.0, 1.5, 1.5, 1.5)]
        whole, part = make_schedule(straight, config), make_schedule(first, config)
        assert isinstance(whole, Plateau)
        assert isinstance(part, Plateau)
        found = []
        for epoch, value in enumerate(values, start=1):
            whole.step(epoch, value)
            found.append(straight.param_groups[0]["lr"])
            part.step(epoch, value)
            if epoch == 3:
                second.load_state_dict(first.state_dict())
                resumed = make_schedule(second, config)
                assert isinstance(resumed, Plateau)
                resumed.load_state_dict(part.state_dict())
                part, first = resumed, second
        # Two epochs without improvement are more than a patience of one.
        assert found == pytest.approx([1e-3, 1e-3, 1e-3, 5e-4, 5e-4, 5e-4, 2.5e-4, 2.5e-4])
        assert first.param_groups[0]["lr"] == straight.param_groups[0]["lr"]


def test_no_schedule() -> None:
    config = TrainingConfig()
    assert make_schedule(make_optimizer(TinyNetwork(), config, WeightedSum()), config) is None


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_a_gradient_that_lies_otherwise_than_its_parameter_updates_the_right_numbers(name: str) -> None:
    """A balancer of a user's own may set `.grad` to a transposed view; fused updates do not look."""
    ours, theirs = TinyNetwork(), TinyNetwork()
    optimizer = make_optimizer(
        ours, TrainingConfig(optimizer={name: {"lr": 0.01, "weight_decay": 0.1}}), WeightedSum()
    )
    reference = OPTIMIZERS[name](theirs.parameters(), lr=0.01, weight_decay=0.1)
    for group in reference.param_groups:
        group["fused"] = group["foreach"] = False
    draw = torch.Generator().manual_seed(0)
    for ours_one, theirs_one in zip(ours.parameters(), theirs.parameters(), strict=True):
        turned = torch.randn(ours_one.shape[::-1], generator=draw)
        turned = turned.permute(*range(turned.dim())[::-1])
        ours_one.grad, theirs_one.grad = turned, turned.clone(memory_format=torch.contiguous_format)
    assert any(parameter.grad.stride() != parameter.stride() for parameter in ours.parameters())
    optimizer.step()
    reference.step()
    found, expected = next(iter(ours.shared.parameters())), next(iter(theirs.shared.parameters()))
    torch.testing.assert_close(found, expected)
