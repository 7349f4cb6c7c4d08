"""The own weight of an auxiliary or adversarial task: as if its loss were so many times as large."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from _balancing import make, network
from _training import TASKS, rows_with_holes
from taskloom import Reversal, TaskSet
from taskloom.balancing import build
from taskloom.training import fit

ROLES: list[dict[str, Any]] = [
    {"role": "auxiliary"},
    {"role": "adversarial", "reversal": Reversal("constant", lambda_=0.5)},
]


def trained(role: dict[str, Any], weight: float, balancer: Any = None) -> tuple[dict[str, torch.Tensor], Any]:
    mood = dataclasses.replace(TASKS["mood"], weight=weight, **role)
    tasks = TaskSet(TASKS["age"], TASKS["gender"], mood)
    train, validation = rows_with_holes(30, 1), rows_with_holes(15, 2)
    train.tasks = validation.tasks = tasks
    model = network(tasks=tasks, seed=3)
    settings: dict[str, Any] = {"epochs": 3, "batch": 10, "device": "cpu", "optimizer": {"sgd": {"lr": 0.3}}}
    history = fit(model, train, validation, balancer=balancer, **settings)
    return model.state_dict(), history


@pytest.mark.parametrize("role", ROLES)
def test_it_is_a_weight_of_the_plain_sum(role: dict[str, Any]) -> None:
    own, history = trained(role, 0.2)
    given, other = trained(role, 1.0, build("weighted_sum", {"weights": {"mood": 0.2}}))
    for name, tensor in given.items():
        torch.testing.assert_close(own[name], tensor, rtol=1e-4, atol=1e-6)
    # What is reported is the loss itself, without the weight.
    assert history.epochs[-1].train_loss == pytest.approx(other.epochs[-1].train_loss, rel=1e-4)
    without, _ = trained(role, 1.0)
    assert any(not torch.allclose(own[name], without[name], atol=1e-3) for name in own)


@pytest.mark.parametrize("name", ["learned_weights", "gradient_sum", "dwa"])
def test_it_comes_before_the_balancing(name: str) -> None:
    """At weight 0 a task moves nothing, whatever the method makes of the others; its head stays as it was."""
    role = ROLES[0]
    start = network(tasks=TASKS, seed=3).state_dict()
    silent, _ = trained(role, 0.0, make(name))
    for entry in (entry for entry in start if "heads.mood" in entry):
        assert torch.equal(silent[entry], start[entry])
