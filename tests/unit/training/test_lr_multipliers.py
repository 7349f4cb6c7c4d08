"""A factor on the learning rate is a factor on the step: for a task, for mixing, for the balancer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import taskloom as tl
from _freezing import TRAIN, VALIDATION, network
from taskloom.balancing import WeightedSum
from taskloom.errors import ConfigError
from taskloom.sharing import MultiTaskNetwork
from taskloom.training import TrainingConfig, fit
from taskloom.training.optimizers import lr_factors, make_optimizer


class Learned(WeightedSum):
    """A balancer with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Parameter(torch.ones(()))

    def parameters(self) -> list[nn.Parameter]:
        return [self.own]


def rates(model: MultiTaskNetwork, multipliers: dict[str, float]) -> dict[str, float]:
    """Rate of every parameter of the optimiser, by the parameter's name."""
    config = TrainingConfig(optimizer={"sgd": {"lr": 0.5}}, lr_multipliers=multipliers)  # type: ignore[arg-type]
    balancer = Learned()
    names = {id(parameter): name for name, parameter in model.named_parameters()} | {
        id(balancer.own): "balancer"
    }
    optimizer = make_optimizer(model, config, balancer)
    return {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}


def test_every_parameter_has_the_rate_of_its_group() -> None:
    model = network("cross-stitch after the first")
    found = rates(model, {"age": 0.1, "mixing": 10.0, "balancer": 4.0})
    for name, rate in found.items():
        factor = 10.0 if name.startswith("mixing") else 4.0 if name == "balancer" else 1.0
        if ".age." in name:
            factor = 0.1
        assert rate == pytest.approx(0.5 * factor), name
    assert len(found) == len(list(model.parameters())) + 1


def test_a_factor_multiplies_that_of_the_architecture() -> None:
    with torch.random.fork_rng():
        model = tl.sharing.build(
            "cross_stitch", tl.encoders.mlp((4,), hidden=[4, 4]), TRAIN.tasks, lr_multiplier=100.0
        )
    found = rates(model, {"mixing": 0.5})
    assert {rate for name, rate in found.items() if name.startswith("mixing")} == {25.0}


def test_one_step_is_as_long_as_the_factor() -> None:
    """One step of gradient descent: the change of a task's own weights is its factor times what it was."""
    changes = []
    for factor in (1.0, 0.25):
        model = network("hard sharing from the input", dropout=0.0)
        before = {name: tensor.clone() for name, tensor in model.named_parameters()}
        fit(
            model,
            TRAIN,
            VALIDATION,
            epochs=1,
            batch=len(TRAIN),
            optimizer={"sgd": {"lr": 0.1}},
            lr_multipliers={"mood": factor},
            device="cpu",
        )
        changes.append({name: tensor.detach() - before[name] for name, tensor in model.named_parameters()})
    for name, change in changes[0].items():
        factor = 0.25 if ".mood." in name else 1.0
        torch.testing.assert_close(changes[1][name], factor * change, rtol=1e-4, atol=1e-7)


def test_what_a_network_does_not_have_is_noted() -> None:
    model = network("hard sharing from the input")
    history = fit(
        model, TRAIN, VALIDATION, epochs=1, lr_multipliers={"mixing": 10.0, "shared": 0.5}, device="cpu"
    )
    assert [note for note in history.notes if "lr_multipliers" in note] == [
        "training.lr_multipliers.mixing: this network has no such parameters"
    ]
    assert history.epochs[0].lr["shared"] == pytest.approx(0.5 * history.epochs[0].lr["task:age"])


@pytest.mark.parametrize(
    ("multipliers", "message"),
    [
        ({"moood": 1.0}, r"training\.lr_multipliers\.moood is neither a task nor .* Did you mean `mood`\?"),
        (
            {"mixings": 1.0},
            r"Did you mean `mixing`\? Known: age, gender, mood, shared, mixing, tie",
        ),
    ],
)
def test_unknown_names(multipliers: dict[str, float], message: str) -> None:
    model = network("hard sharing from the input")
    with pytest.raises(ConfigError, match=message):
        lr_factors(model, TrainingConfig(lr_multipliers=multipliers))


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), "fast"])
def test_a_factor_is_a_number_above_0(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"training\.lr_multipliers\.age"):
        TrainingConfig().with_settings(lr_multipliers={"age": value})


def test_settings_without_factors_are_written_as_before() -> None:
    assert "lr_multipliers" not in TrainingConfig().model_dump(mode="json")
    config = TrainingConfig(lr_multipliers={"age": 2.0})
    assert TrainingConfig.model_validate(config.model_dump(mode="json")) == config
