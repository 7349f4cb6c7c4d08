"""Gradients lie in memory as their parameters: fused optimisers walk through both side by side."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import taskloom as tl
from _random_rows import RANDOM_TASKS, RandomRows
from taskloom.balancing import BALANCERS
from taskloom.balancing.base import Processes
from taskloom.balancing.gradients import Rows, add_gradient, flattened, parts
from taskloom.encoders import Encoder, build

SHAPE = (3, 32, 32)
NEEDED: dict[str, dict[str, Any]] = {
    "cosmos": {"weights": dict.fromkeys(RANDOM_TASKS, 1.0)},
    "pbi": {"weights": dict.fromkeys(RANDOM_TASKS, 1.0)},
}


def encoder() -> Encoder:
    return build("vgg5", SHAPE)


def trained(name: str, architecture: str, optimizer: dict[str, Any]) -> dict[str, torch.Tensor]:
    torch.manual_seed(4)
    settings = {"stages": 3} if architecture == "hard_sharing" else {}
    network = tl.sharing.ARCHITECTURES[architecture](encoder(), RANDOM_TASKS, **settings)
    assert any(not parameter.is_contiguous() for parameter in network.parameters())
    balancer = tl.balancing.build(name, NEEDED.get(name, {}))
    data = RandomRows(SHAPE, 0, missing=0.0), RandomRows(SHAPE, 1, missing=0.0)
    tl.fit(network, *data, epochs=2, batch=8, optimizer=optimizer, seed=1, balancer=balancer, device="cpu")
    return {key: value.detach().clone() for key, value in network.named_parameters()}


@pytest.mark.parametrize("architecture", ["hard_sharing", "cross_stitch"])
def test_the_sum_of_the_rows_trains_filters_as_the_sum_of_the_losses(architecture: str) -> None:
    """Before, the numbers of filters were dealt out in another order than they have in memory."""
    settings = {"sgd": {"lr": 0.01, "momentum": 0.9}}
    by_rows = trained("gradient_sum", architecture, settings)
    by_losses = trained("weighted_sum", architecture, settings)
    for key, expected in by_losses.items():
        torch.testing.assert_close(
            by_rows[key], expected, rtol=1e-3, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}"
        )


@pytest.mark.parametrize("name", sorted(BALANCERS))
def test_every_method_leaves_gradients_that_lie_as_their_parameters(name: str) -> None:
    torch.manual_seed(4)
    network = tl.sharing.hard_sharing(encoder(), RANDOM_TASKS, stages=3)
    balancer = tl.balancing.build(name, NEEDED.get(name, {}))
    balancer.start(network)
    pictures = RandomRows(SHAPE, 0, missing=0.0)
    with balancer.watching(network):
        predictions = network(pictures.inputs)
    balancer.backward(tl.losses.per_task(predictions, pictures.labels, RANDOM_TASKS), network)
    filters = 0
    for key, parameter in network.named_parameters():
        if parameter.grad is not None:
            assert parameter.grad.stride() == parameter.stride(), key
            filters += not parameter.is_contiguous()
    assert filters > 3


class Rebuilt(Processes):
    """A process that gets from the others what it gave: the mean of equal numbers, in new memory."""

    def __init__(self) -> None:
        super().__init__(2, lambda tensor: tensor.clone())


@pytest.mark.parametrize("name", ["gradient_sum", "gradnorm", "mgda_ub", "upgrad"])
def test_processes_exchange_gradients_in_the_order_of_memory(name: str) -> None:
    found = []
    for processes in (Processes(), Rebuilt()):
        torch.manual_seed(4)
        network = tl.sharing.hard_sharing(encoder(), RANDOM_TASKS, stages=2)
        balancer = tl.balancing.build(name, {})
        balancer.start(network)
        balancer.processes = processes
        pictures = RandomRows(SHAPE, 0, missing=0.0)
        with balancer.watching(network):
            predictions = network(pictures.inputs)
        losses = tl.losses.per_task(predictions, pictures.labels, RANDOM_TASKS)
        beside = sum(parameter.square().sum() for parameter in network.parameters())
        balancer.backward(losses, network, beside)
        found.append({key: parameter.grad for key, parameter in network.named_parameters()})
    for key, gradient in found[0].items():
        torch.testing.assert_close(found[1][key], gradient, rtol=1e-4, atol=1e-5)


def channels_last(seed: int) -> torch.nn.Parameter:
    draw = torch.Generator().manual_seed(seed)
    values = torch.randn(4, 3, 5, 5, generator=draw)
    return torch.nn.Parameter(values.contiguous(memory_format=torch.channels_last))


def test_rows_are_cut_as_they_were_written() -> None:
    shared = [channels_last(0), torch.nn.Parameter(torch.ones(7)), channels_last(1)]
    gradients = [torch.randn(4, 3, 5, 5), torch.randn(7), channels_last(2).detach()]
    for gradient, piece in zip(gradients, parts(flattened(gradients, shared), shared), strict=True):
        assert torch.equal(piece, gradient)
    one, all_at_once = Rows(), Rows()
    for rows in (one, all_at_once):
        rows.begin(2, shared)
    one.put("a", gradients, shared)
    one.put("b", [None, gradients[1], None], shared)
    blocks = [torch.stack([gradients[0], torch.zeros(4, 3, 5, 5)]), torch.stack([gradients[1]] * 2)]
    third = torch.stack([gradients[2], torch.zeros(4, 3, 5, 5)])
    all_at_once.put_all(["a", "b"], [*blocks, third], shared)
    assert torch.equal(one.matrix, all_at_once.matrix)
    for piece, parameter in zip(parts(one.matrix[0], shared), shared, strict=True):
        assert piece.stride() == parameter.stride()


def test_a_gradient_in_another_order_is_laid_out_anew() -> None:
    parameter, gradient = channels_last(0), torch.randn(4, 3, 5, 5)
    add_gradient(parameter, gradient)
    assert parameter.grad is not None
    assert parameter.grad.stride() == parameter.stride()
    assert torch.equal(parameter.grad, gradient)
    add_gradient(parameter, gradient)
    assert torch.equal(parameter.grad, 2 * gradient)
