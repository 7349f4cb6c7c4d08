"""Weight decay acts on weights: mixing matrices, stage weights, policies and parameters of ties have none."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import taskloom as tl
from taskloom.balancing import LearnedWeights, WeightedSum
from taskloom.sharing import MultiTaskNetwork, build
from taskloom.training import TrainingConfig
from taskloom.training.optimizers import make_optimizer

LEARNED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "cross_stitch": ({"start": "equal"}, ("mixing.",)),
    "proportional_addition": ({"start": 0.3}, ("mixing.",)),
    "sluice": ({}, ("mixing.", "skips.")),
    "soft_sharing": ({"tie": "exponential_affine"}, ("ties.",)),
    "adashare": ({}, ("policies.",)),
    "dselect_k": ({}, ("gates.",)),
    "learning_to_branch": ({}, ("choices.", "task_choices.")),
}


def network_of(name: str, settings: dict[str, Any]) -> MultiTaskNetwork:
    torch.manual_seed(0)
    tasks = tl.TaskSet(tl.Regression("a"), tl.Regression("b"), tl.Regression("c"))
    network = build(name, tl.encoders.mlp((4,), hidden=[6, 6]), tasks, **settings)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.5)  # nothing is at 0, where decay could not be seen
    return network


@pytest.mark.parametrize("decay_mixing", [False, True])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("name", LEARNED)
def test_a_step_without_gradients_moves_weights_alone(name: str, optimizer: str, decay_mixing: bool) -> None:
    settings, prefixes = LEARNED[name]
    network = network_of(name, settings)
    config = TrainingConfig(
        optimizer={optimizer: {"lr": 0.1, "weight_decay": 0.5}},  # type: ignore[arg-type]
        decay_mixing=decay_mixing,
    )
    steps = make_optimizer(network, config, WeightedSum())
    before = {key: p.detach().clone() for key, p in network.named_parameters()}
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    steps.step()
    kept = [key for key, p in network.named_parameters() if torch.equal(p, before[key])]
    apart = [key for key in before if key.startswith(prefixes)]
    assert apart
    assert kept == ([] if decay_mixing else apart)


@pytest.mark.parametrize("decay_mixing", [False, True])
def test_what_a_balancer_learns_never_decays(decay_mixing: bool) -> None:
    """It would pull learned weights of the losses to equal ones, whatever the losses say."""
    network, balancer = network_of("hard_sharing", {"stages": 1}), LearnedWeights()
    balancer.start(network, seed=3)
    before = balancer.vector.detach().clone()
    config = TrainingConfig(
        optimizer={"adamw": {"lr": 0.1, "weight_decay": 0.5}},  # type: ignore[arg-type]
        decay_mixing=decay_mixing,
    )
    balancer.vector.grad = torch.zeros(3)
    make_optimizer(network, config, balancer).step()
    assert before.all()
    assert torch.equal(balancer.vector, before)


def test_what_a_balancer_learns_goes_with_groups_of_its_rate_and_decay() -> None:
    network, balancer = network_of("cross_stitch", {}), LearnedWeights()
    balancer.start(network, seed=3)

    def names(**settings: Any) -> list[list[str]]:
        return [
            g["names"] for g in make_optimizer(network, TrainingConfig(**settings), balancer).param_groups
        ]

    tasks = ["task:a", "task:b", "task:c"]
    decay = {"adam": {"weight_decay": 0.1}}
    assert names() == [[*tasks, "mixing", "balancer"]]
    assert names(optimizer=decay) == [tasks, ["mixing", "balancer"]]
    assert names(optimizer=decay, decay_mixing=True) == [[*tasks, "mixing"], ["balancer"]]
    assert names(lr_multipliers={"balancer": 3.0}) == [[*tasks, "mixing"], ["balancer"]]


def test_without_weight_decay_groups_stay_one_update() -> None:
    network = network_of("cross_stitch", {})
    plain = make_optimizer(network, TrainingConfig(), WeightedSum())
    assert len(plain.param_groups) == 1
    decaying = TrainingConfig(optimizer={"adam": {"weight_decay": 0.1}})  # type: ignore[arg-type]
    names = [group["names"] for group in make_optimizer(network, decaying, WeightedSum()).param_groups]
    assert names == [["task:a", "task:b", "task:c"], ["mixing"]]


def test_a_setting_that_is_not_used_is_no_part_of_a_runs_settings() -> None:
    assert "decay_mixing" not in TrainingConfig().model_dump()
    assert TrainingConfig(decay_mixing=True).model_dump()["decay_mixing"] is True
