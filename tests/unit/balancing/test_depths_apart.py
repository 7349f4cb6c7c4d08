"""Gradient aggregation over task hierarchies and deep supervision: the same losses and gradients as a sum."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import taskloom as tl
from taskloom.balancing import build
from taskloom.losses import per_task
from taskloom.sharing import MultiTaskNetwork

TASKS = tl.TaskSet(tl.Regression("a"), tl.Regression("b"), tl.Binary("c"))
DEPTHS: list[dict[str, Any]] = [
    {"stages": stages, **read_out, **deep}
    for stages, read_out, deep in itertools.product(
        (1, 2, 3),
        ({}, {"read_out": {"c": 1}}, {"read_out": {"c": 2}}, {"read_out": {"a": 2, "c": 1}}),
        ({}, {"deep_supervision": 0.3}),
    )
    if read_out or deep
]


def network(*, dropout: float = 0.0, **settings: Any) -> MultiTaskNetwork:
    torch.manual_seed(0)
    encoder = tl.encoders.mlp((5,), hidden=[8, 6, 4], dropout=dropout)
    return tl.sharing.build("hard_sharing", encoder, TASKS, **settings).train()


def labels() -> tl.Labels:
    generator = torch.Generator().manual_seed(1)
    values = {name: torch.randn(12, generator=generator) for name in "ab"}
    present = {name: torch.rand(12, generator=generator) > 0.3 for name in "abc"}
    return tl.Labels({**values, "c": torch.randint(0, 2, (12,), generator=generator)}, present)


def gradients(model: MultiTaskNetwork, name: str, **settings: Any) -> dict[str, Tensor]:
    """Every parameter's gradient after one step; none where a loss does not reach it."""
    balancer = build(name, settings)
    balancer.start(model, seed=0)
    inputs = torch.randn(12, 5, generator=torch.Generator().manual_seed(2))
    with balancer.watching(model):
        outputs = model(inputs)
    balancer.backward(per_task(outputs, labels(), TASKS), model)
    return {key: weight.grad for key, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("settings", DEPTHS, ids=str)
def test_the_update_of_a_sum_is_that_of_the_plain_sum(settings: dict[str, Any]) -> None:
    plain, summed = (gradients(network(**settings), name) for name in ("weighted_sum", "gradient_sum"))
    assert plain.keys() == summed.keys() == dict(network(**settings).named_parameters()).keys()
    for name, expected in plain.items():
        torch.testing.assert_close(summed[name], expected, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("settings", [each for each in DEPTHS if "deep_supervision" not in each], ids=str)
def test_at_the_feature_too(settings: dict[str, Any]) -> None:
    plain = gradients(network(**settings), "weighted_sum")
    for name, gradient in gradients(network(**settings), "gradient_sum", at="features").items():
        torch.testing.assert_close(gradient, plain[name])


@pytest.mark.parametrize("settings", DEPTHS, ids=str)
def test_dropout_draws_as_in_a_plain_pass(settings: dict[str, Any]) -> None:
    model, inputs = network(dropout=0.5, **settings), torch.randn(12, 5)
    balancer = build("pcgrad")
    balancer.start(model, seed=0)
    torch.manual_seed(3)
    plain = model(inputs)
    torch.manual_seed(3)
    with balancer.watching(model):
        watched = model(inputs)
    assert plain.keys() == watched.keys()
    for name, output in plain.items():
        torch.testing.assert_close(watched[name], output)
