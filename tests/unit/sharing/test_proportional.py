"""Proportional addition: against single-task, cross-stitch with the restricted matrix, and its formula."""

from __future__ import annotations

import pytest
import torch

from _module_networks import (
    KINDS,
    NUMBERS,
    check_training,
    gradients,
    head_parameters,
    inputs_of,
    names_of,
    network_of,
    num_parameters,
    stage_parameters,
)
from _planted import planted_encoder, planted_tasks
from taskloom.errors import ConfigError
from taskloom.sharing import ProportionalAddition, build


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("kind", KINDS)
def test_trains_saves_and_loads(kind: str, number: int) -> None:
    check_training("proportional_addition", kind, number, start=0.1)


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("kind", KINDS)
def test_without_shares_it_is_single_task(kind: str, number: int) -> None:
    network = network_of("proportional_addition", kind, number)
    single = network_of("single_task", kind, number)
    inputs = inputs_of(kind)
    ours, theirs = network(inputs), single(inputs)
    assert all(torch.equal(ours[task], output) for task, output in theirs.items())
    of_network = gradients(network, ours.values())
    for name, gradient in gradients(single, theirs.values()).items():
        assert torch.equal(of_network[name], gradient)


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_cross_stitch_with_the_restricted_matrix(kind: str, number: int) -> None:
    network = network_of("proportional_addition", kind, number)
    stitched = network_of("cross_stitch", kind, number)
    shares = torch.linspace(-0.5, 0.7, number, dtype=torch.float64)
    with torch.no_grad():
        for stage, unit in network.mixing.items():
            unit.shares.copy_(shares)
            for i in range(number):
                for j in range(number):
                    stitched.mixing[stage].alpha[i, j] = 1.0 if i == j else shares[j]
    inputs = inputs_of(kind)
    ours, theirs = network(inputs), stitched(inputs)
    for task, output in theirs.items():
        torch.testing.assert_close(ours[task], output, rtol=1e-12, atol=1e-12)
    of_network, of_stitched = gradients(network, ours.values()), gradients(stitched, theirs.values())
    for name, gradient in of_network.items():
        if not name.startswith("mixing."):
            torch.testing.assert_close(gradient, of_stitched[name], rtol=1e-10, atol=1e-12)
            continue
        # A share's gradient is the sum over its column; the diagonal has none.
        of_alpha = of_stitched[name.replace("shares", "alpha")]
        torch.testing.assert_close(gradient, of_alpha.sum(dim=0) - of_alpha.diagonal(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("kind", KINDS)
def test_parameter_counts_and_ownership(kind: str, number: int) -> None:
    network = network_of("proportional_addition", kind, number, after=[1, 3])
    encoder, tasks = planted_encoder(kind), planted_tasks(number)
    columns = number * sum(stage_parameters(encoder)) + head_parameters(encoder, tasks)
    assert num_parameters(network) == columns + 2 * number
    (group,) = [group for group in network.parameter_groups() if group.name == "mixing"]
    assert not group.decays
    assert sum(p.numel() for p in group.parameters) == 2 * number
    for task, output in network(inputs_of(kind)).items():
        touched = {name for name, g in gradients(network, [output]).items() if g.any()}
        for other in tasks:
            if other != task:
                assert not touched & names_of(network.task_parameters(other), network)


def test_the_matrix() -> None:
    unit = ProportionalAddition(3)
    unit.shares.data = torch.tensor([0.1, 0.2, 0.3])
    expected = torch.tensor([[1.0, 0.2, 0.3], [0.1, 1.0, 0.3], [0.1, 0.2, 1.0]])
    assert torch.equal(unit.matrix(), expected)
    with pytest.raises(ValueError, match="3 tensors of one shape expected"):
        unit([torch.zeros(2, 2)] * 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"start": "some"}, "proportional_addition.start: a finite number expected, found 'some'"),
        ({"start": float("nan")}, "proportional_addition.start: a finite number expected"),
        ({"after": [5]}, "stage 5 does not exist"),
        ({"lr_multiplier": -1.0}, "proportional_addition: lr_multiplier must be a number above 0"),
        ({"per": "channel"}, "proportional_addition.per is not a setting"),
    ],
)
def test_refused_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build("proportional_addition", planted_encoder("mlp"), planted_tasks(2), **settings)
