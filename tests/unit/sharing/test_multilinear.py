"""Multilinear relationship networks: against Kronecker products, the likelihood and finite differences."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import taskloom as tl
from _module_networks import (
    KINDS,
    NUMBERS,
    check_ownership,
    check_training,
    gradients,
    head_parameters,
    inputs_of,
    load_where_named_alike,
    network_of,
    num_parameters,
    permuted,
    stage_parameters,
)
from _planted import planted_encoder, planted_tasks
from taskloom.errors import ConfigError
from taskloom.sharing import build
from taskloom.sharing.modules.multilinear import RelationNetwork, TensorNormal

NAME = "multilinear_relationship"


def relations(kind: str, number: int, **settings: Any) -> RelationNetwork:
    network = network_of(NAME, kind, number, **settings)
    assert isinstance(network, RelationNetwork)
    return network


def random_prior(shape: tuple[int, int, int], seed: int = 0, shrinkage: float = 0.1) -> TensorNormal:
    draw = torch.Generator().manual_seed(seed)
    prior = TensorNormal(shape, shrinkage=shrinkage).double()
    for name, size in zip(prior.NAMES, shape, strict=True):
        root = torch.randn(size, size + 2, generator=draw, dtype=torch.float64)
        setattr(prior, name, root @ root.T / size)
    prior.invert()
    return prior


def random_weights(shape: tuple[int, int, int], seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kronecker(prior: TensorNormal) -> Tensor:
    return torch.kron(torch.kron(prior.tasks, prior.outputs), prior.inputs)


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("kind", KINDS)
def test_trains_saves_and_loads(kind: str, number: int) -> None:
    network = check_training(NAME, kind, number, update_every=5)
    assert isinstance(network, RelationNetwork)
    for matrix in network.mixing_matrices().values():
        assert not torch.equal(matrix, torch.eye(number))


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_those_of_hard_sharing(kind: str, number: int) -> None:
    """The prior acts through the penalty alone."""
    ours = relations(kind, number, task_stages=1)
    theirs = network_of("hard_sharing", kind, number, stages=2)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other)  # one seed gives one start
    load_where_named_alike(theirs, ours)
    inputs = inputs_of(kind)
    found, expected = ours(inputs), theirs(inputs)
    assert all(torch.equal(found[task], output) for task, output in expected.items())
    of_ours = gradients(ours, found.values())
    for name, gradient in gradients(theirs, expected.values()).items():
        assert torch.equal(of_ours[name], gradient)


@pytest.mark.parametrize("shape", [(2, 3, 4), (3, 1, 5), (1, 2, 2), (8, 2, 3)])
def test_quadratic_form_against_the_kronecker_product(shape: tuple[int, int, int]) -> None:
    prior, weights = random_prior(shape), random_weights(shape)
    vector = weights.flatten()
    expected = vector @ torch.linalg.solve(kronecker(prior), vector)
    torch.testing.assert_close(prior.quadratic(weights), expected, rtol=1e-8, atol=0)


@pytest.mark.parametrize("shape", [(2, 3, 4), (3, 2, 5)])
def test_log_density_is_that_of_a_multivariate_normal(shape: tuple[int, int, int]) -> None:
    prior, weights = random_prior(shape), random_weights(shape)
    normal = torch.distributions.MultivariateNormal(
        torch.zeros(weights.numel(), dtype=torch.float64), kronecker(prior)
    )
    constant = weights.numel() / 2 * math.log(2 * math.pi)
    expected = -normal.log_prob(weights.flatten()) - constant
    torch.testing.assert_close(prior.negative_log_density(weights), expected, rtol=1e-8, atol=1e-8)


def test_gradient_of_the_quadratic_form_against_finite_differences() -> None:
    prior = random_prior((2, 3, 4))
    assert torch.autograd.gradcheck(prior.quadratic, random_weights((2, 3, 4)).requires_grad_())


def test_penalty_and_its_gradient_on_the_networks_own_weights() -> None:
    network = relations("mlp", 3, weight=0.2, equal=True)
    network.update_covariances()
    expected = sum(
        network.prior_of(layer).quadratic(network.weights_of(layer)).item()
        for layer in network.related_layers
    )
    assert network.penalty().item() == pytest.approx(0.1 * expected, rel=1e-12)
    network.penalty().backward()
    weight = network.heads["task_1"][0].weight
    step = torch.zeros_like(weight)
    step[2, 3] = 1e-5
    with torch.no_grad():
        weight += step
        above = network.penalty()
        weight -= 2 * step
        below = network.penalty()
    assert weight.grad[2, 3].item() == pytest.approx(((above - below) / 2e-5).item(), rel=1e-6)
    assert all(p.grad is None for p in network.stages["dense_0"].parameters())


def test_updates_raise_the_likelihood_and_stop_at_its_maximum() -> None:
    shape = (3, 4, 5)
    roots = [random_weights((1, size, size), seed=size)[0] for size in shape]
    drawn = random_weights(shape, seed=5)
    drawn = torch.einsum("abc,xa,yb,zc->xyz", drawn, *roots)
    prior = TensorNormal(shape, shrinkage=1e-9).double()
    values = [prior.negative_log_density(drawn).item()]
    for _ in range(60):
        prior.update(drawn)
        values.append(prior.negative_log_density(drawn).item())
    assert all(after <= before + 1e-6 for before, after in itertools.pairwise(values))
    assert values[0] - values[-1] > 1.0
    # At the maximum the quadratic form is the number of weights.
    assert prior.quadratic(drawn).item() == pytest.approx(drawn.numel(), rel=1e-4)
    torch.testing.assert_close(prior.outputs.diagonal().mean().item(), 1.0)
    torch.testing.assert_close(prior.inputs.diagonal().mean().item(), 1.0)


def test_first_update_of_the_tasks_alone_is_their_second_moment() -> None:
    weights = random_weights((3, 4, 5))
    prior = TensorNormal((3, 4, 5), shrinkage=0.2, covariances="tasks").double()
    prior.update(weights)
    moment = weights.flatten(1) @ weights.flatten(1).T / 20
    expected = 0.8 * moment + 0.2 * moment.diagonal().mean() * torch.eye(3)
    torch.testing.assert_close(prior.tasks, expected, rtol=0, atol=1e-7)
    assert torch.equal(prior.outputs, torch.eye(4).double())


@pytest.mark.parametrize("weights", [torch.zeros(2, 3, 40), torch.ones(2, 3, 40)])
def test_degenerate_weights_stay_finite(weights: Tensor) -> None:
    prior = TensorNormal((2, 3, 40))
    for _ in range(5):
        prior.update(weights)
    assert torch.isfinite(prior.quadratic(weights))
    assert all(torch.isfinite(buffer).all() for buffer in prior.buffers())


def test_related_tasks_correlate_and_others_do_not() -> None:
    """Two tasks with nearly equal weights, one with its own."""
    network = relations("mlp", 3, equal=True)
    with torch.no_grad():
        for one, two in zip(
            network.heads["task_0"].parameters(), network.heads["task_1"].parameters(), strict=True
        ):
            two.copy_(one + 0.05 * torch.randn_like(one))
    for _ in range(5):
        network.update_covariances()
    matrix = network.mixing_matrices()["head.1"]
    assert matrix[0, 1] > 0.8
    assert matrix[0, 2].abs() < 0.5
    torch.testing.assert_close(matrix.diagonal(), torch.ones(3).double())


def test_covariances_are_updated_by_the_count_of_passes() -> None:
    network = relations("mlp", 2, update_every=3, equal=True)
    inputs, changed = inputs_of("mlp"), []
    for _ in range(6):
        before = network.prior_of("head.1").tasks
        network(inputs)
        changed.append(not torch.equal(before, network.prior_of("head.1").tasks))
    assert changed == [False, False, True, False, False, True]
    network.eval()(inputs)
    assert int(network.passes) == 6
    other = relations("mlp", 2, update_every=4, equal=True)
    other.load_state_dict(network.state_dict())
    torch.testing.assert_close(other.penalty(), network.penalty(), rtol=1e-12, atol=0)
    before = other.prior_of("head.1").tasks
    other.train()(inputs)
    other(inputs)  # pass 8 of every 4
    assert not torch.equal(before, other.prior_of("head.1").tasks)


def test_an_update_leaves_a_graph_that_waits_alone() -> None:
    network = relations("mlp", 2, equal=True)
    penalty = network.penalty()
    expected = gradients_of(network.penalty(), network)
    network.update_covariances()
    for one, other in zip(gradients_of(penalty, network), expected, strict=True):
        assert torch.equal(one, other)


def gradients_of(value: Tensor, network: RelationNetwork) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, list(network.parameters()), materialize_grads=True)


def test_which_layers_are_related() -> None:
    assert relations("mlp", 3, equal=True, task_stages=2).related_layers == (
        "dense_1",
        "dense_2",
        "head.1",
        "head.2",
    )
    # Heads of different widths: hidden layers only; a convolution and a recurrent stage have none.
    assert relations("mlp", 3, task_stages=0).related_layers == ("head",)
    assert relations("conv1d", 2).related_layers == ("head.1", "head.2")
    assert relations("lstm", 2, task_stages=3).related_layers == ("stage_2", "head.1", "head.2")
    assert relations("mlp", 1).related_layers == ()
    assert relations("mlp", 1).penalty().item() == 0.0


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("task_stages", [0, 1, 3])
def test_parameters_belong_to_those_they_serve(task_stages: int, number: int) -> None:
    check_ownership(relations("mlp", number, task_stages=task_stages), inputs_of("mlp"))


def test_features_are_the_trunks_output() -> None:
    network = relations("conv2d", 2).eval()
    features = network.features(inputs_of("conv2d"))
    assert isinstance(features, Tensor)
    assert features.shape == (5, 8, 4, 4)
    for task, output in network(inputs_of("conv2d")).items():
        assert torch.equal(network.from_features(features)[task], output)


def test_permuted_tasks_permute_results() -> None:
    first, second = permuted(NAME, "mlp", 3)
    assert isinstance(first, RelationNetwork)
    assert isinstance(second, RelationNetwork)
    second.load_state_dict(first.state_dict())
    first.update_covariances()
    second.update_covariances()
    torch.testing.assert_close(first.penalty(), second.penalty(), rtol=1e-10, atol=0)
    for layer, matrix in first.mixing_matrices().items():
        torch.testing.assert_close(second.mixing_matrices()[layer].flip(0, 1), matrix)
    inputs = inputs_of("mlp")
    theirs = second(inputs)
    assert all(torch.equal(theirs[task], output) for task, output in first(inputs).items())


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("kind", KINDS)
def test_parameter_counts(kind: str, number: int) -> None:
    encoder, tasks = planted_encoder(kind), planted_tasks(number)
    sizes = stage_parameters(encoder)
    expected = sum(sizes[:1]) + number * sum(sizes[1:]) + head_parameters(encoder, tasks)
    assert num_parameters(relations(kind, number, task_stages=2)) == expected


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"task_stages": 4}, r"task_stages: at most 3 \(the encoder has 3 stages\) expected, found 4"),
        ({"task_stages": -1}, r"task_stages: a whole number of at least 0"),
        ({"weight": -1}, r"weight: a number of at least 0 expected, found -1"),
        ({"shrinkage": 0}, r"shrinkage: a number of at least 0\.001 and up to 1 expected, found 0"),
        ({"update_every": 0}, r"update_every: a whole number of at least 1 expected, found 0"),
        ({"covariances": "task"}, r"covariances: all or tasks expected, found 'task'"),
        ({"tie": "l2"}, r"multilinear_relationship\.tie is not a setting\."),
    ],
)
def test_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build(NAME, planted_encoder("mlp"), planted_tasks(2), **settings)


def test_nothing_to_relate_is_refused() -> None:
    tasks = tl.TaskSet(tl.Binary("a"), tl.Multiclass("b", 3))
    with pytest.raises(ConfigError, match="there is nothing to relate; give the heads a hidden layer"):
        build(NAME, planted_encoder("conv1d"), tasks)
