"""Task routing: against a loop over tasks and hard sharing; what masks cut off gets no gradient; settings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from _module_networks import (
    KINDS,
    NUMBERS,
    check_ownership,
    check_training,
    gradients,
    head_parameters,
    inputs_of,
    network_of,
    num_parameters,
    permuted,
    stage_parameters,
)
from _planted import planted_encoder, planted_tasks
from taskloom.errors import ConfigError
from taskloom.sharing import build
from taskloom.sharing.modules.routing import RoutingNetwork, draw_mask


def routing(kind: str, number: int, **settings: Any) -> RoutingNetwork:
    network = network_of("task_routing", kind, number, **settings)
    assert isinstance(network, RoutingNetwork)
    return network


def mask_of(network: RoutingNetwork, index: int, task: str) -> Tensor:
    return network.masks.of(f"{network.stage_names[index]}")[network.tasks.index(task)]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("kind", KINDS)
def test_trains_saves_and_loads(kind: str, number: int) -> None:
    check_training("task_routing", kind, number, sharing=0.7)


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("kind", KINDS)
def test_full_masks_are_hard_sharing(kind: str, number: int) -> None:
    routed = routing(kind, number, sharing=1.0)
    shared = network_of("hard_sharing", kind, number, stages=3)
    assert num_parameters(routed) == num_parameters(shared)
    for one, other in zip(routed.parameters(), shared.parameters(), strict=True):
        assert torch.equal(one, other)  # one seed gives one start
    inputs = inputs_of(kind)
    ours, theirs = routed(inputs), shared(inputs)
    assert all(torch.equal(ours[task], output) for task, output in theirs.items())
    of_routed = gradients(routed, ours.values())
    for name, gradient in gradients(shared, theirs.values()).items():
        assert torch.equal(of_routed[name], gradient)
    state = routed.state_dict()
    assert all(torch.equal(state[name], value) for name, value in shared.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stages", ["all", [1], [2, 3]])
def test_outputs_are_those_of_one_task_after_the_other(kind: str, stages: Any) -> None:
    network = routing(kind, 3, stages=stages, sharing=0.6).eval()
    inputs = inputs_of(kind)
    ours, theirs = network(inputs), {}
    for task in network.tasks:
        value = inputs
        for index, stage in enumerate(network.stage_names):
            value = network.stages[stage].shared(value)
            if stages == "all" or index + 1 in stages:
                mask = mask_of(network, index, task).double()
                value = value * mask.reshape(1, -1, *(1,) * (value.dim() - 2))
        theirs[task] = network.heads[task](value)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradients(network, ours.values()), gradients(network, theirs.values()))


def test_batch_norm_of_each_tensor_or_of_all_rows() -> None:
    """By itself every task's statistics are those of its own pass; joined they differ."""
    apart, joined = (routing("conv2d", 2, sharing=0.5, joined=way) for way in (False, True))
    inputs = inputs_of("conv2d")
    found = apart(inputs)
    for task in apart.tasks:
        value = inputs
        for index, stage in enumerate(apart.stage_names):
            mask = mask_of(apart, index, task).double()
            value = apart.stages[stage].shared(value)
            value = value * mask.reshape(1, -1, *(1,) * (value.dim() - 2))
        torch.testing.assert_close(found[task], apart.heads[task](value))
    assert not torch.allclose(joined(inputs)["task_0"], found["task_0"])


@pytest.mark.parametrize("kind", ["mlp", "conv1d", "conv2d"])
def test_no_gradient_reaches_what_a_mask_cuts_off(kind: str) -> None:
    network = routing(kind, 3, sharing=0.5)
    for task, output in network(inputs_of(kind)).items():
        found = gradients(network, [output])
        for index, stage in enumerate(network.stage_names):
            mask = mask_of(network, index, task)
            # Filters, biases and batch norm: one entry per channel on the first axis.
            for name, gradient in found.items():
                if name.startswith(f"stages.{stage}."):
                    assert not gradient[~mask].any(), name
                    assert gradient[mask].any() or name.endswith("bias")


