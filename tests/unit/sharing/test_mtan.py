"""MTAN: against its formula by hand and hard sharing; gradients, counts, shapes that change, settings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

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
from taskloom.sharing.modules.mtan import Attention, AttentionNetwork, ChannelLinear
from taskloom.sharing.modules.positions import to_positions


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("kind", KINDS)
def test_trains_saves_and_loads(kind: str, number: int) -> None:
    check_training("mtan", kind, number, norm="batch" if number == 3 else None)


def open_masks(network: nn.Module) -> None:
    """sigmoid(50) is 1 in double precision."""
    for module in network.modules():
        if isinstance(module, Attention):
            nn.init.zeros_(module.gives.weight)
            nn.init.constant_(module.gives.bias, 50.0)


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("kind", KINDS)
def test_open_masks_are_hard_sharing(kind: str, number: int) -> None:
    network = network_of("mtan", kind, number)
    shared = network_of("hard_sharing", kind, number, stages=3, seed=5)
    load_where_named_alike(shared, network)
    open_masks(network)
    inputs = inputs_of(kind)
    ours, theirs = network(inputs), shared(inputs)
    assert all(torch.equal(ours[task], output) for task, output in theirs.items())
    of_network = gradients(network, ours.values())
    for name, gradient in gradients(shared, theirs.values()).items():
        torch.testing.assert_close(of_network[name], gradient, rtol=1e-12, atol=1e-13)


def test_stages_above_the_attention_run_once_on_all_rows() -> None:
    network = network_of("mtan", "conv2d", 3, stages=[1])
    shared = network_of("hard_sharing", "conv2d", 3, stages=3, seed=5)
    load_where_named_alike(shared, network)
    open_masks(network)
    calls = []
    network.stages["stage_2"].shared.register_forward_hook(lambda *_: calls.append(1))
    inputs = inputs_of("conv2d")
    ours = network(inputs)
    assert len(calls) == 1
    for task, output in shared(inputs).items():
        torch.testing.assert_close(ours[task], output)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", [None, "batch"])
def test_outputs_are_those_of_the_formula(kind: str, norm: str | None) -> None:
    """Equations 1 and 2 with joined channels, one row and position at a time."""
    network = network_of("mtan", kind, 2, norm=norm).eval()
    assert isinstance(network, AttentionNetwork)
    inputs = inputs_of(kind, rows=2)
    outputs = network(inputs)
    for task in network.tasks:
        value, before = inputs, None
        for stage in network.stage_names:
            value = next(iter(network.stages[stage].children()))(value)
            attention = network.attention[stage][task]
            weight, joined = attention.reads.weight, value
            if before is not None:
                before = to_positions(before, value.shape[2:]).expand(len(value), -1, *value.shape[2:])
                joined = torch.cat([value, before], dim=1)
                weight = torch.cat([weight, attention.recalls.weight], dim=1)
            hidden = torch.einsum("oc,nc...->no...", weight, joined)
            hidden = attention.norm(along(attention.reads.bias, hidden) + hidden).relu()
            logits = torch.einsum("oc,nc...->no...", attention.gives.weight, hidden)
            logits = attention.mask_norm(along(attention.gives.bias, logits) + logits)
            before = value / (1 + (-logits).exp())
        torch.testing.assert_close(network.heads[task](before), outputs[task], rtol=1e-9, atol=1e-11)


def along(bias: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return bias.reshape(1, -1, *(1,) * (like.dim() - 2))


@pytest.mark.parametrize("shape", [(3,), (3, 5), (3, 4, 2), (3, 2, 2, 2), (3, 2, 1, 2, 2)])
def test_channel_linear_is_one_layer_at_every_position(shape: tuple[int, ...]) -> None:
    layer = ChannelLinear(3, 4).double()
    inputs = torch.randn(2, *shape, dtype=torch.float64)
    expected = layer.bias + inputs.movedim(1, -1) @ layer.weight.T
    torch.testing.assert_close(layer(inputs).movedim(1, -1), expected)


@pytest.mark.parametrize(
    ("old", "new"),
    [((8,), (4,)), ((7,), (3,)), ((4, 6), (2, 2)), ((5, 4), (3, 4)), ((4, 4, 4), (2, 2, 3)), ((2,), (4,))],
)
def test_positions_are_averaged_as_adaptive_pooling_does(old: tuple[int, ...], new: tuple[int, ...]) -> None:
    tensor = torch.randn(2, 3, *old, dtype=torch.float64)
    pool = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[len(old) - 1]
    torch.testing.assert_close(to_positions(tensor, new), pool(new)(tensor))


@pytest.mark.parametrize("number", [1, 2, 3])
def test_parameters_belong_to_those_they_serve(number: int) -> None:
    check_ownership(network_of("mtan", "conv2d", number), inputs_of("conv2d"))


def test_permuted_tasks_permute_results() -> None:
    first, second = permuted("mtan", "conv1d", 3)
    second.load_state_dict(first.state_dict())
    inputs = inputs_of("conv1d")
    theirs = second(inputs)
    assert all(torch.equal(theirs[task], output) for task, output in first(inputs).items())


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reduction", [1, 4])
def test_parameter_counts(kind: str, number: int, reduction: int) -> None:
    encoder, tasks = planted_encoder(kind), planted_tasks(number)
    network = network_of("mtan", kind, number, reduction=reduction)
    channels = [shape[0] for shape in encoder.stage_shapes]
    of_task = 0
    for before, count in zip([0, *channels], channels, strict=False):
        hidden = count // reduction
        of_task += (count + before) * hidden + hidden + hidden * count + count
    expected = sum(stage_parameters(encoder)) + number * of_task + head_parameters(encoder, tasks)
    assert num_parameters(network) == expected


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"reduction": 0}, r"mtan\.reduction: a whole number of at least 1 expected, found 0"),
        ({"norm": "layer"}, r"mtan\.norm: batch or nothing expected, found 'layer'"),
        ({"stages": "last"}, r"mtan\.stages: all, or a list"),
        ({"stages": [4]}, r"stage 4 does not exist"),
        ({"stage": [1]}, r"mtan\.stage is not a setting\. Did you mean `stages`\?"),
    ],
)
def test_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build("mtan", planted_encoder("mlp"), planted_tasks(2), **settings)


def test_a_stage_in_place_above_a_mask_is_refused() -> None:
    stages = [nn.Linear(3, 4), nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 4))]
    encoder = tl.encoders.from_modules(stages, (3,))
    with pytest.raises(
        ConfigError, match="stage `stage_1` works in place on its input, which the masks read"
    ):
        build("mtan", encoder, planted_tasks(2))
