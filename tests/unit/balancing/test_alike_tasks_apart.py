"""Tasks of one kind, whose losses are computed as one stack: what is a task's own stays its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from _architecture_table import ROWS
from _balancing import make
from _planted import planted, planted_encoder
from taskloom import sharing
from taskloom.balancing.gradients import find_seam
from taskloom.losses import SumCount, per_task
from taskloom.sharing import MultiTaskNetwork

TRAIN = planted("mlp", 4, num_rows=40, equal=True)
WAYS: list[tuple[str, dict[str, Any]]] = [
    *((name, row.settings) for name, row in ROWS.items()),
    ("sluice", {"skips": "concatenate", "after": [1]}),
    ("sluice", {"skips": "none", "subspaces": 1}),
    ("task_routing", {"sharing": 1.0}),
    ("multilinear_relationship", {"task_stages": 2}),
]


def built(name: str, settings: dict[str, Any]) -> MultiTaskNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = sharing.build(name, planted_encoder("mlp"), TRAIN.tasks, head={"hidden": [4]}, **settings)
        with torch.no_grad():  # no mixing matrix at the identity, no share at 0
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return network.double()


def losses_of(network: MultiTaskNetwork) -> dict[str, SumCount]:
    torch.manual_seed(3)  # policies are drawn
    return per_task(network(TRAIN.inputs.double()), TRAIN.labels, TRAIN.tasks)


def alone(network: MultiTaskNetwork) -> dict[str, dict[str, torch.Tensor]]:
    """The gradient of every task's own loss, by parameter."""
    found = {}
    for task in TRAIN.tasks:
        network.zero_grad()
        losses_of(network)[task].mean.backward()
        found[task] = {
            name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
            for name, p in network.named_parameters()
        }
    network.zero_grad()
    return found


@pytest.mark.parametrize(("name", "settings"), WAYS)
def test_every_head_and_whatever_nobody_else_hears_follows_its_own_task(
    name: str, settings: dict[str, Any]
) -> None:
    network = built(name, settings)
    expected, names = alone(network), {id(p): key for key, p in network.named_parameters()}
    seam = find_seam(losses_of(network), network)
    shared = {id(parameter) for parameter in seam.shared}
    for task in TRAIN.tasks:
        for parameter in network.task_parameters(task):
            key = names[id(parameter)]
            others = any(expected[other][key].any() for other in TRAIN.tasks if other != task)
            assert (id(parameter) in shared) == others, key
    balancer = make("mgda")
    balancer.start(network, seed=0)
    balancer.backward(losses_of(network), network)
    penalty = torch.autograd.grad(
        network.penalty() + 0.0 * sum(p.sum() for p in network.parameters()), list(network.parameters())
    )
    of_penalty = dict(zip(names.values(), penalty, strict=True))
    for task, own in seam.own.items():
        assert own
        for parameter in own:
            key = names[id(parameter)]
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad - of_penalty[key], expected[task][key])