def test_tasks_with_one_mask_run_once() -> None:
    network = routing("mlp", 3, sharing=0.5)
    state = network.state_dict()
    for name in [name for name in state if name.startswith("masks")]:
        state[name][1] = state[name][0]
    network.load_state_dict(state)
    rows = []
    network.stages["dense_1"].shared.register_forward_hook(lambda _, given, __: rows.append(len(given[0])))
    features = network.features(inputs_of("mlp"))
    assert rows == [5, 5]
    assert features["task_0"] is features["task_1"]
    assert features["task_0"] is not features["task_2"]


def test_masks_follow_from_seed_task_and_stage_alone() -> None:
    mask = draw_mask(16, 0.25, 3, "age", "conv")
    assert int(mask.sum()) == 4
    assert torch.equal(mask, draw_mask(16, 0.25, 3, "age", "conv"))
    others = [
        draw_mask(16, 0.25, *key) for key in [(4, "age", "conv"), (3, "mood", "conv"), (3, "age", "fc")]
    ]
    assert not any(torch.equal(mask, other) for other in others)
    assert int(draw_mask(3, 0.01, 0, "age", "conv").sum()) == 1


def test_two_tasks_share_about_the_square_of_the_ratio() -> None:
    shared = [
        draw_mask(100, 0.4, seed, "a", "s") & draw_mask(100, 0.4, seed, "b", "s") for seed in range(200)
    ]
    mean = torch.stack(shared).float().mean().item()
    assert abs(mean - 0.16) < 0.005  # 20,000 draws: standard deviation 0.0026 at most


def test_masks_of_another_seed_are_loaded() -> None:
    """A checkpoint's masks hold, whatever the settings of the network that loads it."""
    trained = routing("conv1d", 3, sharing=0.5).eval()
    head = {"hidden": [6]}
    other = build("task_routing", planted_encoder("conv1d"), planted_tasks(3), head=head, sharing=1.0, seed=5)
    other.double().eval().load_state_dict(trained.state_dict())
    inputs = inputs_of("conv1d")
    for task, output in trained(inputs).items():
        assert torch.equal(other(inputs)[task], output)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_parameters_belong_to_those_they_serve(number: int) -> None:
    network = routing("mlp", number, sharing=0.7)
    check_ownership(network, inputs_of("mlp"))
    for task in network.tasks:
        assert number == 1 or len(network.task_parameters(task)) == 4


def test_permuted_tasks_permute_results() -> None:
    first, second = permuted("task_routing", "conv2d", 3, sharing=0.5)
    weights = {name: value for name, value in first.state_dict().items() if not name.startswith("masks")}
    second.load_state_dict({**second.state_dict(), **weights})
    first.eval()
    second.eval()
    inputs = inputs_of("conv2d")
    theirs = second(inputs)
    for task, output in first(inputs).items():
        torch.testing.assert_close(theirs[task], output, rtol=1e-10, atol=1e-12)
    for stage, matrix in first.mixing_matrices().items():
        assert torch.equal(second.mixing_matrices()[stage].flip(0, 1), matrix)


def test_overlaps_of_masks() -> None:
    network = routing("mlp", 2, stages=[3])
    state = network.state_dict()
    (name,) = [name for name in state if name.startswith("masks")]
    state[name] = torch.tensor([[1, 1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 0, 0, 0]]).bool()
    network.load_state_dict(state)
    assert network.mixing_matrices()["dense_2"].tolist() == [[1.0, 0.25], [0.5, 1.0]]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("kind", KINDS)
def test_parameter_counts(kind: str, number: int) -> None:
    encoder, tasks = planted_encoder(kind), planted_tasks(number)
    expected = sum(stage_parameters(encoder)) + head_parameters(encoder, tasks)
    assert num_parameters(routing(kind, number, sharing=0.3)) == expected


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sharing": 0}, r"task_routing\.sharing: a number above 0 and up to 1 expected, found 0"),
        ({"sharing": 1.5}, r"task_routing\.sharing: a number above 0 and up to 1 expected, found 1\.5"),
        ({"sharing": True}, r"task_routing\.sharing: a number"),
        ({"seed": -1}, r"task_routing\.seed: a whole number of at least 0 expected, found -1"),
        ({"joined": "yes"}, r"task_routing\.joined: true or false expected"),
        ({"stages": [0]}, r"stage 0 does not exist"),
        ({"sigma": 0.5}, r"task_routing\.sigma is not a setting\."),
    ],
)
def test_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build("task_routing", planted_encoder("mlp"), planted_tasks(2), **settings)
