"""What the tests of the networks that are no filling of the plan have in common."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

import _planted
import taskloom as tl
import taskloom.sharing.modules
from taskloom.encoders import Encoder
from taskloom.losses import per_task
from taskloom.sharing import MultiTaskNetwork, build

KINDS = tuple(_planted.INPUT_SHAPES)
NUMBERS = _planted.NUMBERS
HEAD = {"hidden": [6]}


def network_of(
    name: str, kind: str, number: int, *, seed: int = 0, equal: bool = False, **settings: Any
) -> MultiTaskNetwork:
    """A network in double precision on the planted problem's encoder and tasks."""
    torch.manual_seed(seed)
    encoder, tasks = _planted.planted_encoder(kind), _planted.planted_tasks(number, equal=equal)
    return build(name, encoder, tasks, head=HEAD, **settings).double()


def inputs_of(kind: str, rows: int = 5, seed: int = 3) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(rows, *_planted.INPUT_SHAPES[kind], generator=draw, dtype=torch.float64)


def loss_of(outputs: Iterable[Tensor]) -> Tensor:
    return torch.stack([output.square().sum() for output in outputs]).sum()


def gradients(network: nn.Module, outputs: Iterable[Tensor]) -> dict[str, Tensor]:
    """Gradients of the summed squares by parameter name; zeros where none arrives."""
    names, parameters = zip(*network.named_parameters(), strict=True)
    found = torch.autograd.grad(loss_of(outputs), parameters, retain_graph=True, materialize_grads=True)
    return dict(zip(names, found, strict=True))


def load_where_named_alike(network: nn.Module, other: nn.Module) -> None:
    """Gives `network` every entry of `other`'s state that it has too."""
    own = network.state_dict()
    network.load_state_dict({**own, **{k: v for k, v in other.state_dict().items() if k in own}})


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def stage_parameters(encoder: Encoder) -> list[int]:
    return [num_parameters(stage) for stage in encoder.stages]


def head_parameters(encoder: Encoder, tasks: tl.TaskSet, hidden: int = 6) -> int:
    features = encoder.num_features
    return sum(features * hidden + hidden + hidden * t.width + t.width for t in tasks.values())


def names_of(parameters: Iterable[nn.Parameter], network: nn.Module) -> set[str]:
    wanted = {id(parameter) for parameter in parameters}
    return {name for name, parameter in network.named_parameters() if id(parameter) in wanted}


def check_ownership(network: MultiTaskNetwork, inputs: Tensor) -> None:
    """A parameter is a task's own exactly where the outputs of no other task depend on it."""
    predictions = network(inputs)
    touched = {
        task: {name for name, gradient in gradients(network, [output]).items() if gradient.any()}
        for task, output in predictions.items()
    }
    everything = {name for name, _ in network.named_parameters()}
    for task in network.tasks:
        others = set().union(*(touched[other] for other in network.tasks if other != task))
        own = names_of(network.task_parameters(task), network)
        assert not own & others
        assert touched[task] - others <= own
    grouped = [id(p) for group in network.parameter_groups() for p in group.parameters]
    assert len(grouped) == len(set(grouped)) == len(everything)
    owned = [network.task_parameters(task) for task in network.tasks]
    assert (
        names_of([p for part in [network.shared_parameters(), *owned] for p in part], network) == everything
    )


def check_training(
    name: str, kind: str, number: int, *, steps: int = 15, **settings: Any
) -> MultiTaskNetwork:
    """Trains on the planted problem and saves and loads; the loss falls to 0.85 of its start at least."""
    torch.manual_seed(1)
    rows = _planted.planted(kind, number)
    network = build(name, _planted.planted_encoder(kind), rows.tasks, head=HEAD, **settings)
    optimizer = torch.optim.Adam(
        [{"params": g.parameters, "lr": 0.02 * g.lr_multiplier} for g in network.parameter_groups()]
    )

    def loss() -> Tensor:
        losses = per_task(network(rows.inputs), rows.labels, rows.tasks)
        return torch.stack([entry.mean for entry in losses.values()]).sum()

    first = loss().item()
    for _ in range(25 if kind == "lstm" else steps):
        optimizer.zero_grad()
        (loss() + network.penalty()).backward()
        optimizer.step()
    assert loss().item() < 0.85 * first
    torch.manual_seed(2)
    again = build(name, _planted.planted_encoder(kind), rows.tasks, head=HEAD, **settings)
    again.load_state_dict(network.state_dict())
    network.eval()
    again.eval()
    for task, output in network(rows.inputs).items():
        assert torch.equal(again(rows.inputs)[task], output)
    assert torch.equal(again.penalty(), network.penalty())
    for stage, matrix in network.mixing_matrices().items():
        assert torch.equal(again.mixing_matrices()[stage], matrix)
    return network


def permuted(name: str, kind: str, number: int, **settings: Any) -> tuple[MultiTaskNetwork, MultiTaskNetwork]:
    """Two networks with the same state and tasks in opposite orders."""
    encoder, tasks = _planted.planted_encoder(kind), _planted.planted_tasks(number, equal=True)
    backwards = tl.TaskSet(*reversed(list(tasks.values())))
    first, second = (
        build(name, encoder, order, head=HEAD, **settings).double() for order in (tasks, backwards)
    )
    return first, second
