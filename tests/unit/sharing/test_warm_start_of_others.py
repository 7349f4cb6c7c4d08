"""Warm starts of networks that are no plan: what they learned goes over, what they are stays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from _architecture_table import ROWS
from _module_networks import KINDS, inputs_of, network_of
from taskloom.sharing import Look, MultiTaskNetwork
from taskloom.sharing.modules import ModuleNetwork, RelationNetwork, RetrainedNetwork
from taskloom.sharing.warm_start import start_from

KIND = KINDS[0]


def no_look() -> Look:
    raise AssertionError("AdaShare looks at no rows")


def trained(name: str, **settings: Any) -> MultiTaskNetwork:
    """A network whose weights, statistics and counts are not those of a new one."""
    network = network_of(name, KIND, 3, seed=5, **settings).train()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    network.set_epoch(7)
    for _ in range(4):
        network(inputs_of(KIND))
    return network


def entries(network: MultiTaskNetwork, *starts: str) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items() if name.startswith(starts)}


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[k], v) for k, v in expected.items())


def test_a_prior_is_that_of_the_source_at_once() -> None:
    source = trained("multilinear_relationship", update_every=1, weight=1.0)
    network = network_of("multilinear_relationship", KIND, 3, weight=1.0)
    assert isinstance(source, RelationNetwork)
    assert isinstance(network, RelationNetwork)
    assert "passes" not in start_from(network, [source]).fresh
    assert int(network.passes) == 0  # no pass of its own yet
    for layer in source.related_layers:
        prior = source.prior_of(layer)
        whole = torch.kron(torch.kron(prior.tasks, prior.outputs), prior.inputs).double()
        flat = network.weights_of(layer).flatten().double()
        expected = flat @ torch.linalg.solve(whole, flat)
        assert network.prior_of(layer).quadratic(network.weights_of(layer)).item() == pytest.approx(
            expected.item(), rel=1e-3
        )
    assert torch.equal(network.penalty(), source.penalty())


@pytest.mark.parametrize("setting", [{"sharing": 0.3}, {"seed": 3}])
def test_masks_are_the_networks_own(setting: dict[str, Any]) -> None:
    network, plain = (network_of("task_routing", KIND, 3, **setting) for _ in range(2))
    source = trained("task_routing", sharing=0.7)
    start_from(network, [source])
    assert same(entries(network, "masks."), entries(plain, "masks."))
    assert same(entries(network, "stages.", "heads."), entries(source, "stages.", "heads."))
    plain.load_state_dict(entries(source, "stages.", "heads."), strict=False)
    inputs = inputs_of(KIND)
    expected = plain.eval()(inputs)
    assert all(torch.equal(output, expected[task]) for task, output in network.eval()(inputs).items())


def test_a_policy_that_was_fixed_is_open_again() -> None:
    source = trained("adashare", retrain_from=4)
    assert isinstance(source, RetrainedNetwork)
    source.change(4, no_look)
    network = network_of("adashare", KIND, 3, retrain_from=5)
    assert isinstance(network, RetrainedNetwork)
    before = entries(network, "fixed", "draw", "epoch")
    start_from(network, [source])
    assert same(entries(network, "fixed", "draw", "epoch"), before)
    assert same(entries(network, "policies."), entries(source, "policies."))
    assert all(policy.requires_grad for policy in network.policies.parameters())


def test_retraining_goes_back_to_the_warm_start() -> None:
    source, network = trained("adashare", retrain_from=4), network_of("adashare", KIND, 3, retrain_from=5)
    start_from(network, [source])
    warm = entries(source, "stages.", "heads.")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    assert isinstance(network, RetrainedNetwork)
    assert network.change(5, no_look) is not None
    assert same(entries(network, "stages.", "heads."), warm)


def test_every_count_and_choice_of_a_network_stays() -> None:
    """Whatever is neither a parameter nor floating point, outside stages and heads, is no weight to take."""
    for name, row in ROWS.items():
        network = network_of(name, KIND, 3, **row.settings)
        if not isinstance(network, ModuleNetwork):
            continue  # of a plan, parts are taken over, not entries
        for entry, value in network.state_dict().items():
            if not value.is_floating_point() and not entry.startswith(("stages.", "heads.")):
                assert entry.startswith(network.stays), f"{name}: {entry}"
