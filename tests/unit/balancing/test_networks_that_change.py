"""A network that becomes another one while it trains: gradient methods follow its new parameters."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import taskloom as tl
from _planted import planted, planted_encoder
from taskloom.balancing import build
from taskloom.sharing import MultiTaskNetwork
from taskloom.sharing.modules.branching import BranchingNetwork
from taskloom.training import fit

TRAIN, VALIDATION = planted("mlp", 3, num_rows=60), planted("mlp", 3, num_rows=32, seed=1)


def trained(architecture: str, settings: dict[str, Any], balancing: str) -> MultiTaskNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = tl.sharing.build(architecture, planted_encoder("mlp"), TRAIN.tasks, **settings)
    sgd = {"sgd": {"lr": 0.05}}
    fit(
        network, TRAIN, VALIDATION, epochs=4, batch=20, device="cpu", optimizer=sgd, balancer=build(balancing)
    )
    return network


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("adaptive_branching", {"after_epochs": [1, 2]}),
        ("adashare", {"curriculum_epochs": 1}),
        ("learning_to_branch", {"retrain_from": 3}),
        ("adashare", {"retrain_from": 4, "curriculum_epochs": 1}),
    ],
)
def test_the_sum_of_gradients_is_the_gradient_of_the_sum(architecture: str, settings: dict[str, Any]) -> None:
    """Branches that part in epochs 2 and 3 learn as they do without any balancing."""
    plain, found = (trained(architecture, settings, name) for name in ("weighted_sum", "gradient_sum"))
    if isinstance(found, BranchingNetwork):
        assert [len(stage.partition) for stage in found.plan.stages] == [1, 2, 2]
    expected = plain.state_dict()
    assert expected.keys() == found.state_dict().keys()
    for name, tensor in found.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-6)


def test_a_prior_that_is_fitted_every_few_steps_counts_a_batch_in_parts_once() -> None:
    """Otherwise it would be fitted more often in parts, and between two parts of one batch."""
    networks = []
    for accumulate in (1, 3):
        with torch.random.fork_rng():
            torch.manual_seed(1)
            encoder = tl.encoders.mlp((10,), hidden=[16, 8])
            network = tl.sharing.build(
                "multilinear_relationship", encoder, TRAIN.tasks, head={"hidden": [4]}, update_every=2
            )
        sgd, parts = {"sgd": {"lr": 0.05}}, {"accumulate": accumulate}
        fit(network, TRAIN, VALIDATION, epochs=2, batch=20, device="cpu", optimizer=sgd, **parts)
        networks.append(network)
    whole, in_parts = (network.state_dict() for network in networks)
    assert int(whole["passes"]) == 6
    for name, tensor in whole.items():
        torch.testing.assert_close(in_parts[name], tensor, rtol=1e-4, atol=1e-5)
