"""Inner products of gradients from the layers' inputs: those of the gradients themselves, by autograd."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from _balancing import batch, gradients, losses_of, make, step
from _training import TASKS
from taskloom import encoders, sharing
from taskloom.balancing import GradientAggregation
from taskloom.balancing.chains import chain_of, gramian_of

ACTIVATIONS = [nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, lambda: nn.Dropout(0.4)]


def trunk(activation: Callable[[], nn.Module] = nn.ReLU, *, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(3)
    layers = [nn.Linear(7, 6, bias=bias), activation(), nn.Linear(6, 5, bias=bias), activation()]
    return nn.Sequential(*layers).double()


def by_rows(outputs: Tensor, given: Tensor, parameters: list[nn.Parameter]) -> np.ndarray:
    """The Gramian from one backward pass per task."""
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(outputs, parameters, one, retain_graph=True)])
        for one in given
    ]
    matrix = torch.stack(rows)
    return (matrix @ matrix.T).numpy()


@pytest.mark.parametrize("rows", [2, 40])  # products as wide as the batch, and as wide as the layer
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_inner_products_are_those_of_the_gradients(activation: Callable[[], nn.Module], rows: int) -> None:
    network = trunk(activation)
    outputs = network(torch.randn(rows, 7, dtype=torch.float64))
    given, parameters = torch.randn(4, rows, 5, dtype=torch.float64), list(network.parameters())
    chain = chain_of(outputs, parameters)
    assert chain is not None
    expected = by_rows(outputs, given, parameters)
    np.testing.assert_allclose(gramian_of(chain, given), expected, rtol=1e-10)


@pytest.mark.parametrize("rows", [2, 40])
@pytest.mark.parametrize("frozen", [(), (0,), (1,), (0, 1), (2,), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("bias", [True, False])
def test_frozen_weights_and_biases_count_nothing(bias: bool, frozen: tuple[int, ...], rows: int) -> None:
    network = trunk(bias=bias)
    parameters = list(network.parameters())
    for place in frozen:
        if place < len(parameters) - 1:
            parameters[place].requires_grad_(False)
    trained = [p for p in parameters if p.requires_grad]
    outputs = network(torch.randn(rows, 7, dtype=torch.float64))
    given = torch.randn(3, rows, 5, dtype=torch.float64)
    chain = chain_of(outputs, trained)
    assert chain is not None
    np.testing.assert_allclose(gramian_of(chain, given), by_rows(outputs, given, trained), rtol=1e-10)


def test_what_is_no_chain() -> None:
    network = trunk()
    parameters, inputs = list(network.parameters()), torch.randn(4, 7, dtype=torch.float64)
    first, _, second, _ = network
    outputs = network(inputs)
    assert chain_of(outputs, parameters) is not None
    assert chain_of(outputs, parameters[1:]) is None  # one more than is asked for
    assert chain_of(outputs, [*parameters, nn.Parameter(torch.zeros(2))]) is None
    assert chain_of(outputs.softmax(1), parameters) is None
    assert chain_of(outputs * outputs, parameters) is None  # two ways down
    assert chain_of(outputs + 1, parameters) is None
    assert chain_of(outputs.detach(), parameters) is None
    assert chain_of(outputs.unsqueeze(2), parameters) is None
    square = nn.Linear(5, 5).double()
    assert chain_of(square(square(outputs)), [*parameters, *square.parameters()]) is None  # twice
    halved = torch.addmm(second.bias, first(inputs), second.weight.t(), alpha=0.5)
    assert chain_of(halved, parameters) is None
    loose = nn.Parameter(torch.randn(5, 3, dtype=torch.float64))
    assert chain_of(outputs @ loose, [*parameters, loose]) is None  # not behind a transposition
    learned = nn.Parameter(inputs.clone())
    assert chain_of(network(learned), [*parameters, learned]) is None
    scale = nn.Parameter(torch.ones(5, dtype=torch.float64))
    assert chain_of(outputs * scale, [*parameters, scale]) is None


@pytest.mark.parametrize("norm", [None, "batch", "layer"])
@pytest.mark.parametrize("name", ["upgrad", "mgda", "aligned_mtl", "cagrad", "nash_mtl", "config", "imtl_g"])
def test_a_step_is_that_of_rows(name: str, norm: str | None) -> None:
    """Both ways through one network; with normalisation there is no chain, and rows all the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = encoders.mlp((4,), hidden=[16, 8], norm=norm)
        model = sharing.build("hard_sharing", encoder, TASKS, stages=2)
    found = step(make(name), model, batch())
    by_hand = make(name)
    assert isinstance(by_hand, GradientAggregation)
    by_hand.batched = False
    for parameter, gradient in step(by_hand, model, batch()).items():
        torch.testing.assert_close(found[parameter], gradient, rtol=1e-3, atol=1e-5)


def test_a_batch_in_parts_has_rows() -> None:
    """The parts' gradients are added before the method sees them: no part has a Gramian of its own."""
    model = sharing.build("hard_sharing", encoders.mlp((4,), hidden=[8]), TASKS, stages=1)
    balancer, rows = make("mgda"), batch()
    losses = losses_of(model, rows, balancer)
    balancer.accumulate({name: loss for name, loss in losses.items() if name == "age"}, model)
    assert balancer._rows.matrix.shape == (1, 4 * 8 + 8)  # type: ignore[attr-defined]
    balancer._rows.clear()  # type: ignore[attr-defined]
    assert all(gradient.isfinite().all() for gradient in gradients(model).values())
