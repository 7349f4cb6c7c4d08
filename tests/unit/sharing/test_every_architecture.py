"""Tables over the registry: parameter counts, whom a gradient reaches, what the order of tasks changes."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from _architecture_table import ROWS, SETTINGS
from _module_networks import (
    KINDS,
    NUMBERS,
    check_ownership,
    gradients,
    inputs_of,
    names_of,
    network_of,
    num_parameters,
    permuted,
    stage_parameters,
)
from _planted import planted_encoder, planted_tasks
from taskloom.errors import ConfigError
from taskloom.sharing import ARCHITECTURES


def stir(network: nn.Module) -> None:
    """Moves everything but the stages away from its start."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if not key.startswith("stages."):
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw, dtype=parameter.dtype))


NEUTRAL: dict[str, dict[str, Any]] = {
    "cross_stitch": {"start": "identity"},
    "proportional_addition": {"start": 0.0},
}
"""Starts at which nobody hears another task; the others begin like that or never hear another."""

HEARD = {name: row.heard for name, row in ROWS.items() if row.heard is not None}


def test_the_table_is_the_registry() -> None:
    assert sorted(ROWS) == sorted(ARCHITECTURES)


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ROWS)
def test_parameter_counts(name: str, kind: str, number: int) -> None:
    encoder, tasks = planted_encoder(kind), planted_tasks(number)
    expected = ROWS[name].num_parameters(number, stage_parameters(encoder), encoder, tasks)
    assert num_parameters(network_of(name, kind, number, **SETTINGS[name])) == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SETTINGS)
def test_a_gradient_reaches_nobody_elses_parameters(name: str, kind: str) -> None:
    network = network_of(name, kind, 3, **SETTINGS[name])
    stir(network)  # away from starts at which nobody hears another
    heard = re.compile(HEARD.get(name, r"$^"))
    reached = set()
    for task, output in network(inputs_of(kind)).items():
        touched = {parameter for parameter, g in gradients(network, [output]).items() if g.any()}
        reached |= touched
        for other in set(network.tasks) - {task}:
            others = names_of(network.task_parameters(other), network)
            assert not [p for p in others & touched if not heard.match(p)]
            if name in HEARD and kind != "lstm":
                assert [p for p in others & touched if heard.match(p)]
    assert any(parameter.startswith("stages.") for parameter in reached)


@pytest.mark.parametrize("name", sorted(set(SETTINGS) - (set(HEARD) - set(NEUTRAL))))
def test_a_parameter_is_a_tasks_own_where_no_other_output_depends_on_it(name: str) -> None:
    """In those left out (plan, PLE, sluice) copies of others are heard from the start; see above."""
    settings = {**SETTINGS[name], **NEUTRAL.get(name, {})}
    network = network_of(name, "conv2d", 3, **settings)
    if name in NEUTRAL:  # the matrices themselves are everybody's
        for task, output in network(inputs_of("conv2d")).items():
            touched = {p for p, g in gradients(network, [output]).items() if g.any()}
            for other in set(network.tasks) - {task}:
                assert not touched & names_of(network.task_parameters(other), network)
        return
    check_ownership(network, inputs_of("conv2d"))


def turned(key: str, value: Tensor, number: int) -> Tensor:
    """An entry of the state where the order of the tasks is the opposite one."""
    if re.match(r"(mixing|priors)\..*\.(alpha|shares|tasks)$", key):
        each = value.shape[0] // number  # the subspaces of a task stand side by side
        order = [task * each + part for task in reversed(range(number)) for part in range(each)]
        value = value[order]
        return value[:, order] if value.dim() == 2 else value
    if re.match(r"gates\.\d+\.shared\.", key):  # over the shared expert, then those of the tasks
        return torch.cat([value[:1], value[1:].flip(0)])
    if key.startswith("masks."):
        return value.flip(0)
    return value.flip(1) if key == "groups" else value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SETTINGS)
def test_permuting_tasks_permutes_results(name: str, kind: str) -> None:
    first, second = permuted(name, kind, 3, **SETTINGS[name])
    stir(first)
    second.load_state_dict({key: turned(key, value, 3) for key, value in first.state_dict().items()})
    first.eval()
    second.eval()
    theirs = second(inputs_of(kind))
    for task, output in first(inputs_of(kind)).items():
        torch.testing.assert_close(theirs[task], output, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(second.penalty(), first.penalty(), rtol=1e-10, atol=1e-12)
    for stage, matrix in first.mixing_matrices().items():
        torch.testing.assert_close(second.mixing_matrices()[stage].flip(-1, -2), matrix)


@pytest.mark.parametrize("name", SETTINGS)
def test_modules_that_are_no_encoder_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"an encoder expected, found a Sequential; .*from_modules\("):
        ARCHITECTURES[name](nn.Sequential(nn.Linear(3, 2)), planted_tasks(2), **SETTINGS[name])  # type: ignore[arg-type]
